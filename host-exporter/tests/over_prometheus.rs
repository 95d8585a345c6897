//! The past from a real Prometheus and a real `VictoriaMetrics`, held against the exporter's own last hour with the same data; and servers
//! that do not answer as they should.

#![allow(clippy::float_cmp, reason = "bounds of buckets are exact in f64")]

mod prometheus;
mod support;
mod victoria_metrics;

use std::{collections::BTreeMap, fmt::Write as _, process::Command, process::ExitCode};

use porthole_exporter::{
    accumulate::golden::{Golden, GoldenTable},
    buckets::classic,
    clock::unix_ms,
    config,
    exposition::{applications, text::Text},
    history::{History, Recent, STEP, range::Range, step_of},
    identity::Application,
    objectives::Objectives,
    protocol::{ErrorClass, Protocol, Side},
    query::{
        Selection, from_memory,
        prometheus::{Prometheus as Server, nodes::Node},
    },
};
use porthole_histogram::Histogram;
use porthole_trials::{Outcome, needs, trials};
use prometheus::{Prometheus, RULES};
use support::{Host, wait_for};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    runtime::Runtime,
};
use victoria_metrics::VictoriaMetrics;

/// For answers that come: a loaded machine must not make errors of them.
const TIMEOUT_SECONDS: f64 = 120.0;

const ODD: &str = "te\"na\\nt\n{x=\"y\"} 漢字";

fn main() -> ExitCode {
    porthole_trials::run(trials![
        prometheus_and_memory_give_the_same_answer_from_the_same_data,
        victoriametrics_and_memory_give_the_same_answer_from_the_same_data,
        nodes_are_the_exporters_that_prometheus_scrapes,
        a_server_that_does_not_answer_as_it_should_is_an_error_in_time
    ])
}

/// Totals of an application after so many steps.
fn table(steps: u64, seed: u64) -> GoldenTable {
    let mut table = GoldenTable::default();
    for step in 0..steps {
        for (side, protocol, class, count) in [
            (Side::Server, Protocol::Http1, ErrorClass::None, 3 + (step * seed) % 7),
            (Side::Server, Protocol::Http1, ErrorClass::Server, (step * seed) % 3),
            (Side::Client, Protocol::Mysql, ErrorClass::NoResponse, step % 2),
        ] {
            let mut durations = Histogram::default();
            (0..count).for_each(|at| durations.record((step + at + seed) * 700_000));
            table.record(side, protocol, class, &durations);
        }
    }
    table
}

/// The totals of all applications at the end of a step: one is new in the tenth, one began anew in the twentieth.
fn totals(step: u64) -> BTreeMap<Application, GoldenTable> {
    let application = |tenant: &str, service_name: &str| Application {
        tenant: tenant.to_owned(),
        service_name: service_name.to_owned(),
    };
    let mut totals = BTreeMap::from([
        (application(ODD, "shop"), table(step + 5, 1)),
        (application("other", "shop"), table(step + 2, 5)),
    ]);
    if step >= 10 {
        totals.insert(application(ODD, "new"), table(step - 9, 2));
    }
    let again = if step >= 20 { table(step - 19, 3) } else { table(step + 30, 3) };
    totals.insert(application(ODD, "again"), again);
    totals
}

/// The exposition of a step's totals as a scrape at its end had it.
fn samples(totals: &BTreeMap<Application, GoldenTable>, end: u64, into: &mut String) {
    let mut text = Vec::new();
    let mut sink = Text::new(&mut text);
    applications::encode(&mut sink, &totals.iter().collect::<Vec<_>>(), &Objectives::default());
    sink.finish();
    let text = String::from_utf8(text).expect("text");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let line = line.replacen('{', "{job=\"porthole\",instance=\"node-1\",", 1);
        writeln!(into, "{line} {end}").expect("a string takes everything");
    }
    writeln!(into, "up{{job=\"porthole\",instance=\"node-1\"}} 1 {end}").expect("a string takes everything");
}

/// What two answers must have in common: counts of requests by bucket, and of errors. Microseconds of the sums.
fn comparable(answer: &Recent) -> Vec<String> {
    let point = |golden: &Golden| {
        let buckets = classic(&golden.durations).map(|(_, count)| count);
        format!("{buckets:?} {:?} {}", golden.errors, (golden.durations.sum_ns() + 500) / 1_000)
    };
    let lines = answer.lines.iter().filter(|line| !line.points.is_empty());
    let mut lines: Vec<_> = lines
        .map(|line| {
            let points: Vec<_> = line.points.iter().map(|(step, golden)| (step, point(golden))).collect();
            format!("{:?} {:?} {:?} {points:?}", line.application, line.side, line.protocol)
        })
        .collect();
    lines.sort();
    lines
}

/// A Prometheus that has these samples.
fn with_samples(host: &Host, text: &str) -> Result<Prometheus, std::io::Error> {
    let (file, directory) = (host.socket("samples"), host.socket("prometheus"));
    std::fs::write(&file, text)?;
    std::fs::create_dir(&directory)?;
    let made = Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .args([&file, &directory.join("data")])
        .output()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let nobody = "static_configs: [{ targets: ['127.0.0.1:1'] }]";
    Ok(Prometheus::start_job(&directory, nobody, RULES, "", &[]))
}

/// Steps that are recorded: with more than 50 points, `VictoriaMetrics` moves times to those of its cache.
const STEPS: u64 = 70;

/// Steps that are over, in memory and as samples.
struct Hour {
    history: History,
    newest: u64,
    totals: Vec<BTreeMap<Application, GoldenTable>>,
}

impl Hour {
    fn record() -> Self {
        let history = History::new(64 << 20);
        // The newest step is one that is over, and odd, so that points of two steps are whole.
        let newest = (step_of(unix_ms()) - 1) / 2 * 2 - 1;
        let totals: Vec<_> = (0..STEPS).map(totals).collect();
        for (step, totals) in (newest + 1 - STEPS..).zip(&totals) {
            history.record(step, totals);
        }
        Self { history, newest, totals }
    }

    /// What scrapes at the ends of the steps had; a time has this many units in a second.
    fn samples(&self, units: u64) -> String {
        let mut text = String::new();
        for (step, totals) in (self.newest + 1 - STEPS..).zip(&self.totals) {
            samples(totals, (step + 1) * STEP.as_secs() * units, &mut text);
        }
        text
    }

    /// Sends the fixed set of queries to a server, and compares its answers with those from memory.
    async fn compare_with(&self, url: String) {
        let newest = self.newest;
        let settings = config::Exporter {
            prometheus_url: Some(url),
            prometheus_tenant_header: Some("X-Scope-OrgID".to_owned()),
            prometheus_timeout_seconds: TIMEOUT_SECONDS,
            ..config::Exporter::default()
        };
        let server = Server::new(&settings).expect("it has a URL");
        let all = Selection::default();
        let ask = async |selection: &Selection, range| {
            server.over_time(selection, range, newest + 1, |recent| recent).await
        };
        wait_for("the server", async || ask(&all, Range { steps: 4, each: 1, until: None }).await.is_ok())
            .await;

        for selection in [
            all,
            Selection { tenant: Some("other".to_owned()), service_name: None },
            Selection { tenant: Some("other".to_owned()), service_name: Some("none".to_owned()) },
        ] {
            let all = Range { steps: 64, each: 1, until: None };
            let earlier = Range { steps: 32, each: 2, until: Some(newest - 9) };
            for range in [all, Range { each: 2, ..all }, Range { each: 32, ..all }, earlier] {
                let memory = from_memory(&self.history, &selection, range);
                let over_http = ask(&selection, range).await.expect("an answer");
                assert_eq!((over_http.end, over_http.recorded), (memory.end, memory.recorded));
                let (mut memory, mut over_http) = (comparable(&memory), comparable(&over_http));
                if range.each > 2 {
                    // A server has only the counter's value after it began anew within a point.
                    for lines in [&mut memory, &mut over_http] {
                        lines.retain(|line| !line.contains("again"));
                    }
                }
                assert_eq!(memory.is_empty(), selection.service_name.is_some());
                assert_eq!(over_http, memory, "{selection:?} {range:?}");
            }
        }
        // A name that cannot be a header's value is sent without one.
        let plain = config::Exporter { prometheus_tenant_header: None, ..settings };
        let server = Server::new(&plain).expect("it has a URL");
        let odd = Selection { tenant: Some(ODD.to_owned()), service_name: None };
        let range = Range { steps: 60, each: 1, until: None };
        let answer = server.over_time(&odd, range, newest + 1, |recent| recent).await.expect("an answer");
        assert_eq!(comparable(&answer), comparable(&from_memory(&self.history, &odd, range)));
        assert!(!answer.lines.is_empty());
    }
}

fn prometheus_and_memory_give_the_same_answer_from_the_same_data() -> Outcome {
    needs::program("prometheus")?;
    needs::program("promtool")?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let hour = Hour::record();
        let prometheus = with_samples(&host, &(hour.samples(1) + "# EOF\n"))?;
        hour.compare_with(format!("http://{}/", prometheus.address())).await;
        Ok(())
    })
}

fn victoriametrics_and_memory_give_the_same_answer_from_the_same_data() -> Outcome {
    victoria_metrics::is_there()?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let hour = Hour::record();
        let server = VictoriaMetrics::start(&host.socket("victoria-metrics")).await;
        server.import(&hour.samples(1_000)).await;
        hour.compare_with(server.url()).await;
        Ok(())
    })
}

fn nodes_are_the_exporters_that_prometheus_scrapes() -> Outcome {
    needs::program("prometheus")?;
    needs::program("promtool")?;
    Runtime::new()?.block_on(async {
        let host = Host::new();
        let end = unix_ms() / 1_000 - 60;
        let mut text = String::new();
        for (at, instance, up) in
            [(end - 60, "a:1", 1), (end, "a:1", 1), (end - 1_200, "b:1", 1), (end, "b:1", 0)]
        {
            let mut sample = |name: &str, labels: &str, value: &str| {
                writeln!(text, "{name}{{job=\"porthole\",instance=\"{instance}\"{labels}}} {value} {at}")
                    .expect("a string takes everything");
            };
            sample("up", "", &up.to_string());
            if up == 1 {
                sample("porthole_build_info", ",version=\"1.2.3\"", "1");
                sample("porthole_exporter_resident_bytes", "", "5000");
                sample("porthole_sandboxes", ",state=\"watching\",reason=\"\"", "3");
                sample("porthole_sandboxes", ",state=\"failed\",reason=\"x\"", "1");
                sample("porthole_sandboxes", ",state=\"failed\",reason=\"y\"", "1");
                sample("porthole_capture_completeness_ratio", ",tenant=\"acme\"", "0.75");
                sample("porthole_capture_completeness_ratio", ",tenant=\"rival\"", "1");
                sample(
                    "porthole_tenant_ingest_cpu_seconds_total",
                    ",tenant=\"acme\"",
                    &at.saturating_sub(end - 60).to_string(),
                );
            }
        }
        // Another server that is up is no node, nor is a tenant's scrape.
        writeln!(text, "up{{job=\"other\",instance=\"c:1\"}} 1 {end}").expect("a string takes everything");
        writeln!(
            text,
            "porthole_sandboxes{{job=\"acme\",instance=\"a:1\",state=\"watching\"}} 3 {end}\n# EOF"
        )
        .expect("a string takes everything");
        let prometheus = with_samples(&host, &text)?;
        let settings = config::Exporter {
            prometheus_url: Some(format!("http://{}/", prometheus.address())),
            prometheus_timeout_seconds: TIMEOUT_SECONDS,
            ..config::Exporter::default()
        };
        let server = Server::new(&settings).expect("it has a URL");
        wait_for("Prometheus", async || server.nodes(end).await.is_ok()).await;
        let nodes = server.nodes(end).await.expect("an answer").nodes;
        let [a, b] = &*nodes else { panic!("{nodes:?}") };
        assert_eq!(
            (&*a.instance, &*a.job, a.up, a.version.as_deref()),
            ("a:1", "porthole", true, Some("1.2.3"))
        );
        assert_eq!(a.sandboxes, BTreeMap::from([("failed".into(), 2), ("watching".into(), 3)]));
        assert_eq!((a.resident_bytes, a.completeness_ratio_min), (Some(5_000), Some(0.75)));
        assert!(a.ingest_cpu_cores.is_some_and(|cores| cores > 0.0 && cores < 2.0), "{a:?}");
        assert_eq!(*b, Node { instance: "b:1".into(), job: "porthole".into(), ..Node::default() });
        Ok(())
    })
}

fn a_server_that_does_not_answer_as_it_should_is_an_error_in_time() -> Outcome {
    Runtime::new()?.block_on(async {
        let selection = Selection { tenant: Some("acme".to_owned()), service_name: None };
        let ask = async |answer: Option<Vec<u8>>| {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let settings = config::Exporter {
                prometheus_url: Some(format!("http://{}", listener.local_addr().expect("address"))),
                prometheus_timeout_seconds: if answer.is_some() { TIMEOUT_SECONDS } else { 0.2 },
                prometheus_answer_mib: 1,
                prometheus_tenant_header: Some("X-Scope-OrgID".to_owned()),
                ..config::Exporter::default()
            };
            let server = Server::new(&settings).expect("it has a URL");
            let serve = async {
                // All expressions are requested before the first one is answered.
                let mut streams = Vec::new();
                for _ in 0..4 {
                    let (mut stream, _) = listener.accept().await.expect("accepted");
                    let mut head = Vec::new();
                    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                        assert_ne!(stream.read_buf(&mut head).await.expect("a request"), 0);
                    }
                    let head = String::from_utf8_lossy(&head).to_lowercase();
                    assert!(head.contains("x-scope-orgid: acme\r\n"), "{head}");
                    streams.push(stream);
                }
                if let Some(answer) = answer {
                    // A client that has read enough is gone before the end.
                    let _ = streams[0].write_all(&answer).await;
                    let _ = streams[0].shutdown().await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = serve => unreachable!("it stays"),
                asked = server.over_time(&selection, Range { steps: 4, each: 1, until: None }, 100, |recent| recent) => {
                    let error = asked.expect_err("no answer");
                    format!("{} {error}", error.status().as_u16())
                }
            }
        };
        let late = ask(None).await;
        assert!(late.starts_with("504 ") && late.contains("did not answer in 0.2 seconds"), "{late}");
        let with = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        };
        for (theirs, status) in [(422, 507), (503, 504), (504, 504), (500, 502)] {
            let refused =
                ask(Some(with(&format!("{theirs} Refused"), "{\"error\":\"too\nmany\"}"))).await;
            assert!(refused.starts_with(&format!("{status} ")), "{refused}");
            assert!(refused.contains(&theirs.to_string()) && refused.contains("too many"), "{refused}");
        }
        assert!(ask(Some(with("200 OK", "{}"))).await.contains("no result"));
        let broken = ask(Some(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec())).await;
        assert!(broken.starts_with("502 ") && broken.contains("the request failed"), "{broken}");
        let large = ask(Some(with("200 OK", &" ".repeat(3 << 20)))).await;
        assert!(large.starts_with("507 ") && large.contains("longer than 1048576 bytes"), "{large}");
        Ok(())
    })
}
