//! The entries of the ledger: JSON, so that a person can read them.

use porthole_histogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{
    accumulate::{
        counters::AgentCounters,
        golden::{Errors, Golden, GoldenTable},
        sandbox::Accumulator,
        series::SeriesKey,
        values::Values,
    },
    fleet::sandbox::{Phase, Sandbox},
    identity::{Application, Identity},
    protocol::{Protocol, Side},
};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ApplicationTotals {
    #[serde(flatten)]
    pub application: Application,
    pub values: Vec<GoldenRow>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TenantTotals {
    pub tenant: String,
    pub counters: AgentCounters,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SandboxEntry {
    pub identity: Identity,
    pub created_unix_ms: u64,
    pub ended_unix_ms: Option<u64>,
    pub scrapes: u32,
    /// Its series are no longer exposed.
    pub remembered: bool,
    pub epoch: Option<u64>,
    pub closed_epochs: Vec<u64>,
    pub closed: Vec<GoldenRow>,
    pub current: Vec<GoldenRow>,
    pub closed_counters: AgentCounters,
    pub current_counters: AgentCounters,
    /// Counted for `other`: its tenant had too many applications.
    #[serde(default)]
    pub counted_for_other: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct GoldenRow {
    #[serde(with = "crate::protocol::by_name")]
    pub side: Side,
    #[serde(with = "crate::protocol::by_name")]
    pub protocol: Protocol,
    pub errors: Errors,
    pub durations: StoredHistogram,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CarriedSeries {
    pub key: SeriesKey,
    pub durations: StoredHistogram,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// A histogram; its buckets are checked when it is read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "Buckets", into = "Buckets")]
pub(super) struct StoredHistogram(Histogram);

impl Clone for StoredHistogram {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Buckets {
    sum_ns: u64,
    buckets: Vec<(i32, u64)>,
}

impl From<StoredHistogram> for Buckets {
    fn from(StoredHistogram(histogram): StoredHistogram) -> Self {
        Self { sum_ns: histogram.sum_ns(), buckets: histogram.buckets().to_vec() }
    }
}

impl TryFrom<Buckets> for StoredHistogram {
    type Error = porthole_histogram::MalformedHistogram;

    fn try_from(stored: Buckets) -> Result<Self, Self::Error> {
        Histogram::from_saturated_parts(stored.sum_ns, stored.buckets).map(Self)
    }
}

fn rows(table: &GoldenTable) -> Vec<GoldenRow> {
    table
        .iter()
        .map(|(side, protocol, golden)| GoldenRow {
            side,
            protocol,
            errors: golden.errors,
            durations: StoredHistogram(golden.durations.clone()),
        })
        .collect()
}

pub(super) fn table(rows: Vec<GoldenRow>) -> GoldenTable {
    let mut table = GoldenTable::default();
    for row in rows {
        let golden = Golden { durations: row.durations.0, errors: row.errors };
        table.insert_added((row.side, row.protocol), &golden);
    }
    table
}

impl ApplicationTotals {
    pub fn of(application: Application, totals: &GoldenTable) -> Self {
        Self { application, values: rows(totals) }
    }

    pub fn restore(self) -> (Application, GoldenTable) {
        (self.application, table(self.values))
    }
}

impl CarriedSeries {
    pub fn of(key: &SeriesKey, values: &Values) -> Self {
        Self {
            key: key.clone(),
            durations: StoredHistogram(values.durations.clone()),
            request_bytes: values.request_bytes,
            response_bytes: values.response_bytes,
        }
    }

    pub fn restore(self) -> (SeriesKey, Values) {
        let values = Values {
            durations: self.durations.0,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
        };
        (self.key, values)
    }
}

impl SandboxEntry {
    pub fn of(sandbox: &Sandbox, phase: Phase, accumulator: &Accumulator) -> Self {
        let created_unix_ms = sandbox.created_unix_ms();
        let totals = accumulator.totals();
        Self {
            identity: sandbox.identity.clone(),
            created_unix_ms,
            ended_unix_ms: phase.ended_unix_ms(),
            scrapes: if let Phase::Ended { scrapes, .. } = phase { scrapes } else { 0 },
            remembered: !phase.exposes_series(),
            epoch: accumulator.epoch(),
            closed_epochs: accumulator.closed_epochs().collect(),
            closed: rows(&totals.closed),
            current: rows(&totals.current.at_least(&totals.floor)),
            closed_counters: totals.closed_counters,
            current_counters: totals.current_counters.at_least(&totals.floor_counters),
            counted_for_other: *sandbox.application() != sandbox.identity.application(),
        }
    }
}
