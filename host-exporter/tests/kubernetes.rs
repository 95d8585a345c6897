//! Names by a cluster's API. The API server is a mock: it has what the test puts there, and answers the lists and watches that the
//! exporter sends, over TLS and to one token.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use porthole_exporter::{
    clock::unix_ms,
    config::{self, kubernetes::Kubernetes},
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use support::{Companion, Exporter, Host, agent::TestAgent, record, wait_for};
use tls::Authority;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const TOKEN: &str = "eyJ.a-token";

/// What the mock of an API server has.
#[derive(Default)]
struct MockObjects {
    /// Pages of the list of Services.
    services: Vec<Vec<Value>>,
    pods: Vec<Value>,
    /// What the next watches of Services get, in pieces; a watch beyond them stays without events.
    watches: VecDeque<Vec<String>>,
    /// Most objects of a list of Services; a page of more is too long.
    limit: Option<usize>,
    /// Targets of requests that had the token.
    requests: Vec<String>,
    refused: usize,
}

/// A mock of a cluster's API server.
#[derive(Clone)]
struct MockApiServer {
    objects: Arc<Mutex<MockObjects>>,
    acceptor: TlsAcceptor,
}

/// A status, a body in pieces, and whether the answer goes on without an end.
type Answer = (u16, Vec<String>, bool);

impl MockApiServer {
    async fn start(authority: &Authority, host: &Host, objects: MockObjects) -> (SocketAddr, Self) {
        let (certificate, key) = (host.socket("api.pem"), host.socket("api.key"));
        authority.server().write(&certificate, &key);
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(&certificate).expect("a certificate")],
                PrivateKeyDer::from_pem_file(&key).expect("a key"),
            )
            .expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let server = Self { objects: Arc::new(Mutex::new(objects)), acceptor };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let (address, serving) = (listener.local_addr().expect("an address"), server.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        (address, server)
    }

    /// Answers one request. A client that goes away ends it.
    async fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut stream = self.acceptor.accept(stream).await.ok()?;
        let (target, token) = head(&mut stream).await?;
        let (status, pieces, stays) = self.answer(&target, token.as_deref() == Some(TOKEN));
        stream
            .write_all(format!("HTTP/1.1 {status} mock\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .ok()?;
        for piece in pieces {
            stream.write_all(piece.as_bytes()).await.ok()?;
            stream.flush().await.ok()?;
        }
        if stays {
            let _ = stream.read(&mut [0; 16]).await;
        }
        stream.shutdown().await.ok()
    }

    fn answer(&self, target: &str, has_token: bool) -> Answer {
        let mut objects = self.objects.lock().expect("not poisoned");
        if !has_token {
            objects.refused += 1;
            return (401, Vec::new(), false);
        }
        objects.requests.push(target.to_owned());
        let (path, query) = target.split_once('?').expect("a query");
        let list = |items: &[Value], next: &str| {
            let list = json!({ "metadata": { "resourceVersion": "100", "continue": next }, "items": items });
            (200, vec![list.to_string()], false)
        };
        match (path, query.contains("watch=1")) {
            ("/api/v1/services", true) => match objects.watches.pop_front() {
                Some(pieces) => (200, pieces, false),
                None => (200, Vec::new(), true),
            },
            ("/api/v1/pods", true) => (200, Vec::new(), true),
            ("/api/v1/services", false) => {
                let (limit, page) = query.split_once("&continue=").expect("a page");
                let asked = limit.strip_prefix("limit=").and_then(|limit| limit.parse::<usize>().ok());
                if objects.limit.is_some_and(|most| asked.expect("a limit") > most) {
                    return (200, vec![" ".repeat(26 << 20)], false);
                }
                let page = page.parse::<usize>().unwrap_or(0);
                let next =
                    if page + 1 < objects.services.len() { (page + 1).to_string() } else { String::new() };
                list(&objects.services[page], &next)
            }
            ("/api/v1/pods", false) => list(&objects.pods, ""),
            _ => (404, Vec::new(), false),
        }
    }
}

/// Target and token of a request.
async fn head(stream: &mut TlsStream<TcpStream>) -> Option<(String, Option<String>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let target = head.split(' ').nth(1)?.to_owned();
    let token = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
    Some((target, token.map(str::to_owned)))
}

fn service(name: &str, namespace: &str, address: &str, version: u32) -> Value {
    json!({
        "metadata": { "name": name, "namespace": namespace, "resourceVersion": version.to_string() },
        "spec": { "clusterIPs": [address], "selector": { "app": name } },
    })
}

/// An exporter that follows a mock, with this token, and the token's file.
async fn follow(
    host: &Host,
    authority: &Authority,
    objects: MockObjects,
    token: &str,
) -> (Exporter, MockApiServer, PathBuf) {
    let (address, server) = MockApiServer::start(authority, host, objects).await;
    let (ca, token_file) = (host.socket("ca.crt"), host.socket("token"));
    fs::write(&ca, authority.pem()).expect("written");
    fs::write(&token_file, token).expect("written");
    let exporter = host.start_with(&config::Exporter {
        kubernetes: Some(Kubernetes {
            url: format!("https://{address}"),
            ca,
            token_file: token_file.clone(),
            shared_namespaces: Vec::new(),
            tenants: BTreeMap::new(),
        }),
        ..host.config()
    });
    (exporter, server, token_file)
}

/// A sandbox of a tenant in a namespace, with connections to these.
async fn connected(host: &Host, [tenant, namespace]: [&str; 2], peers: &[&str]) -> (TestAgent, Companion) {
    let id = format!("{namespace}-1");
    let socket = host.socket(&id);
    let agent = TestAgent::start(&socket, 7).await;
    let mut record = record(&id, tenant, namespace, &socket);
    record.k8s_namespace_name = Some(namespace.to_owned());
    record.created_unix_ms = unix_ms();
    let companion = host.companion(&record);
    for peer in peers {
        agent.connect(&id, peer, 1);
    }
    (agent, companion)
}

/// Addresses that a tenant's application is connected to, and their names.
async fn names(exporter: &Exporter, tenant: &str) -> Vec<(String, String)> {
    let listing = exporter.json(&format!("/api/v1/connections?tenant={tenant}")).await;
    let connections = listing["applications"][0]["connections"].as_array().cloned().unwrap_or_default();
    let name = |of: &Value| of["name"].as_str().unwrap_or("-").to_owned();
    let mut names: Vec<_> =
        connections.iter().map(|of| (of["peer"].as_str().expect("a peer").to_owned(), name(of))).collect();
    names.sort();
    names
}

fn event(kind: &str, object: &Value) -> String {
    json!({ "type": kind, "object": object }).to_string() + "\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_are_too_long_cost_no_other_its_name() {
    let (host, authority) = (Host::new(), Authority::new());
    let mut long = service("long", "shop", "10.96.0.9", 101);
    long["metadata"]["annotations"] = json!({ "a": "a".repeat(3 << 20) });
    let objects = MockObjects {
        services: vec![
            vec![service("db", "shop", "10.96.0.7", 1)],
            vec![service("vault", "shop", "10.96.0.6", 2)],
        ],
        limit: Some(100),
        watches: VecDeque::from([vec![
            event("ADDED", &long),
            event("ADDED", &service("cache", "shop", "10.96.0.8", 102)),
        ]]),
        ..MockObjects::default()
    };
    let (exporter, server, _) = follow(&host, &authority, objects, TOKEN).await;
    let peers = ["10.96.0.6:1", "10.96.0.7:1", "10.96.0.8:1", "10.96.0.9:1"];
    let _sandbox = connected(&host, ["acme", "shop"], &peers).await;
    let expected = ["vault.shop", "db.shop", "cache.shop", "-"];
    let expected: Vec<_> =
        peers.iter().zip(expected).map(|(peer, name)| ((*peer).to_owned(), name.to_owned())).collect();
    wait_for("the names", async || names(&exporter, "acme").await == expected).await;
    let requests = server.objects.lock().expect("not poisoned").requests.clone();
    for target in ["limit=250&continue=", "limit=125&continue=", "limit=62&continue=", "limit=62&continue=1"]
    {
        assert!(requests.contains(&format!("/api/v1/services?{target}")), "{target} in {requests:?}");
    }
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_have_the_names_of_services_and_pods_and_follow_their_changes() {
    let (host, authority) = (Host::new(), Authority::new());
    let added = event("ADDED", &service("cache", "shop", "10.96.0.8", 101));
    let (first, rest) = added.split_at(added.len() / 2);
    let objects = MockObjects {
        services: vec![
            vec![service("db", "shop", "10.96.0.7", 1)],
            vec![service("vault", "bank", "10.96.0.9", 2), service("old", "shop", "10.96.0.10", 3)],
        ],
        pods: vec![json!({
            "metadata": { "name": "web-0", "namespace": "shop" },
            "status": { "phase": "Running", "podIPs": [{ "ip": "10.1.0.4" }] },
        })],
        watches: VecDeque::from([
            // An event that comes in two pieces, and one behind it; then the server ends the watch.
            vec![
                first.to_owned(),
                rest.to_owned() + &event("DELETED", &service("old", "shop", "10.96.0.10", 102)),
            ],
            vec![event("BOOKMARK", &json!({ "metadata": { "resourceVersion": "107" } }))],
        ]),
        ..MockObjects::default()
    };
    let (exporter, server, token) = follow(&host, &authority, objects, "another").await;
    // Sandboxes of two tenants, each in its namespace.
    let peers = ["10.96.0.7:1", "10.96.0.8:1", "10.96.0.9:1", "10.96.0.10:1", "10.1.0.4:1"];
    let _sandboxes =
        [connected(&host, ["acme", "shop"], &peers).await, connected(&host, ["rival", "bank"], &peers).await];
    wait_for("requests without the right token", async || {
        server.objects.lock().expect("not poisoned").refused >= 2
    })
    .await;
    wait_for("a counted failure", async || {
        exporter.metrics().await.sum("porthole_kubernetes_failures_total", &[]) >= 1.0
    })
    .await;
    fs::write(&token, format!("{TOKEN}\n")).expect("written");

    let pair = |(peer, name): (&str, &str)| (peer.to_owned(), name.to_owned());
    let of_acme = [
        ("10.1.0.4:1", "web-0.shop"),
        ("10.96.0.10:1", "-"),
        ("10.96.0.7:1", "db.shop"),
        ("10.96.0.8:1", "cache.shop"),
        ("10.96.0.9:1", "-"),
    ]
    .map(pair);
    wait_for("the names of acme's namespace", async || names(&exporter, "acme").await == of_acme).await;
    let of_rival = ["10.1.0.4:1", "10.96.0.10:1", "10.96.0.7:1", "10.96.0.8:1"].map(|peer| pair((peer, "-")));
    let own = [pair(("10.96.0.9:1", "vault.bank"))];
    wait_for("those of the other's", async || {
        names(&exporter, "rival").await == [&of_rival[..], &own].concat()
    })
    .await;

    // Each watch goes on behind what the one before has reported.
    let versions = || {
        let objects = server.objects.lock().expect("not poisoned");
        let watches = objects.requests.iter().filter(|target| target.starts_with("/api/v1/services?watch"));
        let version = |target: &String| target.split("resourceVersion=").nth(1).map(str::to_owned);
        watches.filter_map(version).collect::<Vec<_>>()
    };
    wait_for("the watches", async || versions().len() >= 3).await;
    assert_eq!(versions()[..3], ["100", "102", "107"]);
    exporter.stop().await;
}
