//! The host exporter: from the registry's records to labelled metrics.
//!
//! ```text
//! registry directory ─► supervisor ─► one task per agent: dial, guard, Hello, Watch
//!                                          │ Batch
//!                                          ▼
//!                       intake: checks ─► accumulate: values by epoch and series id
//!                                          │
//!          ledger ◄──────── fleet: sandboxes, applications, budgets ────────► exposition, JSON
//! ```
//!
//! Invariants:
//! - labels that say whose numbers they are come from the record, never from the guest;
//! - one sandbox cannot take another's time, memory or connections beyond its own bounds;
//! - an application's totals never go backwards, also not over a restart;
//! - what is not counted is counted as such ([`rejection`]).

pub mod accumulate;
pub mod agent;
pub mod clock;
pub mod config;
pub mod exporter;
pub mod exposition;
pub mod fleet;
pub mod http;
pub mod identity;
pub mod instrument;
pub mod intake;
pub mod ledger;
pub mod metering;
pub mod own;
pub mod protocol;
pub mod registry;
pub mod rejection;
pub mod spans;
pub mod supervisor;
