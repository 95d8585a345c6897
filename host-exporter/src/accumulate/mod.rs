//! From cumulative values of one agent's epoch to values of a sandbox that never go backwards.
//!
//! An agent reports each series' value since its own start. [`sandbox::Accumulator`] keeps the last value of each
//! series id within the epoch, so a value that is received twice changes nothing; when the epoch changes, the old one's values are
//! kept and the new one's added. [`golden`] holds what outlives the sandbox.
//!
//! [`resources`] holds what the kernel of a guest measured, and [`dependencies`] the connections that containers make: neither are
//! series of an epoch.
//!
//! What a sandbox holds is charged to its tenant's [`budget`] by what it [`cost`]s, before it is held.

pub mod budget;
pub mod calls;
pub mod cost;
pub mod counters;
pub mod dependencies;
mod exposed;
pub mod golden;
pub mod packed;
pub mod pool;
pub mod predecessor;
pub mod resources;
pub mod sandbox;
pub mod series;
pub mod totals;
pub mod values;
