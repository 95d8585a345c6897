//! Redis commands that the programs parse, found by the hash of their names.

/// Flags of a [`RedisCommand`].
pub mod command_flag {
    /// The programs do not parse connections on which it has an argument that begins with `R` or `T`: `CLIENT REPLY` and
    /// `CLIENT TRACKING` change which replies come.
    pub const CHECK_ARGUMENT: u32 = 1;
}

/// A Redis command that the programs parse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RedisCommand {
    /// The agent's number for it.
    pub id: u32,
    /// Bits of [`command_flag`].
    pub flags: u32,
}

/// Hash of a command's name, in the case in which it was sent: one more byte.
#[inline(always)]
pub const fn hash_byte(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(crate::path::PRIME)
}

/// The hash before the first byte.
pub const HASH_START: u64 = crate::path::BASIS;
