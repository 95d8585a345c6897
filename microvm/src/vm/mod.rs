//! The machine of a sandbox: its directory, its programs, its network, and the connection to the init in it.
//!
//! [`qemu`] is the machine itself, [`share`] its files and [`virtiofs`] the daemon that serves them, [`vsock`] its channel, [`network`] its interface,
//! [`console`] its output; [`record`] and [`cleanup`] see to it that nothing outlives it, [`system`] holds the privileged
//! operations on the host's files. Programs are started by [`process`] in a [`jail`], with the [`privileges`] that each
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

use porthole_registry::channel::Channel;
use tokio::{
    process::{Child, Command},
    sync::{Notify, watch},
};
use ttrpc::r#async::{Client, transport::Socket};

use crate::{
    config::Microvm,
    text::printable,
    wire::{CONTROL_PORT, STREAM_ACCEPTED, STREAM_PORT, guest, guest_ttrpc::GuestClient},
};

pub mod cgroup;
pub mod cleanup;
pub mod console;
pub mod jail;
pub mod log;
pub mod network;
pub mod privileges;
pub mod process;
pub mod qemu;
pub mod record;
pub mod sandbox_environment;
pub mod share;
pub mod system;
pub mod virtiofs;
pub mod vsock;

use jail::{Jail, Network, Root, User};
use process::ProcessRef;
use record::Record;
use sandbox_environment::{Environment, absolute};
use share::SharedFiles;

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
        /// What the system said.
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
        /// What the system said.
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
    /// Held so that they end with this value.
    _devices: Vec<Child>,
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
        let directory = environment.directory.clone();
        let own = directory.join("netns");
        let namespace = if let Some(path) = namespace {
            path.to_owned()
        } else {
            network::make_namespace(&own)?;
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
        let (daemon, virtiofs) = virtiofs::start(&virtiofsd, &exposed, environment)?;
        note("virtiofsd", &daemon)?;
        let tap = network::make_tap(&namespace)?;
        let vsock_device = vsock.connect(DEVICE_TIMEOUT).await?;

        let machine = qemu::Machine {
            config,
            kvm: qemu::use_kvm(config.accelerator),
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
        tokio::spawn(async move {
            let status = tokio::select! {
                status = child.wait() => status,
                () = killed.notified() => {
                    // It may have ended meanwhile.
                    let _ = child.start_kill();
                    child.wait().await
                }
            };
            tracing::info!(?status, "the machine has ended");
            gone_sender.send_replace(true);
        });
        let mut devices = vec![daemon];
        devices.extend(vsock.program.take());
        Ok(Self {
            directory,
            channel: vsock.channel,
            namespace,
            qemu_pid,
            ready,
            gone,
            kill,
            files,
            _devices: devices,
        })
    }

    /// Switches the machine off, whatever the guest does.
    pub fn kill(&self) {
        self.kill.notify_one();
    }

    /// Waits until the init listens, and connects to it.
    pub async fn connect(&self, timeout: Duration) -> Result<GuestClient, VmError> {
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
        let dialled = vsock::dial(&vsock::stream_channel(&self.channel, CONTROL_PORT)).await;
        let connection = dialled.map_err(|error| VmError::Boot(format!("connect to its init: {error}")))?;
        let client = GuestClient::new(Client::new(Socket::new(connection)));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = guest::ConfigureRequest {
            unix_nanos: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            ..Default::default()
        };
        let answer = client.configure(deadline(timeout), &request).await;
        let answer = answer.map_err(|error| VmError::Guest(printable(&error.to_string())))?;
        tracing::info!(
            kernel = printable(&answer.kernel),
            boot_micros = answer.boot_micros,
            "the guest is up"
        );
        Ok(client)
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
