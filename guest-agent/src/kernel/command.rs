//! Commands of the agent to the programs in the kernel.

use porthole_bpf_types::{
    kernel_key::{KernelKey, RequestKey},
    offload::{StatementKey, side},
};
use porthole_framing::Framing;
use porthole_l7::{Side, offload::IdleConnection};

/// A command to the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// This connection is worth following.
    Follow {
        /// The connection.
        connection: u64,
        /// How its messages are found.
        framing: Framing,
    },
    /// This connection has no known protocol.
    Ignore(u64),
    /// This connection ended.
    Forget(u64),
    /// The name of the requests with this hash is known.
    NameKnown(u64),
    /// It is not known any more.
    NameForgotten(u64),
    /// The entry of a kernel key.
    SetKey {
        /// Its index.
        index: u32,
        /// The entry.
        entry: KernelKey,
    },
    /// Where a kernel key's entry is.
    IndexKey {
        /// The key.
        key: RequestKey,
        /// The entry's index.
        index: u32,
    },
    /// The request of a prepared statement's executions.
    NameStatement {
        /// The statement.
        key: StatementKey,
        /// As in [`RequestKey::request`].
        request: u64,
    },
    /// Nothing is under way on this connection: the programs can follow it.
    Offer {
        /// The connection.
        connection: u64,
        /// Where it is.
        offer: Offer,
    },
    /// There is no room for this connection: announce it anew when something moves on it.
    Evict {
        /// Key in the kernel's table.
        socket: u64,
        /// The connection.
        connection: u64,
    },
}

/// What the programs need to continue with a connection on which nothing is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// A number of [`porthole_protocol::Offload`].
    pub protocol: u16,
    /// One of [`side`].
    pub side: u16,
    /// Where each direction's next byte is expected.
    pub offsets: [u64; 2],
    /// It need not be accepted before anything moves: the connection has one exchange after the other.
    pub is_lasting: bool,
}

impl Offer {
    /// The offer of an idle connection; none for a protocol that the programs do not follow.
    pub fn of(idle: &IdleConnection) -> Option<Self> {
        let offload = idle.protocol.row().offload?;
        let side = match idle.side {
            Side::Server => side::SERVER,
            Side::Client => side::CLIENT,
        };
        Some(Self { protocol: offload.number(), side, offsets: idle.offsets, is_lasting: offload.is_sql() })
    }
}
