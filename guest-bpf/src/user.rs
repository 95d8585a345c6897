//! Lets aya place the shared types in maps and globals.

use crate::{
    connection::Connection,
    offset::KernelOffsets,
    record::{Counters, Settings},
};

// SAFETY: `repr(C)`, integers only, no padding.
unsafe impl aya::Pod for Connection {}
// SAFETY: as above.
unsafe impl aya::Pod for Counters {}
// SAFETY: as above.
unsafe impl aya::Pod for KernelOffsets {}
// SAFETY: as above.
unsafe impl aya::Pod for Settings {}
