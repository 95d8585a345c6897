//! Where the agent listens: a vsock port to which only the host gets through, or a unix socket.
//!
//! In a guest whose image carries the agent, its supervisor listens on the port from the guest's boot to its end, and the
//! agent inherits the listener: no process of a container can take the port between two agents.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    pin::Pin,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream;
use porthole_agent_api::limits::HOST_CID;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

/// Most connections at a time. The host needs one.
pub const CONNECTIONS_MAX: usize = 8;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `vsock://:<port>`.
    Vsock(u32),
    /// `vsock-fd://<number>`: a descriptor that this process inherited, which listens on a vsock port.
    VsockDescriptor(RawFd),
    /// `unix://<absolute path>`.
    Unix(PathBuf),
}

/// A text that is no address to listen on.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no address to listen on: expected vsock://:PORT, vsock-fd://NUMBER or unix:///PATH")]
pub struct ListenAddressParseError(String);

impl FromStr for ListenAddress {
    type Err = ListenAddressParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ListenAddressParseError(text.to_owned());
        if let Some(port) = text.strip_prefix("vsock://:") {
            return Ok(Self::Vsock(port.parse().map_err(|_| bad())?));
        }
        if let Some(number) = text.strip_prefix("vsock-fd://") {
            let number = number.parse().ok().filter(|number| *number > libc::STDERR_FILENO);
            return Ok(Self::VsockDescriptor(number.ok_or_else(bad)?));
        }
        let path = text.strip_prefix("unix://").filter(|path| path.starts_with('/')).ok_or_else(bad)?;
        Ok(Self::Unix(path.into()))
    }
}

/// An open listener; a unix socket's file goes when it is dropped.
#[derive(Debug)]
pub struct Listening {
    file: Option<PathBuf>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
    }
}

/// Opens the address.
pub fn listen(address: &ListenAddress) -> io::Result<(ttrpc::r#async::transport::Listener, Listening)> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    match address {
        ListenAddress::Vsock(port) => {
            let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, *port))?;
            Ok((accept_host(listener, permits), Listening { file: None }))
        }
        ListenAddress::VsockDescriptor(number) => {
            Ok((accept_host(inherited(*number)?, permits), Listening { file: None }))
        }
        ListenAddress::Unix(path) => {
            remove_stale(path)?;
            let listener = UnixListener::bind(path)?;
            let listening = Listening { file: Some(path.clone()) };
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            let accepted = stream::unfold((listener, permits), |(listener, permits)| async {
                loop {
                    match listener.accept().await {
                        Ok((io, _)) => {
                            if let Some(guarded) = Guarded::new(io, &permits) {
                                return Some((Ok(guarded), (listener, permits)));
                            }
                        }
                        Err(error) => accept_failed(&error).await,
                    }
                }
            });
            Ok((ttrpc::r#async::transport::Listener::new(accepted), listening))
        }
    }
}

/// A descriptor that the supervisor has opened.
fn inherited(number: RawFd) -> io::Result<VsockListener> {
    // By libc, because nix takes only descriptors that are known to be open.
    // SAFETY: fcntl(2) with these commands touches no memory, whatever the descriptor is.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    // SAFETY: as above: no memory is touched.
    if flags < 0 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: F_GETFL succeeded, so it is open, and the command line passed it to this listener alone.
    let listener = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: as above.
    if unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(VsockListener::from(listener))
}

/// Accepts connections of the host only.
fn accept_host(listener: VsockListener, permits: Arc<Semaphore>) -> ttrpc::r#async::transport::Listener {
    ttrpc::r#async::transport::Listener::new(stream::unfold(
        (listener, permits),
        |(listener, permits)| async {
            loop {
                match listener.accept().await {
                    Ok((_, peer)) if peer.cid() != HOST_CID => {
                        tracing::warn!(cid = peer.cid(), "refused a peer that is not the host");
                    }
                    Ok((io, _)) => {
                        if let Some(guarded) = Guarded::new(io, &permits) {
                            return Some((Ok(guarded), (listener, permits)));
                        }
                    }
                    Err(error) => accept_failed(&error).await,
                }
            }
        },
    ))
}

/// Removes the socket of an agent that is gone; one that is still listened on stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    Ok(())
}

async fn accept_failed(error: &io::Error) {
    tracing::warn!(%error, "accepting a connection");
    // Out of descriptors, most likely: trying again at once would only burn CPU.
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// A connection that counts against [`CONNECTIONS_MAX`] as long as it is open.
struct Guarded<S> {
    io: S,
    _permit: OwnedSemaphorePermit,
}

impl<S> Guarded<S> {
    fn new(io: S, permits: &Arc<Semaphore>) -> Option<Self> {
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return Some(Self { io, _permit: permit });
        }
        tracing::warn!("refused a connection: {CONNECTIONS_MAX} are open");
        None
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        assert_eq!("vsock://:10260".parse::<ListenAddress>().expect("address"), ListenAddress::Vsock(10260));
        let unix = "unix:///run/a.sock".parse::<ListenAddress>().expect("address");
        assert_eq!(unix, ListenAddress::Unix("/run/a.sock".into()));
        let inherited = "vsock-fd://7".parse::<ListenAddress>().expect("address");
        assert_eq!(inherited, ListenAddress::VsockDescriptor(7));
        for text in ["vsock://3:1", "vsock://:", "vsock-fd://2", "vsock-fd://x", "unix://rel", "tcp://:1", ""]
        {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_stale_socket_is_replaced_a_live_one_is_not_and_the_file_goes_in_the_end() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("a.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let address = ListenAddress::Unix(path.clone());
        let (listener, listening) = listen(&address).expect("the stale one is replaced");
        assert!(listen(&address).is_err(), "the port is taken");
        drop(listener);
        drop(listening);
        assert!(!path.exists());
    }
}
