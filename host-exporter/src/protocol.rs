//! What was spoken, from which end it was seen, and whose fault a failure was: the wire's enumerations, checked.

use porthole_agent_api::agent;
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
    /// An application protocol.
    Protocol from Protocol {
        /// HTTP/1.0 and HTTP/1.1.
        Http1 = PROTOCOL_HTTP1, "http1";
        /// HTTP/2.
        Http2 = PROTOCOL_HTTP2, "http2";
        /// gRPC over HTTP/2.
        Grpc = PROTOCOL_GRPC, "grpc";
        /// MySQL and MariaDB.
        Mysql = PROTOCOL_MYSQL, "mysql";
        /// PostgreSQL.
        Postgresql = PROTOCOL_POSTGRESQL, "postgresql";
        /// Redis.
        Redis = PROTOCOL_REDIS, "redis";
        /// Apache Kafka.
        Kafka = PROTOCOL_KAFKA, "kafka";
        /// DNS.
        Dns = PROTOCOL_DNS, "dns";
        /// MongoDB.
        Mongodb = PROTOCOL_MONGODB, "mongodb";
        /// Memcached.
        Memcached = PROTOCOL_MEMCACHED, "memcached";
        /// AMQP 0-9-1.
        Amqp = PROTOCOL_AMQP, "amqp";
        /// NATS.
        Nats = PROTOCOL_NATS, "nats";
        /// TLS, recognised but not looked into.
        Tls = PROTOCOL_TLS, "tls";
    }
}

wire_enum! {
    /// Which end of the exchange the observed process is.
    Side from Side {
        /// It received the request.
        Server = SIDE_SERVER, "server";
        /// It sent the request.
        Client = SIDE_CLIENT, "client";
    }
}

wire_enum! {
    /// Whose fault a failure was.
    ErrorClass from ErrorClass {
        /// No failure.
        None = ERROR_CLASS_NONE, "none";
        /// The request was at fault.
        Client = ERROR_CLASS_CLIENT, "client";
        /// The server was at fault.
        Server = ERROR_CLASS_SERVER, "server";
        /// No response came.
        NoResponse = ERROR_CLASS_NO_RESPONSE, "no_response";
    }
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
    /// Why an exchange was told in full.
    SpanReason from SpanReason {
        /// It failed.
        Error = SPAN_REASON_ERROR, "error";
        /// It took long.
        Slow = SPAN_REASON_SLOW, "slow";
        /// By rate.
        Rate = SPAN_REASON_RATE, "rate";
    }
}

impl Protocol {
    /// Value of `error.type` for an exchange of this protocol: empty where OpenTelemetry calls it no error
    /// (HTTP semantic conventions: a server's 4xx answer is no error of the server).
    pub fn error_type(self, side: Side, error: ErrorClass, status: &str) -> &str {
        match error {
            ErrorClass::None => "",
            ErrorClass::NoResponse => "no_response",
            ErrorClass::Client if side == Side::Server && matches!(self, Self::Http1 | Self::Http2) => "",
            ErrorClass::Client | ErrorClass::Server if !status.is_empty() => status,
            ErrorClass::Client => "client",
            ErrorClass::Server => "server",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_of_the_contract_is_known() {
        use protobuf::Enum;
        for wire in agent::Protocol::VALUES {
            let known = Protocol::from_wire((*wire).into()).is_some();
            assert_eq!(known, *wire != agent::Protocol::PROTOCOL_UNSPECIFIED, "{wire:?}");
        }
        assert_eq!(Protocol::from_wire(protobuf::EnumOrUnknown::from_i32(77)), None);
    }

    #[test]
    fn a_missing_page_is_the_clients_error_only() {
        let error_type = |side| Protocol::Http1.error_type(side, ErrorClass::Client, "404");
        assert_eq!(error_type(Side::Server), "");
        assert_eq!(error_type(Side::Client), "404");
    }
}
