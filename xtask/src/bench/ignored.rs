//! The cost of an ignored connection, and of every other system call: they all pass the first of the
//! agent's programs.

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    bench::{
        median,
        mode::{Way, Ways},
        native::Native,
        programs,
        talk::{self, CALLS_PER_ROUND, Talk, Words},
    },
    workspace::Workspace,
};

/// Options of `cargo xtask bench ignored`.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    ways: Ways,
    /// Pairs of runs of each kind of system calls
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// System calls of one run
    #[arg(long, default_value_t = 400_000, value_parser = clap::value_parser!(u64).range(10_000..=1_000_000_000))]
    calls: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Calls after which a connection's protocol is decided: more than the limit of detection
/// (`porthole_bpf_types::connection::DETECTION_BUDGET`).
const WARM_UP: u64 = 20_000;

/// Kinds of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One whose number is of no interest.
    NotLookedAt,
    /// Writes into a file.
    File,
    /// Writes and reads of a pipe.
    Pipe,
    /// A connection over a unix-domain socket of an unknown protocol.
    UnknownUnix,
    /// A connection over TCP of an unknown protocol.
    UnknownTcp,
    /// A connection that is followed, HTTP.
    Http,
    /// A connection that is followed, Redis.
    Redis,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::NotLookedAt,
        Self::File,
        Self::Pipe,
        Self::UnknownUnix,
        Self::UnknownTcp,
        Self::Http,
        Self::Redis,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::NotLookedAt => "getppid",
            Self::File => "write to a file",
            Self::Pipe => "write and read of a pipe",
            Self::UnknownUnix => "unknown protocol, unix socket",
            Self::UnknownTcp => "unknown protocol, TCP",
            Self::Http => "HTTP, followed",
            Self::Redis => "Redis, followed",
        }
    }
}

/// What makes the system calls: made anew for each run, so that its connection begins under the agent's eyes.
enum Caller {
    NotLookedAt,
    File(File),
    Pipe(File, File),
    Unix(Talk<std::os::unix::net::UnixStream>, Words),
    Tcp(Talk<TcpStream>, Words),
}

impl Caller {
    fn new(kind: Kind) -> Result<Self> {
        Ok(match kind {
            Kind::NotLookedAt => Self::NotLookedAt,
            Kind::File => Self::File(File::create("/dev/null").context("/dev/null")?),
            Kind::Pipe => {
                let (read, write) = nix::unistd::pipe().context("a pipe")?;
                Self::Pipe(read.into(), write.into())
            }
            Kind::UnknownUnix => Self::Unix(Talk::unix()?, Words::unknown()),
            Kind::UnknownTcp => Self::Tcp(Talk::tcp()?, Words::unknown()),
            Kind::Http => Self::Tcp(Talk::tcp()?, Words::http("GET", "/bench", 1)),
            Kind::Redis => Self::Tcp(Talk::tcp()?, Words::redis(1)),
        })
    }

    /// About so many system calls; how many they were, and how long they took.
    fn run(&mut self, calls: u64) -> Result<(u64, Duration)> {
        let mut byte = [1];
        match self {
            Self::NotLookedAt => Ok((
                calls,
                talk::repeat(calls, || {
                    std::hint::black_box(nix::unistd::getppid());
                    Ok(())
                })?,
            )),
            Self::File(file) => Ok((calls, talk::repeat(calls, || file.write_all(&byte).context("write"))?)),
            Self::Pipe(read, write) => {
                let took = talk::repeat(calls / 2, || {
                    write.write_all(&byte).and_then(|()| read.read_exact(&mut byte)).context("a pipe")
                })?;
                Ok((calls / 2 * 2, took))
            }
            Self::Unix(talk, words) => {
                let rounds = calls / CALLS_PER_ROUND;
                Ok((rounds * CALLS_PER_ROUND, talk.rounds(words, rounds)?))
            }
            Self::Tcp(talk, words) => {
                let rounds = calls / CALLS_PER_ROUND;
                Ok((rounds * CALLS_PER_ROUND, talk.rounds(words, rounds)?))
            }
        }
    }
}

/// Nanoseconds of one call by the clock.
#[allow(clippy::cast_precision_loss)]
fn each_ns(kind: Kind, calls: u64) -> Result<f64> {
    let mut caller = Caller::new(kind)?;
    caller.run(WARM_UP)?;
    let (calls, took) = caller.run(calls)?;
    Ok(took.as_nanos() as f64 / calls as f64)
}

/// What was measured of a kind of system calls.
struct Measured {
    kind: Kind,
    way: Way,
    /// Nanoseconds of a call without and with the agent, by pair.
    clock: Vec<(f64, f64)>,
    /// Runs of programs for a call.
    runs: f64,
    /// Nanoseconds of programs for a call, by the kernel's accounting.
    programs: f64,
}

/// Measures and prints.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let native = Native::prepare(workspace)?;
    let mut results = Vec::new();
    for way in options.ways.all() {
        results.extend(measure(&native, way, options)?);
    }
    let results = results.iter().map(|one| summary(one, &results)).collect::<Result<Vec<_>>>()?;
    let columns = [
        ("alone ns/call", "baseline_ns_per_call"),
        ("agent adds ns", "added_ns_per_call"),
        ("bpf runs/call", "program_runs_per_call"),
        ("bpf ns/call", "program_ns_per_call"),
        ("clock share", "added_share_of_followed"),
        ("bpf share", "program_share_of_followed"),
        ("net share", "program_share_of_followed_net"),
    ];
    super::print_results("ignored", &results, options.json, &columns)
}

fn measure(native: &Native, way: Way, options: &Options) -> Result<Vec<Measured>> {
    let mut clock: Vec<Vec<(f64, f64)>> = vec![Vec::new(); Kind::ALL.len()];
    for number in 0..options.pairs {
        eprintln!("{}: pair {} of {}", way.name(), number + 1, options.pairs);
        let all = || Kind::ALL.iter().map(|kind| each_ns(*kind, options.calls)).collect::<Result<Vec<_>>>();
        let off_first = if number % 2 == 0 { Some(all()?) } else { None };
        let running = native.agent(way, &[])?;
        let on = all()?;
        running.stop()?;
        let off = match off_first {
            Some(off) => off,
            None => all()?,
        };
        for (pairs, pair) in clock.iter_mut().zip(off.into_iter().zip(on)) {
            pairs.push(pair);
        }
    }
    let running = native.agent(way, &[])?;
    let mut measured = Vec::new();
    for (kind, clock) in Kind::ALL.into_iter().zip(clock) {
        let ignored_before = running.stats()?.counters.connections_ignored;
        let mut caller = Caller::new(kind)?;
        caller.run(WARM_UP)?;
        if matches!(kind, Kind::UnknownTcp | Kind::UnknownUnix) {
            let ignored = running.final_stats()?.counters.connections_ignored;
            ensure!(ignored > ignored_before, "{}: the agent does not ignore it", kind.name());
        }
        let ((calls, _), cost) = programs::cost_during(&running, || caller.run(options.calls))?;
        #[allow(clippy::cast_precision_loss)]
        let each = |value: u64| value as f64 / calls as f64;
        measured.push(Measured { kind, way, clock, runs: each(cost.runs), programs: each(cost.ns) });
    }
    running.stop()?;
    Ok(measured)
}

impl Measured {
    /// What the agent adds to a call by the clock.
    fn added(&self) -> Result<f64> {
        median(self.clock.iter().map(|(off, on)| on - off).collect()).context("no pairs")
    }
}

fn summary(one: &Measured, all: &[Measured]) -> Result<Value> {
    let of = |kind: Kind| {
        all.iter().find(|other| other.kind == kind && other.way == one.way).context("every kind is there")
    };
    let (followed, nothing) = (of(Kind::Http)?, of(Kind::NotLookedAt)?);
    Ok(json!({
        "workload": format!("{}, {}", one.kind.name(), one.way.name()),
        "mode": one.way.mode.name(),
        "pairs": one.clock.len(),
        "baseline_ns_per_call": median(one.clock.iter().map(|(off, _)| *off).collect()),
        "added_ns_per_call": one.added()?,
        "program_runs_per_call": one.runs,
        "program_ns_per_call": one.programs,
        "added_share_of_followed": one.added()? / followed.added()?,
        "program_share_of_followed": one.programs / followed.programs,
        // The accounting itself, and the way to the program and back, are in every run.
        "program_share_of_followed_net":
            (one.programs - nothing.programs) / (followed.programs - nothing.programs),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::mode::Mode;

    #[test]
    fn every_kind_makes_the_calls_that_it_says() {
        for kind in Kind::ALL {
            let (calls, _) = Caller::new(kind).unwrap().run(40).unwrap();
            assert_eq!(calls, 40, "{kind:?}");
        }
    }

    #[test]
    fn shares_are_of_what_a_followed_connection_costs_in_the_same_mode() {
        let one = |kind, mode, added: f64, programs| Measured {
            kind,
            way: Way::usual(mode),
            clock: vec![(100.0, 100.0 + added), (200.0, 200.0 + added), (50.0, 450.0)],
            runs: 1.0,
            programs,
        };
        let all = [
            one(Kind::NotLookedAt, Mode::KernelCounts, 10.0, 50.0),
            one(Kind::UnknownTcp, Mode::KernelCounts, 20.0, 100.0),
            one(Kind::Http, Mode::AgentCounts, 1.0, 1.0),
            one(Kind::Http, Mode::KernelCounts, 200.0, 1050.0),
        ];
        let ignored = summary(&all[1], &all).unwrap();
        let number = |key: &str| ignored[key].as_f64().unwrap();
        assert!((number("added_share_of_followed") - 0.1).abs() < 1e-9);
        assert!((number("program_share_of_followed") - 100.0 / 1050.0).abs() < 1e-9);
        assert!((number("program_share_of_followed_net") - 0.05).abs() < 1e-9);
    }
}
