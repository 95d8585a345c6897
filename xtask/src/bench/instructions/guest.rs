//! One run of the guest under QEMU's instruction counter.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use porthole_bench_guest::{Line, MARK, Row};
use porthole_testbed::command;

/// How long a run may take; under load the emulation is a few times slower.
const DEADLINE: Duration = Duration::from_hours(1);

/// One processor whose instructions take a nanosecond each, and whose idle time is skipped. Without `erms` and `fsrm`
/// the kernel copies by words: with them by `rep movsb`, in which each byte is an instruction to QEMU.
const MACHINE: [&str; 20] = [
    "-machine",
    "q35,accel=tcg,sata=off,smbus=off,usb=off,vmport=off",
    "-icount",
    "shift=0,sleep=off",
    "-cpu",
    "max,-erms,-fsrm",
    // Random numbers and the date are the same in every run.
    "-seed",
    "1",
    "-rtc",
    "base=2026-01-01,clock=vm",
    "-smp",
    "1",
    "-serial",
    "stdio",
    "-monitor",
    "none",
    "-display",
    "none",
    "-nodefaults",
    "-no-user-config",
];

/// As in the guests of the embedded runtime, and without what differs from run to run: addresses are not random, and
/// the clock is the processor's counter from the start.
const KERNEL_PARAMETERS: &str = "console=ttyS0 quiet loglevel=1 panic=-1 reboot=t nokaslr norandmaps transparent_hugepage=never tsc=reliable \
                                 clocksource=tsc no_timer_check noreplace-smp cryptomgr.notests 8250.nr_uarts=1 \
                                 random.trust_cpu=on rcupdate.rcu_expedited=1 preempt=voluntary";

/// What a run gave.
#[derive(Debug)]
pub struct Outcome {
    /// The kernel's release.
    pub release: String,
    /// From the agent's start to its programs being attached.
    pub loading: Duration,
    /// The agent's log of its start, if the plan requests it.
    pub log: String,
    /// The measurements.
    pub rows: Vec<Row>,
}

/// Boots the kernel with the initrd and waits for the guest's end.
pub fn run(kernel: &Path, initrd: &Path, memory_mib: u64) -> Result<Outcome> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(MACHINE).arg("-no-reboot").args(["-m", &format!("{memory_mib}M")]);
    qemu.args([OsString::from("-kernel"), kernel.into(), "-initrd".into(), PathBuf::from(initrd).into()]);
    qemu.args(["-append", KERNEL_PARAMETERS]);
    let console = command::succeed(&mut qemu, DEADLINE)?.text();
    read(&console)
}

/// The measurements in what the guest wrote to its console.
fn read(console: &str) -> Result<Outcome> {
    let mut outcome =
        Outcome { release: String::new(), loading: Duration::ZERO, log: String::new(), rows: Vec::new() };
    let mut done = false;
    for text in console.lines().filter_map(|line| line.split_once(MARK)) {
        match serde_json::from_str(text.1.trim_end()).with_context(|| format!("read `{}`", text.1))? {
            Line::Guest { release } => outcome.release = release,
            Line::Loaded { ns } => outcome.loading = Duration::from_nanos(ns),
            Line::Log(log) => outcome.log = log,
            Line::Row(row) => outcome.rows.push(row),
            Line::Failed(reason) => bail!("in the guest: {reason}"),
            Line::Done => done = true,
        }
    }
    if !done {
        let lines: Vec<&str> = console.lines().collect();
        bail!("the guest ended early; its console:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_between_other_words_of_the_console() {
        let console = "@bench {\"Log\":\"loaded\"}\n\u{1b}c[    0.1] kernel\r\n@bench {\"Guest\":{\"release\":\"6.1\"}}\r\n\
                       @bench {\"Loaded\":{\"ns\":5000000}}\r\n@bench {\"Row\":{\"workload\":\"a\",\"phase\":\"With\",\"requests\":2,\"elapsed_ns\":3,\
                       \"agent_ns\":1,\"counted\":4,\"programs\":{}}}\r\n@bench \"Done\"\r\n";
        let outcome = read(console).unwrap();
        assert_eq!((outcome.release.as_str(), outcome.rows.len()), ("6.1", 1));
        assert_eq!(outcome.log, "loaded");
        assert_eq!(outcome.loading, Duration::from_millis(5));
    }

    #[test]
    fn a_guest_that_ends_early_is_an_error_with_its_last_words() {
        let error = read("Kernel panic\r\n").unwrap_err().to_string();
        assert!(error.contains("Kernel panic"), "{error}");
        let error = read("@bench {\"Failed\":\"no server\"}\r\n").unwrap_err().to_string();
        assert!(error.contains("no server"), "{error}");
    }
}
