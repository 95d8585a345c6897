//! Why something that an agent sent was not counted: a small fixed set, fit for a metric's label.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! rejections {
    ($(#[doc = $doc:literal] $name:ident = $text:literal;)+) => {
        /// Why something that an agent sent was not counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
        pub enum Rejection {
            $(#[doc = $doc] #[error($text)] $name,)+
        }

        impl Rejection {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The word used in labels.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// What was refused, in a line for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $doc),+ }
            }
        }
    };
}

rejections! {
    /// A batch with more than 512 series, 256 spans, resources of 65 containers, connections to 64 addresses, or 512 fields that the contract does not have.
    BatchTooLarge = "batch_too_large";
    /// A batch that is no message of the contract.
    BatchMalformed = "batch_malformed";
    /// An answer to a call of more than 32 KiB.
    ResponseTooLarge = "response_too_large";
    /// An answer to a call that cannot be decoded, or has more texts or fields than any of the contract.
    ResponseMalformed = "response_malformed";
    /// A frame of a type that an agent does not send.
    FrameUnknown = "frame_unknown";
    /// A batch of another epoch of the agent than the connection began with.
    EpochMismatch = "epoch_mismatch";
    /// An epoch of the agent that had been replaced by a later one.
    EpochReturned = "epoch_returned";
    /// A text over 256 bytes in a series' key or a span; an operation or a status over 64 bytes.
    TextTooLong = "text_too_long";
    /// A text with control characters.
    TextCharacters = "text_characters";
    /// A protocol unknown to this exporter.
    ProtocolUnknown = "protocol_unknown";
    /// Neither server nor client.
    SideUnknown = "side_unknown";
    /// An error class unknown to this exporter.
    ErrorClassUnknown = "error_class_unknown";
    /// A series without a key.
    KeyMissing = "key_missing";
    /// A series whose key changed within one run of the agent.
    KeyChanged = "key_changed";
    /// A histogram that contradicts itself.
    HistogramMalformed = "histogram_malformed";
    /// More than 2^44 exchanges, or 2^60 bytes, in one series; more than 2^60 of a resource.
    CountTooLarge = "count_too_large";
    /// A cumulative value smaller than before.
    WentBackwards = "went_backwards";
    /// A count of the agent's own smaller than before.
    CountersWentBackwards = "counters_went_backwards";
    /// Series beyond the 4096 of a sandbox, connections to addresses beyond 256.
    SandboxSeriesLimit = "sandbox_series_limit";
    /// Series beyond the tenant's budget that `other` cannot take either.
    TenantSeriesLimit = "tenant_series_limit";
    /// Series, or values that need further buckets, beyond the tenant's or the node's budget of memory.
    TenantMemoryLimit = "tenant_memory_limit";
    /// A span of a series that was not reported, or was rejected.
    SpanSeriesUnknown = "span_series_unknown";
    /// A span without a known reason for its sampling.
    SpanReasonUnknown = "span_reason_unknown";
    /// A span with a trace context whose ids have other lengths than W3C Trace Context gives them.
    SpanContextMalformed = "span_context_malformed";
    /// Resources with other than one value for each thing that is reported as measured.
    ResourcesMalformed = "resources_malformed";
}

impl Rejection {
    /// How much this counts against an agent. Only one that does not keep to the contract is refused for what counts; the
    /// rest also happens to honest ones: bounds that are reached, and words of a later version.
    pub fn weight(self) -> f64 {
        match self {
            // Whole frames.
            Self::BatchTooLarge
            | Self::BatchMalformed
            | Self::ResponseTooLarge
            | Self::ResponseMalformed
            | Self::FrameUnknown => 10.0,
            Self::EpochMismatch
            | Self::EpochReturned
            | Self::TextTooLong
            | Self::TextCharacters
            | Self::KeyMissing
            | Self::KeyChanged
            | Self::HistogramMalformed
            | Self::CountTooLarge
            | Self::WentBackwards
            | Self::CountersWentBackwards
            | Self::SpanContextMalformed
            | Self::ResourcesMalformed => 1.0,
            Self::ProtocolUnknown
            | Self::SideUnknown
            | Self::ErrorClassUnknown
            | Self::SandboxSeriesLimit
            | Self::TenantSeriesLimit
            | Self::TenantMemoryLimit
            | Self::SpanSeriesUnknown
            | Self::SpanReasonUnknown => 0.0,
        }
    }
}

/// How often each reason was met.
#[derive(Debug, Default)]
pub struct Rejections([AtomicU64; Rejection::ALL.len()]);

impl Rejections {
    /// Counts one.
    pub fn count(&self, rejection: Rejection) {
        self.0[rejection as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The reasons that were met, and how often.
    pub fn met(&self) -> impl Iterator<Item = (Rejection, u64)> {
        Rejection::ALL
            .iter()
            .map(|&rejection| (rejection, self.get(rejection)))
            .filter(|(_, count)| *count > 0)
    }

    /// How often a reason was met.
    pub fn get(&self, rejection: Rejection) -> u64 {
        self.0[rejection as usize].load(Ordering::Relaxed)
    }
}
