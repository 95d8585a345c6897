//! How an agent is reached, and what it reported about itself: for listings, never for decisions.

use std::time::Instant;

use porthole_registry::{AGENT_IMPOSTOR, Reason, SandboxRecord, SandboxState};

use crate::{
    accumulate::cost,
    protocol::{CaptureMode, Placement},
};

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
    /// What the agent reported about itself.
    pub agent: Option<AboutAgent>,
}

impl Link {
    /// Bytes of its texts.
    pub fn bytes(&self) -> usize {
        self.last_error.as_deref().map_or(0, cost::text) + self.agent.as_ref().map_or(0, AboutAgent::bytes)
    }

    /// State of a live sandbox and its reason: that of its record, unless another process answers in place of the
    /// agent.
    pub fn state_of(&self, record: &SandboxRecord) -> (SandboxState, Option<Reason>) {
        if !self.impostor {
            return (record.state, record.reason.clone());
        }
        let impostor = || Reason {
            code: AGENT_IMPOSTOR.to_owned(),
            message: "the process that listens on the agent's port does not hold the sandbox's secret"
                .to_owned(),
        };
        (SandboxState::Unmonitored, record.reason.clone().or_else(|| Some(impostor())))
    }

    /// The agent sent a message: the reason of an earlier failure is over.
    pub fn connected(&mut self) {
        self.state = LinkState::Connected;
        self.last_error = None;
        self.impostor = false;
    }
}

/// What an agent reported about itself; the guest's texts, cut to size.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AboutAgent {
    /// Its version.
    pub version: String,
    /// The guest's kernel.
    pub kernel_release: String,
    /// How it came into the guest.
    pub placement: Option<Placement>,
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

impl AboutAgent {
    fn bytes(&self) -> usize {
        let texts = self.capabilities.iter().chain(&self.limitations);
        texts.map(|text| size_of::<String>() + cost::text(text)).sum::<usize>()
            + cost::text(&self.version)
            + cost::text(&self.kernel_release)
    }
}
