//! `[microvm]` of the configuration.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use porthole_config::Section;
use porthole_registry::SandboxKey;
use serde::Deserialize;

/// Where sandboxes keep their state unless configured otherwise.
pub const DEFAULT_STATE_DIRECTORY: &str = "/run/porthole/microvm";

/// How long containers wait for the agent where KVM runs the guest.
const AGENT_WAIT_KVM: Duration = Duration::from_millis(500);

/// The same under emulation, where everything takes some twenty times as long.
const AGENT_WAIT_EMULATED: Duration = Duration::from_secs(10);

/// The longest wait that can be set: the host's call for a container's start has a deadline.
const AGENT_WAIT_MAX: Duration = Duration::from_secs(20);

/// The longest that can be set for the agent's last batch: the sandbox's end waits for it.
const LINGER_MAX: Duration = Duration::from_secs(10);

/// What runs guest instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// KVM where the processor offers it, emulation otherwise.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Emulation.
    Tcg,
}

/// `[microvm]`. Programs without a path are looked up where distributions put them.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Microvm {
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initrd.
    pub initrd: PathBuf,
    /// `qemu-system-x86_64`.
    pub qemu: Option<PathBuf>,
    /// virtiofsd, of QEMU or of the Rust project.
    pub virtiofsd: Option<PathBuf>,
    /// `vhost-device-vsock`; used where the host has no `/dev/vhost-vsock`.
    pub vhost_device_vsock: Option<PathBuf>,
    /// What runs guest instructions.
    pub accelerator: Accelerator,
    /// The guest's memory, MiB. It is taken from the host as the guest touches it.
    pub memory_mib: u32,
    /// The guest's processors.
    pub vcpus: u32,
    /// Directory with a directory for each sandbox.
    pub state_directory: PathBuf,
    /// User and group numbers from here on belong to sandboxes: each one's programs run as this number plus the process
    /// number of its shim.
    pub user_base: u32,
    /// Added to the kernel's command line.
    pub kernel_parameters: String,
    /// Further arguments of the agent that the guest's image carries.
    pub agent_arguments: Vec<String>,
    /// How long the start of a sandbox's first container may wait until the guest's agent is attached, milliseconds;
    /// unless set, what suits the accelerator.
    pub agent_wait_ms: Option<u64>,
    /// How long a guest may take to come up, seconds.
    pub boot_timeout_seconds: u64,
    /// How long the agent may take to send its last batch when the sandbox's own container has ended, milliseconds. The
    /// sandbox ends as soon as it has.
    pub linger_ms: u64,
    /// Bound on the file that keeps the guest's console, KiB.
    pub console_log_kib: u64,
}

impl Default for Microvm {
    fn default() -> Self {
        Self {
            kernel: "/usr/lib/porthole/guest/vmlinuz".into(),
            initrd: "/usr/lib/porthole/guest/initrd.img".into(),
            qemu: None,
            virtiofsd: None,
            vhost_device_vsock: None,
            accelerator: Accelerator::Auto,
            memory_mib: 512,
            vcpus: 1,
            state_directory: DEFAULT_STATE_DIRECTORY.into(),
            user_base: 0x7000_0000,
            kernel_parameters: String::new(),
            agent_arguments: Vec::new(),
            agent_wait_ms: None,
            boot_timeout_seconds: 60,
            linger_ms: 1000,
            console_log_kib: 256,
        }
    }
}

impl Section for Microvm {
    const NAME: &'static str = "microvm";
}

impl Microvm {
    /// How long the first container's start waits for the agent. The bound is for an agent that hangs: it is attached
    /// sooner, or ends, which ends the wait.
    pub fn agent_wait(&self, kvm: bool) -> Duration {
        let default = if kvm { AGENT_WAIT_KVM } else { AGENT_WAIT_EMULATED };
        self.agent_wait_ms.map_or(default, Duration::from_millis).min(AGENT_WAIT_MAX)
    }

    /// How long a guest may take to come up.
    pub fn boot_timeout(&self) -> Duration {
        Duration::from_secs(self.boot_timeout_seconds)
    }

    /// How long the agent may take to send its last batch.
    pub fn linger(&self) -> Duration {
        Duration::from_millis(self.linger_ms).min(LINGER_MAX)
    }

    /// The state directory of one sandbox: paths of sockets below it have to stay short.
    pub fn sandbox_directory(&self, sandbox: &SandboxKey) -> PathBuf {
        self.state_directory.join(sandbox.digest())
    }

    /// QEMU's program.
    pub fn qemu_program(&self) -> PathBuf {
        find(self.qemu.as_deref(), &["/usr/bin/qemu-system-x86_64"], "qemu-system-x86_64")
    }

    /// virtiofsd's program.
    pub fn virtiofsd_program(&self) -> PathBuf {
        let usual =
            ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd", "/usr/bin/virtiofsd"];
        find(self.virtiofsd.as_deref(), &usual, "virtiofsd")
    }

    /// vhost-device-vsock's program.
    pub fn vsock_program(&self) -> PathBuf {
        let usual = ["/usr/lib/porthole/vhost-device-vsock", "/usr/bin/vhost-device-vsock"];
        find(self.vhost_device_vsock.as_deref(), &usual, "vhost-device-vsock")
    }
}

/// The configured program, else the first of the usual ones that is there, else what `PATH` has: a program is started where
/// nothing is looked up any more, so that its path has to be complete.
fn find(configured: Option<&Path>, usual: &[&str], name: &str) -> PathBuf {
    if let Some(configured) = configured {
        return configured.to_owned();
    }
    if let Some(found) = usual.iter().map(Path::new).find(|path| path.exists()) {
        return found.to_owned();
    }
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&search_path).map(|directory| directory.join(name));
    candidates.find(|path| path.is_file()).unwrap_or_else(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Microvm, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = parse("memory = 1").expect_err("refused").to_string();
        assert!(error.contains("memory"), "{error}");
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let config = parse("memory_mib = 1024\naccelerator = \"tcg\"").expect("parsed");
        assert_eq!((config.memory_mib, config.vcpus, config.accelerator), (1024, 1, Accelerator::Tcg));
    }

    #[test]
    fn one_id_in_two_namespaces_has_two_directories_with_short_names() {
        let directory = |namespace: &str| {
            let sandbox = format!("{namespace}@{}", "x".repeat(76)).parse().expect("key");
            Microvm::default().sandbox_directory(&sandbox)
        };
        assert_ne!(directory("acme"), directory("globex"));
        // sun_path of unix(7) has 108 bytes with the closing zero.
        assert!(directory(&"n".repeat(76)).join("vsock/vm.vsock").as_os_str().len() < 108);
    }

    #[test]
    fn a_configured_program_is_taken_as_it_is() {
        assert_eq!(find(Some(Path::new("/opt/q")), &["/bin/sh"], "q"), Path::new("/opt/q"));
        assert_eq!(find(None, &["/nonexistent", "/bin/sh"], "q"), Path::new("/bin/sh"));
        assert_eq!(find(None, &["/nonexistent"], "q-nowhere"), Path::new("q-nowhere"));
        let shell = find(None, &["/nonexistent"], "sh");
        assert!(shell.is_absolute() && shell.ends_with("sh"), "{}", shell.display());
    }
}
