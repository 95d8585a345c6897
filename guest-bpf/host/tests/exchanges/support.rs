//! Calls of one connection, cut and joined in every way.

use std::fmt::Display;

use porthole_bpf_host::{
    agent::monitor::Mode,
    differential::{Call, difference, difference_of_sums, monitored},
};
use porthole_bpf_types::record::VECTOR_MAX;
use porthole_l7::{Direction, Side};

/// What differs between the programs and `l7`.
#[derive(Debug, Default)]
pub struct Differences {
    shown: Vec<String>,
    count: usize,
    /// Exchanges that the programs aggregated.
    pub aggregated: u64,
}

/// Differences that are shown.
const SHOWN_MAX: usize = 5;

impl Differences {
    /// Compares the exchanges of each mode with those of `l7`.
    pub fn compare(&mut self, observed: Side, calls: &[Call], what: impl Display) {
        self.compare_sums(observed, calls, &what);
        let Some((mode, found, expected)) = difference(observed, calls) else { return };
        self.count += 1;
        if self.shown.len() == SHOWN_MAX {
            return;
        }
        let missing: Vec<_> = expected.iter().filter(|one| !found.contains(one)).collect();
        let wrong: Vec<_> = found.iter().filter(|one| !expected.contains(one)).collect();
        let (count, all) = (found.len(), expected.len());
        let calls: Vec<String> = calls.iter().take(40).map(shown).collect();
        self.shown.push(format!(
            "{what}, {mode:?}, {observed:?}: {count} of {all}\nof l7 only: {missing:#?}\nof the programs only: {wrong:#?}\n{}",
            calls.join("\n")
        ));
    }

    /// Compares the sums of exchanges where the programs aggregate them.
    fn compare_sums(&mut self, observed: Side, calls: &[Call], what: &impl Display) {
        let (difference, aggregated) = difference_of_sums(observed, calls);
        self.aggregated += aggregated;
        let Some((found, expected)) = difference else { return };
        self.count += 1;
        if self.shown.len() < SHOWN_MAX {
            let calls: Vec<String> = calls.iter().take(40).map(shown).collect();
            let calls = calls.join("\n");
            self.shown.push(format!("{what}, {observed:?}: sums {found:#?}\nof l7: {expected:#?}\n{calls}"));
        }
    }

    /// Fails where there are any.
    pub fn assert_none(&self) {
        assert!(self.count == 0, "{} differences:\n{}", self.count, self.shown.join("\n\n"));
    }

    /// Compares them for every way of cutting and joining the calls. `stride` is the distance of the bytes at which they
    /// are cut.
    pub fn compare_however_cut(&mut self, observed: Side, calls: &[Call], stride: usize, what: &str) {
        let total: usize = calls.iter().map(|call| call.bytes.len()).sum();
        self.compare(observed, calls, what);
        self.compare(observed, &joined(calls), format_args!("{what}, joined"));
        for size in [1, 2, 3, 5, 8, 13, 64, 1000] {
            self.compare(observed, &in_pieces(calls, size), format_args!("{what}, in pieces of {size}"));
            self.compare(observed, &gathered(calls, size), format_args!("{what}, gathered by {size}"));
        }
        for at in (1..total).step_by(stride) {
            self.compare(observed, &cut_at(calls, at), format_args!("{what}, cut at {at}"));
            self.compare(observed, &ended_at(calls, at), format_args!("{what}, ended at {at}"));
        }
    }
}

fn shown(call: &Call) -> String {
    let way = if call.direction == Direction::Ingress { "in " } else { "out" };
    let bytes = &call.bytes[..call.bytes.len().min(160)];
    format!("{way} {:4} {}", call.bytes.len(), bytes.escape_ascii())
}

/// Times that the programs took over and gave back.
pub fn turns(mode: Mode, observed: Side, calls: &[Call]) -> [u64; 2] {
    monitored(mode, observed, calls).1
}

/// The calls with the one that has this byte of all bytes cut in two.
pub fn cut_at(calls: &[Call], at: usize) -> Vec<Call> {
    let (mut all, mut passed) = (Vec::new(), 0);
    for call in calls {
        let len = call.bytes.len();
        if passed < at && at < passed + len {
            let (head, rest) = call.bytes.split_at(at - passed);
            all.push(Call::new(call.direction, head));
            all.push(Call::new(call.direction, rest));
        } else {
            all.push(call.clone());
        }
        passed += len;
    }
    all
}

/// The calls up to this byte of all bytes.
pub fn ended_at(calls: &[Call], at: usize) -> Vec<Call> {
    let mut left = at;
    let mut all = Vec::new();
    for call in calls {
        let taken = left.min(call.bytes.len());
        left -= taken;
        all.push(Call::new(call.direction, &call.bytes[..taken]));
    }
    all
}

/// The calls in pieces of so many bytes.
pub fn in_pieces(calls: &[Call], size: usize) -> Vec<Call> {
    let pieces =
        calls.iter().flat_map(|call| call.bytes.chunks(size).map(|piece| Call::new(call.direction, piece)));
    pieces.collect()
}

/// The calls with those that follow each other in one direction joined.
pub fn joined(calls: &[Call]) -> Vec<Call> {
    let mut all: Vec<Call> = Vec::new();
    for call in calls {
        match all.last_mut() {
            Some(last) if last.direction == call.direction => last.bytes.extend_from_slice(&call.bytes),
            _ => all.push(call.clone()),
        }
    }
    all
}

/// The calls, each out of several buffers of this size, or as many as the kernel takes.
pub fn gathered(calls: &[Call], size: usize) -> Vec<Call> {
    let mut all = calls.to_vec();
    for call in &mut all {
        let size = size.max(call.bytes.len().div_ceil(VECTOR_MAX as usize));
        call.cuts = (1..call.bytes.len().div_ceil(size)).map(|index| index * size).collect();
    }
    all
}
