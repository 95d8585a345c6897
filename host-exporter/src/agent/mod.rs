//! The way to one agent: dial, greet, watch, reconnect.
//!
//! Each sandbox has a task of its own. What comes from the guest passes [`guarded::GuardedStream`], which bounds the
//! size of a frame, the frames not yet worked off, and the bytes per second, before ttrpc allocates anything for it;
//! every call has a deadline of ours, because ttrpc has none.

pub mod backoff;
pub mod dial;
pub mod guarded;
pub mod inspect;
pub mod session;
pub mod task;
