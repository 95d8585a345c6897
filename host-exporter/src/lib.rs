//! The host exporter: from the registry's records to labelled metrics.
//!
//! ```text
//! registry directory ─► supervisor ─► one task per agent: dial, guard, Hello, Watch
//!                                          │ Batch
//!                                          ▼
//!                       intake: checks ─► accumulate: values by epoch and series id
//!                                          │
//!          ledger ◄──────── fleet: sandboxes, applications, budgets ────────► exposition, JSON
//!                                          │ every 15 s
//!                                          ▼
//!                       history: the last hour of the applications ─────────► JSON, objectives
//!                       topology: the last hour of who calls whom ──────────► JSON
//!
//! agent ─► spans: the newest of each tenant ─► traces: both ends of a call joined, for JSON and every 3 s ─► otlp
//! ```
//!
//! Invariants:
//! - labels with the identity of a sandbox come from the record, never from the guest;
//! - one sandbox cannot take another's time, memory or connections beyond its own bounds;
//! - an application's totals never go backwards, also not over a restart;
//! - what is not counted is counted as such ([`rejection`]).

pub mod accumulate;
pub mod agent;
pub mod buckets;
pub mod clock;
pub mod config;
pub mod exemplars;
pub mod exporter;
pub mod exposition;
pub mod fleet;
pub mod guest_clock;
pub mod history;
pub mod http;
pub mod http_url;
pub mod identity;
pub mod ids;
pub mod instrument;
pub mod intake;
pub mod kubernetes;
pub mod last_states;
pub mod ledger;
pub mod memory;
pub mod metering;
pub mod objectives;
pub mod otlp;
pub mod outbound;
pub mod own;
pub mod peer;
pub mod protocol;
pub mod query;
pub mod registry;
pub mod rejection;
pub mod sampling;
pub mod spans;
pub mod steps;
pub mod supervisor;
pub mod topology;
pub mod trace_rounds;
pub mod traces;
