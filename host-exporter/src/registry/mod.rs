//! The directory in which companions tell about their sandboxes: read, watched, and cleared of what the dead left.

pub mod liveness;
pub mod scan;
pub mod watch;
