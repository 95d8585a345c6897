//! HTTP/1.0 and HTTP/1.1 (RFC 9110, RFC 9112).
//!
//! ```text
//! Segment → Reader (one per direction: start line, header, body framing) → Pairing → Exchange
//! ```
//!
//! What counts as an exchange: a request whose head was complete, and
//! - its final response, from the request's first byte to the response's last; the interim ones belong to it. A stream of
//!   events has answered with its head;
//! - or the switch of protocols: after 101 the connection is ignored, after a successful CONNECT it may carry anything, and
//!   is recognised anew;
//! - or the connection's end without a response.
//!
//! A request whose head never ended is none, and counts as unparsed. Nothing of a message is buffered but a line
//! that was cut between two segments.

mod detect;
mod fields;
mod pairing;
mod reader;
mod start_line;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use pairing::error_class;

pub(crate) use detect::well_known as well_known_method;
pub(crate) use fields::is_event_stream;

use crate::{
    NameKind, Protocol, Status, Symbol, Timestamp,
    http1::{
        detect::Place,
        pairing::{Pairing, RequestEnd, ResponseEnd},
        reader::Reader,
    },
    offload::{ConnectionState, ExchangeDetail, OffloadedExchange},
    parser::{
        ConnectionContext, Entry, Flow, Framing, Offload, Offloadable, Outcome, Parser, Request, Resource,
        Segment, Sender, Start, Transport,
    },
    resync::GapKind,
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Http1,
    transports: &[Transport::Stream],
    detect: detect::detect,
    start: |start: Start| Box::new(Http1::starting(&start)),
    offload: Some(Offload { name: name_offloaded, restore: Some(restore) }),
};

/// Segments in a row without a message start after which a connection that lost its framing is given up.
const MISSES_MAX: u16 = 1024;

/// One connection.
#[derive(Debug)]
struct Http1 {
    requests: Reader,
    responses: Reader,
    pairing: Pairing,
}

/// A connection that the kernel followed so far.
fn restore(resumed: &ConnectionState<'_>, cx: &mut ConnectionContext<'_>) -> Box<dyn Parser> {
    Box::new(Http1::starting(&Start::at_boundary(Transport::Stream)).resumed(resumed, cx))
}

/// Emits an exchange that the kernel paired; returns whether an equal one will always have the same names.
fn name_offloaded(found: &OffloadedExchange<'_>, cx: &mut ConnectionContext<'_>) -> bool {
    let ExchangeDetail::Http1 { request, status } = found.detail else { return false };
    let (operation, resource) = words(request, cx);
    let is_stable = match resource {
        Resource::Name(_) => false,
        Resource::Route(route) => route.is_known() && !operation.is_candidate(),
    };
    let request = Request { operation, resource, start: found.start, bytes: found.request_bytes };
    let outcome = Outcome {
        status: Status::Code(u32::from(status)),
        error: pairing::error_class(status),
        end: found.end,
        bytes: found.response_bytes,
    };
    cx.emit(Protocol::Http1, &request, &outcome);
    is_stable
}

/// Method and route of a request; `other` for one that is not known.
fn words(request: &[u8], cx: &mut ConnectionContext<'_>) -> (Symbol, Resource) {
    let end = memchr::memchr(b'\n', request);
    let line = request.get(..end.unwrap_or(request.len())).unwrap_or_default();
    let Some(start_line::RequestLine { method, target, named }) =
        start_line::request_line(line.trim_ascii_end(), end.is_some())
    else {
        return (Symbol::OTHER, Resource::Name(Symbol::OTHER));
    };
    let resource = if named { Resource::Route(cx.route(target)) } else { Resource::Name(Symbol::OTHER) };
    (operation(method, cx), resource)
}

fn operation(method: &[u8], cx: &mut ConnectionContext<'_>) -> Symbol {
    match detect::well_known(method) {
        Some(word) => cx.word(word),
        // The bytes of a token are ASCII.
        None => cx.candidate(NameKind::HttpMethod, std::str::from_utf8(method).unwrap_or("other")),
    }
}

impl Parser for Http1 {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        let Self { requests, responses, pairing } = self;
        if segment.gap > 0 {
            // What cannot be accounted for by a length.
            let blind = match segment.from {
                Sender::Client => requests.is_blind(),
                Sender::Server => responses.is_blind(),
            };
            match segment.from {
                Sender::Client => requests.lost(segment.gap, &mut RequestEnd { pairing, responses, cx }),
                Sender::Server => responses.lost(segment.gap, &mut ResponseEnd { pairing, cx }),
            }
            if blind {
                pairing.lost(segment.from, GapKind::Lost, cx);
            }
        }
        let rest = match segment.from {
            Sender::Client => {
                if segment.gap == 0 && pairing.is_turn() && responses.is_between() {
                    requests.follows_response();
                }
                let (starts, answer) = (requests.starts(segment), responses.answer());
                pairing.client(segment, starts, answer, responses, cx);
                requests.segment(segment, &mut RequestEnd { pairing, responses, cx })
            }
            Sender::Server => {
                pairing.server(segment);
                pairing.uploaded = requests.body_bytes();
                let blind = responses.is_blind();
                let rest = responses.segment(segment, &mut ResponseEnd { pairing, cx });
                if blind && responses.is_blind() {
                    pairing.blind(segment);
                }
                rest
            }
        };
        if let Some(tunnel) = pairing.tunnel.take() {
            // Requests that were sent behind the one that switched are not HTTP/1's any more.
            pairing.forget(cx);
            return match tunnel.to {
                Some(to) => Flow::Switch { to, rest, handover: tunnel.handover, unrecognised: None },
                None if tunnel.connected => Flow::Unrecognised,
                None => Flow::Done,
            };
        }
        if requests.misses() > MISSES_MAX || responses.misses() > MISSES_MAX {
            self.close(segment.at, cx);
            return Flow::Done;
        }
        Flow::Continue
    }

    fn framing(&self, from: Sender) -> Framing {
        match from {
            Sender::Client => self.requests.framing(),
            Sender::Server => self.responses.framing(),
        }
    }

    fn pending(&self) -> usize {
        self.pairing.pending()
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        let Self { requests, responses, pairing } = self;
        pairing.uploaded = requests.body_bytes();
        responses.close(&mut ResponseEnd { pairing, cx });
        requests.close(&mut RequestEnd { pairing, responses, cx });
        pairing.close(now, cx);
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        let Self { requests, responses, pairing } = self;
        pairing.uploaded = requests.body_bytes();
        responses.tick(now, &mut ResponseEnd { pairing, cx });
        pairing.tick(now, cx);
    }

    fn open_requests(&self) -> Option<usize> {
        self.pairing.open_requests()
    }

    fn offloadable(&mut self) -> Option<&mut dyn Offloadable> {
        Some(self)
    }
}

impl Offloadable for Http1 {
    fn is_idle(&self) -> bool {
        self.requests.is_between() && self.responses.is_between() && self.pairing.is_idle()
    }

    fn resume(&mut self, resumed: &ConnectionState<'_>, cx: &mut ConnectionContext<'_>) -> bool {
        *self = self.resumed(resumed, cx);
        true
    }
}

impl Http1 {
    fn starting(start: &Start) -> Self {
        let [client, server] = start.is_boundary;
        let [client_rest, server_rest] = start.is_rest;
        Self {
            requests: Reader::new(Sender::Client, Place::of(client, client_rest)),
            responses: Reader::new(Sender::Server, Place::of(server, server_rest)),
            pairing: Pairing::answering(start.unrecognised),
        }
    }

    /// The same connection, where the kernel stopped.
    fn resumed(&self, resumed: &ConnectionState<'_>, cx: &mut ConnectionContext<'_>) -> Self {
        Self {
            requests: Reader::resumed(Sender::Client, &resumed.requests),
            responses: Reader::resumed(Sender::Server, &resumed.responses),
            pairing: self.pairing.resumed(resumed, cx),
        }
    }
}
