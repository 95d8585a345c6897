//! The kernel's account of the run time of the agent's eBPF programs.
//!
//! The accounting itself slows the programs down, so it is never on while throughput is measured.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};

use crate::bench::agent::Agent;

/// What the agent's programs took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How often they ran.
    pub runs: u64,
    /// How long, nanoseconds.
    pub ns: u64,
}

/// What the programs of an agent take while something is done.
pub fn cost_during<T>(agent: &Agent, work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    // On until the descriptor is closed, however this process ends.
    let accounting = enable_stats(Stats::RunTime).context("switch on the accounting of eBPF programs")?;
    let start = totals(agent)?;
    let done = work()?;
    let end = totals(agent)?;
    drop(accounting);
    Ok((done, Cost { runs: end.runs.saturating_sub(start.runs), ns: end.ns.saturating_sub(start.ns) }))
}

/// Runs and nanoseconds of the agent's programs so far: it keeps descriptors of them.
fn totals(agent: &Agent) -> Result<Cost> {
    let directory = format!("/proc/{}/fdinfo", agent.pid());
    let mut texts = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.clone())? {
        // One that was closed in between is no program's.
        texts.push(fs::read_to_string(entry.context("a descriptor")?.path()).unwrap_or_default());
    }
    let programs: BTreeMap<u64, Cost> = texts.iter().filter_map(|text| program(text)).collect();
    ensure!(!programs.is_empty(), "no eBPF program of the agent is known by its descriptors");
    let sum = |of: fn(&Cost) -> u64| programs.values().map(of).sum();
    Ok(Cost { runs: sum(|cost| cost.runs), ns: sum(|cost| cost.ns) })
}

/// The id of a program and what it took, of its descriptor's lines (kernel: `bpf_prog_show_fdinfo`).
fn program(text: &str) -> Option<(u64, Cost)> {
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().parse().ok()
    };
    Some((number("prog_id")?, Cost { runs: number("run_cnt")?, ns: number("run_time_ns")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_programs_are_read_and_others_left_out() {
        let of_program = "pos:\t0\nflags:\t02000002\nprog_type:\t17\nprog_jited:\t1\nprog_tag:\ta69d23ed4fea2591\nmemlock:\t61440\n\
                          prog_id:\t3965\nrun_time_ns:\t1632194\nrun_cnt:\t14092\nrecursion_misses:\t0\n";
        assert_eq!(program(of_program), Some((3965, Cost { runs: 14_092, ns: 1_632_194 })));
        let of_link = "pos:\t0\nlink_type:\traw_tracepoint\nlink_id:\t3913\nprog_tag:\ta69d23ed4fea2591\nprog_id:\t3965\n\
                       tp_name:\tsys_exit\n";
        assert_eq!(program(of_link), None, "a link to a program has its id, too");
        assert_eq!(program("pos:\t0\nflags:\t02\n"), None);
    }
}
