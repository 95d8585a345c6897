//! Packet mode: for kernels that do not let programs look at system calls.
//!
//! ```text
//! packet → flows: TCP in order, UDP → Chunk → l7 → Exchange → series
//! ```
//!
//! - [`capture`]: the loop that reads the ring buffer.
//! - [`flows`]: the connections, by their local ends.
//! - [`cgroups`]: which container a socket belongs to.
//!
//! What packets do not tell is absent: processes, unix-domain sockets, the end of a container. Addresses are taken as one
//! set: connections of two network namespaces between the same addresses and ports at the same time are one.

pub mod capture;
pub mod cgroups;
pub mod flows;
