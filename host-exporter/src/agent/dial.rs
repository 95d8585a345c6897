//! Opens the byte stream to an agent over each kind of channel.

use std::{io, pin::Pin};

use porthole_registry::channel::Channel;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
};
use tokio_vsock::{VsockAddr, VsockStream};

/// Longest answer to the hybrid handshake: `OK 4294967295\n`.
const HYBRID_ANSWER_MAX: usize = 16;

/// A byte stream to an agent.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Send + Sync> ByteStream for T {}

/// Opens the stream. The caller sets the deadline.
pub async fn dial(channel: &Channel) -> io::Result<Pin<Box<dyn ByteStream>>> {
    Ok(match channel {
        Channel::Unix { path } => Box::pin(UnixStream::connect(path).await?),
        Channel::Vsock { cid, port } => Box::pin(VsockStream::connect(VsockAddr::new(*cid, *port)).await?),
        Channel::Hybrid { path, port } => {
            let mut stream = UnixStream::connect(path).await?;
            hybrid_handshake(&mut stream, *port).await?;
            Box::pin(stream)
        }
    })
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
    async fn bytes_after_the_handshake_stay_in_the_stream() {
        let (mut host, mut guest) = UnixStream::pair().expect("pair");
        guest.write_all(b"OK 5\nrest").await.expect("written");
        hybrid_handshake(&mut host, 1).await.expect("connected");
        let mut rest = [0; 4];
        host.read_exact(&mut rest).await.expect("rest");
        assert_eq!(&rest, b"rest");
    }
}
