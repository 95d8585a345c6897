//! The monitor socket: HTTP on a unix socket, as Kata's shims have it. `GET /agent-url` answers how the guest's vsock is
//! dialled, without a newline.
//!
//! A companion requests it as soon as it can. So a sandbox that has a companion is one whose address was requested.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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

/// What is known of the socket's clients.
#[derive(Clone, Debug, Default)]
pub struct Monitor {
    address_requested: Arc<AtomicBool>,
}

impl Monitor {
    /// Whether the guest's address was requested.
    pub fn address_requested(&self) -> bool {
        self.address_requested.load(Ordering::Relaxed)
    }
}

/// Serves in the background.
pub fn serve(path: &Path, agent_url: String) -> io::Result<Monitor> {
    let listener = UnixListener::bind(path)?;
    let monitor = Monitor::default();
    let served = monitor.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (agent_url, monitor) = (agent_url.clone(), served.clone());
            tokio::spawn(async move {
                // A client that does not finish its request loses its connection.
                let _ = tokio::time::timeout(TIMEOUT, handle(client, &agent_url, &monitor)).await;
            });
        }
    });
    Ok(monitor)
}

async fn handle(mut client: UnixStream, agent_url: &str, monitor: &Monitor) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MAX_HEAD_BYTES || client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let answer = answer(&head, agent_url);
    if answer.is_address {
        monitor.address_requested.store(true, Ordering::Relaxed);
    }
    client.write_all(answer.text.as_bytes()).await?;
    client.shutdown().await
}

struct Answer {
    is_address: bool,
    text: String,
}

fn answer(head: &[u8], agent_url: &str) -> Answer {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (is_address, status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/agent-url")) => (true, "200 OK", agent_url),
        (Some("GET"), _) => (false, "404 Not Found", "404 page not found\n"),
        _ => (false, "405 Method Not Allowed", ""),
    };
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    Answer { is_address, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_agents_address_is_answered_without_a_newline_and_who_requests_it_is_known() {
        let scratch = tempfile::tempdir().expect("directory");
        let path = scratch.path().join(FILE);
        let monitor = serve(&path, "hvsock:///run/s/vm.vsock:1024".to_owned()).expect("serving");
        let get = async |target: &str| {
            let mut client = UnixStream::connect(&path).await.expect("connected");
            let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            client.write_all(request.as_bytes()).await.expect("sent");
            let mut text = String::new();
            client.read_to_string(&mut text).await.expect("answered");
            text
        };
        get("/metrics").await;
        assert!(!monitor.address_requested());
        let text = get("/agent-url").await;
        assert!(monitor.address_requested());
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("Content-Length: 29\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nhvsock:///run/s/vm.vsock:1024"), "{text}");
    }

    #[test]
    fn other_paths_are_not_found() {
        for (head, status) in
            [(&b"GET / HTTP/1.1\r\n\r\n"[..], "404"), (b"POST /agent-url HTTP/1.1\r\n\r\n", "405")]
        {
            let answer = answer(head, "x");
            assert!(answer.text.starts_with(&format!("HTTP/1.1 {status}")) && !answer.is_address);
        }
    }
}
