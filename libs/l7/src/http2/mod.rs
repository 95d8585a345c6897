//! HTTP/2 (RFC 9113) with gRPC on top.
//!
//! ```text
//! Segment → Framer → frame → header block → HPACK table → Streams (pairing by stream) → Exchange
//! ```
//!
//! A connection begins with the client's preface, with an upgrade from HTTP/1 (the upgrading request is stream 1), or
//! is joined in the middle. Then, and after a loss, fields that refer to a part of the HPACK table that was not seen are
//! unknown: an unknown method or path counts under `other`, an unknown status is the word `other`, never a wrong one.
//! So is the status 200 of a stream that may be a gRPC call.
//!
//! An exchange lasts from the first byte of the request's header block to the last byte of the frame that ends the
//! response; that of a stream of events to its header block. For gRPC the status is the one in the trailers, the resource `/service/method`. A stream that is reset
//! before a status was seen got no response.

mod detect;
mod frame;
mod hpack;
mod huffman;
mod streams;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use streams::grpc_error;

use crate::{
    Protocol, Timestamp,
    http2::{
        frame::{END_HEADERS, END_STREAM, HEADER_BYTES, Header, Kind, PREFACE, max_frame_size},
        hpack::{Scratch, Table},
        streams::{Began, MESSAGE_PREFIX_BYTES, Streams},
    },
    parser::{ConnectionContext, Entry, Flow, Framing, Parser, Segment, Sender, Start, Transport},
    stream::{Framer, Head, Piece, Step},
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Http2,
    transports: &[Transport::Stream],
    detect: detect::detect,
    start: |start: Start| Box::new(Http2::new(start)),
    offload: None,
};

/// Most bytes of a frame that are buffered when it is cut between segments.
const FRAME_BYTES_MAX: usize = HEADER_BYTES + (1 << 14);

/// Most bytes of a header block that goes over several frames.
const BLOCK_BYTES_MAX: usize = 32 * 1024;

/// Bytes of a `SETTINGS` frame that are looked at.
const SETTINGS_BYTES_MAX: usize = 6 * 32;

/// Segments in a row without a frame after which a connection that lost its framing is given up.
const MISSES_MAX: u16 = 1024;

/// One connection.
#[derive(Debug)]
struct Http2 {
    client: End,
    server: End,
    streams: Streams,
    scratch: Scratch,
}

/// What one end sends.
#[derive(Debug)]
struct End {
    framer: Framer,
    frames: Frames,
    misses: u16,
}

/// State between the frames of one end.
#[derive(Debug)]
struct Frames {
    from: Sender,
    table: Table,
    /// The header block that is continued in the next frame.
    open: Option<Open>,
    /// Its fragments.
    block: Vec<u8>,
    /// The stream that ends with the current frame.
    ending: Option<u32>,
    /// The current frame is neither of a message's head nor of its body.
    is_control: bool,
    /// What there is to know of how the connection began is known to this end's table.
    preface: bool,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    stream: u32,
    end_stream: bool,
    pushed: bool,
    /// All of it was captured and kept.
    whole: bool,
    at: Timestamp,
    /// Length of its frames so far.
    bytes: usize,
}

impl End {
    fn new(from: Sender) -> Self {
        let frames = Frames {
            from,
            table: Table::default(),
            open: None,
            block: Vec::new(),
            ending: None,
            is_control: false,
            preface: false,
        };
        Self { framer: Framer::default(), frames, misses: 0 }
    }
}

impl Http2 {
    fn new(start: Start) -> Self {
        let mut http2 = Self {
            client: End::new(Sender::Client),
            server: End::new(Sender::Server),
            streams: Streams::default(),
            scratch: Scratch::default(),
        };
        if let Some(request) = start.handover {
            http2.streams.adopt(request);
        }
        http2
    }
}

impl Parser for Http2 {
    fn open_requests(&self) -> Option<usize> {
        self.streams.open_requests()
    }

    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        let Self { client, server, streams, scratch } = self;
        let End { framer, frames, misses } = match segment.from {
            Sender::Client => client,
            Sender::Server => server,
        };
        framer.segment(segment, FRAME_BYTES_MAX, |piece| match piece {
            Piece::Head(head) => {
                let step = frames.head(&head, streams, scratch, cx);
                if let Step::Take(_) = step {
                    *misses = 0;
                }
                step
            }
            Piece::End { at } => {
                if let Some(stream) = frames.ending.take() {
                    streams.end(frames.from, stream, at, cx);
                }
                Step::More
            }
            Piece::Gap => {
                cx.count_gap();
                frames.lost();
                streams.lost();
                Step::More
            }
        });
        if framer.is_lost() {
            *misses = misses.saturating_add(1);
            if *misses > MISSES_MAX {
                streams.close(segment.at, cx);
                return Flow::Done;
            }
        }
        Flow::Continue
    }

    fn framing(&self, from: Sender) -> Framing {
        let End { framer, frames, .. } = match from {
            Sender::Client => &self.client,
            Sender::Server => &self.server,
        };
        // A frame of the connection's own is of no exchange.
        if frames.is_control && framer.begun() > 0 { Framing::Head(framer.begun()) } else { framer.framing() }
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        self.streams.close(now, cx);
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        self.streams.tick(now, cx);
    }
}

impl Frames {
    /// A frame begins.
    fn head(
        &mut self,
        head: &Head<'_>,
        streams: &mut Streams,
        scratch: &mut Scratch,
        cx: &mut ConnectionContext<'_>,
    ) -> Step {
        if self.from == Sender::Client && !self.preface && head.bytes.first() == Some(&b'P') {
            let begun = head.bytes.get(..PREFACE.len()).unwrap_or(head.bytes);
            if !PREFACE.starts_with(begun) {
                return Step::Lost;
            }
            if begun.len() < PREFACE.len() {
                return Step::More;
            }
            self.preface = true;
            self.is_control = true;
            streams.began = Began::Start;
            return Step::Take(PREFACE.len() as u64);
        }
        if head.bytes.len() < HEADER_BYTES {
            return Step::More;
        }
        let Some(header) = Header::read(head.bytes, self.from) else { return Step::Lost };
        let largest = streams.largest_frame(self.from);
        if head.resync && !(header.is_plausible(largest) && streams.is_near(header.stream)) {
            return Step::Lost;
        }
        if streams.began == Began::Unknown && (self.from == Sender::Client || header.kind == Kind::Headers) {
            streams.began = Began::Middle;
        }
        if streams.began == Began::Middle && !self.preface {
            // Older entries exist that were not seen.
            self.preface = true;
            self.table.forget();
        }
        let payload = head.bytes.get(HEADER_BYTES..).unwrap_or_default();
        let needed = match header.kind {
            Kind::Headers | Kind::PushPromise | Kind::Continuation => header.payload,
            Kind::GoAway => 8,
            Kind::Reset => 4,
            Kind::Settings => header.payload.min(SETTINGS_BYTES_MAX),
            Kind::Data if self.from == Sender::Client && streams.awaits_message(header.stream) => {
                header.payload.min(MESSAGE_PREFIX_BYTES)
            }
            _ => 0,
        };
        if payload.len() < needed && !head.last {
            return Step::More;
        }
        self.is_control =
            !matches!(header.kind, Kind::Data | Kind::Headers | Kind::PushPromise | Kind::Continuation);
        let open = self.open;
        if open.is_some() && header.kind != Kind::Continuation {
            // RFC 9113 section 6.10: nothing may come in between.
            self.abort_block();
        }
        match header.kind {
            Kind::Data => {
                if self.from == Sender::Client {
                    streams.request_data(&header, payload);
                }
                streams.bytes(self.from, header.stream, head.at, header.total());
                self.ending = (header.flags & END_STREAM != 0).then_some(header.stream);
            }
            Kind::Headers | Kind::PushPromise => {
                self.block.clear();
                let end_stream = header.kind == Kind::Headers && header.flags & END_STREAM != 0;
                let pushed = header.kind == Kind::PushPromise;
                self.open = Some(Open {
                    stream: header.stream,
                    end_stream,
                    pushed,
                    whole: true,
                    at: head.at,
                    bytes: 0,
                });
                self.fragment(&header, payload, streams, scratch, cx);
            }
            Kind::Continuation if open.is_some_and(|open| open.stream == header.stream) => {
                self.fragment(&header, payload, streams, scratch, cx);
            }
            // The beginning of the block was not seen.
            Kind::Continuation => self.abort_block(),
            Kind::Reset => {
                let code = payload.first_chunk::<4>().map(|code| u32::from_be_bytes(*code));
                streams.reset(self.from, header.stream, code, head.at, cx);
            }
            Kind::Settings => {
                if let Some(size) = max_frame_size(payload.get(..header.payload).unwrap_or(payload)) {
                    streams.set_largest_frame(self.from, size);
                }
            }
            Kind::GoAway => {
                if let (Sender::Server, Some(last)) = (self.from, payload.first_chunk::<4>()) {
                    streams.go_away(u32::from_be_bytes(*last) & 0x7fff_ffff, head.at, cx);
                }
            }
            _ => {}
        }
        Step::Take(header.total() as u64)
    }

    /// A piece of a header block; the last one ends the block.
    fn fragment(
        &mut self,
        header: &Header,
        payload: &[u8],
        streams: &mut Streams,
        scratch: &mut Scratch,
        cx: &mut ConnectionContext<'_>,
    ) {
        let Some(open) = &mut self.open else { return };
        let (bytes, whole) = header.fragment(payload).unwrap_or((&[], false));
        let room = BLOCK_BYTES_MAX.saturating_sub(self.block.len());
        let kept = bytes.get(..room).unwrap_or(bytes);
        let was_whole = open.whole;
        open.whole &= whole && kept.len() == bytes.len();
        open.bytes = open.bytes.saturating_add(header.total());
        let ends = header.flags & END_HEADERS != 0;
        let open = *open;
        let only = ends && self.block.is_empty();
        if !only && was_whole {
            self.block.extend_from_slice(kept);
        }
        if !ends {
            return;
        }
        self.open = None;
        let block = if only { kept } else { self.block.as_slice() };
        if open.pushed {
            self.table.decode(block, scratch, |_| {});
        } else {
            let table = &mut self.table;
            streams.block(self.from, open.stream, open.at, open.bytes, cx, |to| {
                table.decode(block, scratch, to);
            });
            self.ending = open.end_stream.then_some(open.stream);
        }
        if !open.whole {
            self.table.forget();
            cx.count_gap();
        }
        self.block.clear();
        self.block.shrink_to(0);
    }

    /// The block that was being read will not be complete.
    fn abort_block(&mut self) {
        self.open = None;
        self.block.clear();
        self.table.forget();
    }

    fn lost(&mut self) {
        self.abort_block();
        self.ending = None;
    }
}
