//! The guest's vsock: the host kernel's where it has one, else a vhost-user device with a unix socket on the host that
//! takes `CONNECT <port>` (the hybrid vsock of Firecracker and Cloud Hypervisor).

use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use porthole_registry::channel::Channel;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UnixStream,
    process::{Child, Command},
};
use tokio_vsock::{VsockAddr, VsockStream};

use super::{VmError, process, qemu::VsockDevice, virtiofs::log_file};
use crate::wire::CONTROL_PORT;

const KERNEL_DEVICE: &str = "/dev/vhost-vsock";

/// Context ids from here on are free for guests; 0 to 2 have meanings, vsock(7).
const FIRST_CID: u32 = 3;

/// How many context ids are tried before giving up; each is the host's own choice, so that a clash is rare.
const CID_ATTEMPTS: u32 = 64;

/// The device's context id where no kernel shares it among guests.
const USER_CID: u32 = 3;

/// Longest answer to `CONNECT`: `OK`, a port, a newline.
const MAX_ANSWER_BYTES: usize = 32;

nix::ioctl_write_ptr!(
    /// `VHOST_VSOCK_SET_GUEST_CID` of `linux/vhost.h`.
    set_guest_cid, 0xAF, 0x60, u64
);

/// A sandbox's vsock.
pub struct Vsock {
    /// What QEMU is told.
    pub device: VsockDevice,
    /// How the host dials.
    pub channel: Channel,
    /// The device's process, if it has one.
    pub program: Option<Child>,
    /// The kernel's device, open until QEMU has it.
    _kernel: Option<OwnedFd>,
}

/// A connection to the guest.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Connection for T {}

/// Makes the vsock of a sandbox.
pub fn start(program: &Path, directory: &Path) -> Result<Vsock, VmError> {
    if Path::new(KERNEL_DEVICE).exists() { start_kernel() } else { start_user(program, directory) }
}

fn start_kernel() -> Result<Vsock, VmError> {
    let path = Path::new(KERNEL_DEVICE);
    let device = OpenOptions::new().read(true).write(true).open(path).map_err(VmError::io("open", path))?;
    let mut cid = FIRST_CID + std::process::id() % (u32::MAX / 2);
    for _ in 0..CID_ATTEMPTS {
        let wide = u64::from(cid);
        // SAFETY: the descriptor is open and the id lives across the call.
        match unsafe { set_guest_cid(device.as_raw_fd(), &raw const wide) } {
            Ok(_) => {
                let descriptor = device.as_raw_fd();
                return Ok(Vsock {
                    device: VsockDevice::Kernel { descriptor, cid },
                    channel: Channel::Vsock { cid, port: CONTROL_PORT },
                    program: None,
                    _kernel: Some(device.into()),
                });
            }
            Err(nix::errno::Errno::EADDRINUSE) => cid += 1,
            Err(errno) => return Err(VmError::io("set the context id on", path)(errno.into())),
        }
    }
    Err(VmError::io("find a free context id on", path)(io::ErrorKind::AddrInUse.into()))
}

fn start_user(program: &Path, directory: &Path) -> Result<Vsock, VmError> {
    let socket = directory.join("vhost.sock");
    let path = directory.join("vm.vsock");
    let mut command = Command::new(program);
    command.arg("--guest-cid").arg(USER_CID.to_string());
    command.arg("--socket").arg(&socket).arg("--uds-path").arg(&path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file(directory, "vsock.log")?);
    let child = process::spawn(&mut command, &[], None).map_err(VmError::io("start", program))?;
    Ok(Vsock {
        device: VsockDevice::User { socket },
        channel: Channel::Hybrid { path, port: CONTROL_PORT },
        program: Some(child),
        _kernel: None,
    })
}

impl Vsock {
    /// Waits until QEMU can connect to the device.
    pub async fn ready(&mut self, patience: Duration) -> Result<(), VmError> {
        let VsockDevice::User { socket } = &self.device else { return Ok(()) };
        let failed = |kind: io::ErrorKind| VmError::io("wait for", socket)(kind.into());
        let deadline = tokio::time::Instant::now() + patience;
        while !socket.exists() {
            if let Some(program) = &mut self.program
                && matches!(program.try_wait(), Ok(Some(_)))
            {
                return Err(failed(io::ErrorKind::BrokenPipe));
            }
            if tokio::time::Instant::now() > deadline {
                return Err(failed(io::ErrorKind::TimedOut));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

/// Connects to a port of the guest.
pub async fn dial(channel: &Channel) -> io::Result<Box<dyn Connection>> {
    match channel {
        Channel::Vsock { cid, port } => {
            Ok(Box::new(VsockStream::connect(VsockAddr::new(*cid, *port)).await?))
        }
        Channel::Hybrid { path, port } => {
            let mut stream = UnixStream::connect(path).await?;
            hybrid_handshake(&mut stream, *port).await?;
            Ok(Box::new(stream))
        }
        Channel::Unix { path } => Ok(Box::new(UnixStream::connect(path).await?)),
    }
}

async fn hybrid_handshake(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), port: u32) -> io::Result<()> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the newline belongs to the connection.
    while answer.last() != Some(&b'\n') {
        if answer.len() == MAX_ANSWER_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        answer.push(stream.read_u8().await?);
    }
    if answer.starts_with(b"OK ") { Ok(()) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn handshake(answer: &'static [u8]) -> (io::Result<()>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(answer).await.expect("written");
        let result = hybrid_handshake(&mut near, 1025).await;
        let mut asked = [0; 13];
        far.read_exact(&mut asked).await.expect("read");
        assert_eq!(&asked, b"CONNECT 1025\n");
        drop(far);
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.expect("rest");
        (result, rest)
    }

    #[tokio::test]
    async fn what_follows_the_answer_is_not_swallowed() {
        let (result, rest) = handshake(b"OK 5\nbytes").await;
        result.expect("accepted");
        assert_eq!(rest, b"bytes");
    }

    #[tokio::test]
    async fn another_answer_is_a_refusal() {
        assert!(handshake(b"NO\n").await.0.is_err());
        assert!(handshake(&[b'x'; 40]).await.0.is_err());
    }
}
