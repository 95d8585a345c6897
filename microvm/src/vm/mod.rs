//! The machine of a sandbox: its directory, its programs, its network, and the connection to the init in it.
//!
//! [`qemu`] is the machine itself, [`virtiofs`] its files, [`vsock`] its channel, [`network`] its interface,
//! [`console`] what it says; [`record`] and [`cleanup`] see to it that nothing outlives it.
//!
//! Invariant: a program is on record as soon as it runs, and dies with the shim besides.

use std::{
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use porthole_registry::channel::Channel;
use tokio::{
    process::{Child, Command},
    sync::watch,
};
use ttrpc::r#async::{Client, transport::Socket};

use crate::{
    shim::config::Microvm,
    wire::{CONTROL_PORT, STREAM_ACCEPTED, STREAM_PORT, guest, guest_ttrpc::GuestClient},
};

pub mod cleanup;
pub mod console;
pub mod mounts;
pub mod network;
pub mod process;
pub mod qemu;
pub mod record;
pub mod virtiofs;
pub mod vsock;

use process::ProcessRef;
use record::Record;

/// How long the vsock device may take to listen.
const DEVICE_PATIENCE: Duration = Duration::from_secs(10);

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
    Guest(#[from] ttrpc::Error),
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
    /// Held so that they end with this value.
    _devices: Vec<Child>,
}

/// Directory, below a sandbox's state directory, that the guest sees.
pub const SHARED: &str = "shared";

impl Machine {
    /// Starts a machine; it boots while this has come back already. `namespace` is the pod's network namespace; without
    /// one the machine gets its own.
    pub async fn start(
        config: &Microvm,
        id: &str,
        namespace: Option<&Path>,
        record: &mut Record,
    ) -> Result<Self, VmError> {
        let directory = config.sandbox_directory(id);
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
        let mut vsock = vsock::start(&vsock_program, &directory)?;
        if let Some(program) = &vsock.program {
            note("vhost-device-vsock", program)?;
        }
        let virtiofsd = config.virtiofsd_program();
        let (files, virtiofs_socket) = virtiofs::start(&virtiofsd, &directory, &directory.join(SHARED))?;
        note("virtiofsd", &files)?;
        let tap = network::make_tap(&namespace)?;
        vsock.ready(DEVICE_PATIENCE).await?;

        let machine = qemu::Machine {
            config,
            kvm: qemu::use_kvm(config.accelerator),
            name: id,
            virtiofs_socket: &virtiofs_socket,
            vsock: &vsock.device,
            tap: tap.as_raw_fd(),
        };
        let program = config.qemu_program();
        let mut command = Command::new(&program);
        command.args(qemu::arguments(&machine));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(virtiofs::log_file(&directory, "qemu.log")?);
        let mut inherited = vec![tap.as_raw_fd()];
        if let qemu::VsockDevice::Kernel { descriptor, .. } = vsock.device {
            inherited.push(descriptor);
        }
        // QEMU lives in the pod's network namespace: containerd's network plugins look for it by the process number that
        // it is told.
        let mut child = process::spawn(&mut command, &inherited, Some(&namespace))
            .map_err(VmError::io("start", &program))?;
        note("qemu", &child)?;
        record.network = Some(namespace.clone());

        let console = child.stdout.take().expect("stdout is piped");
        let ready = console::capture(console, directory.join(console::FILE), config.console_log_kib << 10);
        let qemu_pid = child.id().unwrap_or(0);
        let (gone_sender, gone) = watch::channel(false);
        tokio::spawn(async move {
            let status = child.wait().await;
            tracing::info!(?status, "the machine has ended");
            gone_sender.send_replace(true);
        });
        let mut devices = vec![files];
        devices.extend(vsock.program.take());
        Ok(Self { directory, channel: vsock.channel, namespace, qemu_pid, ready, gone, _devices: devices })
    }

    /// Waits until the init listens, and connects to it.
    pub async fn connect(&self, patience: Duration) -> Result<GuestClient, VmError> {
        let (mut ready, mut gone) = (self.ready.clone(), self.gone.clone());
        let up = async {
            tokio::select! {
                biased;
                result = ready.wait_for(|ready| *ready) => result.is_ok(),
                _ = gone.wait_for(|gone| *gone) => false,
            }
        };
        match tokio::time::timeout(patience, up).await {
            Ok(true) => {}
            Ok(false) => return Err(VmError::Boot(self.last_words("QEMU ended"))),
            Err(_) => return Err(VmError::Boot(self.last_words("no sign of its init in time"))),
        }
        let dialled = vsock::dial(&vsock::stream_channel(&self.channel, CONTROL_PORT)).await;
        let connection = dialled.map_err(|error| VmError::Boot(format!("connect to its init: {error}")))?;
        let client = GuestClient::new(Client::new(Socket::new(connection)));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = guest::ConfigureRequest {
            unix_nanos: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            ..Default::default()
        };
        let answer = client.configure(deadline(patience), &request).await?;
        tracing::info!(kernel = answer.kernel, boot_micros = answer.boot_micros, "the guest is up");
        Ok(client)
    }

    /// The reason of a failure, with what QEMU and the guest said last.
    fn last_words(&self, reason: &str) -> String {
        let mut text = reason.to_owned();
        for file in ["qemu.log", console::FILE] {
            let said = std::fs::read(self.directory.join(file)).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            if let Some(line) = said.lines().rev().find(|line| !line.trim().is_empty()) {
                text.push_str("; ");
                text.push_str(line.trim());
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
        if connection.read_u8().await? == STREAM_ACCEPTED {
            Ok(connection)
        } else {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    /// The address that `/agent-url` answers.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The directory that the guest sees.
    pub fn shared(&self) -> PathBuf {
        self.directory.join(SHARED)
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

/// A call's context with a deadline.
pub fn deadline(patience: Duration) -> ttrpc::context::Context {
    ttrpc::context::with_duration(patience)
}
