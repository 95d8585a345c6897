//! `porthole sandboxes`, `porthole top` and `porthole topology` at a real exporter.

#[path = "../../host-exporter/tests/support/mod.rs"]
mod support;
#[path = "../../host-exporter/tests/support/tls.rs"]
mod tls;

use std::{
    process::{Command, Output},
    time::SystemTime,
};

use porthole_access::{NewToken, Scope};
use porthole_exporter::{clock::unix_ms, config, history::step_of};
use porthole_registry::{Reason, SandboxState};
use serde_json::Value;
use support::{Host, Shop, agent::http, record};
use tls::Authority;

async fn porthole(arguments: &[&str]) -> Output {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let run =
        move || Command::new(env!("CARGO_BIN_EXE_porthole")).args(arguments).output().expect("run porthole");
    tokio::task::spawn_blocking(run).await.expect("ended")
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The cells of the line that begins with these.
fn line<'a>(table: &'a str, first: &[&str]) -> Vec<&'a str> {
    let cells = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    cells
        .into_iter()
        .find(|cells| cells.starts_with(first))
        .unwrap_or_else(|| panic!("no {first:?} in\n{table}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_are_listed_with_state_and_reason() {
    let host = Host::new();
    let shop = host.shop().await;
    let mut refused = record("blog-1", "globex", "blog\u{1b}[2J", &host.socket("none"));
    refused.state = SandboxState::Unmonitored;
    refused.channel = None;
    refused.reason = Some(Reason { code: "create_refused".into(), message: "the delegate said no".into() });
    let _refused = host.companion(&refused);
    shop.exporter.wait_for_sandbox("blog-1", "its reason", |row| row["reason"].is_object()).await;
    let address = shop.exporter.address().to_string();

    let table = text(porthole(&["sandboxes", "--exporter", &address]).await);
    assert_eq!(line(&table, &["acme", "shop", "shop-1"])[4..6], ["watching", "connected"]);
    let blog = table.lines().find(|line| line.starts_with("globex")).expect("a line");
    assert!(blog.contains("unmonitored") && blog.contains("create_refused: the delegate said no"), "{blog}");
    assert!(!table.contains('\u{1b}'), "what others say commands no terminal");

    let table = text(porthole(&["sandboxes", "--exporter", &address, "--tenant", "acme"]).await);
    assert!(!table.contains("globex"), "{table}");

    let json = text(porthole(&["sandboxes", "--json", "--exporter", &address]).await);
    let listing: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(listing["sandboxes"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_what_came_between_two_looks() {
    let host = Host::new();
    let Shop { agent, exporter, companion: _companion, .. } = host.shop().await;
    let address = exporter.address().to_string();
    let quiet = text(porthole(&["top", "--once", "--interval", "0.1", "--exporter", &address]).await);
    assert_eq!(line(&quiet, &["acme", "shop", "server"])[4..], ["0.0", "0.0", "-", "-", "-", "5", "-"]);

    // Sent repeatedly while top runs, cumulative like an agent's values.
    let busy = async {
        let mut requests = 5;
        loop {
            requests += 10;
            agent.tell(vec![http(1, "shop-1", "/", "200", requests, 1)]);
            exporter.wait_for_requests("shop", requests).await;
        }
    };
    let arguments = ["top", "--once", "--interval", "1", "--exporter", &address];
    let looked = tokio::select! {
        () = busy => unreachable!("it goes on"),
        output = porthole(&arguments) => text(output),
    };
    let cells = line(&looked, &["acme", "shop", "server", "http1"]);
    assert!(cells[4].parse::<f64>().expect("a rate") > 0.0, "{looked}");
    assert!(cells[7].parse::<f64>().expect("milliseconds") >= 1.0, "{looked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topology_shows_who_calls_an_application() {
    let host = Host::new();
    let Shop { agent: _agent, exporter, companion: _companion, .. } = host.shop().await;
    let exporter = exporter.with_steps_by_hand().await;
    let running = &exporter.running;
    let step = step_of(unix_ms()) + 1;
    running.history().record(step, &running.fleet().applications());
    running.topology().record(step, running.fleet());
    // What was served in the last step of all could still be calls that are reported a moment later.
    running.history().record(step + 1, &running.fleet().applications());
    let address = exporter.address().to_string();
    let table = text(porthole(&["topology", "--exporter", &address, "--tenant", "acme"]).await);
    assert_eq!(line(&table, &["└─", "shop", "http1"])[7..], ["5"], "{table}");
    let json = text(porthole(&["topology", "--json", "--exporter", &address, "--seconds", "60"]).await);
    let graph: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(graph["edges"].as_array().map(Vec::len), Some(1));
    let none = text(porthole(&["topology", "--exporter", &address, "--tenant", "globex"]).await);
    assert_eq!(none, "no calls in the last 300 s\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_with_tls_and_tokens_is_asked_with_both() {
    let host = Host::new();
    let mut config = config::Exporter { loopback_without_token: false, ..host.config() };
    let certificates = host.socket("certificates");
    std::fs::create_dir(&certificates).expect("made");
    Authority::new().configure(&mut config, &certificates);
    let scope = Scope::Tenant("acme".to_owned());
    let made = NewToken::make("reader", scope, SystemTime::now(), None).expect("made");
    porthole_access::update(&config.access_file, |grants| grants.add(made.token.clone())).expect("added");
    let file = host.socket("token");
    std::fs::write(&file, format!("{}\n", made.expose())).expect("written");
    let exporter = host.start_with(&config);
    let (address, file) = (format!("https://{}", exporter.address()), file.display().to_string());
    let authority = config.tls_client_ca.expect("configured").display().to_string();
    let known = ["--exporter", &address, "--ca", &authority, "--token-file", &file];
    for subcommand in [&["sandboxes", "--json"][..], &["top", "--once", "--interval", "0.1"], &["topology"]] {
        text(porthole(&[subcommand, &known].concat()).await);
    }
    let refused = async |arguments: &[&str]| {
        let output = porthole(&[&["sandboxes"], arguments].concat()).await;
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = refused(&known[..4]).await;
    assert!(error.contains("401") && error.contains("--token-file"), "{error}");
    let error = refused(&known[..2]).await;
    assert!(error.contains("--ca"), "{error}");
    let error = refused(&[&known[..], &["--tenant", "globex"]].concat()).await;
    assert!(error.contains("403"), "{error}");
    std::fs::write(&file, "two\nlines").expect("written");
    assert!(refused(&known).await.contains("something else than a token"));
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_is_not_there_is_an_error_that_names_it() {
    for subcommand in ["sandboxes", "top", "topology"] {
        let output = porthole(&[subcommand, "--exporter", "127.0.0.1:1"]).await;
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("127.0.0.1:1"), "{error}");
    }
}
