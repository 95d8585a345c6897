//! What the agent's memory comes to with many connections and keys.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{
    bench::{
        mode::{Mode, Way},
        native::Native,
        talk::{self, Talk, Words},
    },
    workspace::Workspace,
};

/// Options of `cargo xtask bench memory`.
#[derive(clap::Args)]
pub struct Options {
    /// Connections, of which both ends are seen
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4000))]
    connections: u32,
    /// Keys, half of them servers' and half of them clients'
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(2..=1000))]
    keys: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Requests of each key, so that it is learned.
const REQUESTS_PER_KEY: u32 = 40;

/// Methods that make keys of the same path.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "PATCH"];

/// Measures and prints.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let native = Native::prepare(workspace)?;
    let mut results = Vec::new();
    for &mode in Mode::value_variants() {
        eprintln!("{}", mode.name());
        results.push(measure(&native, mode, options)?);
    }
    let columns = [
        ("connections", "connections"),
        ("series", "series"),
        ("at rest MiB", "resident_mib_at_rest"),
        ("RSS MiB", "resident_mib"),
        ("missing", "exchanges_missing"),
        ("lost", "events_lost"),
    ];
    super::print_results("memory", &results, options.json, &columns)
}

#[allow(clippy::cast_precision_loss)]
fn measure(native: &Native, mode: Mode, options: &Options) -> Result<Value> {
    // Two descriptors a connection; what a shell gives by default is too few for 1,000.
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most)?;
    let agent = native.agent(Way::usual(mode), &[])?;
    let (at_rest, before) = (agent.resident_bytes()?, agent.final_stats()?);
    let keys = (0..options.keys / 2).map(key).collect::<Vec<_>>();
    // One server: clients' keys have its address.
    let server = talk::listen()?;
    let mut talks = (0..options.connections).map(|_| Talk::to(&server)).collect::<Result<Vec<_>>>()?;
    let rounds = (options.keys / 2 * REQUESTS_PER_KEY).max(options.connections * 2);
    for (round, words) in (0..rounds).zip(keys.iter().cycle()) {
        // Every connection has its turn, each time with another key.
        let round = usize::try_from(round)?;
        let at = (round + round / talks.len()) % talks.len();
        talks.get_mut(at).map_or(Ok(()), |talk| talk.round(words))?;
    }
    let after = agent.final_stats()?;
    let resident = agent.resident_bytes()?;
    ensure!(after.connections >= 2 * u64::from(options.connections), "the agent knows fewer connections");
    drop(talks);
    agent.stop()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let counted = after.counters.exchanges.saturating_sub(before.counters.exchanges);
    Ok(json!({
        "workload": mode.name(),
        "connections": after.connections,
        "series": after.series,
        "resident_mib_at_rest": mib(at_rest),
        "resident_mib": mib(resident),
        "exchanges_missing": i64::from(2 * rounds) - counted.cast_signed(),
        "events_lost": after.counters.events_lost.saturating_sub(before.counters.events_lost),
    }))
}

/// Method and path of a key. Paths are of few segments below few others, so that none is taken for an id.
fn key(number: u32) -> Words {
    let word = |number: u32| {
        let letter = |digit: u32| char::from_digit(10 + digit % 26, 36).unwrap_or('z');
        [letter(number), letter(number / 26), 'x'].iter().collect::<String>()
    };
    let (method, path) = (number % 5, number / 5);
    let method = usize::try_from(method).ok().and_then(|at| METHODS.get(at)).copied().unwrap_or("GET");
    Words::http(method, &format!("/{}/{}", word(path / 8), word(path % 8)), 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_differ() {
        let all: BTreeSet<String> = (0..500).map(|number| format!("{:?}", key(number))).collect();
        assert_eq!(all.len(), 500);
    }
}
