//! The enumerations of a series' key besides the protocol.

/// Which end of the exchange the observed process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// It received the request.
    Server,
    /// It sent the request.
    Client,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Server, Self::Client];

    /// In labels and listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }

    /// Number in the agent's contract (`agent.proto`, `enum Side`).
    pub const fn wire(self) -> i32 {
        match self {
            Self::Server => 1,
            Self::Client => 2,
        }
    }

    /// The side of a number in the contract; `None` for one that this build does not know.
    pub fn from_wire(wire: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|side| side.wire() == wire)
    }
}

/// Whose fault a failure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// No failure.
    None,
    /// The request was at fault (HTTP 4xx, SQL syntax error, `WRONGTYPE`).
    Client,
    /// The server was at fault (HTTP 5xx, SERVFAIL).
    Server,
    /// The connection ended before a response came.
    NoResponse,
}

impl ErrorClass {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::None, Self::Client, Self::Server, Self::NoResponse];

    /// In labels and listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Client => "client",
            Self::Server => "server",
            Self::NoResponse => "no_response",
        }
    }

    /// Number in the agent's contract (`agent.proto`, `enum ErrorClass`).
    pub const fn wire(self) -> i32 {
        match self {
            Self::None => 0,
            Self::Client => 1,
            Self::Server => 2,
            Self::NoResponse => 3,
        }
    }

    /// The class of a number in the contract; `None` for one that this build does not know.
    pub fn from_wire(wire: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.wire() == wire)
    }
}
