//! The guest's vsock: the host kernel's where it has one, else a vhost-user device with a unix socket on the host that
//! takes `CONNECT <port>` (the hybrid vsock of Firecracker and Cloud Hypervisor).

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{chown, lchown},
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use porthole_registry::{channel::Channel, dial};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    process::{Child, Command},
};

use super::{
    VmError,
    jail::{Jail, Network, Root, User},
    log, privileges, process,
    qemu::VsockDevice,
    sandbox_environment::{Environment, absolute},
};
use crate::wire::CONTROL_PORT;

const KERNEL_DEVICE: &str = "/dev/vhost-vsock";

/// Context ids from here on are free for guests; 0 to 2 have meanings, vsock(7).
const FIRST_CID: u32 = 3;

/// The first context id that is too large: the last one stands for any, vsock(7), and the sign bit stays free.
const CID_LIMIT: u32 = 1 << 31;

/// How many context ids are tried before giving up; they are random, so that a clash is rare.
const CID_ATTEMPTS: u32 = 64;

/// The device's context id where no kernel shares it among guests.
const USER_CID: u32 = 3;

/// How long a connection to the guest may take. Emulated guests are slow.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

nix::ioctl_write_ptr!(
    /// `VHOST_VSOCK_SET_GUEST_CID` of `linux/vhost.h`.
    set_guest_cid, 0xAF, 0x60, u64
);

/// The directory of the device's sockets, below a sandbox's state directory.
const SOCKETS: &str = "vsock";

enum Device {
    /// The host kernel's, open until QEMU has it, bound to the context id.
    Kernel { device: OwnedFd, cid: u32 },
    /// A program's, behind its socket.
    User { socket: PathBuf },
}

/// A sandbox's vsock.
pub struct Vsock {
    device: Device,
    /// How the host dials.
    pub channel: Channel,
    /// The device's process, if it has one.
    pub program: Option<Child>,
}

/// A connection to the guest.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Connection for T {}

/// Makes the vsock of a sandbox.
pub fn start(program: &Path, environment: &Environment) -> Result<Vsock, VmError> {
    if Path::new(KERNEL_DEVICE).exists() { start_kernel() } else { start_user(program, environment) }
}

fn start_kernel() -> Result<Vsock, VmError> {
    let path = Path::new(KERNEL_DEVICE);
    let device = OpenOptions::new().read(true).write(true).open(path).map_err(VmError::io("open", path))?;
    for _ in 0..CID_ATTEMPTS {
        let cid = random_cid().map_err(VmError::io("choose a context id for", path))?;
        let wide = u64::from(cid);
        // SAFETY: the descriptor is open and the id lives across the call.
        match unsafe { set_guest_cid(device.as_raw_fd(), &raw const wide) } {
            Ok(_) => {
                return Ok(Vsock {
                    device: Device::Kernel { device: device.into(), cid },
                    channel: Channel::Vsock { cid, port: CONTROL_PORT },
                    program: None,
                });
            }
            Err(nix::errno::Errno::EADDRINUSE) => {}
            Err(errno) => return Err(VmError::io("set the context id on", path)(errno.into())),
        }
    }
    Err(VmError::io("find a free context id on", path)(io::ErrorKind::AddrInUse.into()))
}

/// A context id that is not likely to be anyone's soon after it was another's: who dials an address that is stale must
/// not reach another sandbox.
fn random_cid() -> io::Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(FIRST_CID + u32::from_le_bytes(bytes) % (CID_LIMIT - FIRST_CID))
}

fn start_user(program: &Path, environment: &Environment) -> Result<Vsock, VmError> {
    // The device makes its sockets in a directory of its own.
    let directory = environment.directory.join(SOCKETS);
    let made = std::fs::create_dir(&directory)
        .and_then(|()| chown(&directory, Some(environment.user), Some(environment.user)));
    made.map_err(VmError::io("make", &directory))?;
    let (socket, path) = (directory.join("device.sock"), directory.join("vm.vsock"));
    let mut command = Command::new(program);
    command.arg("--guest-cid").arg(USER_CID.to_string());
    command.arg("--socket").arg(&socket).arg("--uds-path").arg(&path);
    environment.apply(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let failed = || VmError::io("confine", program);
    let jail = Jail {
        user: Some(User { id: environment.user, groups: Vec::new() }),
        root: Some(Root {
            mount_point: environment.mount_point("vsock-root").map_err(failed())?,
            readable: absolute(&[program]),
            writable: vec![directory.clone()],
            devices: Vec::new(),
        }),
        network: Network::Empty,
        own_processes: true,
        capability_bounds: 0,
        oom_score: environment.oom_score,
        limits: privileges::device_limits(),
        control_groups: environment.control_groups().map_err(failed())?,
        seccomp: Some(
            privileges::device_filter().map_err(|error| failed()(io::Error::other(error.to_string())))?,
        ),
        inherited: Vec::new(),
    };
    let mut child = process::spawn(&mut command, jail).map_err(VmError::io("start", program))?;
    if let Some(output) = child.stderr.take() {
        log::keep(output, environment.directory.join("vsock.log"));
    }
    Ok(Vsock {
        device: Device::User { socket },
        channel: Channel::Hybrid { path, port: CONTROL_PORT },
        program: Some(child),
    })
}

impl Vsock {
    /// Waits until the device listens, and connects to it for QEMU.
    pub async fn connect(&mut self, timeout: Duration) -> Result<VsockDevice, VmError> {
        let socket = match &self.device {
            Device::Kernel { device, cid } => {
                return Ok(VsockDevice::Kernel { descriptor: device.as_raw_fd(), cid: *cid });
            }
            Device::User { socket } => socket.clone(),
        };
        let failed = |error: io::Error| VmError::io("connect to", &socket)(error);
        let deadline = tokio::time::Instant::now() + timeout;
        let connection = loop {
            match std::os::unix::net::UnixStream::connect(&socket) {
                Ok(connection) => break connection,
                // It binds first and listens then.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                }
                Err(error) => return Err(failed(error)),
            }
            if let Some(program) = &mut self.program
                && matches!(program.try_wait(), Ok(Some(_)))
            {
                return Err(failed(io::ErrorKind::BrokenPipe.into()));
            }
            if tokio::time::Instant::now() > deadline {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        // From here on the device makes no names: the host dials one of them, as root without capabilities.
        if let Some(directory) = socket.parent() {
            chown(directory, Some(0), Some(0)).map_err(failed)?;
        }
        if let Channel::Hybrid { path, .. } = &self.channel {
            lchown(path, Some(0), Some(0)).map_err(VmError::io("take", path))?;
        }
        Ok(VsockDevice::User { connection: connection.into() })
    }
}

/// Connects to a port of the guest.
pub async fn dial(channel: &Channel) -> io::Result<Box<dyn Connection>> {
    // The guest, or the device, may accept the connection and send nothing.
    Ok(Box::new(tokio::time::timeout(DIAL_TIMEOUT, dial::dial(channel)).await??))
}

/// Where the guest's other port is dialled.
pub fn stream_channel(channel: &Channel, port: u32) -> Channel {
    channel.clone().with_port(port)
}

/// The path of a hybrid vsock, if it is one.
pub fn hybrid_path(channel: &Channel) -> Option<PathBuf> {
    match channel {
        Channel::Hybrid { path, .. } => Some(path.clone()),
        Channel::Vsock { .. } | Channel::Unix { .. } => None,
    }
}
