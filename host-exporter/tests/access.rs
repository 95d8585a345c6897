//! Who may read what: every route with every kind of token and of client certificate, and what a server that others can reach needs to start.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use porthole_access::{Certificate, NewToken, Scope};
use porthole_agent_api::{
    agent,
    agent::{Counters, SpanReason},
};
use porthole_exporter::{
    clock::unix_ms,
    config, exporter,
    history::step_of,
    http::{
        ROUTES,
        access::{Access, Shows},
    },
};
use rcgen::SanType;
use support::{
    Companion, Exporter, Host,
    agent::{TestAgent, http, http_client},
    beginning, exchange, get, record, send, wait_for,
};
use tls::{Authority, Issued};

/// In every name of a tenant's, so that a byte of it is recognised wherever it appears.
const ACME: &str = "acmemark";
const RIVAL: &str = "rivalmark";

/// Media type of a scrape that has native histograms.
const PROTOBUF: &str =
    "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited\r\n";

fn grant(config: &config::Exporter, name: &str, scope: Scope, expires: Option<SystemTime>) -> String {
    let made = NewToken::make(name, scope, SystemTime::now(), expires).expect("made");
    porthole_access::update(&config.access_file, |grants| grants.add(made.token.clone())).expect("added");
    made.expose().to_owned()
}

fn tenant(name: &str) -> Scope {
    Scope::Tenant(name.to_owned())
}

/// An answer that does not end.
const EVENTS: &str = "/api/v1/events";

/// Kinds of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Caller {
    Nobody,
    WithWrongToken,
    WithExpiredToken,
    WithRevokedToken,
    WithPassword,
    WithTwoTokens,
    WithUnlistedCertificate,
    Neighbour,
    NeighboursCertificate,
    Tenant,
    TenantsCertificate,
    NeighboursSession,
    TenantsSession,
    /// What the request has goes before what the connection has.
    TenantWithOperatorsCertificate,
    Operator,
    OperatorsCertificate,
}

use Caller::{
    Neighbour, NeighboursCertificate, NeighboursSession, Nobody, Operator, OperatorsCertificate, Tenant,
    TenantWithOperatorsCertificate, TenantsCertificate, TenantsSession, WithExpiredToken, WithPassword,
    WithRevokedToken, WithTwoTokens, WithUnlistedCertificate, WithWrongToken,
};

/// The certificate of each caller that has one, by one of its names.
fn certificates(config: &config::Exporter, authority: &Authority) -> BTreeMap<Caller, Issued> {
    let uri = |uri: &str| SanType::URI(uri.try_into().expect("a URI"));
    let dns = |name: &str| SanType::DnsName(name.try_into().expect("a name"));
    porthole_access::update(&config.access_file, |grants| {
        for (name, scope) in [
            ("acme's scraper", tenant(ACME)),
            ("spiffe://example/rival", tenant(RIVAL)),
            ("prometheus.example", Scope::Operator),
        ] {
            grants.certificates.push(Certificate { name: name.to_owned(), scope });
        }
        Ok(())
    })
    .expect("listed");
    let operators = || authority.issue("x", &[dns("other.example"), dns("prometheus.example")]);
    BTreeMap::from([
        (
            WithUnlistedCertificate,
            authority.issue("acme's", &[dns("example"), uri("spiffe://example/rivals")]),
        ),
        (TenantsCertificate, authority.issue("acme's scraper", &[])),
        (NeighboursCertificate, authority.issue("", &[uri("spiffe://example/rival")])),
        (TenantWithOperatorsCertificate, operators()),
        (OperatorsCertificate, operators()),
    ])
}

/// The header of each caller; some have rights that they have lost.
fn headers(config: &config::Exporter) -> BTreeMap<Caller, String> {
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let past = Some(SystemTime::now() - Duration::from_secs(1));
    let own = grant(config, "own", tenant(ACME), None);
    let wrong = format!("{}0", &own[..own.len() - 1]);
    let wrong = if wrong == own { format!("{}1", &own[..own.len() - 1]) } else { wrong };
    BTreeMap::from([
        (Nobody, String::new()),
        (WithWrongToken, bearer(&wrong)),
        (WithExpiredToken, bearer(&grant(config, "expired", Scope::Operator, past))),
        (WithRevokedToken, bearer(&grant(config, "revoked", Scope::Operator, None))),
        (WithPassword, "Authorization: Basic YWRtaW46YWRtaW4=\r\n".to_owned()),
        (WithTwoTokens, bearer(&own).repeat(2)),
        (Neighbour, bearer(&grant(config, "neighbour", tenant(RIVAL), None))),
        (Tenant, bearer(&own)),
        (TenantWithOperatorsCertificate, bearer(&own)),
        (Operator, bearer(&grant(config, "operator", Scope::Operator, None))),
        (WithUnlistedCertificate, String::new()),
        (NeighboursCertificate, String::new()),
        (TenantsCertificate, String::new()),
        (OperatorsCertificate, String::new()),
    ])
}

/// What a request is answered with: to those who are unknown, to the neighbour, to the tenant, to the operator.
type Statuses = (u16, u16, u16, u16);

/// The requests that are made of a route. A route without an entry fails the test: state here who may read it.
fn requests(path: &str, shows: Shows) -> Vec<(String, Statuses)> {
    let by_tenant = |query: &str, to_neighbour, to_tenant| {
        (format!("{path}{query}"), (401, to_neighbour, to_tenant, 200))
    };
    match (path, shows) {
        ("/" | "/healthz" | "/readyz", Shows::Nothing) => vec![(path.to_owned(), (200, 200, 200, 200))],
        ("/assets/{name}", Shows::Nothing) => {
            vec![("/assets/none.js".to_owned(), (404, 404, 404, 404))]
        }
        ("/api/v1/session", Shows::Nothing) => vec![(path.to_owned(), (405, 405, 405, 405))],
        ("/api/v1/viewer" | EVENTS, Shows::OfViewer) => vec![by_tenant("", 200, 200)],
        ("/api/v1/tenants", Shows::OfViewer) => vec![
            by_tenant("", 200, 200),
            by_tenant(&format!("?tenant={ACME}"), 403, 200),
            by_tenant("?tenant=nobody", 403, 403),
            (format!("{path}?tennant={ACME}"), (401, 400, 400, 400)),
        ],
        ("/metrics" | "/api/v1/nodes", Shows::Everything) => {
            vec![(path.to_owned(), (401, 403, 403, 200))]
        }
        ("/tenants/{*rest}", Shows::TenantOfPath) => vec![
            (format!("/tenants/{ACME}/metrics"), (401, 403, 200, 200)),
            (format!("/tenants/{RIVAL}/metrics"), (401, 200, 403, 200)),
            ("/tenants/nobody/metrics".to_owned(), (401, 403, 403, 200)),
            (format!("/tenants/{ACME}%2F/metrics"), (401, 403, 403, 200)),
            (format!("/tenants/{ACME}/{RIVAL}/metrics"), (401, 403, 403, 200)),
            (format!("/tenants/{RIVAL}/other"), (401, 404, 404, 404)),
            (format!("/tenants/{ACME}/other"), (401, 404, 404, 404)),
        ],
        (
            "/api/v1/sandboxes"
            | "/api/v1/spans"
            | "/api/v1/traces"
            | "/api/v1/applications"
            | "/api/v1/history"
            | "/api/v1/interfaces"
            | "/api/v1/connections"
            | "/api/v1/resources"
            | "/api/v1/starts",
            Shows::OfViewer,
        ) => vec![
            by_tenant("", 200, 200),
            by_tenant(&format!("?tenant={ACME}"), 403, 200),
            by_tenant(&format!("?tenant={RIVAL}"), 200, 403),
            by_tenant(&format!("?tenant={RIVAL}&service_name={RIVAL}-service"), 200, 403),
            by_tenant("?tenant=nobody", 403, 403),
            by_tenant("?tenant=", 403, 403),
            by_tenant(&format!("?service_name={RIVAL}-service"), 200, 200),
            (format!("{path}?tennant={ACME}"), (401, 400, 400, 400)),
        ],
        ("/api/v1/traces/{id}", Shows::OfViewer) => {
            let path = "/api/v1/traces/00000000000000000000000000000001";
            vec![
                (path.to_owned(), (401, 200, 200, 200)),
                (format!("{path}?tenant={ACME}"), (401, 403, 200, 200)),
                (format!("{path}?tenant={RIVAL}"), (401, 200, 403, 200)),
                (format!("{path}?tenant=nobody"), (401, 403, 403, 200)),
                (format!("{path}?tennant={ACME}"), (401, 400, 400, 400)),
                ("/api/v1/traces/1".to_owned(), (401, 400, 400, 400)),
            ]
        }
        ("/api/v1/topology", Shows::OfViewer) => vec![
            by_tenant("", 200, 200),
            by_tenant(&format!("?tenant={ACME}"), 403, 200),
            by_tenant(&format!("?tenant={RIVAL}&seconds=3600"), 200, 403),
            by_tenant("?tenant=nobody", 403, 403),
            (format!("{path}?seconds=0"), (401, 400, 400, 400)),
            (format!("{path}?service_name={ACME}"), (401, 400, 400, 400)),
        ],
        ("/api/v1/http_sd", Shows::OfViewer) => vec![
            by_tenant("", 200, 200),
            by_tenant("?by=tenant", 200, 200),
            (format!("{path}?by=other"), (401, 400, 400, 400)),
        ],
        unknown => panic!("a new route, {unknown:?}: say here who may read it"),
    }
}

/// A sandbox of a tenant, with its mark in every name, and its agent's numbers, spans and failures.
async fn sandbox(host: &Host, mark: &str) -> (TestAgent, Companion) {
    let socket = host.socket(mark);
    let agent = TestAgent::start(&socket, 7).await;
    agent.set_counters(Counters {
        messages_seen: 20,
        exchanges: 15,
        unattached_start_ns: 1,
        ..Default::default()
    });
    let container = format!("{mark}-1");
    let series = vec![
        http(1, &container, &format!("/{mark}"), "503", 5, 1),
        http_client(2, &container, &format!("{mark}.example"), "200", 5),
    ];
    agent.tell(series);
    agent.measure(&["", &container], 1);
    agent.connect(&container, &format!("{mark}.example:80"), 1);
    let mut of_tenant = record(&container, mark, &format!("{mark}-service"), &socket);
    of_tenant.k8s_pod_name = Some(format!("{mark}-pod"));
    of_tenant.k8s_namespace_name = Some(format!("{mark}-namespace"));
    of_tenant.created_unix_ms = unix_ms();
    of_tenant.watching_unix_ms = Some(of_tenant.created_unix_ms + 1);
    let companion = host.companion(&of_tenant);
    (agent, companion)
}

fn span(agent: &TestAgent, mark: &str) {
    let span = agent::Span {
        series_id: 1,
        start_unix_ns: 1_700_000_000_000_000_000,
        duration_ns: 1_000_000,
        reason: SpanReason::SPAN_REASON_ERROR.into(),
        local: format!("{mark}:80"),
        ..Default::default()
    };
    agent.send(agent::Batch { spans: vec![span], ..Default::default() });
}

/// An answer: status, head, body.
type Answer = (u16, String, String);

/// An answer without what differs from moment to moment.
fn still((status, head, body): Answer) -> (u16, Vec<String>, String) {
    let lines = head.lines().filter(|line| !line.to_lowercase().starts_with("date:"));
    (status, lines.map(str::to_owned).collect(), body)
}

/// An exporter with TLS, and its callers.
struct Asked {
    authority: Authority,
    headers: BTreeMap<Caller, String>,
    certificates: BTreeMap<Caller, Issued>,
    config: config::Exporter,
    exporter: Exporter,
}

impl Asked {
    fn start(host: &Host) -> Self {
        let mut config = config::Exporter { loopback_without_token: false, ..host.config() };
        let authority = Authority::new();
        authority.configure(&mut config, host.directory());
        let (headers, certificates) = (headers(&config), certificates(&config, &authority));
        let exporter = host.start_with(&config);
        Self { authority, headers, certificates, config, exporter }
    }

    async fn ask(&self, caller: Caller, path: &str, accept: &str) -> Answer {
        let certificate = self.certificates.get(&caller);
        let stream = self.authority.connect(self.exporter.address(), certificate).await.expect("connected");
        if path == EVENTS {
            return beginning(stream, path, &self.headers[&caller], "retry:").await;
        }
        exchange(stream, path, &format!("{}{accept}", self.headers[&caller])).await
    }

    /// Begins a session for each caller who has one, with the token of another.
    async fn begin_sessions(&mut self) {
        for (caller, bearer) in [(NeighboursSession, Neighbour), (TenantsSession, Tenant)] {
            let stream = self.authority.connect(self.exporter.address(), None).await.expect("connected");
            let (status, head, _) = send(stream, "POST", "/api/v1/session", &self.headers[&bearer]).await;
            assert_eq!(status, 204, "{head}");
            let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
            assert!(cookie.ends_with("; Secure"), "{cookie}");
            let cookie = cookie.split(';').next().expect("a pair");
            self.headers.insert(caller, format!("Cookie: {cookie}\r\n"));
        }
    }

    /// Waits until an operator's answer has a text.
    async fn shown(&self, path: &str, text: &str) {
        let what = format!("{text} in {path}");
        wait_for(&what, async || self.ask(Operator, path, "").await.2.contains(text)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_every_caller_exactly_and_without_a_byte_of_a_neighbour() {
    let host = Host::new();
    let mut asked = Asked::start(&host);
    asked.begin_sessions().await;
    let (acme, _acme) = sandbox(&host, ACME).await;
    let (rival, _rival) = sandbox(&host, RIVAL).await;
    for (agent, mark) in [(&acme, ACME), (&rival, RIVAL)] {
        asked.shown("/metrics", &format!("http_route=\"/{mark}\"")).await;
        span(agent, mark);
        asked.shown("/api/v1/spans", mark).await;
        asked.shown("/api/v1/starts", mark).await;
    }
    // The end of a step, for which this test does not wait.
    let running = &asked.exporter.running;
    let step = step_of(unix_ms()) + 1;
    running.history().record(step, &running.fleet().applications());
    running.topology().record(step, running.fleet());
    for listing in ["/api/v1/history", "/api/v1/topology"] {
        asked.shown(listing, RIVAL).await;
    }
    // The totals that tenants' scrapes share can be a moment old.
    for mark in [ACME, RIVAL] {
        asked.shown(&format!("/tenants/{mark}/metrics"), "porthole_app_requests_total").await;
    }
    porthole_access::update(&asked.config.access_file, |grants| grants.revoke("revoked")).expect("revoked");
    wait_for("the revocation", async || asked.ask(WithRevokedToken, "/metrics", "").await.0 == 401).await;

    for route in ROUTES {
        for (target, (to_unknown, to_neighbour, to_tenant, to_operator)) in requests(route.path, route.shows)
        {
            for &caller in asked.headers.keys() {
                let (expected, foreign): (u16, &[&str]) = match caller {
                    Nobody
                    | WithWrongToken
                    | WithExpiredToken
                    | WithRevokedToken
                    | WithPassword
                    | WithTwoTokens
                    | WithUnlistedCertificate => (to_unknown, &[ACME, RIVAL]),
                    Neighbour | NeighboursCertificate | NeighboursSession => (to_neighbour, &[ACME]),
                    Tenant | TenantsCertificate | TenantsSession | TenantWithOperatorsCertificate => {
                        (to_tenant, &[RIVAL])
                    }
                    Operator | OperatorsCertificate => (to_operator, &[]),
                };
                let accepts: &[_] =
                    if target == EVENTS { &[""] } else { &["", "Accept: text/plain\r\n", PROTOBUF] };
                for accept in accepts {
                    let (status, head, body) = asked.ask(caller, &target, accept).await;
                    assert_eq!(status, expected, "{target} for {caller:?}: {body}");
                    let seen = foreign.iter().find(|mark| head.contains(**mark) || body.contains(**mark));
                    assert_eq!(seen, None, "{target} for {caller:?}: {head}{body}");
                    let challenged = head.to_lowercase().contains("www-authenticate: bearer");
                    assert_eq!(matches!(status, 401 | 403), challenged, "{head}");
                }
            }
        }
    }

    // What is shown to a tenant is theirs, and a neighbour's name is refused like one that does not exist.
    let metrics = format!("/tenants/{ACME}/metrics");
    for path in [
        &*metrics,
        "/api/v1/sandboxes",
        "/api/v1/spans",
        "/api/v1/traces",
        "/api/v1/applications",
        "/api/v1/interfaces",
        "/api/v1/connections",
        "/api/v1/resources",
        "/api/v1/starts",
        "/api/v1/tenants",
        "/api/v1/viewer",
        "/api/v1/http_sd",
    ] {
        let (_, _, body) = asked.ask(Tenant, path, "").await;
        assert!(body.contains(ACME), "{path}: {body}");
    }
    let (_, _, sandboxes) = asked.ask(Tenant, "/api/v1/sandboxes", "").await;
    assert!(!sandboxes.contains("unix:"), "how an agent is reached is for operators: {sandboxes}");
    for (prefix, suffix) in [("/tenants/", "/metrics"), ("/api/v1/sandboxes?tenant=", "")] {
        let [of_neighbour, of_nobody] = [RIVAL, "nobody"].map(|name| format!("{prefix}{name}{suffix}"));
        let of_neighbour = still(asked.ask(Tenant, &of_neighbour, "").await);
        assert_eq!(of_neighbour, still(asked.ask(Tenant, &of_nobody, "").await), "{prefix}");
    }
    let (_, _, targets) = asked.ask(Operator, "/api/v1/http_sd?by=tenant", "").await;
    assert!([ACME, RIVAL].iter().all(|mark| targets.contains(&format!("\"/tenants/{mark}/metrics\""))));
    assert!(asked.exporter.fleet().own.requests_denied.get() > 0);
    asked.exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenants_expositions_together_are_what_the_whole_one_has_of_tenants() {
    let host = Host::new();
    let exporter = host.start();
    let mut kept = Vec::new();
    for mark in [ACME, RIVAL] {
        kept.push(sandbox(&host, mark).await);
        exporter.wait_for_requests(&format!("{mark}-service"), 10).await;
    }
    let of_tenants = |text: &str| -> Vec<String> {
        // Gauges of memory can change between two scrapes.
        let samples = text.lines().filter(|line| line.contains("tenant=\"") && !line.contains("_bytes"));
        samples.map(str::to_owned).collect()
    };
    wait_for("the same samples", async || {
        let mut apart = Vec::new();
        for mark in [ACME, RIVAL] {
            let (status, _, body) = exporter.get(&format!("/tenants/{mark}/metrics")).await;
            assert_eq!(status, 200);
            assert!(body.ends_with("# EOF\n"));
            apart.extend(of_tenants(&body));
        }
        let mut whole = of_tenants(&exporter.metrics().await.text);
        apart.sort();
        whole.sort();
        !whole.is_empty() && apart == whole
    })
    .await;
    let (status, _, nobody) = exporter.get("/tenants/nobody/metrics").await;
    assert!(status == 200 && !nobody.contains("tenant=") && nobody.ends_with("# EOF\n"), "{nobody}");
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_scrapes_do_not_take_the_last_values_of_a_sandbox_from_the_operators() {
    let host = Host::new();
    let config = host.config();
    let own = format!("Authorization: Bearer {}\r\n", grant(&config, "own", tenant(ACME), None));
    let exporter = host.start_with(&config);
    let (agent, companion) = sandbox(&host, ACME).await;
    exporter.wait_for_requests(&format!("{ACME}-service"), 10).await;
    agent.stop().await;
    companion.end();
    let ended = || exporter.sandbox("acmemark-1");
    wait_for("the end", async || ended().await.is_some_and(|sandbox| sandbox["state"] == "ended")).await;
    let path = format!("/tenants/{ACME}/metrics");
    for _ in 0..2 * config.ended_scrapes {
        let (status, _, body) = get(exporter.address(), &path, &own).await;
        assert!(status == 200 && body.contains("http_route"), "{body}");
    }
    for _ in 0..config.ended_scrapes {
        assert!(exporter.metrics().await.text.contains("http_route"));
    }
    wait_for("the end of the series", async || !exporter.metrics().await.text.contains("http_route")).await;
    exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_read_again_without_a_restart_and_a_broken_file_changes_nothing() {
    let host = Host::new();
    let config = config::Exporter { loopback_without_token: false, ..host.config() };
    let bearer = |token: String| format!("Authorization: Bearer {token}\r\n");
    let first = bearer(grant(&config, "first", Scope::Operator, None));
    let exporter = host.start_with(&config);
    let status = async |header: &str| get(exporter.address(), "/metrics", header).await.0;
    assert_eq!(status(&first).await, 200);
    let second = bearer(grant(&config, "second", Scope::Operator, None));
    wait_for("the second token", async || status(&second).await == 200).await;
    std::fs::write(&config.access_file, "[[tokens]]").expect("written");
    wait_for("a failure", async || exporter.fleet().own.reloads_failed.get() > 0).await;
    assert_eq!((status(&first).await, status(&second).await), (200, 200));
    // Without the file no client has rights.
    std::fs::remove_file(&config.access_file).expect("removed");
    wait_for("the end of all rights", async || status(&first).await == 401 && status(&second).await == 401)
        .await;
    exporter.stop().await;
}

#[test]
fn a_server_that_others_can_reach_does_not_start_without_tokens_and_says_what_to_do() {
    let host = Host::new();
    let listening = |listen: &str, loopback_without_token| config::Exporter {
        listen: listen.parse().expect("address"),
        loopback_without_token,
        ..host.config()
    };
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9464"] {
        let config = listening(listen, true);
        let error = exporter::prepare(&config).expect_err(listen).to_string();
        for part in [listen, "porthole token create", "127.0.0.1", "access.toml"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let error = Access::load(&listening("127.0.0.1:0", false)).expect_err("nobody could read").to_string();
    assert!(error.contains("porthole token create"), "{error}");
    for listen in ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        Access::load(&listening(listen, true)).expect(listen);
    }
    let config = listening("0.0.0.0:0", true);
    let certificates = config::Exporter { tls_client_ca: Some("/ca.pem".into()), ..config.clone() };
    Access::load(&certificates).expect_err("none is listed");
    porthole_access::update(&config.access_file, |grants| {
        grants.certificates.push(Certificate { name: "prometheus".to_owned(), scope: Scope::Operator });
        Ok(())
    })
    .expect("listed");
    Access::load(&config).expect_err("no client shows a certificate");
    Access::load(&certificates).expect("a certificate is listed");
    grant(&config, "prometheus", Scope::Operator, None);
    Access::load(&config).expect("there is a token");
}
