//! How much the agent takes: events a second before any is lost, and what a loss looks like; memory with many connections
//! and keys.

use std::{net::TcpStream, thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use porthole_agent_api::agent::StatsResponse;
use serde_json::{Value, json};

use crate::{
    bench::{
        mode::{Mode, Way},
        native::Native,
        talk::{self, Talk, Words},
    },
    workspace::Workspace,
};

/// Options of `cargo xtask bench agent`.
#[derive(clap::Args)]
pub struct Options {
    /// Length of one run, seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Threads that talk; one for each processor if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Everything is the agent's to count, and nothing holds it back.
const WITHOUT_BRAKE: [&str; 2] = ["--cpu-share", "0"];

/// Connections of one thread.
const CONNECTIONS: usize = 4;

/// Rounds a second at which the search begins.
const START: f64 = 4_000.0;

/// Looks between the highest rate without a loss and the lowest with one.
const REFINEMENTS: u32 = 3;

/// Most rates that are tried before the load is taken to be at its end.
const STEPS_MAX: u32 = 20;

/// One rate of one kind of traffic.
struct Step {
    /// Rounds a second that were requested; without bound in the last step.
    rate: f64,
    seconds: f64,
    /// Requests that were sent, and answered.
    sent: u64,
    /// Requests of one round, which a lost record may have carried.
    depth: u64,
    before: StatsResponse,
    after: StatsResponse,
}

impl Step {
    fn delta(&self, of: fn(&StatsResponse) -> u64) -> u64 {
        of(&self.after).saturating_sub(of(&self.before))
    }

    fn lost(&self) -> u64 {
        self.delta(|stats| stats.counters.events_lost)
    }

    /// Exchanges that were neither counted nor are explained by what the agent reports as lost or unparsed.
    /// Both ends of every request are seen.
    fn unaccounted(&self) -> u64 {
        let missing = (2 * self.sent).saturating_sub(self.delta(|stats| stats.counters.exchanges));
        let unparsed = self.delta(|stats| stats.counters.unparsed);
        missing.saturating_sub(self.lost() * self.depth + unparsed)
    }

    #[allow(clippy::cast_precision_loss)]
    fn summary(&self, kind: &str, what: &str) -> Value {
        let events = self.delta(|stats| stats.counters.events_captured);
        let cpu_seconds = self.delta(|stats| stats.cpu_ns) as f64 / 1e9;
        json!({
            "workload": format!("{kind}: {what}"),
            "requests_per_second": self.sent as f64 / self.seconds,
            "events_per_second": events as f64 / self.seconds,
            "events_per_core_second": events as f64 / cpu_seconds.max(1e-9),
            "agent_cores": cpu_seconds / self.seconds,
            "sent": 2 * self.sent,
            "exchanges": self.delta(|stats| stats.counters.exchanges),
            "events_lost": self.lost(),
            "unparsed": self.delta(|stats| stats.counters.unparsed),
            "unaccounted": self.unaccounted(),
        })
    }
}

/// Measures and prints.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let native = Native::prepare(workspace)?;
    let mut results = Vec::new();
    for (kind, words) in [
        ("HTTP", Words::http("GET", "/bench", 1)),
        ("Redis", Words::redis(1)),
        ("Redis, pipelined by 16", Words::redis(16)),
    ] {
        let run = |rate| step(&native, &words, rate, options);
        let (best, worse) = search(&mut |rate| {
            let step = twice_if_lost(|| run(rate))?;
            eprintln!("{kind}: {rate:.0} rounds/s asked for, {} records lost", step.lost());
            Ok(step)
        })?;
        results.push(best.summary(kind, "most without loss"));
        if let Some(worse) = worse {
            results.push(worse.summary(kind, "least with loss"));
        }
        results.push(run(f64::INFINITY)?.summary(kind, "all that the load does"));
    }
    let columns = [
        ("requests/s", "requests_per_second"),
        ("events/s", "events_per_second"),
        ("agent's cores", "agent_cores"),
        ("events/core s", "events_per_core_second"),
        ("sent, both ends", "sent"),
        ("counted", "exchanges"),
        ("records lost", "events_lost"),
        ("unparsed", "unparsed"),
        ("unaccounted", "unaccounted"),
    ];
    super::print_results("agent", &results, options.json, &columns)
}

/// The better of two runs, if the first loses something: others on the machine may have held the agent up.
fn twice_if_lost(mut run: impl FnMut() -> Result<Step>) -> Result<Step> {
    let first = run()?;
    if first.lost() == 0 {
        return Ok(first);
    }
    let second = run()?;
    Ok(if second.lost() < first.lost() { second } else { first })
}

/// The highest rate at which nothing is lost, and the lowest at which something is: doubling until something is lost or
/// the load can do no more, then halving the interval.
fn search(run: &mut dyn FnMut(f64) -> Result<Step>) -> Result<(Step, Option<Step>)> {
    let mut best = run(START)?;
    ensure!(best.lost() == 0, "records are lost even at {START} rounds a second");
    let mut worse = None;
    for _ in 0..STEPS_MAX {
        let step = run(best.rate * 2.0)?;
        if step.lost() > 0 {
            worse = Some(step);
            break;
        }
        #[allow(clippy::cast_precision_loss)]
        let reached = (step.sent / step.depth) as f64 / step.seconds;
        let asked = step.rate;
        best = step;
        if reached < 0.9 * asked {
            break;
        }
    }
    for _ in 0..REFINEMENTS {
        let Some(least) = &worse else { break };
        let step = run(f64::midpoint(best.rate, least.rate))?;
        if step.lost() > 0 {
            worse = Some(step);
        } else {
            best = step;
        }
    }
    Ok((best, worse))
}

/// Talks for a while at a rate, all threads together, under an agent of its own.
fn step(native: &Native, words: &Words, rate: f64, options: &Options) -> Result<Step> {
    let threads = match options.threads {
        Some(threads) => usize::try_from(threads).context("threads")?,
        None => thread::available_parallelism().context("processors")?.get(),
    };
    let agent = native.agent(Way::usual(Mode::AgentCounts), &WITHOUT_BRAKE)?;
    let mut talks = Vec::new();
    for _ in 0..threads {
        let mut some = (0..CONNECTIONS).map(|_| Talk::tcp()).collect::<Result<Vec<_>>>()?;
        // By now the protocol is known.
        for talk in &mut some {
            talk.rounds(words, 8)?;
        }
        talks.push(some);
    }
    let before = agent.final_stats()?;
    let length = Duration::from_secs(options.seconds.into());
    #[allow(clippy::cast_precision_loss)]
    let each = rate / threads as f64;
    let rounds = thread::scope(|scope| {
        let running: Vec<_> =
            talks.iter_mut().map(|talks| scope.spawn(|| take_turns(talks, words, each, length))).collect();
        let ended =
            running.into_iter().map(|one| one.join().map_err(|_| anyhow!("a talking thread failed"))?);
        ended.sum::<Result<u64>>()
    })?;
    // Before the connections end.
    let after = agent.final_stats()?;
    drop(talks);
    agent.stop()?;
    let (seconds, depth) = (f64::from(options.seconds), words.depth);
    Ok(Step { rate, seconds, sent: rounds * depth, depth, before, after })
}

fn take_turns(talks: &mut [Talk<TcpStream>], words: &Words, rate: f64, length: Duration) -> Result<u64> {
    let mut turn = 0;
    talk::paced(rate, length, || {
        turn = (turn + 1) % talks.len();
        talks.get_mut(turn).context("a connection")?.round(words)
    })
}

#[cfg(test)]
mod tests {
    use porthole_agent_api::agent::Counters;

    use super::*;

    fn stats(exchanges: u64, events_lost: u64, unparsed: u64) -> StatsResponse {
        let counters =
            Counters { exchanges, events_lost, unparsed, events_captured: 4000, ..Counters::default() };
        StatsResponse { counters: Some(counters).into(), cpu_ns: 500_000_000, ..StatsResponse::default() }
    }

    fn made(rate: f64, counted: u64, lost: u64, unparsed: u64) -> Step {
        Step {
            rate,
            seconds: 1.0,
            sent: 16_000,
            depth: 16,
            before: StatsResponse::default(),
            after: stats(counted, lost, unparsed),
        }
    }

    #[test]
    fn what_is_missing_beyond_what_was_lost_is_unaccounted() {
        assert_eq!(made(1.0, 32_000, 0, 0).unaccounted(), 0);
        assert_eq!(made(1.0, 32_000 - 160, 10, 0).unaccounted(), 0);
        assert_eq!(made(1.0, 32_000 - 165, 10, 5).unaccounted(), 0);
        assert_eq!(made(1.0, 32_000 - 170, 10, 5).unaccounted(), 5);
    }

    #[test]
    fn a_summary_is_by_second_and_by_second_of_one_core() {
        let summary = made(1.0, 32_000, 0, 0).summary("HTTP", "most");
        assert_eq!(summary["events_per_second"], 4000.0);
        assert_eq!(summary["events_per_core_second"], 8000.0);
        assert_eq!(summary["agent_cores"], 0.5);
    }

    #[test]
    fn the_search_ends_between_the_last_without_and_the_first_with_a_loss() {
        let mut tried = Vec::new();
        let (best, worse) = search(&mut |rate| {
            tried.push(rate);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let sent = rate as u64 * 16;
            Ok(Step { sent, ..made(rate, 0, u64::from(rate > 21_000.0), 0) })
        })
        .unwrap();
        assert!((best.rate - 20_000.0).abs() < 1e-9, "{}", best.rate);
        assert!((worse.unwrap().rate - 22_000.0).abs() < 1e-9, "{tried:?}");
    }

    #[test]
    fn a_run_with_a_loss_is_repeated_once() {
        let mut losses = [3, 0, 5, 7].into_iter();
        let mut better = || twice_if_lost(|| Ok(made(1.0, 0, losses.next().unwrap(), 0))).unwrap().lost();
        assert_eq!([better(), better()], [0, 5]);
    }

    #[test]
    fn the_search_ends_where_the_load_does() {
        let (best, worse) = search(&mut |rate| Ok(made(rate, 0, 0, 0))).unwrap();
        assert!((best.rate - 8_000.0).abs() < 1e-9, "1,000 rounds a second were all it did: {}", best.rate);
        assert!(worse.is_none());
    }
}
