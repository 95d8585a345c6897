//! When the entries of a table were last used, by the table's versions.

/// Versions of a table at two times: an entry that has not changed since the first is unused.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    /// The version at the first of them.
    pub(super) older: u64,
    newer: u64,
    /// When `newer` was taken, nanoseconds.
    at_ns: u64,
}

impl Marks {
    /// The table has this version now; the times are `interval_ns` apart, nanoseconds.
    pub(super) fn observe(&mut self, version: u64, now_ns: u64, interval_ns: u64) {
        if now_ns.saturating_sub(self.at_ns) >= interval_ns {
            *self = Self { older: self.newer, newer: version, at_ns: now_ns };
        }
    }
}
