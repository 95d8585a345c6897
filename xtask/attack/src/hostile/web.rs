//! What hostile clients do at the exporter's HTTP server.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::Findings;
use crate::attack::Attack;

/// Connections of one client that keeps as many as it can.
const CONNECTIONS: usize = 5;

/// Time between two bytes of one who is slow on purpose.
const DRIP: Duration = Duration::from_millis(900);

/// Longest wait of one who wants an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Host names that requests may not use.
const FOREIGN: [&str; 6] =
    ["evil.example", "127.0.0.1.evil.example:9464", "localhost.evil.example", "", "[::1", "honest-00"];

/// Every path of the HTTP interface.
const PATHS: [&str; 7] = [
    "/metrics",
    "/api/v1/sandboxes",
    "/api/v1/spans?limit=10000",
    "/api/v1/applications",
    "/readyz",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/api/v1/spans?limit=99999999999999999999&tenant=%00%ff",
];

/// Attacks until it is stopped.
pub async fn client(attack: Attack, exporter: SocketAddr, mut random: fastrand::Rng, findings: Findings) {
    loop {
        // Every attempt may be refused; then comes the next.
        let _ = attempt(attack, exporter, &mut random, &findings).await;
        sleep(Duration::from_millis(random.u64(5..20))).await;
    }
}

async fn attempt(
    attack: Attack,
    exporter: SocketAddr,
    random: &mut fastrand::Rng,
    findings: &Findings,
) -> io::Result<()> {
    if attack == Attack::IdleConnections {
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(exporter).await?);
        }
        // Until the exporter closes the first.
        idle[0].read_u8().await?;
        return Ok(());
    }
    let mut stream = TcpStream::connect(exporter).await?;
    let path = PATHS[random.usize(..PATHS.len())];
    match attack {
        Attack::SlowReaders => {
            stream.write_all(request("/metrics", "127.0.0.1").as_bytes()).await?;
            loop {
                stream.read_u8().await?;
                sleep(DRIP).await;
            }
        }
        Attack::SlowHeaders => {
            for byte in format!("{}X-Long: ", request(path, "127.0.0.1").trim_end())
                .bytes()
                .chain(std::iter::repeat(b'x'))
            {
                stream.write_all(&[byte]).await?;
                sleep(DRIP).await;
            }
        }
        Attack::ConnectionFlood => {
            if random.bool() {
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHo").await?;
            }
        }
        Attack::ForeignHosts => foreign_host(stream, path, random, findings).await?,
        Attack::ScrapeFlood => {
            stream.write_all(request(path, "127.0.0.1").as_bytes()).await?;
            read_status(&mut stream).await?;
            let mut sink = vec![0; 64 << 10];
            while stream.read(&mut sink).await? > 0 {}
        }
        _ => garbage(stream, random).await?,
    }
    Ok(())
}

fn request(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// A page in a browser whose own name leads to the exporter.
async fn foreign_host(
    mut stream: TcpStream,
    path: &str,
    random: &mut fastrand::Rng,
    findings: &Findings,
) -> io::Result<()> {
    let host = FOREIGN[random.usize(..FOREIGN.len())];
    let request = match random.u8(0..3) {
        0 => request(path, host),
        1 => format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        ),
        _ => {
            format!("GET http://evil.example{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        }
    };
    stream.write_all(request.as_bytes()).await?;
    let status = timeout(PATIENCE, read_status(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    if status.contains(" 200 ") {
        findings.lock().push(format!("{:?} was answered by {status:?}", request.lines().collect::<Vec<_>>()));
    }
    Ok(())
}

async fn read_status(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < 100 {
        line.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

async fn garbage(mut stream: TcpStream, random: &mut fastrand::Rng) -> io::Result<()> {
    match random.u8(0..4) {
        0 => {
            let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(8 << 10).collect();
            stream.write_all(&noise).await?;
        }
        1 => stream.write_all(format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)).as_bytes()).await?,
        2 => {
            stream
                .write_all("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(2_000).as_bytes())
                .await?;
        }
        _ => {
            let head = "POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            for _ in 0..64 {
                stream.write_all(&[b'x'; 16 << 10]).await?;
            }
        }
    }
    // Nothing is read of the answers: the exporter writes to one who does not take them.
    sleep(DRIP).await;
    Ok(())
}
