//! Opens the byte stream to an agent over each kind of channel.

mod hybrid;

use std::{io, path::Path, pin::Pin, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    time::sleep,
};
use tokio_vsock::{VsockAddr, VsockStream};

use crate::channel::Channel;

/// Between two attempts at a listener whose queue is full.
const RETRY: Duration = Duration::from_millis(10);

/// A byte stream to an agent.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Send + Sync> ByteStream for T {}

/// Opens the stream. The caller sets the deadline.
pub async fn dial(channel: &Channel) -> io::Result<Pin<Box<dyn ByteStream>>> {
    Ok(match channel {
        Channel::Unix { path } => Box::pin(connect(path).await?),
        Channel::Vsock { cid, port } => Box::pin(VsockStream::connect(VsockAddr::new(*cid, *port)).await?),
        Channel::Hybrid { path, port } => Box::pin(hybrid::connected(path, *port, connect(path)).await?),
    })
}

/// Connects, once there is room in the listener's queue: of a socket that does not block, connect(2) does not wait for that.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(RETRY).await,
            connected => return connected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_of_a_listener_is_waited_for() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let socket = tokio::net::UnixSocket::new_stream().expect("a socket");
        socket.bind(&path).expect("bound");
        let listener = socket.listen(1).expect("listening");
        let mut queued = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            queued.push(stream);
        }
        let accepting = async {
            for _ in 0..=queued.len() {
                listener.accept().await.expect("accepted");
            }
            std::future::pending::<()>().await;
        };
        let channel = Channel::Unix { path };
        tokio::select! {
            dialled = dial(&channel) => drop(dialled.expect("connected")),
            () = accepting => {}
        }
    }
}
