//! Kata Containers as the delegate: what its configuration means for the agent in the guest.
//!
//! Kata has two shims, in Go and in Rust (runtime-rs), each with its own files; both are looked at where both are
//! installed. Sources: `src/runtime/Makefile` and `src/libs/kata-types/src/config/default.rs` for the paths, the
//! `configuration-*.toml.in` files for the keys.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Check, device};

/// Environment variable that names Kata's configuration file.
const CONFIGURATION_ENV: &str = "KATA_CONF_FILE";

/// Where the shims look, in this order.
const RUST: [&str; 3] = [
    "/etc/kata-containers/runtime-rs/configuration.toml",
    "/usr/share/defaults/kata-containers/runtime-rs/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/runtime-rs/configuration.toml",
];
const GO: [&str; 3] = [
    "/etc/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/configuration.toml",
];

const CONFIGURATION: &str = "kata configuration";
const VSOCK: &str = "kata vsock";
const KERNEL: &str = "kata guest kernel";
const SHARING: &str = "kata file sharing";
const MEMORY: &str = "kata memory";

/// Hypervisors whose vsock is the host kernel's; the others have a unix socket on the host.
const HOST_VSOCK: [&str; 3] = ["qemu", "stratovirt", "acrn"];

/// Whether a delegate is one of Kata's shims.
pub fn is_kata(delegate: &str) -> bool {
    let name = Path::new(delegate).file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("containerd-shim-kata")
}

/// Checks Kata's configuration.
pub fn check(checks: &mut Vec<Check>) {
    let files = files();
    if files.is_empty() {
        checks.push(Check::warn(
            CONFIGURATION,
            "none of Kata's configuration files is where its shims look",
            format!("install Kata, or name its file with {CONFIGURATION_ENV} in containerd's environment"),
        ));
        return;
    }
    for file in files {
        check_file(&file, checks);
    }
}

fn files() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os(CONFIGURATION_ENV) {
        return vec![named.into()];
    }
    let first = |paths: &[&str]| paths.iter().map(PathBuf::from).find(|path| path.exists());
    [first(&RUST), first(&GO)].into_iter().flatten().collect()
}

fn check_file(file: &Path, checks: &mut Vec<Check>) {
    let shown = file.display();
    let table = std::fs::read_to_string(file).map_err(|error| error.to_string()).and_then(|text| {
        text.parse::<Table>()
            .map_err(|error| error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    });
    let table = match table {
        Ok(table) => table,
        Err(error) => {
            let remedy = "correct the file: Kata itself cannot use it";
            checks.push(Check::fail(CONFIGURATION, format!("{shown}: {error}"), remedy));
            return;
        }
    };
    let Some((name, hypervisor)) = hypervisor(&table) else {
        let found = format!("{shown} has no [hypervisor] section");
        checks.push(Check::fail(CONFIGURATION, found, "configure a hypervisor"));
        return;
    };
    checks.push(Check::ok(CONFIGURATION, format!("{shown}: {name}")));
    checks.push(vsock(name, device::usable("/dev/vhost-vsock")));
    checks.push(kernel(hypervisor));
    checks.push(sharing(name, hypervisor));
    checks.extend(memory(hypervisor));
}

/// The hypervisor that is configured: the one that runtime-rs names, else the only one.
fn hypervisor(table: &Table) -> Option<(&str, &Table)> {
    let all = table.get("hypervisor")?.as_table()?;
    let runtime = table.get("runtime").and_then(Value::as_table);
    let named = runtime.and_then(|runtime| runtime.get("hypervisor_name")).and_then(Value::as_str);
    let found = match named {
        Some(named) => all.get_key_value(named),
        None => all.iter().next(),
    };
    let (name, section) = found?;
    Some((name, section.as_table()?))
}

fn text<'a>(section: &'a Table, key: &str) -> &'a str {
    section.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The agent is reached over the guest's vsock.
fn vsock(hypervisor: &str, device: std::io::Result<()>) -> Check {
    if hypervisor == "remote" {
        let found = "the remote hypervisor's guests have no vsock on this host";
        return Check::fail(VSOCK, found, "sandboxes of it run unmonitored (`no_channel`)");
    }
    if !HOST_VSOCK.contains(&hypervisor) {
        return Check::ok(VSOCK, format!("{hypervisor} offers it by a unix socket"));
    }
    match device {
        Ok(()) => Check::ok(VSOCK, "/dev/vhost-vsock can be used"),
        Err(error) => Check::fail(
            VSOCK,
            format!("/dev/vhost-vsock: {error}"),
            "`modprobe vhost_vsock`, and have it loaded at boot; run as root",
        ),
    }
}

/// Which of the agent's ways to capture the guest's kernel allows, by its build configuration, which Kata installs
/// beside it.
fn kernel(hypervisor: &Table) -> Check {
    let path = Path::new(text(hypervisor, "kernel"));
    let shown = path.display();
    if !path.is_file() {
        return Check::fail(
            KERNEL,
            format!("`{shown}` is no file"),
            "correct `kernel` in Kata's configuration",
        );
    }
    let Some(options) = build_configuration(path) else {
        let remedy =
            "the agent's mode is in `porthole sandboxes`; a kernel with BTF and BPF_EVENTS gives all of it";
        return Check::warn(KERNEL, format!("{shown}: its build configuration is not beside it"), remedy);
    };
    let has = |option: &str| options.lines().any(|line| line == format!("CONFIG_{option}=y"));
    let missing =
        |wanted: &[&str]| wanted.iter().copied().filter(|option| !has(option)).collect::<Vec<_>>().join(", ");
    let tracing = missing(&["BPF_SYSCALL", "BPF_EVENTS", "DEBUG_INFO_BTF"]);
    if tracing.is_empty() {
        return Check::ok(KERNEL, format!("{shown}: system calls can be traced"));
    }
    let packets = missing(&["BPF_SYSCALL", "CGROUP_BPF"]);
    let remedy = "use a guest kernel with BPF_EVENTS and DEBUG_INFO_BTF, as Kata's `kernel-debug` build";
    if packets.is_empty() {
        let found =
            format!("{shown}: no {tracing}: packets are captured, without processes and unix sockets");
        return Check::warn(KERNEL, found, remedy);
    }
    Check::fail(KERNEL, format!("{shown}: no {packets}: nothing can be captured"), remedy)
}

/// `vmlinux-6.12-150` (or `vmlinuz-…`, or a link to it) has its configuration in `config-6.12-150`.
fn build_configuration(kernel: &Path) -> Option<String> {
    let real = kernel.canonicalize().ok()?;
    let (_, version) = real.file_name()?.to_str()?.split_once('-')?;
    let directory = real.parent()?;
    // The configuration's name lacks what the image's name may end with.
    let version = version.trim_end_matches(".container");
    std::fs::read_to_string(directory.join(format!("config-{version}"))).ok()
}

/// The sidecar's root file system reaches the guest through the shared file system.
fn sharing(hypervisor: &str, section: &Table) -> Check {
    let shared = text(section, "shared_fs");
    if hypervisor == "firecracker" || shared == "none" {
        return Check::fail(
            SHARING,
            format!("{hypervisor} without a shared file system: the sidecar cannot reach the guest"),
            "set `shared_fs = \"virtio-fs\"`, or build the agent into the guest's image",
        );
    }
    let shown = if shared.is_empty() { "Kata's default" } else { shared };
    Check::ok(SHARING, shown.to_owned())
}

/// A directory for the guest's memory that is not there keeps every sandbox from starting.
fn memory(section: &Table) -> Option<Check> {
    let backend = text(section, "file_mem_backend");
    if backend.is_empty() {
        return None;
    }
    let allowed = section.get("valid_file_mem_backends").and_then(Value::as_array);
    let listed = allowed.is_none_or(|allowed| allowed.iter().any(|path| path.as_str() == Some(backend)));
    let found = format!("file_mem_backend = \"{backend}\"");
    if !Path::new(backend).is_dir() {
        return Some(Check::fail(
            MEMORY,
            format!("{found} is no directory"),
            "correct it, or leave it empty",
        ));
    }
    if !listed {
        let remedy = "add it there: annotations may not choose it otherwise";
        return Some(Check::warn(MEMORY, format!("{found} is not in valid_file_mem_backends"), remedy));
    }
    Some(Check::ok(MEMORY, found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    fn of_file(text: &str) -> Vec<Check> {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("written");
        let mut checks = Vec::new();
        check_file(file.path(), &mut checks);
        checks
    }

    fn outcome(checks: &[Check], name: &str) -> Option<(Outcome, String)> {
        checks.iter().find(|check| check.name == name).map(|check| (check.outcome, check.found.clone()))
    }

    /// A kernel with its build configuration beside it, as Kata installs them.
    fn kernel_with(options: &str) -> (tempfile::TempDir, Check) {
        let dir = tempfile::tempdir().expect("directory");
        let image = dir.path().join("vmlinux-6.12-150");
        std::fs::write(&image, "image").expect("written");
        std::fs::write(dir.path().join("config-6.12-150"), options).expect("written");
        let link = dir.path().join("vmlinux.container");
        std::os::unix::fs::symlink(&image, &link).expect("linked");
        let section = format!("kernel = \"{}\"", link.display()).parse().expect("TOML");
        let check = kernel(&section);
        (dir, check)
    }

    #[test]
    fn the_guest_kernel_decides_what_can_be_captured() {
        let full =
            "CONFIG_BPF_SYSCALL=y\nCONFIG_CGROUP_BPF=y\nCONFIG_BPF_EVENTS=y\nCONFIG_DEBUG_INFO_BTF=y\n";
        assert_eq!(kernel_with(full).1.outcome, Outcome::Ok);
        let stock = "CONFIG_BPF_SYSCALL=y\nCONFIG_CGROUP_BPF=y\n# CONFIG_BPF_EVENTS is not set\n";
        let (_dir, check) = kernel_with(stock);
        assert_eq!(check.outcome, Outcome::Warn);
        assert!(check.found.contains("BPF_EVENTS") && check.found.contains("packets"), "{}", check.found);
        assert_eq!(kernel_with("CONFIG_NET=y\n").1.outcome, Outcome::Fail);
    }

    #[test]
    fn what_keeps_the_agent_from_being_reached_is_a_failure() {
        let absent = || Err(std::io::Error::from(std::io::ErrorKind::NotFound));
        assert_eq!(vsock("qemu", absent()).outcome, Outcome::Fail);
        assert_eq!(vsock("qemu", Ok(())).outcome, Outcome::Ok);
        assert_eq!(vsock("clh", absent()).outcome, Outcome::Ok, "it has a unix socket");
        assert_eq!(vsock("remote", Ok(())).outcome, Outcome::Fail);
    }

    #[test]
    fn the_files_keys_are_looked_at() {
        let checks = of_file(
            "[hypervisor.qemu]\nkernel = \"/nonexistent\"\nshared_fs = \"none\"\nfile_mem_backend = \"/nonexistent\"\n",
        );
        assert_eq!(outcome(&checks, CONFIGURATION).expect("looked").0, Outcome::Ok);
        assert_eq!(outcome(&checks, KERNEL).expect("looked").0, Outcome::Fail);
        assert_eq!(outcome(&checks, SHARING).expect("looked").0, Outcome::Fail);
        let (memory, found) = outcome(&checks, MEMORY).expect("looked");
        assert_eq!(memory, Outcome::Fail);
        assert!(found.contains("/nonexistent"));
        let checks = of_file(
            "[hypervisor.qemu]\nshared_fs = \"virtio-fs\"\nfile_mem_backend = \"/dev\"\n\
             valid_file_mem_backends = [\"/dev\"]\n[hypervisor.clh]\n[runtime]\nhypervisor_name = \"qemu\"\n",
        );
        assert_eq!(outcome(&checks, SHARING).expect("looked").0, Outcome::Ok);
        assert_eq!(outcome(&checks, MEMORY).expect("looked").0, Outcome::Ok);
        assert_eq!(outcome(&of_file("x ="), CONFIGURATION).expect("looked").0, Outcome::Fail);
        assert_eq!(outcome(&of_file(""), CONFIGURATION).expect("looked").0, Outcome::Fail);
    }

    #[test]
    fn only_katas_shims_are_kata() {
        assert!(is_kata("containerd-shim-kata-v2") && is_kata("/opt/kata/bin/containerd-shim-kata-qemu-v2"));
        assert!(!is_kata("/opt/kata/bin/containerd-shim-runc-v2"));
    }
}
