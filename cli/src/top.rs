//! `porthole top`: rate, errors and latency of every application, as it changes.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{
    exporter::{self, Client},
    table::{self, row},
};

/// Moves the cursor to the upper left corner and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Options of `porthole top`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    exporter: exporter::Options,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// Seconds between two samples
    #[arg(long, default_value_t = 2.0, value_parser = interval)]
    interval: f64,
    /// Take two samples, print once, and exit
    #[arg(long)]
    once: bool,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is wanted".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("0.1 to 3600 seconds".into()) }
}

/// What is read of `GET /api/v1/applications`.
#[derive(Debug, Default, Deserialize)]
struct Listing {
    applications: Vec<Application>,
}

#[derive(Debug, Deserialize)]
struct Application {
    tenant: String,
    service_name: String,
    totals: Vec<Total>,
    /// Empty where nothing was served in the last hour.
    #[serde(default)]
    objectives: Vec<Objective>,
}

/// How far the last hour missed an objective.
#[derive(Clone, Debug, Deserialize)]
struct Objective {
    #[serde(rename = "objective")]
    name: String,
    share: f64,
    missed_1h: Option<f64>,
    burns_fast: bool,
}

/// `burns` with the objectives that are missed many times as often as allowed, `missed` with those of which the last
/// hour missed more than allowed, `met`, or a dash without requests.
fn state(objectives: &[Objective]) -> String {
    let names = |of: fn(&Objective) -> bool| {
        let names: Vec<_> = objectives.iter().filter(|it| of(it)).map(|it| it.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(burning) = names(|it| it.burns_fast) {
        format!("burns {burning}")
    } else if let Some(missed) = names(|it| it.missed_1h.is_some_and(|missed| missed > 1.0 - it.share)) {
        format!("missed {missed}")
    } else if objectives.is_empty() {
        "-".to_owned()
    } else {
        "met".to_owned()
    }
}

/// Values since the application was first seen.
#[derive(Clone, Debug, Default, Deserialize)]
struct Total {
    side: String,
    protocol: String,
    requests: u64,
    errors: u64,
    /// Upper bound in seconds, count.
    duration_buckets: Vec<(f64, u64)>,
}

/// Tenant, application, side, protocol.
type Key = (String, String, String, String);

/// The exporter's values at one time.
struct Sample {
    at: Instant,
    totals: BTreeMap<Key, Total>,
    /// By tenant and application.
    states: BTreeMap<(String, String), String>,
}

/// Shows until it is interrupted, or once.
pub fn run(options: &Options) -> Result<()> {
    let client = Client::new(&options.exporter)?;
    let path = format!("/api/v1/applications{}", exporter::query(&[("tenant", options.tenant.as_deref())]));
    let pause = Duration::from_secs_f64(options.interval);
    let sample = || client.get::<Listing>(&path).map(Sample::new);
    let mut before = sample()?;
    loop {
        std::thread::sleep(pause);
        let now = match sample() {
            Ok(now) => now,
            Err(error) if options.once => return Err(error),
            Err(error) => {
                // It may come back: a restart of the exporter is no reason to leave.
                table::to_stdout(|out| writeln!(out, "{CLEAR}{error:#}")).context("print")?;
                continue;
            }
        };
        let mut page = Vec::new();
        print(&before, &now, &mut page).context("print")?;
        let clear = if options.once { "" } else { CLEAR };
        let mut out = io::stdout().lock();
        let printed =
            out.write_all(clear.as_bytes()).and_then(|()| out.write_all(&page)).and_then(|()| out.flush());
        match printed {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.context("print")?,
        }
        if options.once {
            return Ok(());
        }
        before = now;
    }
}

impl Sample {
    fn new(listing: Listing) -> Self {
        let (mut totals, mut states) = (BTreeMap::new(), BTreeMap::new());
        for application in listing.applications {
            let name = (application.tenant.clone(), application.service_name.clone());
            states.insert(name, state(&application.objectives));
            for total in application.totals {
                let key = (
                    application.tenant.clone(),
                    application.service_name.clone(),
                    total.side.clone(),
                    total.protocol.clone(),
                );
                totals.insert(key, total);
            }
        }
        Self { at: Instant::now(), totals, states }
    }
}

impl Total {
    /// What was added since an earlier sample. Totals that shrank started again from zero.
    fn since(&self, earlier: Option<&Self>) -> Self {
        let Some(earlier) = earlier.filter(|earlier| earlier.requests <= self.requests) else {
            return self.clone();
        };
        let before: BTreeMap<u64, u64> =
            earlier.duration_buckets.iter().map(|&(bound, count)| (bound.to_bits(), count)).collect();
        let duration_buckets = self
            .duration_buckets
            .iter()
            .map(|&(bound, count)| {
                (bound, count.saturating_sub(before.get(&bound.to_bits()).copied().unwrap_or(0)))
            })
            .collect();
        Self {
            requests: self.requests - earlier.requests,
            errors: self.errors.saturating_sub(earlier.errors),
            duration_buckets,
            ..self.clone()
        }
    }

    /// Upper bound, in milliseconds, of the bucket that contains the quantile of that many percent.
    fn percentile(&self, percent: u64) -> String {
        let count: u64 = self.duration_buckets.iter().map(|(_, count)| count).sum();
        let rank = count.saturating_mul(percent).div_ceil(100).max(1);
        let mut seen = 0;
        let bound = self.duration_buckets.iter().find_map(|&(bound, count)| {
            seen += count;
            (seen >= rank).then_some(bound)
        });
        bound.map_or("-".into(), |seconds| format!("{:.2}", seconds * 1000.0))
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn print(before: &Sample, now: &Sample, out: &mut dyn Write) -> io::Result<()> {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    writeln!(out, "last {seconds:.1} s, quantiles in ms")?;
    let head = [
        "tenant",
        "application",
        "side",
        "protocol",
        "requests/s",
        "errors/s",
        "errors",
        "p50",
        "p99",
        "requests",
        "objectives",
    ];
    let mut rows: Vec<(u64, Vec<String>)> = now
        .totals
        .iter()
        .map(|(key, total)| {
            let (tenant, service, side, protocol) = key;
            let new = total.since(before.totals.get(key));
            let state = now.states.get(&(tenant.clone(), service.clone())).filter(|_| side == "server");
            let share = new.errors as f64 / new.requests.max(1) as f64 * 100.0;
            let cells = row([
                tenant,
                service,
                side,
                protocol,
                &format!("{:.1}", new.requests as f64 / seconds),
                &format!("{:.1}", new.errors as f64 / seconds),
                &if new.requests == 0 { "-".into() } else { format!("{share:.1}%") },
                &new.percentile(50),
                &new.percentile(99),
                &total.requests.to_string(),
                state.map_or("-", String::as_str),
            ]);
            (new.requests, cells)
        })
        .collect();
    // The busiest first; the sort is stable, so equals stay in the order of their names.
    rows.sort_by_key(|(requests, _)| std::cmp::Reverse(*requests));
    let rows: Vec<_> = std::iter::once(row(head)).chain(rows.into_iter().map(|(_, cells)| cells)).collect();
    table::print(&rows, &[4, 5, 6, 7, 8, 9], out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(requests: u64, errors: u64, buckets: &[(f64, u64)]) -> Total {
        Total { requests, errors, duration_buckets: buckets.to_vec(), ..Total::default() }
    }

    #[test]
    fn quantiles_are_those_of_the_time_between_two_samples() {
        let before = total(100, 3, &[(0.001, 90), (0.5, 10)]);
        let now = total(110, 4, &[(0.001, 90), (0.002, 9), (0.5, 11)]);
        let new = now.since(Some(&before));
        assert_eq!((new.requests, new.errors), (10, 1));
        assert_eq!((new.percentile(50), new.percentile(99)), ("2.00".to_owned(), "500.00".to_owned()));
        assert_eq!(now.percentile(50), "1.00");
    }

    #[test]
    fn the_worst_of_the_objectives_is_named() {
        let objective = |name: &str, missed: f64, burns_fast| Objective {
            name: name.to_owned(),
            share: 0.99,
            missed_1h: Some(missed),
            burns_fast,
        };
        assert_eq!(state(&[]), "-");
        assert_eq!(state(&[objective("availability", 0.01 - 1e-9, false)]), "met");
        assert_eq!(state(&[objective("availability", 0.02, false)]), "missed availability");
        let both = [objective("availability", 0.3, true), objective("latency", 0.02, false)];
        assert_eq!(state(&both), "burns availability");
    }

    #[test]
    fn nothing_new_has_no_quantile() {
        let same = total(5, 0, &[(0.001, 5)]);
        assert_eq!(same.since(Some(&same)).percentile(50), "-");
    }

    #[test]
    fn totals_that_restarted_count_from_zero() {
        let new = total(2, 1, &[(0.001, 2)]).since(Some(&total(50, 9, &[(0.001, 50)])));
        assert_eq!((new.requests, new.errors), (2, 1));
    }
}
