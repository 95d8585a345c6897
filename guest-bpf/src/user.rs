//! Lets aya place the shared types in maps and globals.

use crate::{
    connection::Connection,
    kernel_key::{KernelKey, RequestKey},
    offload::{OffloadedConnection, StatementKey},
    offset::KernelOffsets,
    record::{Counters, Settings},
    redis::RedisCommand,
};

// SAFETY: `repr(C)`, integers only, no padding.
unsafe impl aya::Pod for Connection {}
// SAFETY: as above.
unsafe impl aya::Pod for Counters {}
// SAFETY: as above.
unsafe impl aya::Pod for KernelOffsets {}
// SAFETY: as above.
unsafe impl aya::Pod for Settings {}
// SAFETY: as above.
unsafe impl aya::Pod for RedisCommand {}
// SAFETY: as above.
unsafe impl aya::Pod for KernelKey {}
// SAFETY: as above.
unsafe impl aya::Pod for RequestKey {}
// SAFETY: as above.
unsafe impl aya::Pod for StatementKey {}
// SAFETY: as above.
unsafe impl aya::Pod for OffloadedConnection {}
