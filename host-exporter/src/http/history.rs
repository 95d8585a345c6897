//! `GET /api/v1/history`: what each application did over time, in steps: the last hour, or any time that a Prometheus server has.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use porthole_histogram::bucket_upper_bound_seconds;
use serde::{Deserialize, Serialize};

use super::{App, access::Viewer, encoding::json_once, no_answer};
use crate::{
    accumulate::golden::{Errors, Golden},
    buckets::sum_seconds,
    clock,
    history::{Points, Recent, STEP, STEPS, StepNumber, range::Range, step_of},
    identity::Application,
    protocol::{Protocol, Side},
    query::{self, Selection, Source},
};

/// What is requested.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    tenant: Option<String>,
    service_name: Option<String>,
    /// How far back; an hour unless given.
    range_seconds: Option<u64>,
    /// What one point covers, a multiple of a step; one step unless given.
    step_seconds: Option<u64>,
    /// When the range ends; now unless given.
    until_unix_ms: Option<u64>,
    /// From the exporter's own last hour, whether or not a server has more.
    #[serde(default)]
    own: bool,
    /// One line for all protocols of an application's side.
    #[serde(default)]
    merged: bool,
    /// With the buckets of the durations; for one application.
    #[serde(default)]
    buckets: bool,
}

#[derive(Serialize)]
struct Listing {
    /// The end of the last point.
    end_unix_ms: u64,
    /// The end of what was recorded: the last point can reach beyond.
    recorded_unix_ms: u64,
    range_seconds: u64,
    step_seconds: u64,
    lines: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    application: Application,
    #[serde(with = "crate::protocol::by_name")]
    side: Side,
    /// None in a line for all of them.
    protocol: Option<&'static str>,
    protocols: Vec<&'static str>,
    /// Of the whole range.
    total: Point,
    /// Those with requests, oldest first.
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    /// The end of the time that it covers.
    end_unix_ms: u64,
    requests: u64,
    errors: u64,
    errors_by_class: Errors,
    /// Neither successes nor failures.
    unknown: u64,
    duration_sum_seconds: f64,
    /// Upper bounds of the buckets with the quantiles.
    p50_seconds: Option<f64>,
    p90_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    /// Buckets that hold something, where they were requested: upper bound in seconds, count.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_buckets: Option<Vec<(f64, u64)>>,
}

impl Point {
    fn of(end: StepNumber, golden: &Golden, buckets: bool) -> Self {
        let quantile = |q| golden.durations.quantile(q);
        Self {
            end_unix_ms: unix_ms(end),
            requests: golden.durations.count(),
            errors: golden.errors.total(),
            errors_by_class: golden.errors,
            unknown: golden.unknown,
            duration_sum_seconds: sum_seconds(&golden.durations),
            p50_seconds: quantile(0.5),
            p90_seconds: quantile(0.9),
            p99_seconds: quantile(0.99),
            duration_buckets: buckets.then(|| {
                let buckets = golden.durations.buckets().iter();
                buckets.map(|&(index, count)| (bucket_upper_bound_seconds(index), count)).collect()
            }),
        }
    }
}

/// What one side of an application did in one protocol, or in several.
struct Shown {
    application: Application,
    side: Side,
    protocols: Vec<Protocol>,
    points: Vec<(StepNumber, Golden)>,
}

impl From<Points> for Shown {
    fn from(Points { application, side, protocol, points }: Points) -> Self {
        Self { application, side, protocols: vec![protocol], points }
    }
}

impl Line {
    fn of(line: Shown, end: StepNumber, buckets: bool) -> Self {
        let Shown { application, side, protocols, points } = line;
        let mut total = Golden::default();
        for (_, golden) in &points {
            total.add(golden);
        }
        let protocols: Vec<_> = protocols.into_iter().map(Protocol::name).collect();
        Self {
            application,
            side,
            protocol: (protocols.len() == 1).then(|| protocols[0]),
            protocols,
            total: Point::of(end, &total, buckets),
            points: points.iter().map(|(end, golden)| Point::of(*end, golden, buckets)).collect(),
        }
    }
}

/// The lines of an application's side as one, in the order of the lines.
fn merged(lines: Vec<Points>) -> Vec<Shown> {
    let mut sides = BTreeMap::<(Application, Side), (Vec<Protocol>, BTreeMap<StepNumber, Golden>)>::new();
    for line in lines {
        let (protocols, points) = sides.entry((line.application, line.side)).or_default();
        protocols.push(line.protocol);
        for (end, golden) in line.points {
            points.entry(end).or_default().add(&golden);
        }
    }
    let lines = sides.into_iter().map(|((application, side), (protocols, points))| Shown {
        application,
        side,
        protocols,
        points: points.into_iter().collect(),
    });
    lines.collect()
}

/// Where a step begins.
fn unix_ms(step: StepNumber) -> u64 {
    let ms = Duration::from_secs(STEP.as_secs().saturating_mul(step)).as_millis();
    u64::try_from(ms).unwrap_or(u64::MAX)
}

/// Points of one line at most.
const POINTS_MAX: u64 = 1_500;

impl Wanted {
    /// The range; an error that names what is allowed.
    fn range(&self, steps_max: u64) -> Result<Range, String> {
        let step = STEP.as_secs();
        let longest = steps_max * step;
        let each = self.step_seconds.unwrap_or(step);
        if each == 0 || each > longest || !each.is_multiple_of(step) {
            return Err(format!("step_seconds: a multiple of {step} up to {longest} is wanted\n"));
        }
        let range = self.range_seconds.unwrap_or((STEPS * step).max(each));
        let most = longest.min(each.saturating_mul(POINTS_MAX));
        if range < each || range > most {
            return Err(format!("range_seconds: {each} to {most} seconds are wanted\n"));
        }
        if self.buckets && self.service_name.is_none() {
            return Err("buckets: a service_name is wanted with it\n".to_owned());
        }
        let until = self.until_unix_ms.map(|until| until.div_ceil(step * 1_000));
        Ok(Range { steps: range.div_ceil(step), each: each / step, until })
    }
}

pub(super) async fn list(
    State(app): State<App>,
    Extension(viewer): Extension<Viewer>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let source = if wanted.own { Source::Memory(Arc::clone(&app.history)) } else { app.source.clone() };
    let range = match wanted.range(source.steps_max()) {
        Ok(range) => range,
        Err(reason) => return (StatusCode::BAD_REQUEST, reason).into_response(),
    };
    let selection = Selection { tenant: wanted.tenant.clone(), service_name: wanted.service_name.clone() };
    let selection = match viewer.narrow_selection(selection) {
        Ok(selection) => selection,
        Err(denied) => return denied.into_response(),
    };
    match source {
        Source::Memory(history) => {
            let name = format!("history {selection:?} {range:?} {} {}", wanted.merged, wanted.buckets);
            let make =
                move |_: &_| Listing::of(query::from_memory(&history, &selection, range), range, &wanted);
            app.listing(name, make).await
        }
        Source::Prometheus(server) => {
            let make = move |recent| json_once(&Listing::of(recent, range, &wanted));
            match server.over_time(&selection, range, step_of(clock::unix_ms()), make).await {
                Ok(encoded) => app.made(encoded),
                Err(error) => {
                    tracing::warn!(%error, "no answer about the past");
                    no_answer::response(&error, &viewer)
                }
            }
        }
    }
}

impl Listing {
    fn of(Recent { end, recorded, lines }: Recent, range: Range, wanted: &Wanted) -> Self {
        let lines = if wanted.merged { merged(lines) } else { lines.into_iter().map(Shown::from).collect() };
        Self {
            end_unix_ms: unix_ms(end),
            recorded_unix_ms: unix_ms(recorded),
            range_seconds: range.steps * STEP.as_secs(),
            step_seconds: range.each * STEP.as_secs(),
            lines: lines.into_iter().map(|line| Line::of(line, end, wanted.buckets)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(
        range_seconds: Option<u64>,
        step_seconds: Option<u64>,
        steps_max: u64,
    ) -> Result<(u64, u64), String> {
        let wanted = Wanted {
            tenant: None,
            service_name: None,
            range_seconds,
            step_seconds,
            until_unix_ms: Some(30_001),
            own: false,
            merged: false,
            buckets: false,
        };
        let range = wanted.range(steps_max)?;
        assert_eq!(range.until, Some(3), "the end of the step in which it is");
        Ok((range.steps, range.each))
    }

    #[test]
    fn a_range_is_a_number_of_steps_up_to_what_the_source_has() {
        assert_eq!(range(None, None, STEPS), Ok((240, 1)));
        assert_eq!(range(Some(300), Some(60), STEPS), Ok((20, 4)));
        assert_eq!(range(Some(86_400), Some(300), 10 * 5_760), Ok((5_760, 20)));
        assert_eq!(range(None, Some(86_400), 10 * 5_760), Ok((5_760, 5_760)));
        for (seconds, step, steps_max, key) in [
            (None, Some(0), STEPS, "step_seconds"),
            (None, Some(20), STEPS, "step_seconds"),
            (None, Some(u64::MAX), STEPS, "step_seconds"),
            (Some(3_601), None, STEPS, "range_seconds"),
            (Some(10), None, STEPS, "range_seconds"),
            (Some(86_400), None, 10 * 5_760, "range_seconds"),
        ] {
            assert!(range(seconds, step, steps_max).unwrap_err().starts_with(key));
        }
    }
}
