//! The HTTP server: what a scraper gets, and what a bad client cannot do.
#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod support;

use support::{
    DEADLINE, Host,
    agent::{TestAgent, http},
    get, record, wait_for,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test(flavor = "multi_thread")]
async fn content_types_are_those_that_were_asked_for() {
    let host = Host::new();
    let exporter = host.start();
    let (_, openmetrics, _) = exporter.get("/metrics").await;
    assert!(openmetrics.contains("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let (_, text, _) = get(exporter.address(), "/metrics", "Accept: text/plain;version=0.0.4\r\n").await;
    assert!(text.contains("text/plain; version=0.0.4; charset=utf-8"));
    for path in
        ["/healthz", "/readyz", "/", "/api/v1/sandboxes", "/api/v1/applications?tenant=x", "/api/v1/history"]
    {
        wait_for(path, async || exporter.get(path).await.0 == 200).await;
    }
    assert_eq!(exporter.get("/nothing").await.0, 404);
    assert_eq!(exporter.get("/api/v1/applications?tennant=x").await.0, 400);
    for query in ["step_seconds=20", "range_seconds=3601", "tennant=x"] {
        assert_eq!(exporter.get(&format!("/api/v1/history?{query}")).await.0, 400, "{query}");
    }
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_has_its_name_resolve_to_this_address_reads_nothing() {
    let host = Host::new();
    let exporter = host.start();
    for path in
        ["/metrics", "/api/v1/sandboxes", "/api/v1/applications", "/api/v1/spans", "/api/v1/traces", "/"]
    {
        let mut stream = TcpStream::connect(exporter.address()).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example:9464\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("received");
        assert!(response.starts_with("HTTP/1.1 421"), "{path}: {response}");
    }
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_at_one_time_and_slow_readers_keep_nobody_waiting() {
    let host = Host::new();
    let socket = host.socket("s");
    let agent = TestAgent::start(&socket, 7).await;
    agent.tell((0..4_000).map(|id| http(id, "shop-1", &format!("/{id}"), "200", 1, 1)).collect());
    let exporter = host.start();
    let _companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    exporter.wait_for_requests("shop", 4_000).await;
    // Readers that take a first byte and nothing more.
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(exporter.address()).await.expect("connected");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        let mut first = [0; 1];
        stream.read_exact(&mut first).await.expect("it begins");
        slow.push(stream);
    }
    for _ in 0..3 {
        let metrics = exporter.metrics().await;
        assert_eq!(metrics.sum("porthole_app_requests_total", &[]), 4_000.0);
    }
    let (head, _) = raw(exporter.address(), "/metrics", "Accept-Encoding: gzip\r\n").await;
    assert!(head.contains("content-encoding: gzip"), "{head}");
    exporter.stop().await;
}

/// Head and body of an answer that is no text.
async fn raw(address: std::net::SocketAddr, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.expect("received");
    let end = response.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    (String::from_utf8_lossy(&response[..end]).to_lowercase(), response[end + 4..].to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stall_are_let_go_and_others_served() {
    let host = Host::new();
    let mut config = host.config();
    config.http_timeout_seconds = 3.0;
    config.http_connections_max = 8;
    let exporter = host.start_with(&config);
    let mut stalled = Vec::new();
    for part in ["", "GET /met", "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        for _ in 0..4 {
            let mut stream = TcpStream::connect(exporter.address()).await.expect("connected");
            stream.write_all(part.as_bytes()).await.expect("sent");
            stalled.push(stream);
        }
    }
    // More of them than connections are allowed.
    assert_eq!(exporter.get("/healthz").await.0, 200);
    for mut stream in stalled {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the server closes it");
    }
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scraper_that_reads_nothing_is_cut_off_and_holds_up_no_agent() {
    let host = Host::new();
    let socket = host.socket("s");
    let agent = TestAgent::start(&socket, 7).await;
    let series = |requests| {
        (0..4_000).map(move |id| http(id, "shop-1", &format!("/{id}"), "200", requests, 1)).collect()
    };
    agent.tell(series(1));
    let mut config = host.config();
    config.http_timeout_seconds = 3.0;
    let exporter = host.start_with(&config);
    let _companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    exporter.wait_for_requests("shop", 4_000).await;
    let mut stalled = TcpStream::connect(exporter.address()).await.expect("connected");
    stalled.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut first = [0; 1];
    stalled.read_exact(&mut first).await.expect("it begins");
    // The agent's batches count while the scraper stalls.
    agent.send(porthole_agent_api::agent::Batch {
        series: vec![http(1, "shop-1", "/1", "200", 2, 1)],
        ..Default::default()
    });
    exporter.wait_for_requests("shop", 4_001).await;
    wait_for("the cut", async || exporter.fleet().own.scrapes_failed.get() >= 1).await;
    wait_for("a place for the next scrape", async || exporter.get("/metrics").await.0 == 200).await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_giant_header_is_refused() {
    let host = Host::new();
    let exporter = host.start();
    let giant = format!("X-Giant: {}\r\n", "a".repeat(1 << 20));
    let mut stream = TcpStream::connect(exporter.address()).await.expect("connected");
    let request = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{giant}\r\n");
    // The server may close before everything was sent.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    assert!(!response.starts_with(b"HTTP/1.1 200"));
    assert_eq!(exporter.get("/healthz").await.0, 200);
    exporter.stop().await;
}

/// Opens connections that send this and read nothing.
async fn stall(address: std::net::SocketAddr, count: usize, request: &str) -> Vec<TcpStream> {
    let mut stalled = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        // One that had to make room for others by now cannot be written to.
        let _ = stream.write_all(request.as_bytes()).await;
        stalled.push(stream);
    }
    stalled
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_thousand_idle_nor_many_slow_connections_keep_a_scraper_out() {
    let host = Host::new();
    let socket = host.socket("s");
    let agent = TestAgent::start(&socket, 7).await;
    agent.tell((0..4_000).map(|id| http(id, "shop-1", &format!("/{id}"), "200", 1, 1)).collect());
    let mut config = host.config();
    // No client is disconnected because of the time.
    config.http_timeout_seconds = 600.0;
    let exporter = host.start_with(&config);
    let _companion = host.companion(&record("shop-1", "acme", "shop", &socket));
    exporter.wait_for_requests("shop", 4_000).await;
    // Whole, and not parsed: that takes longer than the scrape. On a busy host a scraper may itself be too slow, and tries again.
    let scraped = async |exporter: &support::Exporter| {
        wait_for("a whole scrape", async || {
            let Ok(mut stream) = TcpStream::connect(exporter.address()).await else { return false };
            let mut answer = String::new();
            let sent = stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n").await;
            if sent.is_err() || stream.read_to_string(&mut answer).await.is_err() {
                return false;
            }
            let total = answer.lines().find(|line| line.starts_with("porthole_app_requests_total{"));
            total.is_some_and(|total| total.ends_with(" 4000")) && answer.ends_with("# EOF\n")
        })
        .await;
    };
    let scrape = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let _idle = stall(exporter.address(), 1_000, "").await;
    for _ in 0..3 {
        scraped(&exporter).await;
    }
    let _slow = stall(exporter.address(), 200, scrape).await;
    let _half = stall(exporter.address(), 200, "GET /metrics HTTP/1.1\r\nX-Slow: ").await;
    for _ in 0..3 {
        scraped(&exporter).await;
    }
    exporter.stop().await;
}
