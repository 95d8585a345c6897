//! What the programs count, together with the agent to which they give connections back, is what `l7` counts of the same
//! calls.

mod findings;
mod generated;
mod recordings;
mod support;
mod traces;
