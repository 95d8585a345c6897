//! What the kernel says about the run time of the agent's eBPF programs.
//!
//! The accounting itself slows the programs down, so it is never on while throughput is measured.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{bench::agent::Agent, workspace::output};

/// Switches the accounting, of all programs (kernel: `Documentation/admin-guide/sysctl/kernel.rst`).
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

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
    let programs = agent.programs()?;
    ensure!(!programs.is_empty(), "no eBPF program of the agent is known by its descriptors");
    let accounting = Accounting::on()?;
    let start = totals(&programs)?;
    let done = work()?;
    let end = totals(&programs)?;
    drop(accounting);
    let cost = Cost { runs: end.runs.saturating_sub(start.runs), ns: end.ns.saturating_sub(start.ns) };
    Ok((done, cost))
}

/// The accounting, on until it is dropped; then it is again as it was.
struct Accounting {
    before: String,
}

impl Accounting {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).context(SWITCH)?;
        fs::write(SWITCH, "1").context(SWITCH)?;
        Ok(Self { before })
    }
}

impl Drop for Accounting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, self.before.trim()) {
            eprintln!("warning: {SWITCH} stays on: {error}");
        }
    }
}

/// Runs and nanoseconds of these programs so far.
fn totals(ids: &[u64]) -> Result<Cost> {
    sum(ids, &output(Command::new("bpftool").args(["-j", "prog", "show"]))?)
}

fn sum(ids: &[u64], list: &str) -> Result<Cost> {
    let programs: Vec<serde_json::Value> = serde_json::from_str(list).context("bpftool's list")?;
    let ours = |program: &&serde_json::Value| program["id"].as_u64().is_some_and(|id| ids.contains(&id));
    let of = |key: &str| programs.iter().filter(ours).filter_map(|program| program[key].as_u64()).sum();
    Ok(Cost { runs: of("run_cnt"), ns: of("run_time_ns") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agents_programs_are_summed_up() {
        let list = r#"[{"id":3606,"type":"raw_tracepoint","name":"sched_process_exit","run_time_ns":18899,"run_cnt":1},
            {"id":3607,"type":"raw_tracepoint","name":"inet_sock_set_state"},
            {"id":3608,"type":"raw_tracepoint","name":"sys_exit","run_time_ns":148393,"run_cnt":1138},
            {"id":3611,"type":"raw_tracepoint","name":"sys_exit","run_time_ns":7,"run_cnt":1}]"#;
        assert_eq!(sum(&[3606, 3607, 3608], list).unwrap(), Cost { runs: 1139, ns: 167_292 });
        assert_eq!(sum(&[1], list).unwrap(), Cost::default());
    }
}
