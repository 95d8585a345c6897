//! The directory in which companions record their sandboxes: it is read, watched, and cleared of the records of companions that died.

pub mod liveness;
pub mod scan;
pub mod watch;
