//! Control groups: there is one, which needs no name.

/// Index of the system call's program.
pub const BY_CALL: u32 = 0;

/// Sends nothing.
pub fn announce_cgroup(_by: u32) -> u64 {
    0
}
