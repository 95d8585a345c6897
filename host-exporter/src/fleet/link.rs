//! How an agent is reached, and what it said about itself: for listings, never for decisions.

use std::time::Instant;

use crate::protocol::CaptureMode;

/// State of the connection to an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// The record names no channel yet, or never will.
    #[default]
    None,
    /// Waiting for one of the bounded number of connections.
    Queued,
    /// Dialling, or greeting.
    Connecting,
    /// Batches can come.
    Connected,
    /// Waiting before the next attempt.
    Waiting,
    /// Left alone for a while: it did not keep to the contract.
    Quarantined,
    /// The sandbox has ended.
    Closed,
}

impl LinkState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Queued,
        Self::Connecting,
        Self::Connected,
        Self::Waiting,
        Self::Quarantined,
        Self::Closed,
    ];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Queued => "queued",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Waiting => "waiting",
            Self::Quarantined => "quarantined",
            Self::Closed => "closed",
        }
    }
}

/// How an agent is reached.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// State of the connection.
    pub state: LinkState,
    /// Connections that came about.
    pub connections: u64,
    /// Why the last attempt or connection ended; nothing while connected.
    pub last_error: Option<String>,
    /// Who answered last did not hold the sandbox's secret.
    pub impostor: bool,
    /// The companion is dead: the connection that there is goes on, and no other is made.
    pub orphaned: bool,
    /// When the last batch came.
    pub last_batch: Option<Instant>,
    /// Batches that came.
    pub batches: u64,
    /// What the agent said about itself.
    pub agent: Option<AboutAgent>,
}

impl Link {
    /// The agent sent a message: the reason of an earlier failure is over.
    pub fn connected(&mut self) {
        self.state = LinkState::Connected;
        self.last_error = None;
        self.impostor = false;
    }
}

/// What an agent said about itself; the guest's words, cut to size.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AboutAgent {
    /// Its version.
    pub version: String,
    /// The guest's kernel.
    pub kernel_release: String,
    /// How it sees what the guest does.
    pub capture_mode: Option<CaptureMode>,
    /// Optional abilities.
    pub capabilities: Vec<String>,
    /// What its kernel or configuration does not allow.
    pub limitations: Vec<String>,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// CPU time, nanoseconds.
    pub cpu_ns: u64,
    /// Connections that it follows.
    pub connections: u64,
    /// Series that it holds.
    pub series: u64,
    /// From its start to attached probes, nanoseconds.
    pub load_ns: u64,
}
