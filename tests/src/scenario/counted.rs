//! What Prometheus has counted, beside what was sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

use anyhow::Result;

use super::{Key, Sent, Side};
use crate::{
    prometheus::{Element, Prometheus},
    wait,
};

/// How far back the queries look: a sandbox that ended is no longer exposed, but Prometheus has it.
pub(super) const WINDOW: &str = "30m";

/// One line of the comparison.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that were counted; none when there is no such series.
    pub counted: Option<u64>,
    /// Median duration, seconds.
    pub p50: Option<f64>,
    /// 99th percentile, seconds.
    pub p99: Option<f64>,
}

/// All lines: what was sent or counted of the applications to which something was sent.
#[derive(Clone, Debug, Default)]
pub struct Comparison(pub BTreeMap<Key, Line>);

impl Comparison {
    /// Queries Prometheus once.
    pub fn take(prometheus: &Prometheus, sent: &Sent) -> Result<Self> {
        let mut lines: BTreeMap<Key, Line> = BTreeMap::new();
        for (key, count) in sent {
            lines.entry(key.clone()).or_default().sent = *count;
        }
        for side in [Side::Server, Side::Client] {
            let name = format!("http_{}_request_duration_seconds", side.as_str());
            for element in prometheus.query(&format!("max_over_time({name}_count[{WINDOW}])"))? {
                let line = lines.entry(key_of(&element, side)).or_default();
                line.counted = Some(line.counted.unwrap_or(0) + whole(element.value));
            }
            for (quantile, place) in [(0.5, 0), (0.99, 1)] {
                let by = "le, tenant, service_name, sandbox_id, http_request_method, http_route, http_response_status_code";
                let expression = format!(
                    "histogram_quantile({quantile}, sum by ({by}) (max_over_time({name}_bucket[{WINDOW}])))"
                );
                for element in prometheus.query(&expression)? {
                    let line = lines.entry(key_of(&element, side)).or_default();
                    *(if place == 0 { &mut line.p50 } else { &mut line.p99 }) = Some(element.value);
                }
            }
        }
        let application = |key: &Key| (key.tenant.clone(), key.service.clone());
        let applications: BTreeSet<_> = sent.keys().map(application).collect();
        lines.retain(|key, _| applications.contains(&application(key)));
        Ok(Self(lines))
    }

    /// Waits until every count equals what was sent, and then looks once more after further scrapes, so that what is
    /// counted twice is seen too. Without agreement by the deadline it returns the last comparison.
    pub fn settle(prometheus: &Prometheus, sent: &Sent) -> Result<Self> {
        let mut last = Self::default();
        let arrived = wait::until("every count arrives", wait::SOON, || {
            last = Self::take(prometheus, sent)?;
            Ok(last.differences().is_empty().then_some(()))
        });
        crate::interrupt::check()?;
        if arrived.is_ok() {
            prometheus.next_scrape()?;
            last = Self::take(prometheus, sent)?;
        }
        Ok(last)
    }

    /// Lines whose count is not what was sent.
    pub fn differences(&self) -> Vec<(&Key, &Line)> {
        self.0.iter().filter(|(_, line)| line.counted.unwrap_or(0) != line.sent).collect()
    }

    /// Requests and errors of each application's server side: `(tenant, service, requests, errors)`.
    pub fn totals(&self) -> Vec<(&str, &str, u64, u64)> {
        let applications: BTreeSet<_> =
            self.0.keys().map(|key| (key.tenant.as_str(), key.service.as_str())).collect();
        let total = |tenant: &str, service: &str, errors_only: bool| {
            let lines = self.0.iter().filter(|(key, _)| {
                key.tenant == tenant
                    && key.service == service
                    && key.side == Side::Server
                    && (!errors_only || key.status.starts_with(['4', '5']))
            });
            lines.filter_map(|(_, line)| line.counted).sum()
        };
        applications.into_iter().map(|(t, s)| (t, s, total(t, s, false), total(t, s, true))).collect()
    }
}

fn key_of(element: &Element, side: Side) -> Key {
    let label = |name: &str| element.label(name).to_owned();
    Key {
        tenant: label("tenant"),
        service: label("service_name"),
        instance: label("sandbox_id"),
        side,
        method: label("http_request_method"),
        route: label("http_route"),
        status: label("http_response_status_code"),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count: whole and not negative"
)]
pub(super) fn whole(value: f64) -> u64 {
    value.round() as u64
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings = ["tenant", "application", "instance", "side", "method", "route", "status"];
        let mut rows =
            vec![(headings.map(str::to_owned), ["sent", "counted", "p50", "p99"].map(str::to_owned), "")];
        for (key, line) in &self.0 {
            let names = [
                &key.tenant,
                &key.service,
                &key.instance,
                key.side.as_str(),
                &key.method,
                &key.route,
                &key.status,
            ];
            let numbers = [
                line.sent.to_string(),
                line.counted.map_or("-".into(), |count| count.to_string()),
                milliseconds(line.p50),
                milliseconds(line.p99),
            ];
            let mark = if line.counted.unwrap_or(0) == line.sent { "" } else { "  <- differs" };
            rows.push((names.map(str::to_owned), numbers, mark));
        }
        let width = |cell: &dyn Fn(usize) -> usize| (0..rows.len()).map(cell).max().unwrap_or(0);
        let names: [usize; 7] = std::array::from_fn(|at| width(&|row| rows[row].0[at].chars().count()));
        let numbers: [usize; 4] = std::array::from_fn(|at| width(&|row| rows[row].1[at].chars().count()));
        for (cells, values, mark) in &rows {
            let mut text = String::new();
            for (cell, width) in cells.iter().zip(names) {
                write!(text, "{cell:width$}  ")?;
            }
            for (value, width) in values.iter().zip(numbers) {
                write!(text, "{value:>width$}  ")?;
            }
            writeln!(f, "{}{mark}", text.trim_end())?;
        }
        Ok(())
    }
}

fn milliseconds(seconds: Option<f64>) -> String {
    match seconds {
        Some(seconds) if seconds.is_finite() => format!("{:.1} ms", seconds * 1000.0),
        _ => "-".to_owned(),
    }
}
