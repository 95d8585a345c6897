//! A container's terminal. libcontainer makes it inside the container and sends the master's descriptor to a unix
//! socket; from there it is read and written like any other stream.

use std::{
    io::{self, IoSliceMut, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::Winsize,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

use super::GuestError;

nix::ioctl_write_ptr_bad!(
    /// `TIOCSWINSZ`, tty_ioctl(4).
    set_window_size,
    libc::TIOCSWINSZ,
    Winsize
);

/// How long a finished helper's descriptor may take: it is sent before the helper ends.
const RECEIVE_TIMEOUT_MS: u16 = 2000;

/// The socket on which a terminal arrives; its file goes with it.
pub struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Listens at `path`.
    pub fn listen(path: PathBuf) -> Result<Self, GuestError> {
        let listener =
            UnixListener::bind(&path).map_err(GuestError::io(format!("listen on {}", path.display())))?;
        Ok(Self { path, listener })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the terminal that the helper, which has ended by now, has sent.
    pub fn receive(self) -> Result<Terminal, GuestError> {
        let failed = |errno: nix::errno::Errno| GuestError::errno("receive a terminal")(errno);
        let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(&self.listener), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(RECEIVE_TIMEOUT_MS)).map_err(failed)? == 0 {
            return Err(failed(nix::errno::Errno::ETIMEDOUT));
        }
        let (connection, _) = self.listener.accept().map_err(GuestError::io("receive a terminal"))?;
        let mut name = [0; 256];
        let mut parts = [IoSliceMut::new(&mut name)];
        let mut control = nix::cmsg_space!(std::os::fd::RawFd);
        let message =
            recvmsg::<()>(connection.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
                .map_err(failed)?;
        for part in message.cmsgs().map_err(failed)? {
            if let ControlMessageOwned::ScmRights(descriptors) = part
                && let Some(descriptor) = descriptors.first()
            {
                // SAFETY: the kernel has just made this descriptor for this message, and nothing else owns it.
                return Terminal::new(unsafe { OwnedFd::from_raw_fd(*descriptor) });
            }
        }
        Err(failed(nix::errno::Errno::EBADMSG))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // It may have been removed with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The master side of a terminal; clones are the same one.
#[derive(Clone)]
pub struct Terminal {
    master: Arc<AsyncFd<std::fs::File>>,
}

impl Terminal {
    fn new(master: OwnedFd) -> Result<Self, GuestError> {
        let failed = |errno| GuestError::errno("use a terminal")(errno);
        let flags = OFlag::from_bits_retain(fcntl(&master, FcntlArg::F_GETFL).map_err(failed)?);
        fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(failed)?;
        // SAFETY: a file owns its descriptor and answers the same one as long as it lives.
        let master = unsafe { AsyncFd::register(std::fs::File::from(master)) }
            .map_err(|error| GuestError::io("use a terminal")(error.into()))?;
        Ok(Self { master: Arc::new(master) })
    }

    /// Sets the size, in characters.
    pub fn resize(&self, width: u16, height: u16) -> Result<(), GuestError> {
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open and the size lives across the call.
        unsafe { set_window_size(self.master.as_raw_fd(), &raw const size) }
            .map_err(GuestError::errno("resize a terminal"))?;
        Ok(())
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.master.poll_read_ready(context))?;
            match guard.try_io(|master| master.get_ref().read(buffer.initialize_unfilled())) {
                Ok(result) => return Poll::Ready(result.map(|count| buffer.advance(count))),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.master.poll_write_ready(context))?;
            match guard.try_io(|master| master.get_ref().write(bytes)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
