//! The entries of the ledger: JSON, so that a person can read them.

use porthole_histogram::Histogram;
use serde::{Deserialize, Serialize};

use super::not_later;
use crate::{
    accumulate::{
        counters::AgentCounters,
        golden::{Errors, Golden, GoldenTable},
        sandbox::Accumulator,
        series::SeriesKey,
        values::Values,
    },
    fleet::{
        Retired,
        sandbox::{Phase, Sandbox, SandboxKey},
    },
    identity::{Application, Identity},
    protocol::{Protocol, Side},
};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ApplicationTotals {
    #[serde(flatten)]
    pub application: Application,
    pub values: Vec<GoldenRow>,
    /// Since when it has had no sandbox.
    #[serde(default)]
    pub idle_since_unix_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TenantTotals {
    pub tenant: String,
    pub counters: AgentCounters,
    /// Since when it has had neither sandbox nor application.
    #[serde(default)]
    pub idle_since_unix_ms: Option<u64>,
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
    // There are many sandboxes, and most have had one epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed_epochs: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<GoldenRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub current: Vec<GoldenRow>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub closed_counters: AgentCounters,
    #[serde(default, skip_serializing_if = "is_default")]
    pub current_counters: AgentCounters,
    /// Counted for `other`: its tenant had too many applications.
    #[serde(default)]
    pub counted_for_other: bool,
    /// How many names it had before.
    #[serde(default)]
    pub names_before: u32,
    /// It went on under another name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_former: bool,
    /// Counts of the running epoch under earlier names.
    #[serde(default, skip_serializing_if = "is_default")]
    pub counters_before: AgentCounters,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct GoldenRow {
    #[serde(with = "crate::protocol::by_name")]
    pub side: Side,
    #[serde(with = "crate::protocol::by_name")]
    pub protocol: Protocol,
    pub errors: Errors,
    /// Absent in entries of earlier versions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unknown: u64,
    pub durations: StoredHistogram,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CarriedSeries {
    /// None of a series of the running epoch that was counted under an earlier name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SeriesKey>,
    /// The agent's id of that series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
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
            unknown: golden.unknown,
            durations: StoredHistogram(golden.durations.clone()),
        })
        .collect()
}

pub(super) fn table(rows: Vec<GoldenRow>) -> GoldenTable {
    let mut table = GoldenTable::default();
    for row in rows {
        let golden = Golden { durations: row.durations.0, errors: row.errors, unknown: row.unknown };
        table.insert_added((row.side, row.protocol), &golden);
    }
    table
}

impl ApplicationTotals {
    pub fn of(retired: &Retired, application: &Application) -> Option<Self> {
        Some(Self {
            application: application.clone(),
            values: rows(retired.applications.get(application)?),
            idle_since_unix_ms: retired.idle_since.get(application).copied(),
        })
    }

    pub fn restore(self, retired: &mut Retired) {
        if let Some(since) = self.idle_since_unix_ms {
            retired.idle_since.insert(self.application.clone(), not_later(since));
        }
        retired.applications.entry(self.application).or_default().add(&table(self.values));
    }
}

impl TenantTotals {
    pub fn of(retired: &Retired, tenant: &str) -> Option<Self> {
        Some(Self {
            tenant: tenant.to_owned(),
            counters: *retired.tenant_counters.get(tenant)?,
            idle_since_unix_ms: retired.tenants_idle_since.get(tenant).copied(),
        })
    }

    pub fn restore(self, retired: &mut Retired) {
        if let Some(since) = self.idle_since_unix_ms {
            retired.tenants_idle_since.insert(self.tenant.clone(), not_later(since));
        }
        retired.tenant_counters.entry(self.tenant).or_default().add(&self.counters);
    }
}

impl CarriedSeries {
    pub fn of(key: &SeriesKey, values: &Values) -> Self {
        Self { key: Some(key.clone()), ..Self::with_values(values) }
    }

    pub fn before(id: u32, values: &Values) -> Self {
        Self { id: Some(id), ..Self::with_values(values) }
    }

    fn with_values(values: &Values) -> Self {
        Self {
            key: None,
            id: None,
            durations: StoredHistogram(values.durations.clone()),
            request_bytes: values.request_bytes,
            response_bytes: values.response_bytes,
        }
    }

    /// Values by key, or by id of what was counted under an earlier name.
    pub fn restore(self) -> (Option<SeriesKey>, Option<u32>, Values) {
        let values = Values {
            durations: self.durations.0,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
        };
        (self.key, self.id, values)
    }
}

impl SandboxEntry {
    pub fn key(&self) -> SandboxKey {
        SandboxKey::named(&self.identity, self.created_unix_ms, self.names_before, self.is_former)
    }

    pub fn of(sandbox: &Sandbox, phase: Phase, accumulator: &Accumulator) -> Self {
        let created_unix_ms = sandbox.created_unix_ms();
        let totals = accumulator.totals();
        Self {
            identity: sandbox.identity.as_ref().clone(),
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
            names_before: sandbox.names_before(),
            is_former: sandbox.is_former(),
            counters_before: *accumulator.predecessor().counters(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ErrorClass;

    #[test]
    fn golden_values_are_read_as_they_were_written() {
        let mut durations = Histogram::default();
        durations.record(1_000_000);
        let mut written = GoldenTable::default();
        for error in [None, Some(ErrorClass::Server), Some(ErrorClass::None), None] {
            written.record(Side::Server, Protocol::Grpc, error, &durations);
        }
        let text = serde_json::to_string(&rows(&written)).expect("written");
        assert_eq!(table(serde_json::from_str(&text).expect("read")), written, "{text}");
    }
}
