//! Answers of a server with Prometheus' HTTP API (Prometheus documentation, "HTTP API", "Range queries").
//!
//! What came in a point is the difference of a counter's value at its end and at its beginning, without extrapolation, so that
//! counts are those that exporters counted. A counter that fell began anew and counts from zero; so does one that is new at an exporter
//! that was scraped before. Durations come from classic buckets, whose bounds are powers of two.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use hyper::{Request, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use porthole_histogram::{Histogram, bucket_index};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::Semaphore;

use super::{Range, Scope};
use crate::{
    accumulate::golden::Golden,
    config,
    history::{Points, Recent, STEP, StepNumber},
    http_url::HttpUrl,
    identity::Application,
    outbound::{self, OutboundError},
    protocol::{ErrorClass, Protocol, Side},
};

/// Questions that are sent to the server at one time; each has an answer in memory.
const AT_ONCE: usize = 4;

/// Labels of an application's side of a protocol.
const LINE_LABELS: &str = "tenant, service_name, side, protocol";

/// Bytes of a server's explanation that are shown.
const REASON_BYTES_MAX: usize = 300;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum QueryError {
    /// The exchange with the server failed.
    #[error("the Prometheus server did not answer: {0}")]
    Exchange(#[from] OutboundError),
    /// It took too long.
    #[error("the Prometheus server did not answer in {} seconds", .0.as_secs_f64())]
    Deadline(Duration),
    /// The server refused.
    #[error("the Prometheus server answered {0}: {1}")]
    Status(StatusCode, String),
    /// The answer is something else.
    #[error("the Prometheus server's answer is no result of a range query: {0}")]
    Malformed(String),
    /// The tenant's name cannot be sent in a header.
    #[error("the tenant's name cannot be the value of a header")]
    TenantName,
}

/// What one side of one protocol of an application did.
type Line = (Application, Side, Protocol);

/// A server with Prometheus' HTTP API.
#[derive(Debug)]
pub struct Prometheus {
    url: HttpUrl,
    tenant_header: Option<String>,
    all_tenants: String,
    timeout: Duration,
    answer_bytes_max: usize,
    at_once: Semaphore,
}

/// Its response, as far as it is read.
#[derive(Deserialize)]
struct Response {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

impl Prometheus {
    /// The configured one; none without a URL. The settings were checked.
    pub fn new(settings: &config::Exporter) -> Option<Self> {
        let url = settings.prometheus_url.as_deref().and_then(HttpUrl::parse)?;
        Some(Self {
            url: HttpUrl { target: url.target.trim_end_matches('/').to_owned(), ..url },
            tenant_header: settings.prometheus_tenant_header.clone(),
            all_tenants: settings.prometheus_all_tenants.clone(),
            timeout: config::seconds(settings.prometheus_timeout_seconds),
            answer_bytes_max: settings.prometheus_answer_mib << 20,
            at_once: Semaphore::new(AT_ONCE),
        })
    }

    /// Requests, errors and durations over time; `now` is the running step, whose beginning is the end of the last point or in it.
    pub async fn over_time(
        &self,
        scope: &Scope,
        range: Range,
        now: StepNumber,
    ) -> Result<Recent, QueryError> {
        let end = now.next_multiple_of(range.each.max(1));
        let shape = Shape { scope, range, end };
        let mut lines = BTreeMap::<Line, BTreeMap<StepNumber, Golden>>::new();
        let [buckets, sums, errors, unknown] = [
            ("porthole_app_request_duration_seconds_bucket", ", le"),
            ("porthole_app_request_duration_seconds_sum", ""),
            ("porthole_app_errors_total", ", error_class"),
            ("porthole_app_requests_unknown_total", ""),
        ]
        .map(|(counter, by)| shape.came(counter, by));
        for series in self.range(scope, &shape, &buckets).await? {
            let (Some(line), Some(bound)) = (line_of(&series), series.metric.get("le")) else { continue };
            let Some(index) = bucket_of(bound) else { continue };
            let points = lines.entry(line).or_default();
            for (step, value) in shape.points(&series) {
                points.entry(step).or_default().durations.add(index, count(value), 0);
            }
        }
        // A bucket of Prometheus counts those below it as well.
        for golden in lines.values_mut().flat_map(BTreeMap::values_mut) {
            golden.durations = not_cumulative(&golden.durations);
        }
        for series in self.range(scope, &shape, &sums).await? {
            let Some(points) = line_of(&series).and_then(|line| lines.get_mut(&line)) else {
                continue;
            };
            for (step, value) in shape.points(&series) {
                if let Some(golden) = points.get_mut(&step) {
                    golden.durations.add_sum(count(value * 1e9));
                }
            }
        }
        for series in self.range(scope, &shape, &errors).await? {
            let class = series.metric.get("error_class").map(String::as_str);
            let class = ErrorClass::ALL.into_iter().find(|known| Some(known.name()) == class);
            let (Some(line), Some(class)) = (line_of(&series), class) else { continue };
            let Some(points) = lines.get_mut(&line) else { continue };
            for (step, value) in shape.points(&series) {
                if let Some(golden) = points.get_mut(&step) {
                    golden.errors.add(class, count(value));
                }
            }
        }
        for series in self.range(scope, &shape, &unknown).await? {
            let Some(points) = line_of(&series).and_then(|line| lines.get_mut(&line)) else { continue };
            for (step, value) in shape.points(&series) {
                if let Some(golden) = points.get_mut(&step) {
                    golden.unknown = count(value);
                }
            }
        }
        let lines = lines.into_iter().map(|((application, side, protocol), points)| {
            let counted = points.into_iter().filter(|(_, golden)| golden.durations.count() > 0);
            Points { application, side, protocol, points: counted.collect() }
        });
        Ok(Recent { end, recorded: now, lines: lines.collect() })
    }

    async fn range(&self, scope: &Scope, shape: &Shape<'_>, query: &str) -> Result<Vec<Series>, QueryError> {
        let body = shape.form(query).into_bytes();
        let mut request = Request::post(format!("{}/api/v1/query_range", self.url.target))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(name) = &self.tenant_header {
            let tenant = scope.tenant.as_deref().unwrap_or(&self.all_tenants);
            let tenant =
                header::HeaderValue::from_bytes(tenant.as_bytes()).map_err(|_| QueryError::TenantName)?;
            request = request.header(name, tenant);
        }
        let answer = async {
            let _turn = self.at_once.acquire().await;
            outbound::send(&self.url, request, body, Some(self.answer_bytes_max)).await
        };
        let (status, body) = tokio::time::timeout(self.timeout, answer)
            .await
            .map_err(|_| QueryError::Deadline(self.timeout))??;
        if !status.is_success() {
            let reason = String::from_utf8_lossy(&body[..body.len().min(REASON_BYTES_MAX)]);
            return Err(QueryError::Status(status, reason.replace(char::is_control, " ")));
        }
        let response: Response =
            serde_json::from_slice(&body).map_err(|error| QueryError::Malformed(error.to_string()))?;
        // The expression selects a tenant; series of another one are dropped all the same.
        let mut result = response.data.result;
        result.retain(|series| {
            let label = |name: &str| series.metric.get(name).map_or("", String::as_str);
            scope.admits(label("tenant"), label("service_name"))
        });
        Ok(result)
    }
}

/// A query: whose numbers, when.
struct Shape<'a> {
    scope: &'a Scope,
    range: Range,
    end: StepNumber,
}

impl Shape<'_> {
    fn point_seconds(&self) -> u64 {
        STEP.as_secs().saturating_mul(self.range.each.max(1))
    }

    /// An expression of what came to a counter in each point.
    fn came(&self, counter: &str, by: &str) -> String {
        let mut matchers = Vec::new();
        for (label, value) in [("tenant", &self.scope.tenant), ("service_name", &self.scope.service_name)] {
            matchers.extend(value.as_ref().map(|value| format!("{label}={}", quoted(value))));
        }
        let matchers = matchers.join(",");
        let counter = format!("{counter}{{{matchers}}}");
        let requests = format!("porthole_app_requests_total{{{matchers}}}");
        let before = format!("offset {}s", self.point_seconds());
        // All counters of a line begin anew together; of a bucket's alone it cannot always be seen.
        let anew = format!("on (job, instance, {LINE_LABELS}) {requests} - {requests} {before} < 0");
        format!(
            "sum by ({LINE_LABELS}{by}) ((({counter} - {counter} {before}) unless {anew}) \
             or ({counter} and on (job, instance) up {before}))"
        )
    }

    /// The body of a request.
    fn form(&self, query: &str) -> String {
        let point = self.point_seconds();
        let end = self.end.saturating_mul(STEP.as_secs());
        let points = (self.range.steps / self.range.each.max(1)).max(1);
        let start = end.saturating_sub(point.saturating_mul(points - 1));
        let mut form = String::new();
        for (name, value) in [
            ("query", query),
            ("start", &start.to_string()),
            ("end", &end.to_string()),
            ("step", &point.to_string()),
        ] {
            let separator = if form.is_empty() { "" } else { "&" };
            // Writing to a string cannot fail.
            let _ = write!(form, "{separator}{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        form
    }

    /// Points of a series with something in them, by the first step after each.
    fn points(&self, series: &Series) -> Vec<(StepNumber, f64)> {
        let points = series.values.iter().filter_map(|(time, value)| {
            let value: f64 = value.parse().ok()?;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let step = (time / STEP.as_secs_f64()).round() as StepNumber;
            (value > 0.0 && step <= self.end).then_some((step, value))
        });
        points.collect()
    }
}

/// A label's value as a string of an expression.
fn quoted(value: &str) -> String {
    let mut quoted = String::from("\"");
    for char in value.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '\n' => quoted.push_str("\\n"),
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

fn line_of(series: &Series) -> Option<Line> {
    let label = |name: &str| series.metric.get(name);
    let application =
        Application { tenant: label("tenant")?.clone(), service_name: label("service_name")?.clone() };
    let side = Side::ALL.into_iter().find(|side| Some(side.name()) == label("side").map(String::as_str))?;
    Some((application, side, Protocol::from_name(label("protocol")?)?))
}

/// The bucket of the histogram that reaches to a bound; that of everything longer for the last.
fn bucket_of(bound: &str) -> Option<i32> {
    if bound == "+Inf" {
        return Some(porthole_histogram::INDEX_MAX);
    }
    let seconds: f64 = bound.parse().ok().filter(|seconds| (0.0..1e6).contains(seconds))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(bucket_index((seconds * 1e9).floor() as u64))
}

/// The counts of each bucket alone, from those of each with all below it.
fn not_cumulative(cumulative: &Histogram) -> Histogram {
    let mut alone = Histogram::default();
    let mut below = 0;
    for &(index, count) in cumulative.buckets() {
        alone.add(index, count.saturating_sub(below), 0);
        below = count.max(below);
    }
    alone
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn count(value: f64) -> u64 {
    // Beyond the range it saturates.
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_name_stays_a_quoted_value() {
        let scope = Scope { tenant: Some("a\"} or up{x=\"\\\n".to_owned()), service_name: None };
        let shape = Shape { scope: &scope, range: Range { steps: 4, each: 2 }, end: 100 };
        let query = shape.came("c", ", le");
        let matchers = r#"{tenant="a\"} or up{x=\"\\\n"}"#;
        let pieces: Vec<&str> = query.split(matchers).collect();
        assert_eq!(pieces.len(), 6, "each counter has them: {query}");
        assert!(!pieces.concat().contains("x="), "{query}");
        let form = shape.form("a&b");
        assert_eq!(form, "query=a%26b&start=1470&end=1500&step=30");
    }

    #[test]
    fn buckets_of_prometheus_are_buckets_of_the_histogram() {
        let mut durations = Histogram::default();
        for ns in [20_000, 1_000_000, 900_000_000, 33_000_000_000] {
            durations.record(ns);
        }
        let mut cumulative = Histogram::default();
        let mut below = 0;
        for (bound, count) in crate::buckets::classic(&durations) {
            below += count;
            let bound = if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() };
            cumulative.add(bucket_of(&bound).expect("a bucket"), below, 0);
        }
        let alone = not_cumulative(&cumulative);
        assert_eq!(alone.count(), 4);
        assert_eq!(alone.quantile(0.75), Some(1.0));
        assert_eq!(crate::buckets::classic(&alone), crate::buckets::classic(&durations));
    }
}
