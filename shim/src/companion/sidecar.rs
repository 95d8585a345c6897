//! The sidecar's bundle: the agent as a container of the sandbox.

use std::{
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use porthole_agent_api::{limits::AGENT_VSOCK_PORT, proof::SECRET_ENV};
use porthole_registry::{AgentSecret, ContainerId, SandboxId};
use serde_json::{Value, json};

use super::{
    context::Companion,
    reason::{Failure, ReasonCode},
};
use crate::{
    bundle::{CONTAINER_TYPE, SANDBOX_ID},
    settings::Shim,
};

/// The agent in the sidecar's root file system.
pub const AGENT: &str = "porthole-agent";

/// Where the sidecar sees the guest's `/proc`.
pub const GUEST_PROC: &str = "/host/proc";

/// What loading the probes and finding the containers of processes takes, and nothing else; the agent gives all of it up
/// when its probes run.
///
/// `CAP_NET_ADMIN` is for guest kernels that allow no tracing: without it the kernel lets no process attach programs to
/// the packets of a control group (`bpf_prog_attach_check_attach_type` in `kernel/bpf/syscall.c`), and socket filters
/// would take `CAP_NET_RAW` and do not show which container a packet belongs to. On others it is for
/// the programs that learn who sends datagrams, which are attached there, too.
///
/// `CAP_NET_BIND_SERVICE` is for listening on a vsock port below 1024.
pub const CAPABILITIES: [&str; 7] = [
    "CAP_BPF",
    "CAP_PERFMON",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_PTRACE",
    "CAP_DAC_READ_SEARCH",
    "CAP_SYS_RESOURCE",
];

/// Characters of the sandbox's id in the sidecar's.
const SHORT_CHARS: usize = 12;

/// A new id, never used before: a delegate that gets a second Create for an id may kill the container of that id.
pub fn new_id(sandbox: &SandboxId) -> io::Result<ContainerId> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let short: String =
        sandbox.as_str().chars().filter(char::is_ascii_alphanumeric).take(SHORT_CHARS).collect();
    let id = format!("porthole-{short}-{:016x}", u64::from_ne_bytes(random));
    id.parse().map_err(io::Error::other)
}

/// Finds out whether there is an agent to run.
pub fn check(rootfs: &Path) -> Result<(), Failure> {
    let agent = rootfs.join(AGENT);
    let missing =
        |what: &str| Failure::new(ReasonCode::SidecarMissing, format!("{}: {what}", agent.display()));
    match std::fs::metadata(&agent) {
        Err(error) => Err(missing(&error.to_string())),
        Ok(found) if !found.is_file() || found.mode() & 0o111 == 0 => Err(missing("not a program")),
        Ok(_) if !rootfs.is_absolute() => Err(missing("not an absolute path")),
        Ok(_) => Ok(()),
    }
}

/// Writes the bundle. Its configuration holds the sandbox's secret, so only root can read it.
pub fn write_bundle(bundle: &Path, sidecar: &ContainerId, companion: &Companion<'_>) -> io::Result<PathBuf> {
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(bundle)?;
    let config = bundle.join("config.json");
    let sandbox = &companion.assignment.sandbox.id;
    let spec = spec(sidecar, sandbox, &companion.settings.shim, &companion.secret);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create_new(true).write(true).mode(0o600).open(&config)?;
    io::Write::write_all(&mut file, &serde_json::to_vec(&spec)?)?;
    Ok(config)
}

/// The OCI runtime configuration (runtime-spec 1.0.2).
///
/// Compared with what containerd writes (`pkg/oci/spec.go`, `populateDefaultUnixSpec`):
///
/// - `root.path` is absolute because Kata's Rust shim resolves a relative one in another bundle.
/// - `linux.resources` is there and empty. Kata's Go shim dereferences it (`pkg/oci/utils.go`, `ContainerConfig`) and
///   panics without it, which ends the sandbox. A memory limit in it would make Kata plug memory and a CPU into the guest.
/// - No rlimits, which some runtimes may not raise (the agent has `CAP_SYS_RESOURCE` for the kernels before 5.11 that lock
///   the memory of maps).
/// - No network namespace: the sidecar has the sandbox's.
/// - Neither masked nor read-only paths: the agent reads the guest's `/proc` and tracefs. No terminal, so neither
///   `/dev/pts` nor `/dev/shm`.
fn spec(sidecar: &ContainerId, sandbox: &SandboxId, settings: &Shim, secret: &AgentSecret) -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let agent = format!("/{AGENT}");
    let listen = format!("vsock://:{AGENT_VSOCK_PORT}");
    let mut arguments =
        vec![agent.as_str(), "--listen", listen.as_str(), "--proc", GUEST_PROC, "--placement", "sidecar"];
    arguments.extend(settings.agent_arguments.iter().map(String::as_str));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": ["PATH=/", format!("{SECRET_ENV}={}", secret.expose())],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
            "noNewPrivileges": true,
        },
        "root": {"path": settings.sidecar_rootfs, "readonly": true},
        "hostname": "porthole",
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            // A device directory of its own: without one, runtimes make the devices in the root file system, which other
            // sandboxes share.
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/kernel/tracing", "tracefs", "tracefs", &["nosuid", "noexec", "nodev"]),
            mount("/sys/fs/bpf", "bpf", "bpf", &["nosuid", "noexec", "nodev", "mode=0700"]),
            mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "size=1m"]),
            mount(GUEST_PROC, "bind", "/proc", &["rbind", "ro", "nosuid", "noexec", "nodev"]),
        ],
        "annotations": {CONTAINER_TYPE: "container", SANDBOX_ID: sandbox},
        "linux": {
            "cgroupsPath": format!("/{sidecar}"),
            "resources": {},
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox() -> SandboxId {
        "shop.-1".parse().expect("id")
    }

    #[test]
    fn ids_are_unique_and_containerd_would_accept_them() {
        let (one, two) = (new_id(&sandbox()).expect("id"), new_id(&sandbox()).expect("id"));
        assert_ne!(one, two);
        assert!(one.as_str().starts_with("porthole-shop1-"), "{one}");
        let long: SandboxId = "a".repeat(76).parse().expect("id");
        assert!(new_id(&long).is_ok());
    }

    #[test]
    fn the_spec_asks_for_what_loading_needs_and_no_more() {
        let settings = Shim { agent_arguments: vec!["--hooks".into(), "fexit".into()], ..Shim::default() };
        let secret = AgentSecret::random().expect("random numbers");
        let spec = spec(&"c".parse().expect("id"), &sandbox(), &settings, &secret);
        assert_eq!(spec["process"]["env"][1], json!(format!("PORTHOLE_AGENT_SECRET={}", secret.expose())));
        assert!(!spec["process"]["args"].to_string().contains(&secret.expose()), "arguments can be listed");
        assert_eq!(spec["root"]["path"], json!("/usr/lib/porthole/sidecar/rootfs"));
        assert_eq!(spec["process"]["capabilities"]["bounding"], json!(CAPABILITIES));
        assert_eq!(spec["process"]["noNewPrivileges"], json!(true));
        assert_eq!(spec["root"]["readonly"], json!(true));
        assert_eq!(spec["annotations"][SANDBOX_ID], json!("shop.-1"));
        assert_eq!(spec["annotations"][CONTAINER_TYPE], json!("container"));
        let arguments = json!([
            "/porthole-agent",
            "--listen",
            "vsock://:1000",
            "--proc",
            "/host/proc",
            "--placement",
            "sidecar",
            "--hooks",
            "fexit"
        ]);
        assert_eq!(spec["process"]["args"], arguments);
    }

    /// What Kata's Go shim, its agent, runtime-rs, runc and crun read without a check that it is there.
    #[test]
    fn the_spec_has_every_field_that_runtimes_take_for_granted() {
        let secret = AgentSecret::random().expect("random numbers");
        let spec = spec(&"c".parse().expect("id"), &sandbox(), &Shim::default(), &secret);
        for object in
            ["/process/user", "/process/capabilities", "/root", "/annotations", "/linux", "/linux/resources"]
        {
            assert!(spec.pointer(object).is_some_and(Value::is_object), "{object}");
        }
        for list in ["/process/args", "/process/env", "/mounts", "/linux/namespaces"] {
            assert!(
                spec.pointer(list).and_then(Value::as_array).is_some_and(|list| !list.is_empty()),
                "{list}"
            );
        }
        for text in ["/ociVersion", "/process/cwd", "/root/path", "/hostname", "/linux/cgroupsPath"] {
            assert!(
                spec.pointer(text).and_then(Value::as_str).is_some_and(|text| !text.is_empty()),
                "{text}"
            );
        }
        for number in ["/process/user/uid", "/process/user/gid"] {
            assert!(spec.pointer(number).is_some_and(Value::is_u64), "{number}");
        }
        assert_eq!(spec["process"]["terminal"], json!(false));
        for mount in spec["mounts"].as_array().expect("mounts") {
            assert!(
                ["destination", "type", "source"].iter().all(|field| mount[*field].is_string()),
                "{mount}"
            );
            assert!(mount["options"].is_array(), "{mount}");
        }
        let types: Vec<_> =
            spec["linux"]["namespaces"].as_array().expect("list").iter().map(|n| &n["type"]).collect();
        assert!(types.contains(&&json!("uts")), "a host name needs its own");
        assert!(!types.contains(&&json!("network")), "the agent listens in the sandbox's network");
    }

    #[test]
    fn a_missing_agent_is_named() {
        let dir = tempfile::tempdir().expect("directory");
        let failure = check(dir.path()).expect_err("missing");
        assert_eq!(failure.code, ReasonCode::SidecarMissing);
        assert!(failure.message.contains("porthole-agent"), "{}", failure.message);
        std::fs::write(dir.path().join(AGENT), "text").expect("written");
        assert!(check(dir.path()).is_err());
    }
}
