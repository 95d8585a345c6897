//! What a Prometheus that scrapes during an attack sees: whether each honest count is right, how old it is, and whether
//! anything of one tenant got among another's.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    exporter::Exporter,
    exposition::{self, Sample},
    http,
};
use serde_json::Value;

use crate::{
    honest::{self, Counts, Honest, ROUTES},
    sandbox::{HONEST, HOSTILE},
    scraper::{Scraped, Scraper},
};

/// The count of an honest application's requests by route.
const BY_ROUTE: &str = "http_server_request_duration_seconds_count";

/// The total of an application.
const TOTAL: &str = "porthole_app_requests_total";

/// The resource that honest agents report, and the connections.
const BESIDE: [&str; 2] = ["container_memory_oom_kills_total", "tcp_client_connections_failed_total"];

/// Most findings that are kept: one fault shows in every scrape.
const FINDINGS_MAX: usize = 6;

/// Longest list of sandboxes, and longest log, for so few sandboxes.
const TEXT_MAX: usize = 4 << 20;

/// What was seen.
#[derive(Debug)]
pub struct Scrapes<'a> {
    exporter: &'a Exporter,
    scraper: Scraper,
    honest: &'a Honest,
    /// Whether a count of a hostile tenant is a fault.
    nothing_hostile: bool,
    seen: Vec<Counts>,
    /// How long each scrape took.
    pub latencies: Vec<Duration>,
    /// Longest time that something was reported and not shown.
    pub staleness: Duration,
    /// Largest exposition, bytes.
    pub bytes_max: usize,
    /// How many scrapes failed.
    pub failed: usize,
    /// The first time that one failed after another.
    pub failed_twice: Option<String>,
    failing: bool,
    /// What must not be.
    pub findings: Vec<String>,
}

impl<'a> Scrapes<'a> {
    /// Nothing yet.
    pub fn new(exporter: &'a Exporter, honest: &'a Honest, nothing_hostile: bool) -> Self {
        Self {
            exporter,
            scraper: Scraper::new(exporter.address),
            honest,
            nothing_hostile,
            seen: vec![Counts::default(); honest.len()],
            latencies: Vec::new(),
            staleness: Duration::ZERO,
            bytes_max: 0,
            failed: 0,
            failed_twice: None,
            failing: false,
            findings: Vec::new(),
        }
    }

    /// Notes a fault.
    pub fn found(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX && !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// One scrape; whether it shows all that was reported.
    pub fn scrape(&mut self) -> bool {
        let began = Instant::now();
        let Scraped { text, took } = match self.scraper.scrape() {
            Ok(scraped) => scraped,
            Err(error) => {
                // A single one is repeated by Prometheus, and what it would have shown is shown by the next.
                self.failed += 1;
                if std::mem::replace(&mut self.failing, true) {
                    self.failed_twice.get_or_insert(format!("two scrapes in a row failed: {error:#}"));
                }
                return false;
            }
        };
        self.failing = false;
        self.latencies.push(took);
        self.bytes_max = self.bytes_max.max(text.len());
        match self.samples(&text) {
            Ok(samples) => self.compare(&samples, began),
            Err(error) => {
                self.found(format!("{error:#}"));
                false
            }
        }
    }

    /// The samples in which an honest tenant's name is.
    fn samples(&self, text: &str) -> Result<Vec<Sample>> {
        ensure!(text.ends_with("# EOF\n"), "an exposition without its end");
        let mut ours = String::new();
        for line in text.lines() {
            if line.contains(HONEST) {
                ours.push_str(line);
                ours.push('\n');
                continue;
            }
            let Some((_, tenant)) = line.split_once("tenant=\"") else { continue };
            ensure!(tenant.starts_with(HOSTILE), "a tenant that does not exist: {line}");
            let counted = self.nothing_hostile && line.starts_with(BY_ROUTE);
            ensure!(!counted, "something of an agent that must not be counted: {line}");
        }
        exposition::parse(&ours)
    }

    fn compare(&mut self, samples: &[Sample], began: Instant) -> bool {
        let tenants: BTreeSet<String> = (0..self.honest.len()).map(honest::name).collect();
        for sample in samples {
            let label = |name: &str| sample.labels.get(name).map_or("", String::as_str);
            let tenant = label("tenant");
            if !tenants.contains(tenant) {
                let theirs = tenant.starts_with(HOSTILE) && !tenants.contains(label("service_name"));
                if !theirs
                    || tenants.contains(label("k8s_container_name"))
                    || tenants.contains(label("sandbox_id"))
                {
                    self.found(format!("another's name: {sample:?}"));
                }
                continue;
            }
            let foreign = |name| !["", tenant].contains(&label(name));
            if ["service_name", "k8s_container_name", "sandbox_id", "container_id"].into_iter().any(foreign) {
                self.found(format!("something of another tenant: {sample:?}"));
            }
        }
        let mut complete = true;
        for number in 0..self.honest.len() {
            complete &= self.compare_one(number, samples, began);
        }
        complete
    }

    fn compare_one(&mut self, number: usize, samples: &[Sample], began: Instant) -> bool {
        let name = honest::name(number);
        let labels = [("tenant", name.as_str())];
        let mut shown = Counts::default();
        let by_route: Vec<_> =
            samples.iter().filter(|sample| sample.name == BY_ROUTE && sample.has(&labels)).collect();
        let known: Vec<String> = (0..ROUTES).map(honest::route).collect();
        for sample in &by_route {
            let route = sample.labels.get("http_route").cloned().unwrap_or_default();
            match known.iter().position(|known| *known == route) {
                // Whole numbers far below 2^53.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                Some(at) => shown[at] += sample.value as u64,
                None => self.found(format!("{name} has a series that it did not report: {sample:?}")),
            }
        }
        if by_route.len() > ROUTES {
            self.found(format!("{name} has {} series", by_route.len()));
        }
        let reported = self.honest.counts(number);
        let before = std::mem::replace(&mut self.seen[number], shown);
        for at in 0..ROUTES {
            if shown[at] > reported[at] || shown[at] < before[at] {
                let (before, reported) = (before[at], reported[at]);
                self.found(format!("{name}: {before} shown, then {}, {reported} reported", shown[at]));
            }
        }
        if let Some(at) = self.honest.first_beyond(number, &shown) {
            self.staleness = self.staleness.max(began.saturating_duration_since(at));
        }
        let total = exposition::sum(samples, TOTAL, &labels).unwrap_or_default();
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let all = reported.iter().sum::<u64>() as f64;
        if total > all {
            self.found(format!("{name}: a total of {total}, {all} reported"));
        }
        let beside = BESIDE.map(|family| exposition::sum(samples, family, &labels).unwrap_or_default());
        if beside.iter().any(|shown| *shown > all) {
            self.found(format!("{name}: {beside:?} beside requests, {all} reported"));
        }
        shown == reported && [total, beside[0], beside[1]].iter().all(|shown| (shown - all).abs() < 0.5)
    }

    /// What the listings and the log hold of the attack.
    pub fn look_around(&mut self) {
        for path in ["/api/v1/sandboxes", "/api/v1/applications", "/api/v1/spans?limit=10000"] {
            if let Err(error) = self.listing(path) {
                self.found(format!("{path}: {error:#}"));
            }
        }
        let log = self.exporter.log_text();
        if log.len() > TEXT_MAX {
            self.found(format!("a log of {} bytes", log.len()));
        }
        if let Some(c) = log.chars().find(|&c| c.is_control() && c != '\n' && c != '\t') {
            self.found(format!("the log has the character {c:?}"));
        }
    }

    fn listing(&mut self, path: &str) -> Result<()> {
        let ask = || http::get(self.exporter.address, path);
        // Where clients are too many, a response may be cut off, and is requested again.
        let answer = ask().or_else(|_| ask()).or_else(|_| ask())?;
        ensure!(answer.status == 200, "answered {}: {}", answer.status, answer.text());
        // The other listings grow with what was counted, which the budgets bound.
        ensure!(!path.contains("sandboxes") || answer.body.len() < TEXT_MAX, "{} bytes", answer.body.len());
        let listing: Value = serde_json::from_slice(&answer.body).context("JSON")?;
        if let Some(text) = control_text(&listing) {
            self.found(format!("{path} has {text:?}"));
        }
        let rows = listing.as_object().and_then(|object| object.values().find_map(Value::as_array));
        for row in rows.into_iter().flatten() {
            if !row["tenant"].as_str().is_some_and(|tenant| tenant.starts_with(HONEST)) {
                continue;
            }
            if path.contains("spans") {
                self.found(format!("a span of an agent that sent none: {row}"));
            }
            if row["service_name"] != row["tenant"] {
                self.found(format!("{path}: another tenant's: {row}"));
            }
            let refused = row["rejected"].as_object().is_some_and(|refused| !refused.is_empty());
            let connected = row["connection"]["state"].as_str().is_none_or(|state| state == "connected");
            if refused || !connected {
                self.found(format!("{path}: an honest agent was refused: {row}"));
            }
        }
        Ok(())
    }
}

/// A text with a control character anywhere within.
fn control_text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => text.contains(char::is_control).then_some(text),
        Value::Array(values) => values.iter().find_map(control_text),
        Value::Object(values) => values.values().find_map(control_text),
        _ => None,
    }
}
