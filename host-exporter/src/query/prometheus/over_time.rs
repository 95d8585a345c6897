//! What applications did over time, by range queries of a Prometheus server.
//!
//! What came in a point is the difference of a counter's value at its end and at its beginning, without extrapolation, so that
//! counts are those that exporters counted. A counter that fell began anew and counts from zero; so does one that is new at an exporter
//! that was scraped before. Durations come from classic buckets, whose bounds are powers of two.

use std::{collections::BTreeMap, sync::Arc};

use porthole_histogram::{Histogram, bucket_index};
use serde::Deserialize;

use super::{Element, Prometheus, QueryError, Sample, Turn};
use crate::{
    accumulate::{cost, golden::Golden},
    history::{Points, Recent, STEP, StepNumber, range::Range},
    identity::Application,
    outbound::Allowance,
    protocol::{ErrorClass, Protocol, Side},
    query::Selection,
};

/// Labels of an application's side of a protocol.
const LINE_LABELS: &str = "tenant, service_name, side, protocol";

/// What one side of one protocol of an application did.
type Line = (Application, Side, Protocol);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Labels {
    tenant: Box<str>,
    service_name: Box<str>,
    side: Box<str>,
    protocol: Box<str>,
    le: Box<str>,
    error_class: Box<str>,
}

type Series = Element<Labels>;

impl Prometheus {
    /// Makes something of requests, errors and durations over time; `now` is the running step, whose beginning is the end of the last point
    /// or in it.
    pub async fn over_time<T: Send + 'static>(
        &self,
        selection: &Selection,
        range: Range,
        now: StepNumber,
        make: impl FnOnce(Recent) -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        let (end, recorded) = range.end(now);
        let shape = Shape { selection, range, end };
        let [buckets, sums, errors, unknown] = [
            ("porthole_app_request_duration_seconds_bucket", ", le"),
            ("porthole_app_request_duration_seconds_sum", ""),
            ("porthole_app_errors_total", ", error_class"),
            ("porthole_app_requests_unknown_total", ""),
        ]
        .map(|(counter, by)| shape.increase(counter, by));
        let put = async |turn: &Arc<Turn>| {
            let ask = async |query| self.range(turn, &shape, query).await;
            let (buckets, sums, errors, unknown) =
                tokio::try_join!(ask(&buckets), ask(&sums), ask(&errors), ask(&unknown))?;
            let turn = Arc::clone(turn);
            let result = tokio::task::spawn_blocking(move || {
                let decoded = turn.decoded.taken();
                let lines = lines([buckets, sums, errors, unknown], range, end, &turn.decoded)?;
                turn.decoded.give_back(decoded);
                Ok(make(Recent { end, recorded, lines }))
            });
            result.await.unwrap_or_else(|error| Err(QueryError::Malformed(error.to_string())))
        };
        self.question(selection.tenant.as_deref(), put).await
    }

    async fn range(
        &self,
        turn: &Arc<Turn>,
        shape: &Shape<'_>,
        query: &str,
    ) -> Result<Vec<Series>, QueryError> {
        let [start, end, step] = shape.times().map(|seconds| seconds.to_string());
        let parameters = [("query", query), ("start", &start), ("end", &end), ("step", &step)];
        let mut result = self.evaluate::<Labels>(turn, shape.selection, "query_range", &parameters).await?;
        // The expression selects a tenant; series of another one are dropped all the same.
        result.retain(|series| shape.selection.admits(&series.metric.tenant, &series.metric.service_name));
        Ok(result)
    }
}

/// Bytes of a line in the map, and at most in what is made of it; its texts come to it.
const LINE_BYTES: usize = cost::map_entry::<Line, BTreeMap<StepNumber, Golden>>() + 512;

/// Bytes of a point in the map, in a vector that grows to twice as many, and at most in what is made of it, which is compressed.
const POINT_BYTES: usize =
    cost::map_entry::<StepNumber, Golden>() + 2 * size_of::<(StepNumber, Golden)>() + 200;

/// Bytes of a bucket in a vector that grows to twice as many, and in what is made of it.
const BUCKET_BYTES: usize = 3 * size_of::<(i32, u64)>();

/// What each line did in each point, until a step: of series of buckets, sums, errors, and requests whose outcome is not known.
fn lines(
    [buckets, sums, errors, unknown]: [Vec<Series>; 4],
    range: Range,
    end: StepNumber,
    allowance: &Allowance,
) -> Result<Vec<Points>, QueryError> {
    let charge = |bytes: usize| allowance.take(bytes).then_some(()).ok_or(QueryError::TooLarge);
    let mut lines = BTreeMap::<Line, BTreeMap<StepNumber, Golden>>::new();
    for series in buckets {
        let (Some(line), Some(index)) = (line_of(&series), bucket_of(&series.metric.le)) else {
            continue;
        };
        if !lines.contains_key(&line) {
            charge(LINE_BYTES + line.0.tenant.len() + line.0.service_name.len())?;
        }
        let points = lines.entry(line).or_default();
        for point in points_of(&series, range, end) {
            let (step, value) = point?;
            charge(BUCKET_BYTES + if points.contains_key(&step) { 0 } else { POINT_BYTES })?;
            points.entry(step).or_default().durations.add(index, count(value), 0);
        }
    }
    // A bucket of Prometheus counts those below it as well.
    for golden in lines.values_mut().flat_map(BTreeMap::values_mut) {
        golden.durations = not_cumulative(&golden.durations);
    }
    let mut add = |series: Vec<Series>, set: fn(&mut Golden, &Labels, f64)| -> Result<(), QueryError> {
        for series in series {
            let Some(points) = line_of(&series).and_then(|line| lines.get_mut(&line)) else { continue };
            for point in points_of(&series, range, end) {
                let (step, value) = point?;
                if let Some(golden) = points.get_mut(&step) {
                    set(golden, &series.metric, value);
                }
            }
        }
        Ok(())
    };
    add(sums, |golden, _, value| golden.durations.add_sum(count(value * 1e9)))?;
    add(errors, |golden, labels, value| {
        let class = ErrorClass::ALL.into_iter().find(|known| known.name() == &*labels.error_class);
        if let Some(class) = class {
            golden.errors.add(class, count(value));
        }
    })?;
    add(unknown, |golden, _, value| golden.unknown = count(value))?;
    let lines = lines.into_iter().map(|((application, side, protocol), points)| {
        let counted = points.into_iter().filter(|(_, golden)| golden.durations.count() > 0);
        Points { application, side, protocol, points: counted.collect() }
    });
    Ok(lines.collect())
}

/// Points of a series with something in them, by the first step after each; an error for one that ends at another time than was requested.
fn points_of(
    series: &Series,
    range: Range,
    end: StepNumber,
) -> impl Iterator<Item = Result<(StepNumber, f64), QueryError>> {
    let some = series.values.iter().filter(|Sample(_, value)| *value > 0.0);
    some.filter_map(move |&Sample(time, value)| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let step = (time / STEP.as_secs_f64()).round() as StepNumber;
        let is_requested = end.checked_sub(step)?.is_multiple_of(range.each.max(1));
        Some(if is_requested { Ok((step, value)) } else { Err(QueryError::OtherTimes) })
    })
}

/// A query: whose numbers, when.
struct Shape<'a> {
    selection: &'a Selection,
    range: Range,
    end: StepNumber,
}

impl Shape<'_> {
    fn point_seconds(&self) -> u64 {
        STEP.as_secs().saturating_mul(self.range.each.max(1))
    }

    /// An expression of what came to a counter in each point, where something came.
    fn increase(&self, counter: &str, by: &str) -> String {
        let mut matchers = Vec::new();
        for (label, value) in
            [("tenant", &self.selection.tenant), ("service_name", &self.selection.service_name)]
        {
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
             or ({counter} and on (job, instance) up {before})) > 0"
        )
    }

    /// Start, end and step, seconds.
    fn times(&self) -> [u64; 3] {
        let point = self.point_seconds();
        let end = self.end.saturating_mul(STEP.as_secs());
        let points = (self.range.steps / self.range.each.max(1)).max(1);
        [end.saturating_sub(point.saturating_mul(points - 1)), end, point]
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
    let Labels { tenant, service_name, side, protocol, .. } = &series.metric;
    let application = Application { tenant: tenant.to_string(), service_name: service_name.to_string() };
    let side = Side::ALL.into_iter().find(|known| known.name() == &**side)?;
    Some((application, side, Protocol::from_name(protocol)?))
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
        let selection = Selection { tenant: Some("a\"} or up{x=\"\\\n".to_owned()), service_name: None };
        let shape =
            Shape { selection: &selection, range: Range { steps: 4, each: 2, until: None }, end: 100 };
        let query = shape.increase("c", ", le");
        let matchers = r#"{tenant="a\"} or up{x=\"\\\n"}"#;
        let pieces: Vec<&str> = query.split(matchers).collect();
        assert_eq!(pieces.len(), 6, "each counter has them: {query}");
        assert!(!pieces.concat().contains("x="), "{query}");
        assert_eq!(shape.times(), [1470, 1500, 30]);
        let form = crate::query::prometheus::form(&[("query", "a&b"), ("start", "1470")]);
        assert_eq!(form, "query=a%26b&start=1470");
    }

    #[test]
    fn points_of_other_times_and_more_than_there_is_room_for_are_errors() {
        let answer = |steps: &[u32], allowance| {
            let labels = Labels {
                tenant: "acme".into(),
                service_name: "shop".into(),
                side: Side::Server.name().into(),
                protocol: Protocol::Http1.name().into(),
                le: "+Inf".into(),
                ..Labels::default()
            };
            let values = steps.iter().map(|step| Sample(f64::from(*step) * 15.0, 1.0)).collect();
            let series = Series { metric: labels, values, value: None };
            let range = Range { steps: 80, each: 20, until: None };
            lines([vec![series], vec![], vec![], vec![]], range, 1_008, &Allowance::of(allowance))
        };
        let steps = |answer: Result<Vec<Points>, _>| {
            let lines = answer.map_err(|error: QueryError| error.status().as_u16())?;
            Ok(lines[0].points.iter().map(|(step, _)| *step).collect::<Vec<_>>())
        };
        let line = LINE_BYTES + "acmeshop".len();
        let two = line + 2 * (POINT_BYTES + BUCKET_BYTES);
        assert_eq!(steps(answer(&[988, 1_008], two)), Ok(vec![988, 1_008]));
        assert_eq!(steps(answer(&[988, 1_008], two - 1)), Err(507));
        assert_eq!(steps(answer(&[988], line - 1)), Err(507));
        assert_eq!(steps(answer(&[980, 1_000], two)), Err(502), "moved to multiples of the length");
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
