//! The server's TLS: what a bad handshake cannot do, whose certificates are accepted, and how they are replaced.

mod support;
#[path = "support/tls.rs"]
mod tls;

use porthole_exporter::{
    config, exporter,
    http::tls::{Files, Tls},
};
use rcgen::SanType;
use support::{DEADLINE, Exporter, Host, exchange, wait_for};
use tls::Authority;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn configured(host: &Host, authority: &Authority) -> config::Exporter {
    let mut config = host.config();
    authority.configure(&mut config, host.directory());
    config
}

async fn served(exporter: &Exporter, authority: &Authority) -> bool {
    match authority.connect(exporter.address(), None).await {
        Ok(stream) => exchange(stream, "/healthz", "").await.0 == 200,
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_stall_grow_or_are_none_are_let_go_and_others_served() {
    let host = Host::new();
    let authority = Authority::new();
    let mut config = configured(&host, &authority);
    config.http_timeout_seconds = 3.0;
    config.http_connections_max = 8;
    let exporter = host.start_with(&config);
    // The head of a record with a handshake message of 64 KiB in records of 16 KiB each.
    let record = [&[22, 3, 3, 0x40, 0][..], &[1, 0, 0xff, 0xf0], &[0; 0x4000 - 4]].concat();
    let giant = [record, [&[22, 3, 3, 0x40, 0][..], &[0; 0x4000]].concat()].concat();
    let mut stalled = Vec::new();
    for part in [&b""[..], &giant[..3], &giant[..4_000], &giant, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"]
    {
        for _ in 0..4 {
            let mut stream = TcpStream::connect(exporter.address()).await.expect("connected");
            // The server may close before everything was sent.
            let _ = stream.write_all(part).await;
            stalled.push(stream);
        }
    }
    assert!(served(&exporter, &authority).await);
    for mut stream in stalled {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the server closes it");
        assert!(!rest.windows(4).any(|four| four == b"HTTP"), "nothing is answered without TLS");
    }
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_without_a_restart_and_broken_files_change_nothing() {
    let host = Host::new();
    let (first, second) = (Authority::new(), Authority::new());
    let config = configured(&host, &first);
    let files = Files::of(&config).expect("TLS");
    let exporter = host.start_with(&config);
    assert!(served(&exporter, &first).await && !served(&exporter, &second).await);
    // The first half of a replacement: this certificate is not of that key.
    let next = second.server();
    let scratch = host.directory().join("scratch");
    next.write(&files.certificate, &scratch);
    wait_for("a failure", async || exporter.fleet().own.reloads_failed.get() > 0).await;
    assert!(served(&exporter, &first).await);
    next.write(&scratch, &files.key);
    wait_for("the second certificate", async || served(&exporter, &second).await).await;
    assert!(!served(&exporter, &first).await);
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_strangers_and_expired_ones_are_refused_in_the_handshake() {
    let host = Host::new();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let exporter = host.start_with(&configured(&host, &authority));
    for refused in [stranger.issue("prometheus", &[]), authority.expired("prometheus")] {
        // With TLS 1.3 the client learns of it with its first read.
        let status = match authority.connect(exporter.address(), Some(&refused)).await {
            Ok(mut stream) => {
                let _ =
                    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
                answer
            }
            Err(_) => Vec::new(),
        };
        assert!(status.is_empty(), "{}", String::from_utf8_lossy(&status));
    }
    assert!(served(&exporter, &authority).await);
    exporter.stop().await;
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let host = Host::new();
    let authority = Authority::new();
    let config = configured(&host, &authority);
    let files = Files::of(&config).expect("TLS");
    let (empty, absent) = (host.directory().join("empty.pem"), host.directory().join("absent.pem"));
    std::fs::write(&empty, "").expect("written");
    let other = host.directory().join("other.key");
    authority
        .issue("x", &[SanType::IpAddress([127, 0, 0, 1].into())])
        .write(&host.directory().join("x"), &other);
    for (files, named) in [
        (Files { certificate: empty.clone(), ..files.clone() }, "empty.pem"),
        (Files { certificate: absent.clone(), ..files.clone() }, "absent.pem"),
        (Files { key: empty.clone(), ..files.clone() }, "empty.pem"),
        (Files { key: other, ..files.clone() }, "other.key"),
        (Files { client_ca: Some(empty), ..files.clone() }, "empty.pem"),
        (Files { client_ca: Some(absent), ..files.clone() }, "absent.pem"),
    ] {
        let error = Tls::load(files).expect_err(named).to_string();
        assert!(error.contains(named), "{error}");
    }
    Tls::load(files).expect("usable");
    let half = config::Exporter { tls_key: None, ..config };
    assert!(half.validate().expect_err("half").to_string().contains("tls_key"));
    exporter::load_tls(&host.config()).expect("no TLS is fine");
}
