//! The table of application protocols. Each is described once, in [`Protocol::row`]; kernel programs, agent, exporter,
//! command line and documentation take its facts from there or match [`Protocol`] exhaustively.
//!
//! - [`Protocol`] and [`Row`]: what each protocol is called and how its exchanges become metrics.
//! - [`Offload`]: the protocols whose exchanges the kernel programs aggregate.
//! - [`Side`] and [`ErrorClass`]: the two other enumerations of a series' key.
//! - [`grpc`]: names of gRPC's status codes.
//!
//! No dependencies and no allocation, so that the eBPF programs can use it.
#![no_std]
#![forbid(unsafe_code)]

mod class;
pub mod grpc;
mod offload;
mod table;

pub use class::{ErrorClass, Side};
pub use offload::Offload;
pub use table::Protocol;

/// Everything about one protocol.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// In labels, listings, file names and the names of fuzz targets.
    pub name: &'static str,
    /// In prose: the first column of `docs/protocols.md`.
    pub title: &'static str,
    /// Protocol whose parser reads it, when that is another one.
    pub read_by: Option<Protocol>,
    /// Number in the agent's contract (`agent.proto`, `enum Protocol`); 0 stands for none there.
    pub wire: i32,
    /// Set when the kernel programs aggregate its exchanges.
    pub offload: Option<Offload>,
    /// OpenTelemetry name of the histogram in which a server's exchanges are recorded.
    pub server_instrument: &'static str,
    /// OpenTelemetry name of the histogram in which a client's exchanges are recorded.
    pub client_instrument: &'static str,
    /// Attribute and value that distinguish the protocols which share an instrument.
    pub system: Option<(&'static str, &'static str)>,
    /// The exchange's operation.
    pub operation: Part,
    /// The exchange's resource.
    pub resource: Part,
    /// The exchange's status.
    pub status: Part,
    /// How many requests may wait for their response on one connection.
    pub in_flight: InFlight,
    /// What carries its messages.
    pub transport: Transport,
    /// On the server's side, [`ErrorClass::Client`] is no error of the operation: `error.type` is absent.
    pub client_errors_are_the_clients: bool,
}

/// One part of an exchange's key.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// OpenTelemetry attribute; `None` when the part is no label.
    pub attribute: Option<&'static str>,
    /// What the part holds, as in `docs/protocols.md`.
    pub meaning: &'static str,
    /// How the part becomes the attribute's value.
    pub value: Value,
}

impl Part {
    /// A part whose text is the attribute's value.
    pub const fn new(attribute: &'static str, meaning: &'static str) -> Self {
        Self { attribute: Some(attribute), meaning, value: Value::Verbatim }
    }

    /// A part that is not exposed as a label.
    pub const fn unlabelled(meaning: &'static str) -> Self {
        Self { attribute: None, meaning, value: Value::Verbatim }
    }
}

/// How a part of a key becomes an attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// As it is.
    Verbatim,
    /// gRPC's `:path` without its leading `/`: the fully qualified method (`shop.Cart/Add`).
    GrpcMethod,
    /// gRPC's numeric status by its name (`DEADLINE_EXCEEDED`).
    GrpcStatus,
}

impl Value {
    /// The attribute's value.
    pub fn of(self, text: &str) -> &str {
        match self {
            Self::Verbatim => text,
            Self::GrpcMethod => text.strip_prefix('/').unwrap_or(text),
            Self::GrpcStatus => grpc::status_name(text).unwrap_or(text),
        }
    }
}

/// How many requests may wait for their response on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlight {
    /// One: the next request follows the response.
    One,
    /// Any number; responses come in the order of the requests.
    Ordered,
    /// Any number; an id in both pairs them (stream, correlation id, datagram's id, channel).
    Correlated,
}

/// What carries a protocol's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A stream: TCP or a stream socket of the unix domain.
    Stream,
    /// Datagrams, and streams with a length before each message.
    DatagramAndStream,
}
