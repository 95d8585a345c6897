//! Which tests failed, and what they printed: for the end of a long output.
//!
//! The harness prints, for a program with failed tests, what each of them printed (`---- NAME stdout ----`, or
//! `---- NAME ----` for trials), then their names, indented, behind a line `failures:`, then the closing line. A program that was
//! killed has none.

use std::collections::BTreeMap;

/// How many lines of a failed test's output are repeated.
const REPEATED_LINES: usize = 12;

/// The failed tests of all programs.
#[derive(Debug, Default)]
pub struct Failures {
    /// Of the programs that have ended: names with the first lines of their output.
    ended: Vec<(String, Vec<String>)>,
    /// Of the program that runs: first lines by name.
    output: BTreeMap<String, Vec<String>>,
    /// Whose output is being read.
    reading: Option<String>,
    /// What looks like a list of names since the last line `failures:`.
    names: Vec<String>,
    /// The last line of a program that has no closing line yet.
    running: Option<String>,
    /// Programs that ended without one.
    pub killed: u64,
}

impl Failures {
    /// Adds a line of a test program's output.
    pub fn add(&mut self, line: &str) {
        if is_opening(line) {
            self.end();
        }
        if is_opening(line) || self.running.is_some() {
            self.running = Some(line.to_owned()).filter(|line| !line.starts_with("test result: "));
        }
        if let Some(name) = heading(line) {
            self.output.entry(name.to_owned()).or_default();
            self.reading = Some(name.to_owned());
        } else if line == "failures:" {
            self.reading = None;
            self.names.clear();
        } else if line.starts_with("test result: ") {
            let names = std::mem::take(&mut self.names);
            if line.starts_with("test result: FAILED") {
                let output = &mut self.output;
                self.ended.extend(names.into_iter().map(|name| {
                    let lines = output.remove(&name).unwrap_or_default();
                    (name, lines)
                }));
            }
            self.output.clear();
            self.reading = None;
        } else if let Some(lines) = self.reading.as_ref().and_then(|name| self.output.get_mut(name)) {
            if !line.is_empty() && lines.len() < REPEATED_LINES {
                lines.push(line.to_owned());
            }
        } else if let Some(name) = line.strip_prefix("    ").filter(|name| !name.contains(' ')) {
            self.names.push(name.to_owned());
        }
    }

    /// No other program follows the one that ran last, if it ran to its end.
    pub fn end(&mut self) {
        if let Some(last) = self.running.take() {
            self.killed += 1;
            self.push("(a program)", format!("ended without its closing line, after {last:?}"));
        }
    }

    /// Adds a failure that is in no test program's output.
    pub fn push(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        self.ended.push((name.into(), vec![reason.into()]));
    }

    /// Lines for the reader of the output: each failed test with the first lines of what it printed.
    pub fn lines(&self) -> Vec<String> {
        self.ended
            .iter()
            .flat_map(|(name, output)| {
                let output = output.iter().map(|line| format!("    {line}"));
                std::iter::once(format!("test {name} ... FAILED")).chain(output)
            })
            .collect()
    }
}

/// `running 3 tests`
fn is_opening(line: &str) -> bool {
    let count = line.strip_prefix("running ").and_then(|rest| rest.split_once(' '));
    count.is_some_and(|(count, rest)| count.parse::<u64>().is_ok() && rest.starts_with("test"))
}

/// The name in `---- NAME stdout ----` or `---- NAME ----`.
fn heading(line: &str) -> Option<&str> {
    let name = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
    Some(name.strip_suffix(" stdout").unwrap_or(name))
}

#[cfg(test)]
mod unit {
    use super::*;

    /// The output of a program of the standard harness, then that of one with trials, then a check.
    const OUTPUT: &str = "\
..
failures:

---- one::fails stdout ----

thread 'one::fails' panicked at src/one.rs:3:5:
failures:
stack backtrace:
    0: core::panicking::panic_fmt

failures:
    one::fails

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
    not_a_name
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

failures:

---- guest::dies ----
the guest ended


failures:
    guest::dies

test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";

    #[test]
    fn a_program_without_a_closing_line_is_a_failure() {
        let mut failures = Failures::default();
        let closing =
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        for line in
            ["running 1 test", ".", closing, "", "running 2 tests", ".", "", "running 1 test", closing]
        {
            failures.add(line);
        }
        failures.end();
        assert_eq!(failures.killed, 1);
        assert_eq!(failures.lines().len(), 2);
        failures.add("running 0 tests");
        failures.end();
        assert_eq!(failures.killed, 2);
    }

    #[test]
    fn failed_tests_of_both_harnesses_are_named_with_what_they_printed() {
        let mut failures = Failures::default();
        OUTPUT.lines().for_each(|line| failures.add(line));
        failures.push("fuzz", "a target crashed");
        assert_eq!(
            failures.lines(),
            [
                "test one::fails ... FAILED",
                "    thread 'one::fails' panicked at src/one.rs:3:5:",
                "test guest::dies ... FAILED",
                "    the guest ended",
                "test fuzz ... FAILED",
                "    a target crashed",
            ]
        );
    }
}
