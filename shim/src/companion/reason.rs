//! Why a sandbox has no agent: a code of a fixed set, fit for a metric's label, and a message.

use porthole_registry::Reason;

use crate::message::brief;

macro_rules! reason_codes {
    ($($(#[$meta:meta])* $name:ident = $word:literal;)+) => {
        /// The codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ReasonCode {
            $($(#[$meta])* $name,)+
        }

        impl ReasonCode {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The code's text.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word),+ }
            }
        }
    };
}

reason_codes! {
    /// The host's configuration cannot be used.
    ConfigurationInvalid = "configuration_invalid";
    /// There is no agent in the sidecar's root file system.
    SidecarMissing = "sidecar_missing";
    /// The delegate's shim does not accept a connection.
    ShimUnreachable = "shim_unreachable";
    /// The delegate's shim serves something else than task v2 or v3 over ttrpc.
    ProtocolUnsupported = "protocol_unsupported";
    /// No monitor socket of the delegate has an address at which an agent could be reached.
    NoChannel = "no_channel";
    /// The delegate refused to create the sidecar.
    CreateRefused = "create_refused";
    /// The delegate did not answer the sidecar's creation in time.
    CreateTimeout = "create_timeout";
    /// The delegate refused to start the sidecar.
    StartRefused = "start_refused";
    /// The delegate did not answer the sidecar's start in time.
    StartTimeout = "start_timeout";
    /// The guest's image carries no agent, and the configuration insists on one.
    AgentMissing = "agent_missing";
    /// Who listens on the agent's port in the guest does not take the sandbox's secret, or does not prove that it did.
    EnrolmentRefused = "enrolment_refused";
    /// The guest's own agent did not answer in time.
    EnrolmentTimeout = "enrolment_timeout";
    /// The process that listens in the sandbox does not hold its secret. The exporter detects this, and shows it in its
    /// listing.
    AgentImpostor = "agent_impostor";
    /// The agent ended while the workload runs.
    AgentExited = "agent_exited";
    /// The delegate's shim stopped answering about the sandbox.
    ShimUnresponsive = "shim_unresponsive";
    /// Something on our own side.
    Internal = "internal";
}

/// A failure of the monitoring, never of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which failure.
    pub code: ReasonCode,
    /// What happened, one line.
    pub message: String,
}

impl Failure {
    /// A failure with its message, which is cut to what a person can use.
    pub fn new(code: ReasonCode, message: impl AsRef<str>) -> Self {
        Self { code, message: brief(message.as_ref()) }
    }

    /// The form in the record.
    pub fn to_reason(&self) -> Reason {
        Reason { code: self.code.as_str().to_owned(), message: self.message.clone() }
    }
}
