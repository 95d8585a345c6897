//! When cumulative values began. OTLP's points have the time at which their value was zero (OpenTelemetry, "Metrics Data Model",
//! "Resets and Gaps"); the exporter's values go on over its restarts, so the times are kept in a file.
//!
//! A value that was not there in the round before began after it, and so did one that is smaller than before. Of what is there in a
//! tenant's first round it is not known: its first point begins when it is taken.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::accumulate::{
    budget::{Charge, TenantBudget},
    cost,
};

/// For how long a stream is remembered that is not there, and after a restart all that were in the file: agents report theirs again one
/// after the other.
const ABSENT_NS_MAX: u64 = 15 * 60 * 1_000_000_000;

/// Most streams of a tenant that are remembered and are not there, besides as many as are there.
const ABSENT_MAX: usize = 1_024;

/// What is remembered of a stream: when its value began, the last one, and when that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stream(u64, u64, u64);

/// What came of the file.
#[derive(Debug)]
struct Restored {
    streams: usize,
    /// Until when they are remembered, whether or not they are there; from the first round on.
    until_unix_ns: Option<u64>,
}

/// The streams of one tenant.
#[derive(Debug, Default)]
pub(super) struct OfTenant {
    /// When the last round was.
    round_unix_ns: Option<u64>,
    streams: HashMap<u64, Stream>,
    /// None a while after the restart.
    restored: Option<Restored>,
    charge: Option<Charge>,
}

/// A tenant in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    round_unix_ns: u64,
    streams: Vec<(u64, Stream)>,
}

/// The streams of all tenants.
#[derive(Debug, Default)]
pub(super) struct Starts {
    tenants: BTreeMap<String, OfTenant>,
    /// When the last round was, and which tenants there were.
    last: Option<(u64, BTreeSet<String>)>,
}

impl OfTenant {
    /// Begins a round at a time, which is not before the last one's: where the clock was set back, nothing is known.
    pub fn begin(&mut self, now_unix_ns: u64) {
        if self.round_unix_ns.is_some_and(|last| last >= now_unix_ns) {
            self.round_unix_ns = None;
            self.restored = None;
            self.streams.clear();
        }
    }

    /// When the value of a stream began.
    pub fn of(&mut self, stream: u64, value: u64, now_unix_ns: u64) -> u64 {
        let start = match self.streams.get(&stream) {
            Some(&Stream(start, last, _)) if value >= last => start,
            Some(&Stream(_, _, taken)) => taken,
            None => self.round_unix_ns.unwrap_or(now_unix_ns),
        };
        self.streams.insert(stream, Stream(start, value, now_unix_ns));
        start
    }

    /// Ends the round: forgets streams that are not there for long, and of too many the oldest.
    pub fn end(&mut self, now_unix_ns: u64, budget: &Arc<TenantBudget>) {
        self.round_unix_ns = Some(now_unix_ns);
        let there = self.streams.values().filter(|Stream(_, _, taken)| *taken == now_unix_ns).count();
        self.restored.take_if(|of| {
            *of.until_unix_ns.get_or_insert(now_unix_ns.saturating_add(ABSENT_NS_MAX)) <= now_unix_ns
        });
        let mut absent_max = there + ABSENT_MAX;
        if let Some(restored) = &self.restored {
            absent_max = absent_max.max(restored.streams);
        } else {
            let oldest = now_unix_ns.saturating_sub(ABSENT_NS_MAX);
            self.streams.retain(|_, Stream(_, _, taken)| *taken >= oldest);
        }
        let excess = (self.streams.len() - there).saturating_sub(absent_max);
        if excess > 0 {
            let absent = self.streams.iter().filter(|(_, Stream(_, _, taken))| *taken != now_unix_ns);
            let mut absent: Vec<_> = absent.map(|(stream, Stream(_, _, taken))| (*taken, *stream)).collect();
            absent.select_nth_unstable(excess - 1);
            for (_, stream) in &absent[..excess] {
                self.streams.remove(stream);
            }
        }
        if self.streams.capacity() > 4 * self.streams.len() {
            self.streams.shrink_to_fit();
        }
        let bytes = cost::table(&self.streams);
        self.charge.get_or_insert_with(|| Charge::new(Arc::clone(budget))).set_resident(bytes);
    }
}

impl Starts {
    /// Those of a file; none where it is absent.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let stored: BTreeMap<String, Stored> = serde_json::from_slice(&text)?;
        let of_tenant = |(tenant, Stored { round_unix_ns, streams })| {
            let streams: HashMap<_, _> = streams.into_iter().collect();
            let restored = Some(Restored { streams: streams.len(), until_unix_ns: None });
            (tenant, OfTenant { round_unix_ns: Some(round_unix_ns), streams, restored, charge: None })
        };
        Ok(Self { tenants: stored.into_iter().map(of_tenant).collect(), last: None })
    }

    /// Writes the file anew.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let stored: BTreeMap<&str, Stored> = self
            .tenants
            .iter()
            .filter_map(|(tenant, of)| {
                let streams = of.streams.iter().map(|(stream, known)| (*stream, *known)).collect();
                Some((tenant.as_str(), Stored { round_unix_ns: of.round_unix_ns?, streams }))
            })
            .collect();
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(&stored)?)?;
        fs::rename(new, path)
    }

    /// Those of a tenant. Of one that was not there in the last round all values began after it.
    pub fn of_tenant(&mut self, tenant: &str) -> &mut OfTenant {
        let last = self.last.as_ref().filter(|(_, known)| !known.contains(tenant));
        let round_unix_ns = last.map(|(round, _)| *round);
        let new = || OfTenant { round_unix_ns, ..OfTenant::default() };
        self.tenants.entry(tenant.to_owned()).or_insert_with(new)
    }

    /// Forgets the streams of a tenant.
    pub fn forget(&mut self, tenant: &str) {
        self.tenants.remove(tenant);
    }

    /// Ends a round in which there were these tenants, and forgets others.
    pub fn end(&mut self, now_unix_ns: u64, known: BTreeSet<String>) {
        self.tenants.retain(|tenant, _| known.contains(tenant));
        self.last = Some((now_unix_ns, known));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accumulate::budget::{Limits, NodeBudget};

    const MINUTE: u64 = 60_000_000_000;

    fn budget() -> Arc<TenantBudget> {
        Arc::new(TenantBudget::new(&NodeBudget::new(Limits::of_series(1))))
    }

    /// A round with these values of streams; when they began.
    fn round(of: &mut OfTenant, now: u64, values: &[(u64, u64)]) -> Vec<u64> {
        of.begin(now);
        let starts = values.iter().map(|&(stream, value)| of.of(stream, value, now)).collect();
        of.end(now, &budget());
        starts
    }

    #[test]
    fn values_begin_with_the_round_before_their_first_and_before_they_fell() {
        let mut of = OfTenant::default();
        assert_eq!(round(&mut of, 100, &[(1, 7)]), [100], "since when is not known");
        assert_eq!(round(&mut of, 200, &[(1, 7), (2, 9)]), [100, 100]);
        assert_eq!(round(&mut of, 300, &[(1, 8), (2, 3)]), [100, 200], "the second one began anew");
        assert_eq!(round(&mut of, 400, &[(2, 3)]), [200]);
        assert_eq!(round(&mut of, 500, &[(1, 9), (2, 3)]), [100, 200], "it was not there for a moment");
        assert_eq!(round(&mut of, 450, &[(1, 9)]), [450], "the clock was set back");
    }

    #[test]
    fn a_restart_changes_no_start() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("starts");
        assert!(Starts::read(&path).expect("none").tenants.is_empty());
        let mut starts = Starts::default();
        round(starts.of_tenant("acme"), 100, &[(1, 7), (2, 7)]);
        round(starts.of_tenant("acme"), 200, &[(1, 7), (2, 7), (3, 1)]);
        starts.write(&path).expect("written");
        let mut starts = Starts::read(&path).expect("read");
        let of = round(starts.of_tenant("acme"), 900, &[(1, 9), (2, 6), (3, 1), (4, 2)]);
        assert_eq!(of, [100, 200, 100, 200]);
        assert_eq!(round(starts.of_tenant("rival"), 900, &[(1, 9)]), [900]);
        fs::write(&path, "no JSON").expect("written");
        assert_eq!(Starts::read(&path).expect_err("no JSON").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn streams_of_agents_that_come_late_after_a_restart_keep_their_starts() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("starts");
        let mut starts = Starts::default();
        let all: Vec<_> = (0..5_000).map(|stream| (stream, 1)).collect();
        round(starts.of_tenant("acme"), MINUTE, &all);
        starts.write(&path).expect("written");
        let mut starts = Starts::read(&path).expect("read");
        let of = starts.of_tenant("acme");
        // It was stopped for a day.
        for at in [0, 7, 14] {
            let began = round(of, 1_440 * MINUTE + at * MINUTE, &all[..100]);
            assert!(began.iter().all(|start| *start == MINUTE), "{began:?}");
        }
        let began = round(of, 1_454 * MINUTE + 1, &all);
        assert!(began.iter().all(|start| *start == MINUTE), "{began:?}");
        round(of, 1_455 * MINUTE, &all[..100]);
        assert!(of.restored.is_none());
        assert_eq!(of.streams.len(), 2 * 100 + ABSENT_MAX, "there, and absent ones");
    }

    #[test]
    fn of_too_many_absent_streams_the_oldest_are_forgotten() {
        let mut of = OfTenant::default();
        let streams = |from: u64, to: u64| (from..to).map(|stream| (stream, 1)).collect::<Vec<_>>();
        round(&mut of, MINUTE, &streams(0, 2_000));
        round(&mut of, 2 * MINUTE, &streams(2_000, 3_000));
        assert_eq!(of.streams.len(), 3_000, "as many absent ones have room");
        round(&mut of, 3 * MINUTE, &streams(3_000, 3_100));
        assert_eq!(of.streams.len(), 2 * 100 + ABSENT_MAX);
        let newer = (2_000..3_000).filter(|stream| of.streams.contains_key(stream)).count();
        assert_eq!(newer, 1_000, "all that were there a round ago");
    }

    #[test]
    fn values_of_a_tenant_that_was_not_there_began_after_the_round_before() {
        let mut starts = Starts::default();
        let known = |tenants: &[&str]| tenants.iter().map(|&tenant| tenant.to_owned()).collect();
        starts.end(100, known(&["unwanted"]));
        assert_eq!(round(starts.of_tenant("acme"), 200, &[(1, 7)]), [100]);
        assert_eq!(round(starts.of_tenant("unwanted"), 200, &[(1, 7)]), [200], "it was there, and not sent");
        starts.end(200, known(&["acme"]));
        assert_eq!(round(starts.of_tenant("unwanted"), 300, &[(1, 7)]), [200], "it was gone");
    }

    #[test]
    fn what_is_remembered_of_streams_that_are_gone_is_bounded_and_charged() {
        let mut of = OfTenant::default();
        round(&mut of, MINUTE, &[(1, 1), (2, 1)]);
        round(&mut of, 17 * MINUTE, &[(1, 1)]);
        assert_eq!(of.streams.len(), 1, "it is gone for longer than a quarter of an hour");
        for at in 18..30 {
            let others: Vec<_> = (0..1_000).map(|stream| (at * 1_000 + stream, 1)).collect();
            round(&mut of, at * MINUTE, &others);
            assert!(of.streams.len() <= 2 * 1_000 + ABSENT_MAX, "{}", of.streams.len());
        }
        let charged = of.charge.as_ref().map_or(0, Charge::resident);
        assert!(charged >= of.streams.len() * size_of::<(u64, Stream)>(), "{charged}");
    }
}
