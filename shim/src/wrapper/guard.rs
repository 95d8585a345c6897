//! Keeping our own failures away from the delegate's call.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Exit code when there is no delegate to hand the call to, as shells use it.
pub const NO_DELEGATE: u8 = 127;

/// Runs something of ours so that its panic (logged by the hook) does not disturb the delegate's call.
pub fn guarded<T>(ours: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(ours)).ok()
}
