//! What a link's task learns of the sandbox's life.

/// What becomes of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outlook {
    /// It is kept, by a new connection after each that ends.
    Open,
    /// No living companion vouches for the channel, which another virtual machine may have by now: the open connection goes on,
    /// and no other is made.
    Orphaned,
    /// The sandbox has ended: what its agent sent is read, and no other connection is made.
    Ended,
}
