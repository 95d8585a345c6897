//! Why something that an agent sent was not counted: a small fixed set, fit for a metric's label.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! rejections {
    ($($(#[$meta:meta])* $name:ident = $text:literal;)+) => {
        /// Why something that an agent sent was not counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
        pub enum Rejection {
            $($(#[$meta])* #[error($text)] $name,)+
        }

        impl Rejection {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The word used in labels.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

rejections! {
    /// A batch with more series or spans than the contract allows.
    BatchTooLarge = "batch_too_large";
    /// A batch that is no message of the contract.
    BatchMalformed = "batch_malformed";
    /// An answer to a call that is larger than any of the contract.
    ResponseTooLarge = "response_too_large";
    /// A frame of a type that an agent does not send.
    FrameUnknown = "frame_unknown";
    /// A batch of another epoch than the agent named when the connection began.
    EpochMismatch = "epoch_mismatch";
    /// An epoch that was left before.
    EpochReturned = "epoch_returned";
    /// A text longer than the contract allows.
    TextTooLong = "text_too_long";
    /// A text with control characters.
    TextCharacters = "text_characters";
    /// A protocol that this build does not know.
    ProtocolUnknown = "protocol_unknown";
    /// Neither server nor client.
    SideUnknown = "side_unknown";
    /// An error class that this build does not know.
    ErrorClassUnknown = "error_class_unknown";
    /// A series without a key.
    KeyMissing = "key_missing";
    /// A series id whose key changed within the epoch.
    KeyChanged = "key_changed";
    /// A histogram that contradicts itself.
    HistogramMalformed = "histogram_malformed";
    /// A count or a sum beyond what a guest can reach.
    CountTooLarge = "count_too_large";
    /// A cumulative value smaller than before.
    WentBackwards = "went_backwards";
    /// A count of the agent's own smaller than before.
    CountersWentBackwards = "counters_went_backwards";
    /// More series than a sandbox may have.
    SandboxSeriesLimit = "sandbox_series_limit";
    /// More series than the tenant's budget.
    TenantSeriesLimit = "tenant_series_limit";
    /// A span of a series that was not reported, or was refused.
    SpanSeriesUnknown = "span_series_unknown";
    /// A span that says not, or not intelligibly, why it was chosen.
    SpanReasonUnknown = "span_reason_unknown";
}

impl Rejection {
    /// How much this counts against an agent. Only one that does not keep to the contract is refused for what counts; the
    /// rest also happens to honest ones: bounds that are reached, and words of a later version.
    pub fn weight(self) -> f64 {
        match self {
            // Whole frames.
            Self::BatchTooLarge | Self::BatchMalformed | Self::ResponseTooLarge | Self::FrameUnknown => 10.0,
            Self::EpochMismatch
            | Self::EpochReturned
            | Self::TextTooLong
            | Self::TextCharacters
            | Self::KeyMissing
            | Self::KeyChanged
            | Self::HistogramMalformed
            | Self::CountTooLarge
            | Self::WentBackwards
            | Self::CountersWentBackwards => 1.0,
            Self::ProtocolUnknown
            | Self::SideUnknown
            | Self::ErrorClassUnknown
            | Self::SandboxSeriesLimit
            | Self::TenantSeriesLimit
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
