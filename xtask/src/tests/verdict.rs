//! What became of the tests: sums over all test programs, what was ignored and why, what took longest.
//!
//! The closing lines of the programs have how many tests passed, failed and were ignored; the report of the trials
//! ([`porthole_trials::report`]) lists which of them were ignored, and why. A test that is ignored in another way
//! (`#[ignore]`) is in the closing lines alone.

use std::collections::BTreeMap;

use porthole_trials::{reasons, report::Entry};

/// How many of the slowest trials are printed.
const SLOWEST: usize = 15;

/// Sums over all test programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

impl Totals {
    /// Adds a program's closing line: `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    pub fn add(&mut self, line: &str) {
        let Some(result) = line.trim_start().strip_prefix("test result: ") else { return };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            match (words.next().and_then(|number| number.parse::<u64>().ok()), words.next()) {
                (Some(number), Some("passed")) => self.passed += number,
                (Some(number), Some("failed")) => self.failed += number,
                (Some(number), Some("ignored")) => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// The ignored tests, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// Those whose reason is on the list of accepted ones.
    accepted: BTreeMap<String, Vec<String>>,
    /// Those whose reason is not.
    refused: BTreeMap<String, Vec<String>>,
    /// How many were ignored without a reason.
    unexplained: u64,
}

impl Ignored {
    /// Sorts the trials that were ignored; `all` is how many tests the closing lines count as ignored.
    pub fn of(trials: &[Entry], all: u64) -> Self {
        let mut ignored = Self::default();
        let mut explained = 0;
        for trial in trials {
            let Some(reason) = &trial.ignored else { continue };
            explained += 1;
            let accepted = reasons::ACCEPTED.contains(&&**reason);
            let by_reason = if accepted { &mut ignored.accepted } else { &mut ignored.refused };
            by_reason.entry(reason.clone()).or_default().push(trial.name.clone());
        }
        ignored.unexplained = all.saturating_sub(explained);
        ignored
    }

    /// How many tests should have run.
    pub fn refused(&self) -> u64 {
        self.unexplained + self.refused.values().flatten().count() as u64
    }

    /// The tests that should have run, with the reason why they did not.
    pub fn names_of_refused(&self) -> impl Iterator<Item = (&str, &str)> {
        let by_reason = self.refused.iter();
        by_reason.flat_map(|(reason, names)| names.iter().map(move |name| (&**name, &**reason)))
    }

    /// Lines for the reader of the output.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (kind, by_reason) in [("ignored", &self.accepted), ("FAILED, as it could not run", &self.refused)]
        {
            for (reason, names) in by_reason {
                lines.push(format!("{kind} ({reason}): {}", names.len()));
                lines.extend(names.iter().map(|name| format!("    {name}")));
            }
        }
        if self.unexplained > 0 {
            lines.push(format!("FAILED, as ignored without a reason: {}", self.unexplained));
        }
        lines
    }
}

/// Lines with the trials that took longest.
pub fn slowest(trials: &[Entry]) -> Vec<String> {
    let mut trials: Vec<_> = trials.iter().collect();
    trials.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    trials.into_iter().take(SLOWEST).map(|trial| format!("{:8.1} s  {}", trial.seconds, trial.name)).collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    fn trial(name: &str, ignored: Option<&str>) -> Entry {
        Entry { name: name.to_owned(), seconds: 1.0, ignored: ignored.map(str::to_owned) }
    }

    #[test]
    fn closing_lines_are_summed_and_other_lines_ignored() {
        let mut totals = Totals::default();
        for line in [
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "3 passed; 4 failed",
            "test leaks::nothing_remains ... ok",
        ] {
            totals.add(line);
        }
        assert_eq!(totals, Totals { passed: 12, failed: 2, ignored: 1 });
    }

    #[test]
    fn a_test_whose_reason_is_not_accepted_is_refused() {
        let trials = [
            trial("ran", None),
            trial("slow", Some(reasons::ONLY_WITH_ALL)),
            trial("unprivileged", Some("needs root")),
        ];
        let ignored = Ignored::of(&trials, 2);
        assert_eq!(ignored.refused(), 1);
        let lines = ignored.lines();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[2].starts_with("FAILED") && lines[2].contains("needs root"), "{lines:?}");
    }

    #[test]
    fn a_test_that_is_ignored_without_a_reason_is_refused() {
        let trials = [trial("slow", Some(reasons::ONLY_WITH_ALL))];
        assert_eq!(Ignored::of(&trials, 1).refused(), 0);
        assert_eq!(Ignored::of(&trials, 3).refused(), 2);
    }

    #[test]
    fn the_slowest_come_first() {
        let mut trials = [trial("short", None), trial("long", None)];
        trials[1].seconds = 2.5;
        assert_eq!(slowest(&trials), ["     2.5 s  long", "     1.0 s  short"]);
    }
}
