//! A real `VictoriaMetrics`, as a single node.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use porthole_trials::{CannotRun, needs, ports::free_address, reasons};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{get, wait_for};

const PROGRAM: &str = "victoria-metrics";

/// Why it cannot be started.
pub fn is_there() -> Result<(), CannotRun> {
    needs::program(PROGRAM).map_err(|_| CannotRun::because(reasons::NO_VICTORIA_METRICS))
}

/// Passes on what Prometheus has written.
pub async fn write(address: SocketAddr, body: &[u8]) {
    post(address, "/api/v1/write", body).await;
}

async fn post(address: SocketAddr, target: &str, body: &[u8]) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(body).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("received");
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
}

/// A running `VictoriaMetrics`.
pub struct VictoriaMetrics {
    process: Child,
    address: SocketAddr,
}

impl VictoriaMetrics {
    /// Starts it in a directory of its own, with what the documentation requires of releases before 1.85.2.
    pub async fn start(directory: &Path) -> Self {
        let address = free_address().expect("an address");
        let process = Command::new(PROGRAM)
            .arg(format!("-storageDataPath={}", directory.display()))
            .arg(format!("-httpListenAddr={address}"))
            .args(["-search.latencyOffset=1s", "-memory.allowedBytes=128MiB"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let server = Self { process, address };
        wait_for("VictoriaMetrics", async || {
            TcpStream::connect(address).await.is_ok() && get(address, "/health", "").await.0 == 200
        })
        .await;
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it has Prometheus' HTTP API: under a path, as that of a cluster is.
    pub fn url(&self) -> String {
        format!("http://{}/prometheus", self.address)
    }

    /// Stores samples in Prometheus' text format, with times in milliseconds.
    pub async fn import(&self, samples: &str) {
        post(self.address, "/api/v1/import/prometheus", samples.as_bytes()).await;
        self.flush().await;
    }

    /// The elements of an instant vector, of everything that was received.
    pub async fn query(&self, expression: &str) -> Vec<serde_json::Value> {
        self.flush().await;
        let encoded = expression.bytes().fold(String::new(), |mut encoded, byte| {
            write!(encoded, "%{byte:02X}").expect("a string takes everything");
            encoded
        });
        let target = format!("/api/v1/query?nocache=1&latency_offset=1s&query={encoded}");
        let (status, _, body) = get(self.address, &target, "").await;
        assert_eq!(status, 200, "{body}");
        let mut answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        serde_json::from_value(answer["data"]["result"].take()).expect("a vector")
    }

    /// Makes what was received visible to queries.
    async fn flush(&self) {
        let (status, _, body) = get(self.address, "/internal/force_flush", "").await;
        assert_eq!(status, 200, "{body}");
    }
}

impl Drop for VictoriaMetrics {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
