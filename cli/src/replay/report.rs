//! What `--json` prints. Fields are added; one that changes is named in `CHANGELOG.md`.

use std::{collections::BTreeMap, net::SocketAddr};

use porthole_l7::{ErrorClass, Exchange, Status, Symbol};
use porthole_packet::{Endpoints, Replay};
use serde::{Serialize, Serializer};

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In the order in which they ended.
    pub exchanges: Vec<Line>,
    /// By protocol, in the order of their names.
    pub summary: Vec<Summary>,
    /// How much of the capture that is.
    pub capture: Completeness,
}

/// One exchange.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Protocol, as in metrics.
    pub protocol: &'static str,
    /// Method, command, operation.
    pub operation: String,
    /// Route, table, topic, name; absent without one.
    pub resource: Option<String>,
    /// Exact status code or word; absent without one.
    pub status: Option<String>,
    /// Error class, by its name in metrics: `none`, `client`, `server` or `no_response`.
    #[serde(serialize_with = "error_class")]
    pub outcome: ErrorClass,
    /// Microseconds since 1970, of the request's first byte.
    pub start_unix_us: u64,
    /// Microseconds since 1970, of the response's last byte; absent without a response.
    pub end_unix_us: Option<u64>,
    /// Microseconds between them; absent without a response.
    pub duration_us: Option<f64>,
    /// Who sent the request.
    pub client: SocketAddr,
    /// Who received it.
    pub server: SocketAddr,
    /// Size of the request, bytes.
    pub request_bytes: u64,
    /// Size of the response, bytes.
    pub response_bytes: u64,
}

/// Sums of one protocol.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Protocol, as in metrics.
    pub protocol: &'static str,
    /// Requests, with a response or without.
    pub requests: u64,
    /// Requests with a response.
    pub responses: u64,
    /// Responses with an error of the client.
    pub client_errors: u64,
    /// Responses with an error of the server.
    pub server_errors: u64,
    /// Sum of the durations of requests with a response, microseconds.
    pub duration_sum_us: f64,
    /// Longest of them, microseconds.
    pub duration_max_us: f64,
}

/// How much of the capture could be parsed.
#[derive(Debug, Serialize)]
pub struct Completeness {
    /// Packets in the file.
    pub packets: u64,
    /// Packets without TCP or UDP.
    pub packets_ignored: u64,
    /// Fragments that could not be joined.
    pub fragments_dropped: u64,
    /// Connections and pairs of datagram ends.
    pub connections: u64,
    /// Bytes of streams that are missing in the capture.
    pub lost_bytes: u64,
    /// Requests that were begun.
    pub messages_seen: u64,
    /// Of these, those that could not be followed to their end.
    pub unparsed: u64,
    /// Connections of no known protocol.
    pub unidentified: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn error_class<S: Serializer>(class: &ErrorClass, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(class.name())
}

fn microseconds(nanoseconds: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a duration; 2^53 ns are a hundred days")]
    let nanoseconds = nanoseconds as f64;
    nanoseconds / 1000.0
}

impl Report {
    /// Spells out what was found.
    pub fn new(flows: &Replay, found: &[(Exchange, Endpoints)]) -> Self {
        let (packets, context) = (flows.tally(), flows.context());
        let tally = context.tally();
        let name = |symbol| (symbol != Symbol::NONE).then(|| context.name(symbol).to_owned());
        let exchanges: Vec<Line> = found
            .iter()
            .map(|(exchange, endpoints)| {
                let answered = exchange.error != ErrorClass::NoResponse;
                Line {
                    protocol: exchange.protocol.name(),
                    operation: context.name(exchange.operation).to_owned(),
                    resource: name(exchange.resource),
                    status: match exchange.status {
                        Status::None => None,
                        Status::Code(code) => Some(code.to_string()),
                        Status::Word(word) => name(word),
                    },
                    outcome: exchange.error,
                    start_unix_us: exchange.start.0 / 1000,
                    end_unix_us: answered.then_some(exchange.end.0 / 1000),
                    duration_us: answered.then(|| microseconds(exchange.duration_ns())),
                    client: endpoints.client,
                    server: endpoints.server,
                    request_bytes: exchange.request_bytes,
                    response_bytes: exchange.response_bytes,
                }
            })
            .collect();
        Self {
            summary: summarise(&exchanges),
            exchanges,
            capture: Completeness {
                packets: packets.packets,
                packets_ignored: packets.unreadable,
                fragments_dropped: packets.fragments_dropped,
                connections: packets.flows,
                lost_bytes: packets.lost_bytes,
                messages_seen: tally.messages_seen,
                unparsed: tally.unparsed,
                unidentified: tally.unidentified,
            },
        }
    }
}

fn summarise(exchanges: &[Line]) -> Vec<Summary> {
    let mut protocols: BTreeMap<&'static str, Summary> = BTreeMap::new();
    for line in exchanges {
        let sums = protocols
            .entry(line.protocol)
            .or_insert_with(|| Summary { protocol: line.protocol, ..Summary::default() });
        sums.requests += 1;
        if let Some(duration) = line.duration_us {
            sums.responses += 1;
            sums.duration_sum_us += duration;
            sums.duration_max_us = sums.duration_max_us.max(duration);
        }
        sums.client_errors += u64::from(line.outcome == ErrorClass::Client);
        sums.server_errors += u64::from(line.outcome == ErrorClass::Server);
    }
    protocols.into_values().collect()
}
