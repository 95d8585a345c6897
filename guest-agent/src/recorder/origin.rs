//! Where an exchange was seen.

use super::{containers::ContainerIndex, peer::Peer};

/// Where an exchange was seen.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The process's container.
    pub container: ContainerIndex,
    /// That container's id.
    pub container_id: &'a str,
    /// The other end of the connection.
    pub peer: &'a Peer,
    /// What else is known of it.
    pub details: Details<'a>,
}

/// What is known of an exchange and has no part in its series.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details<'a> {
    /// This end of the connection.
    pub local: Option<&'a Peer>,
    /// Process that moved the last bytes, in the outermost pid namespace; 0 when it is not known.
    pub process: u32,
    /// The same of the thread.
    pub thread: u32,
    /// The programs in the kernel sampled it as a span.
    pub sampled: bool,
}
