//! Where the agent can be reached: the delegate's monitor socket answers `GET /agent-url` (Kata:
//! `src/runtime/pkg/containerd-shim-v2/shim_management.go`) with its own agent's address, of which ours differs in the
//! port.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use porthole_agent_api::limits::AGENT_VSOCK_PORT;
use porthole_registry::channel::Channel;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// Deadline of one request.
const DEADLINE: Duration = Duration::from_secs(2);

/// Largest response, in bytes.
const RESPONSE_BYTES_MAX: u64 = 16 * 1024;

/// Monitor sockets that give no address.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// None of the paths accepts a connection.
    #[error("no monitor socket at {0}")]
    Nobody(String),
    /// A process accepts the request and does not respond, as shims do while the guest boots.
    #[error("{path}: no response within {DEADLINE:?}")]
    Held {
        /// The socket.
        path: PathBuf,
    },
    /// A process responds without an address.
    #[error("{path}: {message}")]
    Unusable {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// Time until the next look for the agent. Requests before it are not counted, so the first looks are close; a container that
/// was created and is started much later must not cost anything.
pub fn look_interval(waited: Duration) -> Duration {
    Duration::from_millis(match waited.as_secs() {
        0..3 => 5,
        3..30 => 20,
        30..300 => 100,
        _ => 500,
    })
}

/// Requests the address from the first of the sockets that accepts a connection.
pub async fn request(sockets: &[PathBuf]) -> Result<Channel, ChannelError> {
    for path in sockets {
        let unusable = |message: String| ChannelError::Unusable { path: path.clone(), message };
        match timeout(DEADLINE, get(path)).await {
            Err(_) => return Err(ChannelError::Held { path: path.clone() }),
            Ok(Err(error))
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Ok(Err(error)) => return Err(unusable(error.to_string())),
            Ok(Ok(answer)) => {
                let body = body(&answer).ok_or_else(|| unusable("no HTTP response of status 200".into()))?;
                let channel: Channel = body.parse().map_err(|error| unusable(format!("{error}")))?;
                return Ok(channel.with_port(AGENT_VSOCK_PORT));
            }
        }
    }
    let paths: Vec<_> = sockets.iter().map(|path| path.display().to_string()).collect();
    Err(ChannelError::Nobody(paths.join(", ")))
}

async fn get(path: &Path) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(b"GET /agent-url HTTP/1.1\r\nHost: shim\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The body of a 200; its length comes from the connection's end or from Content-Length, which is never shorter.
fn body(answer: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?;
    (status.starts_with("HTTP/1.") && status.split(' ').nth(1) == Some("200")).then_some(())?;
    let chunked = lines.any(|line| {
        line.to_ascii_lowercase().strip_prefix("transfer-encoding:").is_some_and(|v| v.trim() == "chunked")
    });
    if !chunked {
        return Some(body.trim());
    }
    let (size, rest) = body.split_once("\r\n")?;
    rest.get(..usize::from_str_radix(size.trim(), 16).ok()?).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_responses_are_read_and_errors_are_not() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nvsock://3:1024";
        assert_eq!(body(plain), Some("vsock://3:1024"));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ne\r\nvsock://3:1024\r\n0\r\n\r\n";
        assert_eq!(body(chunked), Some("vsock://3:1024"));
        assert_eq!(body(b"HTTP/1.1 404 Not Found\r\n\r\nvsock://3:1024"), None);
        assert_eq!(body(b"vsock://3:1024"), None);
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nx"), None);
    }

    #[tokio::test]
    async fn the_first_socket_with_a_listener_is_used_and_the_port_is_ours() {
        let dir = tempfile::tempdir().expect("directory");
        let (absent, present) = (dir.path().join("a"), dir.path().join("b"));
        assert!(matches!(request(std::slice::from_ref(&absent)).await, Err(ChannelError::Nobody(_))));
        let listener = tokio::net::UnixListener::bind(&present).expect("bound");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut request = [0; 1024];
            let count = stream.read(&mut request).await.expect("request");
            assert!(request[..count].starts_with(b"GET /agent-url HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhvsock:///x:1024").await.expect("answered");
        };
        let sockets = [absent, present.clone()];
        let (channel, ()) = tokio::join!(request(&sockets), serve);
        assert_eq!(channel.expect("channel").to_string(), "hvsock:///x:1000");
    }

    #[test]
    fn looks_are_close_at_first_and_rare_later() {
        assert_eq!(look_interval(Duration::ZERO), Duration::from_millis(5));
        assert_eq!(look_interval(Duration::from_hours(1)), Duration::from_millis(500));
    }
}
