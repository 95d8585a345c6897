//! The monitor socket: HTTP on a unix socket, as Kata's shims have it. `GET /agent-url` answers how the guest's vsock is
//! dialled, without a newline.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

/// The socket's name in the sandbox's state directory.
pub const FILE: &str = "shim-monitor.sock";

/// Longest request head that is read.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// How long a client may take over its request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Serves in the background.
pub fn serve(path: &Path, agent_url: String) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let agent_url = agent_url.clone();
            tokio::spawn(async move {
                // A client that does not finish its request loses its connection.
                let _ = tokio::time::timeout(TIMEOUT, handle(client, &agent_url)).await;
            });
        }
    });
    Ok(())
}

async fn handle(mut client: UnixStream, agent_url: &str) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MAX_HEAD_BYTES || client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    client.write_all(answer(&head, agent_url).as_bytes()).await?;
    client.shutdown().await
}

fn answer(head: &[u8], agent_url: &str) -> String {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/agent-url")) => ("200 OK", agent_url),
        (Some("GET"), _) => ("404 Not Found", "404 page not found\n"),
        _ => ("405 Method Not Allowed", ""),
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_agents_address_is_answered_without_a_newline() {
        let scratch = tempfile::tempdir().expect("directory");
        let path = scratch.path().join(FILE);
        serve(&path, "hvsock:///run/s/vm.vsock:1024".to_owned()).expect("serving");
        let mut client = UnixStream::connect(&path).await.expect("connected");
        client.write_all(b"GET /agent-url HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("asked");
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("answered");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("Content-Length: 29\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nhvsock:///run/s/vm.vsock:1024"), "{text}");
    }

    #[test]
    fn other_paths_are_not_found() {
        assert!(answer(b"GET / HTTP/1.1\r\n\r\n", "x").starts_with("HTTP/1.1 404"));
        assert!(answer(b"POST /agent-url HTTP/1.1\r\n\r\n", "x").starts_with("HTTP/1.1 405"));
    }
}
