//! From cumulative values of one agent's epoch to values of a sandbox that never go backwards.
//!
//! An agent reports each series' value since its own start. [`sandbox::Accumulator`] keeps the last value of each
//! series id within the epoch, so a value that is received twice changes nothing; when the epoch changes, the old one's values are
//! kept and the new one's added. [`golden`] holds what outlives the sandbox.

pub mod budget;
pub mod counters;
pub mod golden;
pub mod sandbox;
pub mod series;
pub mod values;
