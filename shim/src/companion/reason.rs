//! Why a sandbox has no agent: a fixed set of words, fit for a metric's label, and the story.

use porthole_proto::registry::Reason;

use crate::settings::one_line;

/// The words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasonCode {
    /// The host's configuration cannot be used.
    ConfigurationInvalid,
    /// There is no agent in the sidecar's root file system.
    SidecarMissing,
    /// The delegate's shim does not accept a connection.
    ShimUnreachable,
    /// The delegate's shim speaks something else than task v2 or v3 over ttrpc.
    ProtocolUnsupported,
    /// No monitor socket of the delegate says where an agent could be reached.
    NoChannel,
    /// The delegate refused to create the sidecar.
    CreateRefused,
    /// The delegate did not answer the sidecar's creation in time.
    CreateTimeout,
    /// The delegate refused to start the sidecar.
    StartRefused,
    /// The delegate did not answer the sidecar's start in time.
    StartTimeout,
    /// The agent ended while the workload runs.
    AgentExited,
    /// The delegate's shim stopped answering about the sandbox.
    ShimUnresponsive,
    /// Something on our own side.
    Internal,
}

impl ReasonCode {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigurationInvalid => "configuration_invalid",
            Self::SidecarMissing => "sidecar_missing",
            Self::ShimUnreachable => "shim_unreachable",
            Self::ProtocolUnsupported => "protocol_unsupported",
            Self::NoChannel => "no_channel",
            Self::CreateRefused => "create_refused",
            Self::CreateTimeout => "create_timeout",
            Self::StartRefused => "start_refused",
            Self::StartTimeout => "start_timeout",
            Self::AgentExited => "agent_exited",
            Self::ShimUnresponsive => "shim_unresponsive",
            Self::Internal => "internal",
        }
    }
}

/// Longest message, in characters.
const MESSAGE_CHARS_MAX: usize = 500;

/// A failure of the monitoring, never of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The word.
    pub code: ReasonCode,
    /// The story, one line.
    pub message: String,
}

impl Failure {
    /// A failure with its story.
    pub fn new(code: ReasonCode, message: impl AsRef<str>) -> Self {
        Self { code, message: one_line(message.as_ref()).chars().take(MESSAGE_CHARS_MAX).collect() }
    }

    /// The form in the record.
    pub fn to_reason(&self) -> Reason {
        Reason { code: self.code.as_str().to_owned(), message: self.message.clone() }
    }
}
