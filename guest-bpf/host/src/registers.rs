//! The registers of a system call: there are none, as [`crate::agent::monitor`] names buffer and length itself.

use porthole_bpf_types::syscall::Call;

/// Those of no call.
#[derive(Clone, Copy, Debug)]
pub struct Registers;

#[allow(clippy::unused_self)] // As the registers of a call have it.
impl Registers {
    /// No call.
    pub fn call(self) -> Call {
        Call::NONE
    }

    /// Not one of 32 bits.
    pub fn is_compat(self) -> bool {
        false
    }

    /// Zero.
    pub fn argument<const INDEX: usize>(self) -> u64 {
        0
    }
}
