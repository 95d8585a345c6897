//! The last hour of every application, in memory: requests, errors and durations by side and protocol, in steps of
//! [`STEP`]. It needs no other service, and a restart of the exporter begins it anew.
//!
//! A step without requests takes no memory. What exceeds the budget leaves with the oldest steps of the tenant that holds
//! the most, so that one tenant shortens its own history and no other's.

pub mod alert;
pub mod alerts;
pub mod burn;
pub(crate) mod hour;
pub mod range;
pub(crate) mod step;
pub mod webhook;

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    accumulate::{
        cost,
        golden::{Golden, GoldenTable},
    },
    history::{
        hour::{Hour, Line, LineKey},
        range::Range,
        step::PackedGolden,
    },
    identity::Application,
    protocol::{Protocol, Side},
};

/// What one step covers.
pub const STEP: Duration = Duration::from_secs(15);

/// Steps that are kept: an hour.
pub const STEPS: u64 = 240;

/// Steps since 1970.
pub type StepNumber = u64;

/// The step in which the clock is.
pub fn step_of(unix_ms: u64) -> StepNumber {
    unix_ms / (STEP.as_secs() * 1_000)
}

/// The last hour.
#[derive(Debug)]
pub struct History {
    /// Bytes that it may hold.
    budget: usize,
    inner: Mutex<Hour<Key>>,
    /// The step that was recorded last, for those who wait for it.
    steps: watch::Sender<StepNumber>,
}

/// Application's name, side, protocol.
type Key = (String, Side, Protocol);

impl LineKey for Key {
    const STAYS_WITHOUT_STEPS: bool = true;

    fn bytes(&self) -> usize {
        cost::text(&self.0)
    }
}

/// What was requested of the last hour.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recent {
    /// The first step after the last point.
    pub end: StepNumber,
    /// The first step that was not recorded yet.
    pub recorded: StepNumber,
    /// Of each side of each protocol of each application.
    pub lines: Vec<Points>,
}

/// What one side of one protocol of an application did in some steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Points {
    /// Whose.
    pub application: Application,
    /// As client or as server.
    pub side: Side,
    /// Protocol.
    pub protocol: Protocol,
    /// By the first step after each point; points without requests are left out.
    pub points: Vec<(StepNumber, Golden)>,
}

impl History {
    /// An empty one that holds at most `budget` bytes.
    pub fn new(budget: usize) -> Self {
        Self { budget, inner: Mutex::default(), steps: watch::Sender::new(0) }
    }

    /// Takes the totals of all applications at the end of a step. The first call of all takes them for what was before.
    pub fn record(&self, step: StepNumber, applications: &BTreeMap<Application, GoldenTable>) {
        let mut inner = self.inner.lock();
        let first = inner.newest.is_none();
        for (application, table) in applications {
            let tenant = inner.tenant(&application.tenant);
            for (side, protocol, totals) in table.iter() {
                let key = (application.service_name.clone(), side, protocol);
                record_totals(&mut tenant.lines, key, totals, step, first);
            }
        }
        inner.end(step, self.budget, |tenant, (service_name, side, protocol)| {
            let application = Application { tenant: tenant.to_owned(), service_name: service_name.clone() };
            applications.get(&application).is_some_and(|table| table.has(*side, *protocol))
        });
        drop(inner);
        self.steps.send_replace(step);
    }

    /// Drops some of it: the oldest five minutes of the tenant that holds the most.
    pub fn shed(&self) {
        self.inner.lock().shed();
    }

    /// Changes at the end of each step.
    pub fn steps(&self) -> watch::Receiver<StepNumber> {
        self.steps.subscribe()
    }

    /// Bytes that it may hold.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        self.inner.lock().held()
    }

    /// What the applications that `admits` accepts, by tenant and name, did in a range.
    pub fn points(&self, admits: impl Fn(&str, &str) -> bool, range: Range) -> Recent {
        let inner = self.inner.lock();
        let Some(newest) = inner.newest else { return Recent::default() };
        let (end, recorded) = range.end(newest.saturating_add(1));
        let from = end.saturating_sub(range.steps);
        let mut lines = Vec::new();
        for (tenant, held) in inner.iter() {
            for ((service_name, side, protocol), line) in &held.lines {
                if !admits(tenant, service_name) {
                    continue;
                }
                let application = Application { tenant: tenant.clone(), service_name: service_name.clone() };
                let mut points: Vec<(StepNumber, Golden)> = Vec::new();
                for (step, packed) in line.since(from).take_while(|(step, _)| *step < end) {
                    let ends = range.point_end(*step, end);
                    match points.last_mut() {
                        Some((last, golden)) if *last == ends => golden.add(&packed.unpack()),
                        _ => points.push((ends, packed.unpack())),
                    }
                }
                lines.push(Points { application, side: *side, protocol: *protocol, points });
            }
        }
        Recent { end, recorded, lines }
    }

    /// What an application did as a server in each step of the last hour, by protocol, and how many steps ago.
    pub fn served(&self, application: &Application) -> Vec<(u64, Golden)> {
        let inner = self.inner.lock();
        let Some(newest) = inner.newest else { return Vec::new() };
        let Some(tenant) = inner.of(&application.tenant) else { return Vec::new() };
        let from = newest.saturating_add(1).saturating_sub(STEPS);
        let lines = tenant.lines.iter();
        let lines =
            lines.filter(|((name, side, _), _)| *side == Side::Server && *name == application.service_name);
        lines
            .flat_map(|(_, line)| line.since(from))
            .map(|(step, packed)| (newest.saturating_sub(*step), packed.unpack()))
            .collect()
    }
}

/// Adds what came to the totals of a line since the step before.
fn record_totals(lines: &mut BTreeMap<Key, Line>, key: Key, totals: &Golden, step: StepNumber, first: bool) {
    let packed = PackedGolden::from(totals);
    let Some(line) = lines.get_mut(&key) else {
        let mut line = Line::default();
        if !first {
            line.add(step, totals);
        }
        lines.insert(key, Line { totals: packed, ..line });
        return;
    };
    if line.totals == packed {
        return;
    }
    // An application that was forgotten and is back counts from zero.
    let came = totals.since(&line.totals.unpack()).unwrap_or_else(|| totals.clone());
    line.add(step, &came);
    line.totals = packed;
}

#[cfg(test)]
mod tests;
