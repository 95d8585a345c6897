//! Opens the byte stream to an agent over each kind of channel.

use std::{io, path::Path, pin::Pin, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    time::{sleep, timeout},
};
use tokio_vsock::{VsockAddr, VsockStream};

use crate::channel::Channel;

/// Longest answer to the hybrid handshake: `OK 4294967295\n`.
const HYBRID_ANSWER_MAX: usize = 16;

/// Between two attempts at a listener whose queue is full.
const RETRY: Duration = Duration::from_millis(10);

/// How long a device may take to answer a caller that has given up: a guest that does not answer costs so many descriptors as are
/// dialled in that time.
const ABANDONED: Duration = Duration::from_mins(1);

/// A byte stream to an agent.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Send + Sync> ByteStream for T {}

/// Opens the stream. The caller sets the deadline.
pub async fn dial(channel: &Channel) -> io::Result<Pin<Box<dyn ByteStream>>> {
    Ok(match channel {
        Channel::Unix { path } => Box::pin(connect(path).await?),
        Channel::Vsock { cid, port } => Box::pin(VsockStream::connect(VsockAddr::new(*cid, *port)).await?),
        Channel::Hybrid { path, port } => Box::pin(connected(connect(path).await?, *port).await?),
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

/// The stream after its handshake, which goes on when the caller has given up: vhost-device-vsock 0.3.0 keeps the descriptor of a
/// connection that is closed before it is answered, and panics when it cannot write the answer.
async fn connected(mut stream: UnixStream, port: u32) -> io::Result<UnixStream> {
    let handshake = tokio::spawn(async move {
        timeout(ABANDONED, hybrid_handshake(&mut stream, port)).await??;
        Ok(stream)
    });
    handshake.await.map_err(io::Error::other)?
}

/// `CONNECT <port>\n`, answered by `OK <port of the host>\n` (Firecracker: docs/vsock.md).
async fn hybrid_handshake(stream: &mut UnixStream, port: u32) -> io::Result<()> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(HYBRID_ANSWER_MAX);
    // Byte by byte: what follows the newline belongs to ttrpc.
    while answer.last() != Some(&b'\n') {
        if answer.len() == HYBRID_ANSWER_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no answer to CONNECT in its first 16 bytes",
            ));
        }
        answer.push(stream.read_u8().await?);
    }
    if !answer.starts_with(b"OK ") {
        let answer = String::from_utf8_lossy(&answer).trim_end().to_owned();
        return Err(io::Error::other(format!("CONNECT {port} was answered by {answer:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn handshake_answered_by(answer: &'static [u8]) -> io::Result<()> {
        let (mut host, mut guest) = UnixStream::pair().expect("pair");
        let peer = tokio::spawn(async move {
            let mut request = [0; 14];
            guest.read_exact(&mut request).await.expect("request");
            assert_eq!(&request, b"CONNECT 10260\n");
            guest.write_all(answer).await.expect("answered");
        });
        let result = hybrid_handshake(&mut host, 10_260).await;
        peer.await.expect("peer");
        result
    }

    #[tokio::test]
    async fn the_hybrid_handshake_takes_only_ok() {
        handshake_answered_by(b"OK 1073741824\n").await.expect("connected");
        assert!(handshake_answered_by(b"NO such port\n").await.is_err());
        assert!(handshake_answered_by(b"OK 1").await.is_err(), "closed before the newline");
        assert!(handshake_answered_by(&[b'O'; 4096]).await.is_err());
    }

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

    #[tokio::test]
    async fn a_device_that_answers_late_can_still_write_its_answer() {
        let (host, mut guest) = UnixStream::pair().expect("pair");
        let dialled = timeout(Duration::from_millis(1), connected(host, 10_260)).await;
        assert!(dialled.is_err(), "it was given up");
        let mut request = [0; 14];
        guest.read_exact(&mut request).await.expect("request");
        guest.write_all(b"OK 5\n").await.expect("answered");
        assert_eq!(guest.read(&mut request).await.expect("read"), 0, "then it is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_never_answers_is_left_after_a_while() {
        let (host, mut guest) = UnixStream::pair().expect("pair");
        assert!(timeout(Duration::from_secs(1), connected(host, 10_260)).await.is_err(), "it was given up");
        let mut received = Vec::new();
        guest.read_to_end(&mut received).await.expect("the end of the stream");
        assert_eq!(received, b"CONNECT 10260\n");
    }

    #[tokio::test]
    async fn bytes_after_the_handshake_stay_in_the_stream() {
        let (mut host, mut guest) = UnixStream::pair().expect("pair");
        guest.write_all(b"OK 5\nrest").await.expect("written");
        hybrid_handshake(&mut host, 1).await.expect("connected");
        let mut rest = [0; 4];
        host.read_exact(&mut rest).await.expect("rest");
        assert_eq!(&rest, b"rest");
    }
}
