//! The machine of a sandbox: its directory, its programs, its network, and the connection to the init in it.
//!
//! [`qemu`] is the machine itself, [`share`] its files and [`virtiofs`] the daemon that serves them, [`vsock`] its channel, [`network`] its interface,
//! [`console`] its output, [`init`] the connection to its first process; [`record`], [`state_directory`] and [`cleanup`] see to it that nothing outlives it, [`system`] holds the privileged
//! operations on the host, and [`tsc`] measures the processor's counter for the guest's clock. Programs are started by [`process`] in a [`jail`], with the [`privileges`] that each
//! needs and the surroundings that all share ([`sandbox_environment`], [`cgroup`]); [`log`] bounds what they write.
//!
//! Invariants: a program is on record as soon as it runs, and dies with the shim besides; every program that handles what
//! a guest sends is confined.

use std::{
    fs::File,
    io::{self, Read as _},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    config::Microvm,
    text::printable,
    wire::{CONTROL_PORT, STREAM_ACCEPTED, STREAM_PORT, guest},
};
use porthole_registry::channel::Channel;
use tokio::{
    process::{Child, Command},
    sync::{Notify, watch},
};

pub mod cgroup;
pub mod cleanup;
pub mod console;
pub mod init;
pub mod jail;
pub mod log;
mod mount_attributes;
pub mod network;
pub mod privileges;
pub mod process;
pub mod qemu;
pub mod record;
pub mod sandbox_environment;
pub mod share;
pub mod state_directory;
pub mod system;
pub mod tsc;
pub mod virtiofs;
pub mod vsock;

use init::Init;
use jail::{Jail, Network, Root, User};
use process::ProcessRef;
use record::Record;
use sandbox_environment::{Environment, absolute};
use share::SharedFiles;
use system::{Linux, network::NetworkSystem as _};

/// How long a machine may take to end after its devices.
const MACHINE_END: Duration = Duration::from_secs(2);

/// How long the vsock device may take to listen.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the guest may take to accept a stream. Emulated guests are slow.
const STREAM_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of a log is read for the reason of a failure.
const FAILURE_TEXT_BYTES: u64 = 1 << 20;

/// A machine that could not be run.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A file, a directory, a socket or a program.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The sandbox is another shim's, which runs.
    #[error("sandbox {sandbox} is run by process {shim}")]
    InUse {
        /// The sandbox.
        sandbox: String,
        /// The shim's process number.
        shim: i32,
    },
    /// A program that cannot be ended.
    #[error("end {name}: {source}")]
    Program {
        /// The program.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// The network namespace or what is in it.
    #[error("{what}: {source}")]
    Network {
        /// What was being done.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Links, addresses, routes.
    #[error("network: {0}")]
    Netlink(#[from] rtnetlink::Error),
    /// The guest did not come up.
    #[error("the guest did not come up: {0}")]
    Boot(String),
    /// The guest refused, or is gone.
    #[error("guest: {0}")]
    Guest(String),
}

impl VmError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// A machine, running or gone.
pub struct Machine {
    directory: PathBuf,
    channel: Channel,
    namespace: PathBuf,
    qemu_pid: u32,
    ready: watch::Receiver<bool>,
    gone: watch::Receiver<bool>,
    kill: Arc<Notify>,
    files: SharedFiles,
}

impl Machine {
    /// Starts a machine; it boots while this has come back already. `namespace` is the pod's network namespace; without
    /// one the machine gets its own.
    pub async fn start(
        config: &Microvm,
        environment: &Environment,
        namespace: Option<&Path>,
        record: &mut Record,
    ) -> Result<Self, VmError> {
        let kvm = qemu::use_kvm(config.accelerator);
        // KVM gives its guests the rate itself.
        let tsc = if kvm { None } else { tsc::Reading::now() };
        let directory = environment.directory.clone();
        let own = directory.join("netns");
        let namespace = if let Some(path) = namespace {
            path.to_owned()
        } else {
            Linux.make_namespace(&own)?;
            own
        };
        let mut note = |name: &str, child: &Child| {
            record.programs.extend(child.id().and_then(|pid| ProcessRef::of(name, i32::try_from(pid).ok()?)));
            record.save(&directory).map_err(VmError::io("write the record in", &directory))
        };
        let vsock_program = config.vsock_program();
        let mut vsock = vsock::start(&vsock_program, environment)?;
        if let Some(program) = &vsock.program {
            note("vhost-device-vsock", program)?;
        }
        let virtiofsd = config.virtiofsd_program();
        let files = SharedFiles::prepare(&directory).map_err(VmError::io("share files below", &directory))?;
        let exposed = SharedFiles::exposed(&directory);
        let (daemon, virtiofs) =
            virtiofs::start(&virtiofsd, &exposed, privileges::served_files(config.memory_mib), environment)?;
        note("virtiofsd", &daemon)?;
        let tap = network::make_tap(&Linux, &namespace)?;
        let vsock_device = vsock.connect(DEVICE_TIMEOUT).await?;
        let tsc_khz = match tsc {
            Some(reading) => reading.khz_since().await,
            None => None,
        };

        let machine = qemu::Machine {
            config,
            kvm,
            tsc_khz,
            name: &environment.sandbox,
            virtiofs: virtiofs.as_raw_fd(),
            vsock: &vsock_device,
            tap: tap.as_raw_fd(),
        };
        let mut child = start_qemu(&machine, &namespace, environment)?;
        note("qemu", &child)?;
        record.network = Some(namespace.clone());

        if let Some(output) = child.stderr.take() {
            log::keep(output, directory.join("qemu.log"));
        }
        let console = child.stdout.take().expect("stdout is piped");
        let ready = console::capture(console, directory.join(console::FILE), config.console_log_kib << 10);
        let qemu_pid = child.id().unwrap_or(0);
        let (gone_sender, gone) = watch::channel(false);
        let kill = Arc::new(Notify::new());
        let killed = Arc::clone(&kill);
        let mut devices = vec![("virtiofsd", daemon)];
        devices.extend(vsock.program.take().map(|program| ("vhost-device-vsock", program)));
        tokio::spawn(async move {
            if let Some(device) = end_of_machine(&mut child, &killed, &mut devices).await {
                tracing::error!(device, "a device has ended before its machine");
            }
            // It may have ended meanwhile.
            let _ = child.start_kill();
            let status = child.wait().await;
            tracing::info!(?status, "the machine has ended");
            gone_sender.send_replace(true);
        });
        Ok(Self { directory, channel: vsock.channel, namespace, qemu_pid, ready, gone, kill, files })
    }

    /// Switches the machine off, whatever the guest does.
    pub fn kill(&self) {
        self.kill.notify_one();
    }

    /// Waits until the init listens, and connects to it.
    ///
    /// The first container's start will wait for the agent at most `agent_wait`.
    pub async fn connect(&self, timeout: Duration, agent_wait: Duration) -> Result<Init, VmError> {
        let (mut ready, mut gone) = (self.ready.clone(), self.gone.clone());
        let up = async {
            tokio::select! {
                biased;
                result = ready.wait_for(|ready| *ready) => result.is_ok(),
                _ = gone.wait_for(|gone| *gone) => false,
            }
        };
        match tokio::time::timeout(timeout, up).await {
            Ok(true) => {}
            Ok(false) => return Err(VmError::Boot(self.failure_text("QEMU ended"))),
            Err(_) => return Err(VmError::Boot(self.failure_text("no sign of its init in time"))),
        }
        let connected = Init::connect(vsock::stream_channel(&self.channel, CONTROL_PORT)).await;
        let init = connected.map_err(|error| VmError::Boot(format!("connect to its init: {error}")))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = guest::ConfigureRequest {
            unix_nanos: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            agent_wait_ms: u64::try_from(agent_wait.as_millis()).unwrap_or(u64::MAX),
            ..Default::default()
        };
        let answer =
            init.call(timeout, async |guest, context| guest.configure(context, &request).await).await;
        let answer = answer.map_err(|error| VmError::Guest(printable(&error.to_string())))?;
        tracing::info!(
            kernel = printable(&answer.kernel),
            boot_micros = answer.boot_micros,
            "the guest is up"
        );
        Ok(init)
    }

    /// The reason of a failure, with the last lines of QEMU's log and of the console.
    fn failure_text(&self, reason: &str) -> String {
        let mut text = reason.to_owned();
        for file in ["qemu.log", console::FILE] {
            let mut said = Vec::new();
            if let Ok(file) = File::open(self.directory.join(file)) {
                // The files are bounded where they are written, and here.
                let _ = file.take(FAILURE_TEXT_BYTES).read_to_end(&mut said);
            }
            let said = String::from_utf8_lossy(&said);
            if let Some(line) = said.lines().rev().find(|line| !line.trim().is_empty()) {
                text.push_str("; ");
                text.push_str(&printable(line.trim()));
            }
        }
        text
    }

    /// Opens a connection for a standard stream and gives it that number.
    pub async fn open_stream(&self, number: u64) -> io::Result<Box<dyn vsock::Connection>> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut connection = vsock::dial(&vsock::stream_channel(&self.channel, STREAM_PORT)).await?;
        connection.write_all(&number.to_le_bytes()).await?;
        connection.flush().await?;
        let accepted = tokio::time::timeout(STREAM_TIMEOUT, connection.read_u8()).await??;
        if accepted == STREAM_ACCEPTED {
            Ok(connection)
        } else {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    /// The address that `/agent-url` answers.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The files that the guest's containers share with the host.
    pub fn files(&self) -> &SharedFiles {
        &self.files
    }

    /// The network namespace of the machine's tap.
    pub fn namespace(&self) -> &Path {
        &self.namespace
    }

    /// QEMU's process number.
    pub fn pid(&self) -> u32 {
        self.qemu_pid
    }

    /// Turns true when the machine has ended.
    pub fn gone(&self) -> watch::Receiver<bool> {
        self.gone.clone()
    }
}

#[cfg(test)]
impl Machine {
    /// A stand-in: a channel without a machine behind it, which is gone when it is killed.
    pub fn stand_in(directory: &Path, channel: Channel) -> Self {
        let (ready_sender, ready) = watch::channel(true);
        let (gone_sender, gone) = watch::channel(false);
        let kill = Arc::new(Notify::new());
        let killed = Arc::clone(&kill);
        tokio::spawn(async move {
            killed.notified().await;
            gone_sender.send_replace(true);
            drop(ready_sender);
        });
        Self {
            directory: directory.to_owned(),
            channel,
            namespace: directory.join("netns"),
            qemu_pid: 0,
            ready,
            gone,
            kill,
            files: SharedFiles::stand_in(directory),
        }
    }
}

/// Waits until the machine has ended or is to be killed; or until a device has ended before it, which it answers: what waits for the
/// device would wait for ever.
async fn end_of_machine(
    machine: &mut Child,
    killed: &Notify,
    devices: &mut [(&'static str, Child)],
) -> Option<&'static str> {
    let device = tokio::select! {
        biased;
        _ = machine.wait() => return None,
        () = killed.notified() => return None,
        device = first_end(devices) => device,
    };
    // A machine that ends takes its devices along, and can be collected after them: its memory is freed first.
    tokio::select! {
        biased;
        _ = machine.wait() => None,
        () = killed.notified() => None,
        () = tokio::time::sleep(MACHINE_END) => Some(device),
    }
}

/// The first of these programs that ends. There is one at least.
async fn first_end(programs: &mut [(&'static str, Child)]) -> &'static str {
    let ends = programs.iter_mut().map(|(name, program)| {
        Box::pin(async move {
            // A program that cannot be waited for has gone.
            let _ = program.wait().await;
            *name
        })
    });
    futures_util::future::select_all(ends).await.0
}

/// QEMU in its jail. It is in the pod's network namespace: containerd's network plugins find it by the task's process
/// number.
fn start_qemu(
    machine: &qemu::Machine<'_>,
    namespace: &Path,
    environment: &Environment,
) -> Result<Child, VmError> {
    let program = machine.config.qemu_program();
    let failed = || VmError::io("start", &program);
    let mut command = Command::new(&program);
    command.args(qemu::arguments(machine));
    environment.apply(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut inherited = vec![machine.tap, machine.virtiofs];
    inherited.push(match machine.vsock {
        qemu::VsockDevice::Kernel { descriptor, .. } => *descriptor,
        qemu::VsockDevice::User { connection } => connection.as_raw_fd(),
    });
    let kvm = Path::new(qemu::KVM);
    let (devices, groups) = if machine.kvm {
        let group = std::fs::metadata(kvm).map_err(VmError::io("open", kvm))?.gid();
        (vec![kvm.to_owned()], vec![group])
    } else {
        (Vec::new(), Vec::new())
    };
    let jail = Jail {
        user: Some(User { id: environment.user, groups }),
        root: Some(Root {
            mount_point: environment.mount_point("qemu-root").map_err(failed())?,
            readable: absolute(&[&program, &machine.config.kernel, &machine.config.initrd]),
            writable: Vec::new(),
            devices,
        }),
        network: Network::Namespace(File::open(namespace).map_err(VmError::io("open", namespace))?),
        own_processes: true,
        capability_bounds: 0,
        oom_score: environment.oom_score,
        limits: privileges::machine_limits(machine.config.memory_mib),
        control_groups: environment.control_groups().map_err(failed())?,
        // QEMU installs its own.
        seccomp: None,
        inherited,
    };
    process::spawn(&mut command, jail).map_err(failed())
}

/// A call's context with a deadline.
pub fn deadline(timeout: Duration) -> ttrpc::context::Context {
    ttrpc::context::with_duration(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleep(seconds: &str) -> Child {
        Command::new("sleep").arg(seconds).kill_on_drop(true).spawn().expect("started")
    }

    #[tokio::test]
    async fn a_device_that_ends_with_its_machine_is_no_fault_and_one_that_ends_before_it_is() {
        let killed = Notify::new();
        let with_machine = end_of_machine(&mut sleep("0.1"), &killed, &mut [("device", sleep("0"))]).await;
        assert_eq!(with_machine, None);
        let before = end_of_machine(&mut sleep("60"), &killed, &mut [("device", sleep("0"))]).await;
        assert_eq!(before, Some("device"));
        killed.notify_one();
        let machine = end_of_machine(&mut sleep("60"), &killed, &mut [("device", sleep("60"))]).await;
        assert_eq!(machine, None);
    }
}
