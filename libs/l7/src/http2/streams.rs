//! Pairs what both ends send, by stream.

use std::collections::VecDeque;

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol, Timestamp, http1,
    http2::{
        frame::{Header, PADDED, PAYLOAD_BYTES_DEFAULT},
        hpack::{Field, Name},
    },
    parser::{ConnectionContext, Outcome, Request, Resource, Sender},
    pending::ById,
    resync::EARLY_NS_MAX,
    trace::{TraceContext, TraceFields},
};

/// Quiet time after which an answered stream counts as ended when its end may have been lost, nanoseconds.
const DAMAGED_QUIET_NS: u64 = 5_000_000_000;

/// gRPC's status of a call that its client ended.
const CANCELLED: u16 = 1;

/// gRPC's status of a call whose stream the server reset with an error code of HTTP/2 (gRPC over HTTP2, "Errors").
fn reset_status(code: u32) -> u16 {
    const UNKNOWN: u16 = 2;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    match code {
        0..=4 | 6 | 9 | 10 => INTERNAL,
        7 => UNAVAILABLE,
        8 => CANCELLED,
        11 => RESOURCE_EXHAUSTED,
        12 => PERMISSION_DENIED,
        _ => UNKNOWN,
    }
}

/// Most streams of which the response was seen before the request that are remembered.
const EARLY_MAX: usize = 4;

/// Bytes before each gRPC message: whether it is compressed, and its length (gRPC over HTTP2, "Length-Prefixed-Message").
pub(super) const MESSAGE_PREFIX_BYTES: usize = 5;

/// Streams of one connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: ById<u32, Stream>,
    /// The newest stream that the client opened; ids ascend (RFC 9113 section 5.1.1).
    newest: u32,
    /// Streams that were answered before their request was seen, if there is one, and when.
    early: VecDeque<(u32, Timestamp)>,
    /// How much of the connection was seen.
    pub(super) began: Began,
    /// Streams of which it is known that they were gRPC calls, or were not, were seen.
    seen_grpc: bool,
    seen_http: bool,
    /// The path of the header block that is being read.
    path: Vec<u8>,
    /// The largest frames that client and server accept, beyond the default.
    largest_frames: [usize; 2],
}

/// How much of a connection was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Began {
    /// Nothing that shows it.
    #[default]
    Unknown,
    /// From its start.
    Start,
    /// It was joined in the middle.
    Middle,
}

/// A stream whose response has not ended.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // Independent facts about one stream.
struct Stream {
    request: Request,
    content: Content,
    body: Body,
    /// The response had a header block behind its body.
    trailers: bool,
    status: Seen,
    grpc_status: Seen,
    /// The server's header blocks hold fields that are unknown.
    unknown: bool,
    /// Its path is among bytes that are missing.
    unnamed: bool,
    response_bytes: u64,
    /// When the server's last bytes moved.
    last: Timestamp,
    /// Bytes of the connection were lost while it was open.
    damaged: bool,
    trace: Option<TraceContext>,
}

/// What a stream carries, by its content type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Content {
    /// The content type is unknown, or was not sent yet.
    #[default]
    Unknown,
    Grpc,
    /// Another content.
    Http,
    /// No gRPC; other streams may have it.
    Plain,
}

/// What the first `DATA` frame of a request holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// None was seen.
    Unseen,
    /// One message as gRPC frames it, and nothing else.
    Message,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    No,
    /// The field is there, its value is not known.
    Unknown,
    Code(u16),
}

/// The content of a header block.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Independent facts about one block.
struct Block {
    /// Only requests have such fields.
    request: bool,
    operation: Option<Symbol>,
    not_post: bool,
    content: Content,
    status: Option<Seen>,
    grpc_status: Option<Seen>,
    is_event_stream: bool,
    unknown: bool,
    trace: TraceFields,
}

impl Streams {
    /// Streams whose responses have not ended; `None` where there can be others from before.
    pub(super) fn open_requests(&self) -> Option<usize> {
        (self.began == Began::Start).then_some(self.open.len())
    }

    /// The request that upgraded the connection is stream 1 (RFC 7540 section 3.2).
    pub(super) fn adopt(&mut self, request: Request) {
        self.newest = 1;
        self.began = Began::Start;
        self.open.insert(1, Stream::new(request), 1);
    }

    /// The largest frame that this sender may send: by the other end's `SETTINGS`.
    pub(super) fn largest_frame(&self, from: Sender) -> usize {
        let receiver = usize::from(from == Sender::Client);
        self.largest_frames[receiver].max(PAYLOAD_BYTES_DEFAULT)
    }

    /// Takes the largest frame that an end accepts.
    pub(super) fn set_largest_frame(&mut self, by: Sender, size: usize) {
        self.largest_frames[usize::from(by == Sender::Server)] = size;
    }

    /// Whether a stream's id is one that can be expected.
    pub(super) fn is_near(&self, stream: u32) -> bool {
        stream == 0 || self.newest == 0 || stream <= self.newest.saturating_add(2000)
    }

    /// A frame of this length belongs to a stream.
    pub(super) fn bytes(&mut self, from: Sender, stream: u32, at: Timestamp, bytes: usize) {
        let Some(stream) = self.open.get_mut(stream) else { return };
        let count = match from {
            Sender::Client => &mut stream.request.bytes,
            Sender::Server => {
                stream.last = at;
                &mut stream.response_bytes
            }
        };
        *count = count.saturating_add(bytes as u64);
    }

    /// Whether the first message of this stream's request may show what the stream carries.
    pub(super) fn awaits_message(&mut self, stream: u32) -> bool {
        self.open
            .get_mut(stream)
            .is_some_and(|stream| stream.content == Content::Unknown && stream.body == Body::Unseen)
    }

    /// A `DATA` frame of a request, with as much of its payload as there is.
    pub(super) fn request_data(&mut self, header: &Header, payload: &[u8]) {
        let Some(stream) = self.open.get_mut(header.stream) else { return };
        if stream.body == Body::Unseen {
            stream.body = match payload.first_chunk::<MESSAGE_PREFIX_BYTES>() {
                Some(&[0 | 1, a, b, c, d])
                    if header.flags & PADDED == 0
                        && header.payload.checked_sub(MESSAGE_PREFIX_BYTES)
                            == usize::try_from(u32::from_be_bytes([a, b, c, d])).ok() =>
                {
                    Body::Message
                }
                _ => Body::Other,
            };
        }
    }

    /// A header block: `read` gives its fields.
    pub(super) fn block(
        &mut self,
        from: Sender,
        id: u32,
        at: Timestamp,
        bytes: usize,
        cx: &mut ConnectionContext<'_>,
        read: impl FnOnce(&mut dyn FnMut(&Field<'_>)),
    ) {
        let mut block = Block::default();
        match from {
            Sender::Client => {
                let new = id > self.newest;
                self.path.clear();
                let path = &mut self.path;
                read(&mut |field| block.request_field(field, path, cx));
                if !new {
                    self.bytes(from, id, at, bytes);
                } else if block.request || (block.unknown && self.began == Began::Middle) {
                    self.newest = id;
                    let answered =
                        |(early, then): &(u32, Timestamp)| *early == id && at.since(*then) <= EARLY_NS_MAX;
                    if !self.early.iter().any(answered) {
                        self.arrive(id, at, bytes, &block, cx);
                    }
                }
            }
            Sender::Server => {
                read(&mut |field| block.response_field(field));
                self.bytes(from, id, at, bytes);
                let Some(stream) = self.open.get_mut(id) else {
                    // Of a stream that the client opened before it was seen; not of one that the server pushed.
                    if id % 2 == 1 && id > self.newest && block.status.is_some() {
                        cx.orphan();
                        if self.began == Began::Middle {
                            self.newest = id;
                        } else {
                            // It answers no request, or two threads made the capture deliver it too early.
                            self.early.truncate(EARLY_MAX - 1);
                            self.early.push_front((id, at));
                        }
                    }
                    return;
                };
                stream.unknown |= block.unknown;
                stream.trailers |= stream.is_answered() && block.status.is_none();
                stream.content = match (block.content, stream.content) {
                    _ if block.grpc_status.is_some() => Content::Grpc,
                    (Content::Unknown, Content::Unknown) if !block.unknown => Content::Plain,
                    (Content::Unknown, known) | (known, _) => known,
                };
                match block.status {
                    Some(Seen::Code(100..=199)) | None => {}
                    Some(status) => stream.status = status,
                }
                if let Some(status) = block.grpc_status {
                    stream.grpc_status = status;
                }
                if block.is_event_stream
                    && let Some(stream) = self.open.remove(id)
                {
                    // What follows are events, as they happen.
                    self.finish(stream, at, cx);
                }
            }
        }
    }

    fn arrive(
        &mut self,
        id: u32,
        at: Timestamp,
        bytes: usize,
        block: &Block,
        cx: &mut ConnectionContext<'_>,
    ) {
        cx.message();
        // gRPC calls are POST requests with a content type.
        let content = match block.content {
            Content::Unknown if !block.unknown || block.not_post => Content::Plain,
            content => content,
        };
        let resource = if self.path.is_empty() {
            Resource::Name(Symbol::OTHER)
        } else if content == Content::Grpc {
            let method = std::str::from_utf8(&self.path).unwrap_or("other");
            Resource::Name(cx.candidate(NameKind::GrpcMethod, method))
        } else {
            Resource::Route(cx.route(&self.path))
        };
        let operation = block.operation.unwrap_or(Symbol::OTHER);
        let request = Request { operation, resource, start: at, bytes: bytes as u64 };
        let unnamed = block.unknown && (self.path.is_empty() || block.operation.is_none());
        let stream = Stream { content, unnamed, trace: block.trace.context(), ..Stream::new(request) };
        if self.open.insert(id, stream, cx.limits().pending_per_connection).is_some() {
            cx.unparsed();
        }
    }

    /// The frame with which an end closes its half of a stream is complete.
    pub(super) fn end(&mut self, from: Sender, id: u32, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        if from == Sender::Server
            && let Some(stream) = self.open.remove(id)
        {
            self.finish(stream, at, cx);
        }
    }

    /// `RST_STREAM` with this error code, if it is known: what was seen so far is all there is. A client that resets a gRPC
    /// call has cancelled it (gRPC over HTTP2, "Errors"), as it does to end a stream of events.
    pub(super) fn reset(
        &mut self,
        from: Sender,
        id: u32,
        code: Option<u32>,
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) {
        if let Some(mut stream) = self.open.remove(id) {
            if stream.content == Content::Grpc && stream.grpc_status == Seen::No {
                stream.grpc_status = match (from, code) {
                    (Sender::Client, _) => Seen::Code(CANCELLED),
                    (Sender::Server, Some(code)) => Seen::Code(reset_status(code)),
                    (Sender::Server, None) => Seen::Unknown,
                };
            }
            self.finish(stream, at, cx);
        }
    }

    /// GOAWAY: the server will not answer streams beyond the last one.
    pub(super) fn go_away(&mut self, last: u32, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        if last > self.newest {
            return;
        }
        for id in (last.saturating_add(1)..=self.newest).take(4096) {
            if let Some(stream) = self.open.remove(id) {
                self.finish(stream, at, cx);
            }
        }
    }

    /// Bytes were lost.
    pub(super) fn lost(&mut self) {
        self.open.for_each_mut(|stream| stream.damaged = true);
    }

    /// The connection has ended.
    pub(super) fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        while let Some(stream) = self.open.pop_oldest_if(|_| true) {
            let end = if stream.is_answered() { stream.last } else { now };
            self.finish(stream, end, cx);
        }
    }

    /// Streams whose end may have been among lost bytes, and that are quiet, have ended.
    pub(super) fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        while let Some(stream) = self.open.pop_oldest_if(|stream| {
            stream.damaged && stream.is_answered() && now.since(stream.last) >= DAMAGED_QUIET_NS
        }) {
            self.finish(stream, stream.last, cx);
        }
    }

    /// Gives out the exchange.
    fn finish(&mut self, mut stream: Stream, end: Timestamp, cx: &mut ConnectionContext<'_>) {
        match stream.content {
            Content::Grpc => self.seen_grpc = true,
            Content::Http => self.seen_http = true,
            // Connect and gRPC-Web frame messages alike, and send no trailers.
            Content::Unknown if stream.body == Body::Message && stream.trailers => {
                self.seen_grpc = true;
                stream.content = Content::Grpc;
            }
            // A connection hardly ever carries both.
            Content::Unknown if self.seen_grpc && !self.seen_http => stream.content = Content::Grpc,
            Content::Unknown if self.seen_http && !self.seen_grpc => stream.content = Content::Http,
            Content::Plain | Content::Unknown => {}
        }
        stream.finish(end, cx);
    }
}

impl Stream {
    fn new(request: Request) -> Self {
        Self {
            request,
            content: Content::Unknown,
            body: Body::Unseen,
            trailers: false,
            status: Seen::No,
            grpc_status: Seen::No,
            unknown: false,
            unnamed: false,
            response_bytes: 0,
            last: request.start,
            damaged: false,
            trace: None,
        }
    }

    fn is_answered(&self) -> bool {
        self.status != Seen::No || self.grpc_status != Seen::No
    }

    fn finish(&self, end: Timestamp, cx: &mut ConnectionContext<'_>) {
        if self.damaged && !self.unknown && !self.is_answered() {
            cx.unparsed();
            return;
        }
        let grpc = self.content == Content::Grpc;
        let protocol = if grpc { Protocol::Grpc } else { Protocol::Http2 };
        let unknown = (Status::UNKNOWN, ErrorClass::None);
        let (status, error) = match (grpc, self.grpc_status, self.status) {
            (true, Seen::Code(code), _) => (Status::Code(u32::from(code)), grpc_error(code)),
            (true, Seen::Unknown, _) | (_, Seen::No, Seen::Unknown) => unknown,
            // Perhaps a gRPC call: then this is not its status.
            (false, _, Seen::Code(200)) if self.content == Content::Unknown => unknown,
            (false, _, Seen::Code(code)) => (Status::Code(u32::from(code)), http_error(code)),
            // The server's fields may hold a status that is not known.
            (_, _, _) if self.unknown => unknown,
            // The trailers may be among bytes that were lost.
            (true, Seen::No, Seen::Code(200)) if self.damaged => unknown,
            // A gRPC call that was answered by a server without gRPC, or broken off.
            (true, Seen::No, Seen::Code(200)) => (Status::None, ErrorClass::NoResponse),
            (true, Seen::No, Seen::Code(code)) => (Status::None, http_error(code)),
            _ => (Status::None, ErrorClass::NoResponse),
        };
        if status == unknown.0 || self.unnamed {
            cx.incomplete();
        }
        cx.set_trace(self.trace);
        cx.emit(protocol, &self.request, &Outcome { status, error, end, bytes: self.response_bytes });
    }
}

impl Block {
    fn request_field(&mut self, field: &Field<'_>, path: &mut Vec<u8>, cx: &mut ConnectionContext<'_>) {
        self.unknown |= field.name == Name::Unknown;
        self.request |= matches!(field.name, Name::Method | Name::Path | Name::Scheme | Name::Authority);
        match (field.name, field.value) {
            (Name::Method, Some(method)) => {
                self.not_post = method != b"POST";
                self.operation = Some(match http1::well_known_method(method) {
                    Some(word) => cx.word(word),
                    None => {
                        cx.candidate(NameKind::HttpMethod, std::str::from_utf8(method).unwrap_or("other"))
                    }
                });
            }
            // What it means is decided by a field that follows.
            (Name::Path, Some(value)) => {
                path.clear();
                path.extend_from_slice(value);
            }
            (Name::ContentType, Some(value)) => self.content = content(value),
            (Name::Trace(header), Some(value)) => self.trace.take(header, value),
            _ => {}
        }
    }

    fn response_field(&mut self, field: &Field<'_>) {
        self.unknown |= field.name == Name::Unknown;
        let code = |value: Option<&[u8]>| {
            value.map_or(Seen::Unknown, |value| number(value).map_or(Seen::Unknown, Seen::Code))
        };
        match field.name {
            Name::Status => self.status = Some(code(field.value)),
            Name::GrpcStatus => self.grpc_status = Some(code(field.value)),
            Name::ContentType => {
                self.content = field.value.map_or(Content::Unknown, content);
                self.is_event_stream = field.value.is_some_and(http1::is_event_stream);
            }
            _ => {}
        }
    }
}

/// What a content type means; gRPC-Web has its status in the body and counts as HTTP.
fn content(content_type: &[u8]) -> Content {
    match content_type.strip_prefix(b"application/grpc").map(<[u8]>::first) {
        Some(None | Some(b'+' | b';' | b' ')) => Content::Grpc,
        _ => Content::Http,
    }
}

fn http_error(status: u16) -> ErrorClass {
    match status {
        400..=499 => ErrorClass::Client,
        500..=599 => ErrorClass::Server,
        _ => ErrorClass::None,
    }
}

/// The split that OpenTelemetry makes for servers: `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`, `INTERNAL`,
/// `UNAVAILABLE` and `DATA_LOSS` are the server's.
pub(crate) fn grpc_error(status: u16) -> ErrorClass {
    match status {
        0 => ErrorClass::None,
        2 | 4 | 12..=15 => ErrorClass::Server,
        _ => ErrorClass::Client,
    }
}

fn number(text: &[u8]) -> Option<u16> {
    if text.is_empty() || text.len() > 3 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
}
