//! A container's OCI specification: what the shim reads in it, and how it is written anew for the guest.
//!
//! On the host's side stay: the network namespace, hooks, security labels of the host's kernel, device numbers, limits
//! that name the host's processors. Bind mounts of host files become bind mounts of what the shared directory has in
//! their place; sources that every kernel has for itself, such as `/proc`, mean the guest's.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::{vm::share::Volume, wire::SHARED_DIRECTORY};

/// Annotations of containerd's CRI plugin, CRI-O, and Kata for a container's role in its sandbox.
const TYPE_ANNOTATIONS: &[&str] = &[
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
    "io.katacontainers.pkg.oci.container_type",
];
const SANDBOX_ANNOTATIONS: &[&str] = &["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];

/// Sources of bind mounts that mean the guest's own.
const GUEST_SOURCES: &[&str] = &["/proc", "/sys"];

/// A specification that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// It is no JSON object.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A container's role in its sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It makes a sandbox: a pod's, or its own.
    Sandbox,
    /// It joins the sandbox with this id.
    Member(String),
}

/// A specification.
#[derive(Clone, Debug)]
pub struct Spec {
    value: Map<String, Value>,
}

impl Spec {
    /// Reads a bundle's `config.json`.
    pub fn load(bundle: &Path) -> Result<Self, SpecError> {
        let path = bundle.join("config.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(SpecError::Read { path, source }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Self { value }),
            Err(error) => Err(SpecError::Invalid { path, reason: error.to_string() }),
        }
    }

    fn annotation(&self, names: &[&str]) -> Option<&str> {
        let annotations = self.value.get("annotations")?.as_object()?;
        names.iter().find_map(|name| annotations.get(*name)?.as_str())
    }

    /// The container's role in its sandbox.
    pub fn role(&self) -> Role {
        let kind = self.annotation(TYPE_ANNOTATIONS);
        match (kind, self.annotation(SANDBOX_ANNOTATIONS)) {
            (Some("container" | "pod_container"), Some(sandbox)) => Role::Member(sandbox.to_owned()),
            _ => Role::Sandbox,
        }
    }

    /// Path of the network namespace that the container is to be in.
    pub fn network_namespace(&self) -> Option<PathBuf> {
        let namespaces = self.value.get("linux")?.get("namespaces")?.as_array()?;
        let network = namespaces.iter().find(|namespace| namespace["type"] == "network")?;
        network.get("path")?.as_str().filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// Path of the control group that the specification names.
    pub fn control_group(&self) -> Option<String> {
        let path = self.value.get("linux")?.get("cgroupsPath")?.as_str()?;
        Some(path.to_owned()).filter(|path| !path.is_empty())
    }

    /// How readily the kernel ends the sandbox's programs when the host runs out of memory, proc(5). The shim's own value,
    /// or that of a pod's first container, would protect a whole guest as it protects a small process: never less than an
    /// ordinary process' value.
    pub fn oom_score(&self) -> i16 {
        const MAX: i64 = 1000;
        let wanted = self.value.get("process").and_then(|process| process.get("oomScoreAdj")?.as_i64());
        i16::try_from(wanted.unwrap_or(0).clamp(0, MAX)).unwrap_or(0)
    }

    /// The root file system: its path, absolute or in the bundle, and whether it is to be read-only.
    pub fn root(&self, bundle: &Path) -> (PathBuf, bool) {
        let root = self.value.get("root");
        let path = root.and_then(|root| root.get("path")).and_then(Value::as_str).unwrap_or("rootfs");
        let read_only = root.and_then(|root| root.get("readonly")).and_then(Value::as_bool).unwrap_or(false);
        (bundle.join(path), read_only)
    }

    /// Writes the specification anew for the guest, where the container's shared directory is `directory` below the
    /// shared one. Answers it as JSON with what the host must mount.
    pub fn for_guest(mut self, id: &str, directory: &str, terminal: bool) -> (Vec<u8>, Vec<Volume>) {
        let shared = format!("{SHARED_DIRECTORY}/{directory}");
        for key in ["hooks", "vm", "windows", "solaris"] {
            self.value.remove(key);
        }
        if let Some(root) = self.value.entry("root").or_insert_with(|| json!({})).as_object_mut() {
            root.insert("path".to_owned(), json!(format!("{shared}/rootfs")));
        }
        if let Some(process) = self.value.get_mut("process") {
            prepare_process(process, terminal);
        }
        let mounts = self.value.get_mut("mounts").and_then(Value::as_array_mut);
        let volumes = mounts.map(|mounts| take_volumes(mounts, &shared)).unwrap_or_default();
        if let Some(linux) = self.value.entry("linux").or_insert_with(|| json!({})).as_object_mut() {
            prepare_linux(linux, id);
        }
        (serde_json::to_vec(&self.value).expect("a JSON object serialises"), volumes)
    }
}

/// Takes out of an OCI `process` object what belongs to the host, and sets whether it has a terminal.
pub fn prepare_process(process: &mut Value, terminal: bool) {
    /// Where programs are looked for when the image has no `PATH`.
    const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let Some(process) = process.as_object_mut() else { return };
    process.insert("terminal".to_owned(), json!(terminal));
    for key in ["apparmorProfile", "selinuxLabel", "execCPUAffinity", "scheduler", "ioPriority"] {
        process.remove(key);
    }
    if let Some(environment) = process.entry("env").or_insert_with(|| json!([])).as_array_mut() {
        let has_path =
            environment.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("PATH=")));
        if !has_path {
            environment.push(json!(DEFAULT_PATH));
        }
    }
}

fn take_volumes(mounts: &mut [Value], shared: &str) -> Vec<Volume> {
    let mut volumes = Vec::new();
    for mount in mounts {
        let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (source, destination) = (text("source"), text("destination"));
        let options: Vec<String> = mount
            .get("options")
            .and_then(Value::as_array)
            .map(|options| options.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        let has = |name: &str| options.iter().any(|option| option == name);
        if !(text("type") == "bind" || has("bind") || has("rbind")) || is_guest_source(&source) {
            continue;
        }
        if destination == "/dev/shm" {
            // Memory shared among processes of the guest is the guest's.
            *mount = json!({
                "destination": destination, "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777"],
            });
            continue;
        }
        let name = volumes.len().to_string();
        mount["source"] = json!(format!("{shared}/mounts/{name}"));
        mount["type"] = json!("bind");
        volumes.push(Volume { source: source.into(), name, read_only: has("ro") });
    }
    volumes
}

fn is_guest_source(source: &str) -> bool {
    GUEST_SOURCES.iter().any(|guest| Path::new(source).starts_with(guest))
}

fn prepare_linux(linux: &mut Map<String, Value>, id: &str) {
    // Private to each container but for the network, which is the guest's. A path would name a namespace of the host.
    let namespaces = ["pid", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind }));
    linux.insert("namespaces".to_owned(), Value::from(namespaces.to_vec()));
    linux.insert("cgroupsPath".to_owned(), json!(format!("/{id}")));
    for key in [
        "uidMappings",
        "gidMappings",
        "devices",
        "mountLabel",
        "intelRdt",
        "rootfsPropagation",
        "netDevices",
        "memoryPolicy",
        "timeOffsets",
    ] {
        linux.remove(key);
    }
    if let Some(resources) = linux.get_mut("resources") {
        prepare_resources(resources);
    }
}

/// Takes out of an OCI `linux.resources` object what counts the host's things.
pub fn prepare_resources(resources: &mut Value) {
    let Some(resources) = resources.as_object_mut() else { return };
    for key in ["devices", "hugepageLimits", "network", "rdma", "blockIO"] {
        resources.remove(key);
    }
    if let Some(cpu) = resources.get_mut("cpu").and_then(Value::as_object_mut) {
        for key in ["cpus", "mems", "realtimeRuntime", "realtimePeriod"] {
            cpu.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: Value) -> Spec {
        match value {
            Value::Object(value) => Spec { value },
            other => panic!("{other}"),
        }
    }

    fn guest(value: Value) -> (Value, Vec<Volume>) {
        let (bytes, mounts) = spec(value).for_guest("web", "c1", false);
        (serde_json::from_slice(&bytes).expect("JSON"), mounts)
    }

    #[test]
    fn annotations_make_a_member_of_a_sandbox() {
        let member = json!({"annotations": {
            "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod"}});
        assert_eq!(spec(member).role(), Role::Member("pod".to_owned()));
        let pod = json!({"annotations": {
            "io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "pod"}});
        assert_eq!(spec(pod).role(), Role::Sandbox);
        assert_eq!(spec(json!({})).role(), Role::Sandbox);
        let nameless = json!({"annotations": {"io.kubernetes.cri.container-type": "container"}});
        assert_eq!(spec(nameless).role(), Role::Sandbox);
    }

    #[test]
    fn namespaces_are_the_guests_and_the_control_group_names_the_container() {
        let (guest, _) = guest(json!({"linux": {
            "namespaces": [{"type": "network", "path": "/run/netns/a"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}],
            "cgroupsPath": "/kubepods/pod1/x", "seccomp": {"defaultAction": "SCMP_ACT_LOG"}, "uidMappings": []}}));
        let kinds: Vec<&str> = guest["linux"]["namespaces"]
            .as_array()
            .expect("list")
            .iter()
            .map(|namespace| {
                assert!(namespace.get("path").is_none());
                namespace["type"].as_str().expect("type")
            })
            .collect();
        assert_eq!(kinds, ["pid", "ipc", "uts", "mount", "cgroup"]);
        assert_eq!(guest["linux"]["cgroupsPath"], "/web");
        assert_eq!(guest["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_LOG", "the guest applies it");
        assert!(guest["linux"].get("uidMappings").is_none());
    }

    #[test]
    fn the_network_namespace_is_the_one_with_a_path() {
        let with = |namespaces: Value| spec(json!({"linux": {"namespaces": namespaces}})).network_namespace();
        assert_eq!(with(json!([{"type": "network", "path": "/run/netns/a"}])), Some("/run/netns/a".into()));
        assert_eq!(with(json!([{"type": "network"}])), None);
        assert_eq!(with(json!([{"type": "pid", "path": "/x"}])), None);
    }

    #[test]
    fn host_files_come_through_the_shared_directory() {
        let (guest, mounts) = guest(json!({"mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/resolv.conf", "type": "bind", "source": "/etc/resolv.conf", "options": ["rbind", "ro"]},
            {"destination": "/data", "source": "/srv/data", "options": ["bind"]}]}));
        assert_eq!(guest["mounts"][0]["source"], "proc");
        assert_eq!(guest["mounts"][1]["source"], "/shared/c1/mounts/0");
        assert_eq!(guest["mounts"][2]["source"], "/shared/c1/mounts/1");
        let wanted = [
            Volume { source: "/etc/resolv.conf".into(), name: "0".into(), read_only: true },
            Volume { source: "/srv/data".into(), name: "1".into(), read_only: false },
        ];
        assert_eq!(mounts, wanted);
    }

    #[test]
    fn a_bind_of_proc_is_the_guests_and_shared_memory_stays_there() {
        let (guest, mounts) = guest(json!({"mounts": [
            {"destination": "/host/proc", "type": "bind", "source": "/proc", "options": ["rbind", "ro"]},
            {"destination": "/dev/shm", "type": "bind", "source": "/run/x/shm", "options": ["rbind"]},
            {"destination": "/a", "type": "bind", "source": "/process", "options": ["rbind"]}]}));
        assert_eq!(guest["mounts"][0]["source"], "/proc");
        assert_eq!(guest["mounts"][1]["type"], "tmpfs");
        assert_eq!(mounts.len(), 1, "/process is no /proc");
    }

    #[test]
    fn limits_stay_and_the_hosts_numbers_go() {
        let (guest, _) = guest(json!({"linux": {"resources": {
            "memory": {"limit": 1000}, "cpu": {"quota": 5, "cpus": "0-63"}, "devices": [{"allow": false}]}}}));
        assert_eq!(guest["linux"]["resources"], json!({"memory": {"limit": 1000}, "cpu": {"quota": 5}}));
    }

    #[test]
    fn a_process_has_a_path_and_no_host_labels() {
        let mut process = json!({"args": ["sh"], "apparmorProfile": "x"});
        prepare_process(&mut process, true);
        assert_eq!(process["terminal"], true);
        assert!(process.get("apparmorProfile").is_none());
        assert!(process["env"][0].as_str().expect("entry").starts_with("PATH=/"));
        let mut own = json!({"env": ["PATH=/bin"]});
        prepare_process(&mut own, false);
        assert_eq!(own["env"], json!(["PATH=/bin"]));
    }

    #[test]
    fn a_guest_is_never_protected_more_than_an_ordinary_process() {
        let score = |wanted: Value| spec(json!({"process": {"oomScoreAdj": wanted}})).oom_score();
        assert_eq!(
            (score(json!(-998)), score(json!(0)), score(json!(935)), score(json!(i64::MAX))),
            (0, 0, 935, 1000)
        );
        assert_eq!(spec(json!({})).oom_score(), 0);
    }

    #[test]
    fn the_root_is_in_the_bundle_or_where_it_says() {
        let bundle = Path::new("/b");
        assert_eq!(spec(json!({"root": {"path": "rootfs"}})).root(bundle), ("/b/rootfs".into(), false));
        let absolute = json!({"root": {"path": "/r", "readonly": true}});
        assert_eq!(spec(absolute).root(bundle), ("/r".into(), true));
    }
}
