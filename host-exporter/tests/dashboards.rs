//! The dashboards in a real browser, Chromium, from a running exporter. Its agents are doubles, and the hour is written into
//! its history at once; everything between is the exporter's own.

mod support;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, SystemTime},
};

use porthole_access::{NewToken, Scope};
use porthole_agent_api::agent::{self, Counters, SpanReason};
use porthole_exporter::{
    accumulate::golden::GoldenTable,
    clock::{unix_ms, unix_ns},
    config,
    history::{STEPS, step_of},
    identity::Application,
    protocol::{ErrorClass, Protocol, Side},
};
use porthole_histogram::Histogram;
use porthole_registry::{Reason, SandboxState};
use porthole_trials::{CannotRun, Outcome, needs, trials};
use support::{
    Companion, Exporter, Host,
    agent::{TestAgent, http, http_client},
    record, wait_for,
};
use tokio::{net::TcpSocket, runtime::Runtime};

/// Compressed bytes that the first page may take in all.
const FIRST_PAGE_MAX: usize = 150_000;

/// Applications that have to be usable at one time, besides the others.
const MANY: u64 = 500;

/// Addresses of shop-0 and cart-0.
const SHOP: &str = "10.8.0.1";
const CART: &str = "10.8.0.3";

/// In names, where it must stay text.
const MARKUP: &str = "<img src=x onerror=globalThis.breached=1>";

fn main() -> ExitCode {
    porthole_trials::run(trials![
        every_page_shows_what_the_exporter_has_in_both_themes_and_on_a_phone,
        the_first_page_is_small_and_kept_by_browsers
    ])
}

/// The folder with the pages' sources and Node's packages.
fn web() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("web")
}

/// A URL at which nothing listens; as long as there is the socket, the port is no one else's.
fn nobody() -> std::io::Result<(TcpSocket, String)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let url = format!("http://{}", socket.local_addr()?);
    Ok((socket, url))
}

/// Why no browser can open the pages of an exporter.
async fn has_pages(exporter: &Exporter) -> Result<(), CannotRun> {
    if exporter.get("/").await.2.contains("/assets/") {
        return Ok(());
    }
    Err(CannotRun::because("built without the dashboards: `cargo xtask test` builds with them"))
}

/// Requests of one step: more in the middle of the hour, some of them failed, a few slow.
fn add_step(table: &mut GoldenTable, step: u64, requests: u64, failed: u64) {
    let mut answered = Histogram::default();
    let mut broken = Histogram::default();
    for at in 0..requests {
        let ms = if at % 40 == 0 { 180 } else { 2 + (at * 7 + step) % 11 };
        let histogram = if at < failed { &mut broken } else { &mut answered };
        histogram.record(ms * 1_000_000);
    }
    table.record(Side::Server, Protocol::Http1, ErrorClass::None, &answered);
    table.record(Side::Server, Protocol::Http1, ErrorClass::Server, &broken);
}

/// Writes an hour of some applications, up to now.
fn write_hour(exporter: &Exporter, applications: &[(&str, &str, u64, u64)]) {
    let end = step_of(unix_ms());
    let mut tables = BTreeMap::<Application, GoldenTable>::new();
    for step in 1..STEPS {
        for &(tenant, service_name, requests, failed) in applications {
            let application = Application { tenant: tenant.into(), service_name: service_name.into() };
            let table = tables.entry(application).or_default();
            let more = step * (STEPS - step) / 400;
            add_step(table, step, requests + requests * more / 40, failed);
        }
        // Many that do little, and only lately.
        for number in (0..MANY).filter(|_| step > STEPS - 40) {
            let application =
                Application { tenant: "many".into(), service_name: format!("many-{number:04}") };
            add_step(tables.entry(application).or_default(), step, 1 + number % 3, 0);
        }
        exporter.running.history().record(end - STEPS + step, &tables);
    }
}

/// A sandbox whose agent's double has sent series and spans.
async fn sandbox(
    host: &Host,
    [tenant, service, name, address]: [&str; 4],
    ms: u64,
) -> (TestAgent, Companion) {
    let socket = host.socket(name);
    let agent = TestAgent::start(&socket, 7).await;
    agent.set_counters(Counters { messages_seen: 1_000, exchanges: 495, ..Default::default() });
    agent.set_clock(0);
    agent.tell(vec![
        http(1, name, "/orders/{}", "200", 400, ms),
        http(2, name, "/orders/{}", "503", 20, 90),
        http(3, name, "/health", "200", 60, 1),
        http(4, name, MARKUP, "404", 5, 2),
        http_client(5, name, "10.0.0.9:80", "200", 90),
        http(6, name, "/items/{}", "200", 90, ms),
    ]);
    let mut record = record(name, tenant, service, &socket);
    record.k8s_pod_name = Some(name.to_owned());
    record.k8s_namespace_name = Some(format!("{tenant}-namespace"));
    record.created_unix_ms = unix_ms();
    record.watching_unix_ms = Some(record.created_unix_ms + 1_500);
    record.addresses = vec![address.parse().expect("an address")];
    let companion = host.companion(&record);
    (agent, companion)
}

/// The newest calls of an agent: some failed, some slow.
fn send_spans(agent: &TestAgent) {
    let now = unix_ns();
    let span = |at: u64| agent::Span {
        series_id: if at.is_multiple_of(3) { 1 } else { 2 },
        start_unix_ns: now - at * 1_700_000_000,
        duration_ns: 90_000_000 + at * 13_000_000,
        reason: if at.is_multiple_of(3) {
            SpanReason::SPAN_REASON_SLOW
        } else {
            SpanReason::SPAN_REASON_ERROR
        }
        .into(),
        local: "10.0.0.2:80".to_owned(),
        ..Default::default()
    };
    agent.send(agent::Batch { spans: (1..12).map(span).collect(), ..Default::default() });
}

/// What sandboxes reach in their first seconds: so long after their creation that the error of their clocks does not put it
/// before.
async fn start(exporter: &Exporter, agents: impl Iterator<Item = (&TestAgent, &str)>) {
    for (agent, name) in agents {
        agent.has_started();
        let mut served = http(7, name, "/ready", "200", 1, 1);
        served.start_unix_ns = unix_ns();
        agent.tell(vec![served]);
    }
    wait_for("starts", async || {
        let listed = exporter.json("/api/v1/starts").await;
        let applications = listed["applications"].as_array().cloned().unwrap_or_default();
        let whole = |row: &serde_json::Value| {
            let phases = row["phases"].as_array().cloned().unwrap_or_default();
            let sandboxes = if row["service_name"] == "shop" { 2 } else { 1 };
            phases.len() == 5 && phases.iter().all(|times| times["sandboxes"] == sandboxes)
        };
        applications.len() == 3 && applications.iter().all(whole)
    })
    .await;
}

/// Requests that fail, so that the objective is still missed however long the browser takes.
async fn keep_failing(billing: &TestAgent) -> std::convert::Infallible {
    let mut failed = 20;
    loop {
        failed += 20;
        billing.tell(vec![http(2, "billing-0", "/orders/{}", "503", failed, 90)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A request to shop-0, which calls cart-0 meanwhile.
fn send_trace(shop: &TestAgent, cart: &TestAgent) {
    let began = unix_ns() - 1_000_000_000;
    let span = |series_id, [local, remote]: [String; 2], from_ms: u64, ms: u64| agent::Span {
        series_id,
        start_unix_ns: began + from_ms * 1_000_000,
        duration_ns: ms * 1_000_000,
        reason: SpanReason::SPAN_REASON_SLOW.into(),
        process_id: 1,
        thread_id: 7,
        local,
        remote,
        ..Default::default()
    };
    let (calls, serves) = (format!("{SHOP}:40000"), format!("{CART}:80"));
    let send = |agent: &TestAgent, spans| agent.send(agent::Batch { spans, ..Default::default() });
    send(cart, vec![span(6, [serves.clone(), calls.clone()], 60, 100)]);
    let root = span(1, [format!("{SHOP}:80"), "192.0.2.1:5000".to_owned()], 0, 250);
    send(shop, vec![span(5, [calls, serves], 50, 120), root]);
}

fn every_page_shows_what_the_exporter_has_in_both_themes_and_on_a_phone() -> Outcome {
    needs::program("node")?;
    needs::program("chromium")?;
    needs::file(&web().join("node_modules/playwright-core").display().to_string())?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let exporter = host.start();
        has_pages(&exporter).await?;
        write_hour(
            &exporter,
            &[
                ("acme", "shop", 60, 0),
                ("acme", "cart", 25, 1),
                ("acme", MARKUP, 8, 0),
                ("globex", "billing", 30, 9),
                ("globex", "reports", 2, 0),
            ],
        );
        let mut kept = Vec::new();
        for (names, ms) in [
            (["acme", "shop", "shop-0", SHOP], 4),
            (["acme", "shop", "shop-1", "10.8.0.2"], 6),
            (["acme", "cart", "cart-0", CART], 3),
            (["globex", "billing", "billing-0", "10.8.0.4"], 12),
        ] {
            let (agent, companion) = sandbox(&host, names, ms).await;
            kept.push((agent, companion, names[2]));
        }
        let mut refused = record("reports-0", "globex", "reports", &host.socket("none"));
        refused.state = SandboxState::Unmonitored;
        refused.channel = None;
        let message = format!("the runtime refuses another container {MARKUP}");
        refused.reason = Some(Reason { code: "create_refused".into(), message });
        let _refused = host.companion(&refused);
        exporter.wait_for_requests("billing", 665).await;
        exporter.wait_for_requests("shop", 2 * 665).await;
        for (agent, ..) in &kept {
            send_spans(agent);
        }
        // A server that is down, which no request reaches.
        for (agent, _, name) in &kept {
            agent.connect(name, "10.0.0.77:9000", 4);
        }
        wait_for("connections", async || {
            exporter.get("/api/v1/connections").await.2.matches("9000").count() == 3
        })
        .await;
        // Rates need two measurements that are a second apart.
        let mut times = 1;
        wait_for("rates", async || {
            times += 1;
            for (agent, _, name) in &kept {
                agent.measure(&["", name], times);
            }
            let listed = exporter.json("/api/v1/resources").await;
            let sandboxes = listed["sandboxes"].as_array().expect("sandboxes");
            let known = sandboxes.iter().filter(|sandbox| sandbox["guest"]["cpu_cores"].is_number());
            known.count() == kept.len()
        })
        .await;
        // The next ones are exact.
        for (agent, _, name) in &kept {
            agent.measure(&["", name], 100);
        }
        let agents = kept.iter().map(|(agent, _, name)| (agent, *name));
        start(&exporter, agents).await;
        send_trace(&kept[0].0, &kept[2].0);
        wait_for("a trace", async || {
            exporter.json("/api/v1/traces?spans_min=3").await["traces"][0].is_object()
        })
        .await;
        wait_for("spans", async || exporter.get("/api/v1/spans").await.2.contains("duration_ns")).await;
        exporter.running.topology().record(step_of(unix_ms()), exporter.fleet());
        let closed_host = Host::new();
        let config = config::Exporter { loopback_without_token: false, ..closed_host.config() };
        let token = NewToken::make("acme", Scope::Tenant("acme".to_owned()), SystemTime::now(), None)?;
        porthole_access::update(&config.access_file, |grants| grants.add(token.token.clone()))?;
        let closed = closed_host.start_with(&config);
        let past_host = Host::new();
        let (_nobody, url) = nobody()?;
        let past =
            past_host.start_with(&config::Exporter { prometheus_url: Some(url), ..past_host.config() });
        let screenshots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../web/screenshots");
        let mut driver = Command::new("node");
        driver
            .arg(web().join("browser/drive.mjs"))
            .arg(format!("http://{}", exporter.address()))
            .arg(format!("http://{}", closed.address()))
            .arg(format!("http://{}", past.address()))
            .env("TOKEN", token.expose())
            .arg(&screenshots);
        let (billing, ..) = kept.last().expect("billing is the last one");
        let output = tokio::select! {
            output = tokio::task::spawn_blocking(move || driver.output()) => output??,
            never = keep_failing(billing) => match never {},
        };
        let printed =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{printed}");
        exporter.stop().await;
        closed.stop().await;
        past.stop().await;
        Ok(())
    })
}

fn the_first_page_is_small_and_kept_by_browsers() -> Outcome {
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let exporter = host.start();
        has_pages(&exporter).await?;
        let (_, head, page) = exporter.get("/").await;
        let mut names: Vec<_> = page.split('"').filter(|part| part.starts_with("/assets/")).collect();
        names.insert(0, "/");
        let mut compressed = 0;
        for name in names {
            let (status, head, _) = support::get(exporter.address(), name, "Accept-Encoding: gzip\r\n").await;
            let head = head.to_lowercase();
            let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            assert_eq!((status, value("content-encoding:")), (200, Some("gzip")), "{name}: {head}");
            compressed +=
                value("content-length:").and_then(|length| length.parse::<usize>().ok()).expect("a length");
            let etag = value("etag:").expect("a tag").to_owned();
            let known = format!("If-None-Match: {etag}\r\n");
            assert_eq!(support::get(exporter.address(), name, &known).await.0, 304, "{name}");
            assert_eq!(value("cache-control:").is_some_and(|value| value.contains("immutable")), name != "/");
        }
        assert!(compressed < FIRST_PAGE_MAX, "{compressed} bytes");
        let policy = "content-security-policy: default-src 'self';";
        assert!(head.to_lowercase().contains(policy) && !head.contains("unsafe"), "{head}");
        exporter.stop().await;
        Ok(())
    })
}
