//! The way to one agent: dial, greet, watch, reconnect.
//!
//! Each sandbox has a task of its own. What comes from the guest passes [`guarded::GuardedStream`], which bounds the
//! size of a frame, the frames not yet worked off, and the bytes per second, before anything is allocated for it;
//! every call has a deadline.

pub mod backoff;
pub mod client;
pub mod guarded;
pub mod inspect;
mod moments;
pub mod outlook;
pub mod session;
pub mod task;
