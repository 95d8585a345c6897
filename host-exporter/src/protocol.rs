//! The enumerations of a series' key, from the table of protocols, and those of an agent's link; all of them checked.

use porthole_agent_api::agent;
pub use porthole_protocol::{ErrorClass, Protocol, Side};
use serde::{Deserialize, Serialize};

macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident from $wire:ident { $($(#[$variant_meta:meta])* $variant:ident = $wire_variant:ident, $text:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word used in labels and listings.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value on the wire; `None` for one that this build does not know.
            pub fn from_wire(wire: protobuf::EnumOrUnknown<agent::$wire>) -> Option<Self> {
                match wire.enum_value().ok()? {
                    $(agent::$wire::$wire_variant => Some(Self::$variant),)+
                    #[allow(unreachable_patterns)]
                    _ => None,
                }
            }
        }
    };
}

wire_enum! {
    /// How an agent sees what its guest does.
    CaptureMode from CaptureMode {
        /// Raw tracepoints on system call exit.
        RawTracepoint = CAPTURE_MODE_SYSCALL_RAW_TRACEPOINT, "syscall_raw_tracepoint";
        /// fentry and fexit on the system calls' implementations.
        Fentry = CAPTURE_MODE_SYSCALL_FENTRY, "syscall_fentry";
        /// Packets.
        Packet = CAPTURE_MODE_PACKET, "packet";
        /// Tracepoints on what sockets send and receive.
        Socket = CAPTURE_MODE_SOCKET, "socket";
    }
}

wire_enum! {
    /// How an agent came into its guest.
    Placement from Placement {
        /// The guest's image carries it.
        BuiltIn = PLACEMENT_BUILT_IN, "built_in";
        /// The companion started it as a further container.
        Sidecar = PLACEMENT_SIDECAR, "sidecar";
    }
}

wire_enum! {
    /// Why an exchange was sampled as a span.
    SpanReason from SpanReason {
        /// It failed.
        Error = SPAN_REASON_ERROR, "error";
        /// It took long.
        Slow = SPAN_REASON_SLOW, "slow";
        /// By rate.
        Rate = SPAN_REASON_RATE, "rate";
    }
}

wire_enum! {
    /// How an agent knows during which request a call was made.
    ParentCertainty from ParentCertainty {
        /// Its thread did nothing else meanwhile.
        Thread = PARENT_CERTAINTY_THREAD, "thread";
        /// By the order of a task's reads and writes.
        Task = PARENT_CERTAINTY_TASK, "task";
        /// Its goroutine did nothing else meanwhile.
        Goroutine = PARENT_CERTAINTY_GOROUTINE, "goroutine";
        /// Its process served that request alone.
        Process = PARENT_CERTAINTY_PROCESS, "process";
        /// By the ids in the request.
        Propagated = PARENT_CERTAINTY_PROPAGATED, "propagated";
    }
}

/// Value of `error.type` for an exchange: empty where OpenTelemetry calls it no error (HTTP and gRPC semantic
/// conventions: a response that blames the request is no error of the server). `status` is the attribute's value.
pub fn error_type(protocol: Protocol, side: Side, error: ErrorClass, status: &str) -> &str {
    match error {
        ErrorClass::None => "",
        ErrorClass::NoResponse => ErrorClass::NoResponse.name(),
        ErrorClass::Client if side == Side::Server && protocol.row().client_errors_are_the_clients => "",
        ErrorClass::Client | ErrorClass::Server if !status.is_empty() => status,
        ErrorClass::Client | ErrorClass::Server => error.name(),
    }
}

/// Writes and reads values of the table by their names, for `#[serde(with)]`.
pub mod by_name {
    use porthole_protocol::{ErrorClass, Protocol, Side};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// A value of the table.
    pub trait Named: Sized + Copy {
        /// Its name.
        fn name(self) -> &'static str;
        /// The value of that name.
        fn from_name(name: &str) -> Option<Self>;
    }

    impl Named for Protocol {
        fn name(self) -> &'static str {
            self.name()
        }
        fn from_name(name: &str) -> Option<Self> {
            Self::from_name(name)
        }
    }

    impl Named for Side {
        fn name(self) -> &'static str {
            self.name()
        }
        fn from_name(name: &str) -> Option<Self> {
            Self::ALL.into_iter().find(|side| side.name() == name)
        }
    }

    impl Named for ErrorClass {
        fn name(self) -> &'static str {
            self.name()
        }
        fn from_name(name: &str) -> Option<Self> {
            Self::ALL.into_iter().find(|class| class.name() == name)
        }
    }

    /// Writes the name.
    pub fn serialize<T: Named, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.name())
    }

    /// Reads a name; one that this build does not know is an error.
    pub fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let name = String::deserialize(deserializer)?;
        T::from_name(&name).ok_or_else(|| D::Error::custom(format!("unknown name {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_page_is_the_clients_error_only() {
        let error_type = |side| error_type(Protocol::Http1, side, ErrorClass::Client, "404");
        assert_eq!(error_type(Side::Server), "");
        assert_eq!(error_type(Side::Client), "404");
    }

    #[test]
    fn a_failed_call_is_an_error_of_the_server_only_when_the_server_is_at_fault() {
        let error_type = |side, class, status| error_type(Protocol::Grpc, side, class, status);
        assert_eq!(error_type(Side::Server, ErrorClass::Client, "NOT_FOUND"), "");
        assert_eq!(error_type(Side::Client, ErrorClass::Client, "NOT_FOUND"), "NOT_FOUND");
        assert_eq!(error_type(Side::Server, ErrorClass::Server, "UNAVAILABLE"), "UNAVAILABLE");
    }
}
