//! The exporter is killed at random points under load: the totals of applications never go back in any scrape, and are
//! exact at the end.

#![allow(clippy::float_cmp, reason = "counts are exact in f64")]

mod program;
mod support;

use std::{collections::BTreeMap, time::Duration};

use porthole_agent_api::agent::Batch;
use program::{Program, scrape};
use support::{
    Companion, Host,
    agent::{TestAgent, http},
    exposition::{Exposition, Labels},
    leave, record, wait_for,
};
use tokio::time::Instant;

const KILLS: u64 = 200;

/// Longest life of an exporter, milliseconds.
const LIFE_MAX: u64 = 150;

/// One in so many exporters is not killed before a scrape of it was taken, however slow the machine is.
const SCRAPED_KILLS: u64 = 3;

/// Applications, each with one sandbox at a time.
const APPLICATIONS: [&str; 3] = ["shop", "blog", "cart"];

/// Sandboxes of an application end after so many kills.
const SANDBOX_KILLS: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn totals_never_go_back_and_are_exact_at_the_end() {
    let host = Host::new();
    let program = Program::new(&host, "reconnect_first_seconds = 0.01\n");
    let mut random = fastrand::Rng::with_seed(7);
    let mut sandboxes = Vec::new();
    for service in APPLICATIONS {
        sandboxes.push(Sandbox::start(&host, service, 0).await);
    }
    let mut ended = BTreeMap::<&str, u64>::new();
    let mut totals = Totals::default();
    for kill in 0..KILLS {
        let exporter = program.start();
        if kill % SCRAPED_KILLS == 0 {
            wait_for("a scrape", async || {
                let exposition = scrape(program.address).await;
                exposition.is_some_and(|exposition| totals.take(&exposition))
            })
            .await;
        }
        let until = Instant::now() + Duration::from_millis(random.u64(0..LIFE_MAX));
        let killed = async {
            tokio::time::sleep_until(until).await;
            drop(exporter);
        };
        let scraped = async {
            while Instant::now() < until {
                for sandbox in &mut sandboxes {
                    sandbox.serve(1 + random.u64(0..5));
                }
                match scrape(program.address).await {
                    Some(exposition) => {
                        totals.take(&exposition);
                    }
                    None => tokio::task::yield_now().await,
                }
            }
        };
        tokio::join!(killed, scraped);
        // Now and then a sandbox ends, after its last requests were scraped or with its agent's last state, and another one
        // takes its place.
        if kill % (2 * SANDBOX_KILLS) == SANDBOX_KILLS - 1 {
            let mut sandbox = sandboxes.remove(random.usize(0..sandboxes.len()));
            // Of these only the last state knows.
            sandbox.requests += 3;
            *ended.entry(sandbox.service).or_default() += sandbox.requests;
            let service = sandbox.service;
            sandbox.end_with_last_state(&host).await;
            sandboxes.push(Sandbox::start(&host, service, kill).await);
        } else if kill % (2 * SANDBOX_KILLS) == 2 * SANDBOX_KILLS - 1 {
            let at = random.usize(0..sandboxes.len());
            let sandbox = sandboxes.remove(at);
            let all = ended.entry(sandbox.service).or_default();
            *all += sandbox.requests;
            let exporter = program.start();
            wait_for("the last requests of a sandbox", async || {
                let Some(exposition) = scrape(program.address).await else { return false };
                totals.take(&exposition);
                exposition.sum(REQUESTS, &[("service_name", sandbox.service)]) == count(*all)
            })
            .await;
            drop(exporter);
            let service = sandbox.service;
            sandbox.end().await;
            sandboxes.push(Sandbox::start(&host, service, kill).await);
        }
    }
    let _exporter = program.start();
    for sandbox in &sandboxes {
        let sent = ended.get(sandbox.service).copied().unwrap_or_default() + sandbox.requests;
        wait_for(&format!("{sent} requests of {}", sandbox.service), async || {
            let Some(exposition) = scrape(program.address).await else { return false };
            totals.take(&exposition);
            let counted = exposition.sum(REQUESTS, &[("service_name", sandbox.service)]);
            assert!(counted <= count(sent), "{counted} of {sent} requests of {}", sandbox.service);
            counted == count(sent)
        })
        .await;
    }
    assert!(totals.scrapes > KILLS / SCRAPED_KILLS, "{} scrapes", totals.scrapes);
}

const REQUESTS: &str = "porthole_app_requests_total";

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(requests: u64) -> f64 {
    requests as f64
}

/// A sandbox with an agent, and what it has served.
struct Sandbox {
    service: &'static str,
    id: String,
    agent: TestAgent,
    companion: Companion,
    requests: u64,
}

impl Sandbox {
    async fn start(host: &Host, service: &'static str, number: u64) -> Self {
        let id = format!("{service}-{number}");
        let socket = host.socket(&id);
        let agent = TestAgent::start(&socket, 1 + number).await;
        let companion = host.companion(&record(&id, "acme", service, &socket));
        Self { service, id, agent, companion, requests: 0 }
    }

    fn serve(&mut self, requests: u64) {
        self.requests += requests;
        self.agent.tell(vec![http(1, &self.id, "/", "200", self.requests, 1)]);
    }

    async fn end_with_last_state(self, host: &Host) {
        let series = vec![http(1, &self.id, "/", "200", self.requests, 1)];
        let batch = Batch { epoch: self.agent.epoch(), sequence: 1, series, ..Batch::default() };
        leave(host, &self.companion.record, &[batch]);
        self.end().await;
    }

    async fn end(self) {
        self.companion.end();
        self.agent.stop().await;
    }
}

/// The largest value of each application's total so far.
#[derive(Default)]
struct Totals {
    largest: BTreeMap<Labels, f64>,
    scrapes: u64,
}

impl Totals {
    /// Compares a scrape with all before it; true.
    fn take(&mut self, exposition: &Exposition) -> bool {
        self.scrapes += 1;
        let scraped = exposition.select(REQUESTS, &[]);
        let scraped: BTreeMap<_, _> =
            scraped.into_iter().map(|(labels, value)| (labels.clone(), value)).collect();
        for (labels, largest) in &self.largest {
            let value = scraped.get(labels);
            assert!(value.is_some_and(|value| value >= largest), "{labels:?}: {largest}, then {value:?}");
        }
        self.largest.extend(scraped);
        true
    }
}
