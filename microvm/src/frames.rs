//! Standard streams over vsock.
//!
//! A stream is a sequence of frames, each a length (two bytes, little endian) and so many bytes; a frame of length zero
//! ends the stream. The end is marked in the stream because a half-closed vsock connection does not mean the same on
//! every vsock implementation, and some drop what was still under way.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Largest frame.
pub const MAX_FRAME_BYTES: usize = 32 << 10;

const HEADER_BYTES: usize = 2;

/// Copies everything from `source` into frames, and ends the stream. A source that fails counts as ended: a terminal's
/// master does so when the last process has gone.
pub async fn send(
    source: &mut (impl AsyncRead + Unpin),
    connection: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; HEADER_BYTES + MAX_FRAME_BYTES];
    loop {
        let length = source.read(&mut buffer[HEADER_BYTES..]).await.unwrap_or(0);
        let header = u16::try_from(length).expect("a frame's bound fits its length field").to_le_bytes();
        buffer[..HEADER_BYTES].copy_from_slice(&header);
        connection.write_all(&buffer[..HEADER_BYTES + length]).await?;
        connection.flush().await?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// Reads the next frame into `buffer`; an empty one at the stream's end.
pub async fn receive<'a>(
    connection: &mut (impl AsyncRead + Unpin),
    buffer: &'a mut Vec<u8>,
) -> io::Result<&'a [u8]> {
    let mut header = [0; HEADER_BYTES];
    connection.read_exact(&mut header).await?;
    let length = usize::from(u16::from_le_bytes(header));
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame beyond its bound"));
    }
    buffer.resize(length, 0);
    connection.read_exact(buffer).await?;
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_arrives_whole_and_ends() {
        let (mut near, mut far) = tokio::io::duplex(1000);
        let sent: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let source = sent.clone();
        let sender = tokio::spawn(async move { send(&mut source.as_slice(), &mut near).await });
        let (mut got, mut buffer) = (Vec::new(), Vec::new());
        loop {
            let frame = receive(&mut far, &mut buffer).await.expect("frame");
            if frame.is_empty() {
                break;
            }
            got.extend_from_slice(frame);
        }
        sender.await.expect("joined").expect("sent");
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_is_no_end() {
        let mut cut: &[u8] = &[5, 0, b'a'];
        assert!(receive(&mut cut, &mut Vec::new()).await.is_err());
    }

    #[tokio::test]
    async fn an_oversized_frame_is_refused() {
        let mut hostile: &[u8] = &[0xff, 0xff, 0, 0];
        assert!(receive(&mut hostile, &mut Vec::new()).await.is_err());
    }
}
