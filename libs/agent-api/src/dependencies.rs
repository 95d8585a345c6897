//! Connections that containers make: why they fail, for both sides of the contract.

use std::time::Duration;

/// Most addresses whose connections are reported of one sandbox, and in one batch.
pub const DEPENDENCIES_MAX: usize = 256;

/// How long nothing must have come of an address to make room for another.
pub const UNUSED: Duration = Duration::from_mins(10);

macro_rules! failures {
    ($($(#[$meta:meta])* $name:ident = $text:literal, [$($errno:literal),*];)+) => {
        /// Why a connection could not be made, or did not last. Its number on the wire is its place in this list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Failure {
            $($(#[$meta])* $name,)+
        }

        impl Failure {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The word used in labels.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// The one of the kernel's error number (errno(3), of Linux on x86-64 and arm64).
            pub fn of(errno: u32) -> Self {
                match errno {
                    $($($errno => Self::$name,)*)+
                    _ => Self::Other,
                }
            }
        }
    };
}

failures! {
    /// Nothing listens there: `ECONNREFUSED`.
    Refused = "refused", [111];
    /// No answer came in the time that the kernel waits: `ETIMEDOUT`.
    TimedOut = "timed_out", [110];
    /// There is no way there: `ENETUNREACH`, `EHOSTUNREACH`, `ENETDOWN`, `EHOSTDOWN`.
    Unreachable = "unreachable", [101, 113, 100, 112];
    /// The other end has broken it off: `ECONNRESET`, `EPIPE`.
    Reset = "reset", [104, 32];
    /// The process closed the socket before an answer came, mostly because its own time was over.
    Abandoned = "abandoned", [0];
    /// Any other reason.
    Other = "other", [];
}
