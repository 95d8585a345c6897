//! Standard streams: the host opens a connection for each and gives it a number; the call that makes a process names the
//! numbers, and the connection is joined to the process' pipe or terminal.

use std::{
    collections::HashMap,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use nix::sys::socket::{MsgFlags, send};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::unix::pipe,
};
use tokio_vsock::{VsockListener, VsockStream};

use super::GuestError;
use crate::{
    frames,
    wire::{HOST_CID, STREAM_ACCEPTED, STREAM_HEADER_BYTES},
};

/// Connections that no process has claimed yet; the host opens three for each process at most.
const MAX_UNCLAIMED: usize = 256;

/// Connections by their number.
#[derive(Default)]
pub struct Streams {
    unclaimed: Mutex<HashMap<u64, VsockStream>>,
}

impl Streams {
    /// The connection with that number; none for 0.
    pub fn claim(&self, number: u64) -> Result<Option<VsockStream>, GuestError> {
        if number == 0 {
            return Ok(None);
        }
        let mut unclaimed = self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner);
        unclaimed.remove(&number).map(Some).ok_or_else(|| GuestError::NotFound(format!("stream {number}")))
    }
}

/// Takes connections in the background.
pub fn listen(listener: VsockListener, streams: Arc<Streams>) {
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((connection, peer)) if peer.cid() == HOST_CID => {
                    tokio::spawn(register(connection, Arc::clone(&streams)));
                }
                Ok(_) => {}
                Err(error) => eprintln!("porthole-init: accept a stream: {error}"),
            }
        }
    });
}

async fn register(mut connection: VsockStream, streams: Arc<Streams>) {
    let mut header = [0; STREAM_HEADER_BYTES];
    if connection.read_exact(&mut header).await.is_err() {
        return;
    }
    let mut unclaimed = streams.unclaimed.lock().unwrap_or_else(PoisonError::into_inner);
    if unclaimed.len() >= MAX_UNCLAIMED {
        return;
    }
    let descriptor = connection.as_raw_fd();
    unclaimed.insert(u64::from_le_bytes(header), connection);
    // The answer goes out when the table has the connection, since the host may name it at once. One byte into an
    // empty connection does not block.
    if send(descriptor, &[STREAM_ACCEPTED], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).is_err() {
        unclaimed.remove(&u64::from_le_bytes(header));
    }
}

/// Carries a process' output to the host until the last writer has gone, then waits for the host to close: closing
/// first could drop what is still under way.
pub fn carry_out(source: impl AsyncRead + Unpin + Send + 'static, mut connection: VsockStream) {
    tokio::spawn(async move {
        let mut source = source;
        if frames::send(&mut source, &mut connection).await.is_ok() {
            let _ = connection.read(&mut [0]).await;
        }
    });
}

/// Carries the host's input to a process until the host ends the stream.
pub fn carry_in(mut connection: VsockStream, sink: impl AsyncWrite + Unpin + Send + 'static) {
    tokio::spawn(async move {
        let mut sink = sink;
        let mut buffer = Vec::new();
        while let Ok(frame) = frames::receive(&mut connection, &mut buffer).await {
            if frame.is_empty() || sink.write_all(frame).await.is_err() {
                break;
            }
        }
    });
}

/// A pipe of which the init keeps the reading end.
pub fn output_pipe() -> Result<(pipe::Receiver, OwnedFd), GuestError> {
    let (read, write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(GuestError::errno("make a pipe"))?;
    Ok((pipe::Receiver::from_owned_fd(read).map_err(GuestError::io("use a pipe"))?, write))
}

/// A pipe of which the init keeps the writing end.
pub fn input_pipe() -> Result<(OwnedFd, pipe::Sender), GuestError> {
    let (read, write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(GuestError::errno("make a pipe"))?;
    Ok((read, pipe::Sender::from_owned_fd(write).map_err(GuestError::io("use a pipe"))?))
}
