//! Pairs requests with responses, in order.
//!
//! A response normally finds its request waiting. Two threads can make the capture deliver them the other way round;
//! then the response waits, briefly. On a connection that was joined in the middle the first response can belong to a
//! request that was not captured: a response before the first request is never paired with it.
//!
//! After a loss it is unknown which responses belong to which requests until [`Resync`] has found out. What was
//! requested before bytes of the client's were lost is still answered first. Where only the rest of a call was not
//! captured, and nothing looks like pipelining, the newest request is the only one unanswered.

use std::collections::VecDeque;

use crate::{
    ErrorClass, Protocol, Status, Symbol, Timestamp,
    http1::{
        detect,
        reader::{Body, Fields, Handler, Reader},
    },
    offload::{ConnectionState, FramingState},
    parser::{ConnectionContext, Outcome, Request, Resource, Segment, Sender},
    pending::{Fifo, Next},
    resync::{EARLY_NS_MAX, GapKind, ResponsePosition, Resync},
};

/// Most responses that wait for their request.
const EARLY_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Head,
    Connect,
    Other,
}

/// How far the order of requests and responses can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trust {
    /// The connection may have been joined in the middle.
    #[default]
    Joined,
    /// Pairs were found and nothing was lost: a response without a request was captured too early.
    Aligned,
    /// The rest of a call was not captured. As long as nothing looks like pipelining, what comes next belongs together.
    Suspect,
    /// Nothing that comes is paired, but with requests from before.
    Desynced,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: Request,
    method: Method,
    upgrade_h2c: bool,
    /// The head's end was seen: it counts even when no response comes.
    certain: bool,
}

/// The response that is being read.
#[derive(Debug)]
struct Current {
    status: u16,
    started: Timestamp,
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    /// The response's head has not ended.
    Undecided,
    /// Not seen yet, if ever.
    Unknown,
    Forgotten,
    Request(Waiting),
}

#[derive(Debug)]
struct Early {
    status: u16,
    started: Timestamp,
    ended: Timestamp,
    bytes: u64,
}

/// What the connection became.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// A protocol that is followed further.
    pub(super) to: Option<Protocol>,
    /// The request that is answered in it.
    pub(super) handover: Option<Request>,
}

/// Requests and responses of one connection.
#[derive(Debug, Default)]
pub(super) struct Pairing {
    waiting: Fifo<Waiting>,
    early: VecDeque<Early>,
    /// The request that is being read, until its head ends.
    incoming: Option<Waiting>,
    current: Option<Current>,
    /// Bytes of interim responses.
    interim_bytes: u64,
    trust: Trust,
    /// Bytes of responses were lost since requests began to wait.
    responses_lost: bool,
    /// A request was certainly sent before the one before it was answered.
    pipelined: bool,
    resync: Resync,
    /// Pairing began again after a loss.
    realigned: bool,
    /// A malformed request line, its time and its size: a server refuses it.
    malformed: Option<(Timestamp, u64)>,
    pub(super) tunnel: Option<Tunnel>,
}

impl Pairing {
    /// What waits on a connection that the kernel followed.
    pub(super) fn resumed(resumed: &ConnectionState<'_>, cx: &mut ConnectionContext<'_>) -> Self {
        let mut pairing = Self { trust: Trust::Aligned, ..Self::default() };
        for request in resumed.pending {
            let (operation, resource) = super::words(request.request, cx);
            cx.message();
            let method = if request.head { Method::Head } else { Method::Other };
            let request = Request { operation, resource, start: request.start, bytes: request.bytes };
            pairing.resync.request();
            let waiting = Waiting { request, method, upgrade_h2c: false, certain: true };
            if pairing.waiting.push(waiting, cx.limits().pending_per_connection).is_some() {
                cx.unparsed();
            }
        }
        pairing.pipelined = resumed.pending.len() > 1;
        if resumed.responses.framing != FramingState::Start {
            let owner = match pairing.waiting.pop() {
                Some(Next::Waiting(waiting)) => Owner::Request(waiting),
                _ => Owner::Unknown,
            };
            let (status, started) = (resumed.responses.status, resumed.responses.start);
            pairing.current = Some(Current { status, started, owner });
        }
        pairing
    }

    /// Whether requests and responses correspond, and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.trust == Trust::Aligned
            && self.waiting.is_empty()
            && self.early.is_empty()
            && self.incoming.is_none()
            && self.current.is_none()
            && self.interim_bytes == 0
            && self.tunnel.is_none()
    }

    /// The client sent a segment, which `starts` a request.
    pub(super) fn client(
        &mut self,
        segment: &Segment<'_>,
        starts: bool,
        answer: ResponsePosition,
        responses: &mut Reader,
        cx: &mut ConnectionContext<'_>,
    ) {
        if self.resync.client(segment, starts, answer) {
            responses.end_unframed(&mut ResponseEnd { pairing: self, cx });
            self.realign(cx);
        }
    }

    /// The server sent a segment.
    pub(super) fn server(&mut self, segment: &Segment<'_>) {
        self.resync.server(segment);
    }

    /// What the server's segment answered is unknown.
    pub(super) fn unreadable(&mut self) {
        if self.trust == Trust::Desynced {
            self.resync.desync(Sender::Server, GapKind::Malformed);
        }
    }

    /// Nothing is under way: pairing begins again.
    fn realign(&mut self, cx: &mut ConnectionContext<'_>) {
        self.trust = Trust::Aligned;
        self.realigned = true;
        while self.waiting.drain_one().is_some() {
            cx.unparsed();
        }
        if let Some(Current { owner: owner @ (Owner::Undecided | Owner::Unknown), .. }) = &mut self.current {
            *owner = Owner::Forgotten;
        }
    }

    /// The connection was closed, and both readers have said what they had to.
    pub(super) fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if let Some(current) = self.current.take() {
            self.settle(&current, 0, now, cx);
        }
        while let Some(waiting) = self.waiting.drain_one() {
            if waiting.certain && !self.responses_lost {
                cx.emit(Protocol::Http1, &waiting.request, &Outcome::none(now));
            } else {
                cx.unparsed();
            }
        }
        self.forget(cx);
    }

    /// Nothing that waits will become an exchange.
    pub(super) fn forget(&mut self, cx: &mut ConnectionContext<'_>) {
        while self.waiting.drain_one().is_some() {
            cx.unparsed();
        }
        if self.incoming.take().is_some() {
            cx.unparsed();
        }
        for _ in self.early.drain(..) {
            cx.orphan();
        }
    }

    /// A request's head is complete.
    fn arrive(&mut self, waiting: Waiting, cx: &mut ConnectionContext<'_>) {
        // One that was cut by a loss may be from before another that is already known.
        if waiting.certain || self.trust != Trust::Desynced {
            self.resync.request();
        }
        self.pipelined |=
            self.waiting.back().is_some_and(|before| before.request.start == waiting.request.start);
        if self.trust == Trust::Suspect && (self.pipelined || !self.waiting.is_empty()) {
            self.desync(Sender::Client, GapKind::Truncated, cx);
        }
        if self.trust == Trust::Desynced {
            cx.unparsed();
            return;
        }
        // Responses that are already here: of this request, or of one that was never seen.
        while let Some(early) = self.early.pop_front() {
            let timely = waiting.request.start.since(early.ended) <= EARLY_NS_MAX;
            if timely && (self.trust == Trust::Aligned || waiting.request.start <= early.started) {
                self.paired();
                emit(&waiting.request, early.status, early.bytes, early.ended, cx);
                return;
            }
            cx.orphan();
        }
        if let Some(current) = &mut self.current
            && matches!(current.owner, Owner::Unknown)
            && self.waiting.is_empty()
            && waiting.request.start.since(current.started) <= EARLY_NS_MAX
            && (self.trust == Trust::Aligned || waiting.request.start <= current.started)
        {
            current.owner = Owner::Request(waiting);
            return;
        }
        if !waiting.certain && self.resync.answered() > waiting.request.start {
            // Its head was cut by a loss, and what the server said since may have been the response.
            cx.unparsed();
            return;
        }
        if self.waiting.push(waiting, cx.limits().pending_per_connection).is_some() {
            cx.unparsed();
        }
    }

    /// Bytes of one end are missing.
    pub(super) fn lost(&mut self, of: Sender, gap: GapKind, cx: &mut ConnectionContext<'_>) {
        if gap == GapKind::Lost || self.pipelined || self.trust == Trust::Desynced {
            self.desync(of, gap, cx);
            return;
        }
        self.trust = Trust::Suspect;
        while self.waiting.len() > 1 {
            if self.waiting.drain_one().is_none() {
                break;
            }
            cx.unparsed();
        }
    }

    /// Nothing that comes is paired until requests and responses correspond again; what waits, only as long as it is
    /// answered in order.
    fn desync(&mut self, of: Sender, gap: GapKind, cx: &mut ConnectionContext<'_>) {
        self.trust = Trust::Desynced;
        self.resync.desync(of, gap);
        for _ in self.early.drain(..) {
            cx.orphan();
        }
        while of == Sender::Server && self.waiting.drain_one().is_some() {
            cx.unparsed();
        }
    }

    fn paired(&mut self) {
        if self.trust == Trust::Joined {
            self.trust = Trust::Aligned;
        }
    }

    /// A response is complete.
    fn settle(&mut self, current: &Current, bytes: u64, ended: Timestamp, cx: &mut ConnectionContext<'_>) {
        let bytes = bytes + std::mem::take(&mut self.interim_bytes);
        self.resync.response();
        match &current.owner {
            Owner::Request(waiting) => {
                self.paired();
                self.pipelined |= self.trust == Trust::Aligned && !self.waiting.is_empty();
                emit(&waiting.request, current.status, bytes, ended, cx);
            }
            _ if refuses(current.status) && self.malformed.is_some() => {
                let Some((start, request_bytes)) = self.malformed.take() else { return };
                cx.message();
                // The method of a request that could not be parsed, in OpenTelemetry's conventions for HTTP.
                let operation = cx.word("_OTHER");
                let resource = Resource::Name(Symbol::NONE);
                let request = Request { operation, resource, start, bytes: request_bytes };
                emit(&request, current.status, bytes, ended, cx);
            }
            Owner::Forgotten => {}
            Owner::Undecided | Owner::Unknown if self.trust == Trust::Desynced => {}
            // Its request was lost, or is not the only one on the way.
            Owner::Undecided | Owner::Unknown if self.trust == Trust::Suspect => {
                cx.orphan();
                self.desync(Sender::Client, GapKind::Lost, cx);
            }
            // So many were not delivered out of order: requests were lost. After a loss not even one is taken for that.
            Owner::Undecided | Owner::Unknown if self.realigned || self.early.len() >= EARLY_MAX => {
                cx.orphan();
                self.desync(Sender::Client, GapKind::Lost, cx);
            }
            Owner::Undecided | Owner::Unknown => {
                self.early.push_back(Early {
                    status: current.status,
                    started: current.started,
                    ended,
                    bytes,
                });
            }
        }
    }
}

/// Whether a status refuses a request as malformed (RFC 9110 section 15.5.1, RFC 9112 section 3).
fn refuses(status: u16) -> bool {
    matches!(status, 400 | 414 | 431 | 501 | 505)
}

/// Whose fault a status says it was (RFC 9110 section 15).
pub(crate) fn error_class(status: u16) -> ErrorClass {
    match status {
        400..=499 => ErrorClass::Client,
        500..=599 => ErrorClass::Server,
        _ => ErrorClass::None,
    }
}

fn emit(request: &Request, status: u16, bytes: u64, end: Timestamp, cx: &mut ConnectionContext<'_>) {
    let error = error_class(status);
    let outcome = Outcome { status: Status::Code(u32::from(status)), error, end, bytes };
    cx.emit(Protocol::Http1, request, &outcome);
}

/// Takes what the client's reader finds.
pub(super) struct RequestEnd<'a, 'c> {
    pub(super) pairing: &'a mut Pairing,
    pub(super) responses: &'a mut Reader,
    pub(super) cx: &'a mut ConnectionContext<'c>,
}

impl Handler for RequestEnd<'_, '_> {
    fn start(&mut self, line: &[u8], whole: bool, at: Timestamp) -> bool {
        let Some(RequestLine { method, target, named }) = request_line(line, whole) else {
            if whole && self.pairing.is_idle() {
                self.pairing.malformed = Some((at, line.len() as u64));
            }
            return false;
        };
        self.pairing.malformed = None;
        let operation = super::operation(method, self.cx);
        let method = match method {
            b"HEAD" => Method::Head,
            b"CONNECT" => Method::Connect,
            _ => Method::Other,
        };
        let resource =
            if named { Resource::Route(self.cx.route(target)) } else { Resource::Name(Symbol::OTHER) };
        self.cx.message();
        self.pairing.incoming = Some(Waiting {
            request: Request { operation, resource, start: at, bytes: 0 },
            method,
            upgrade_h2c: false,
            certain: true,
        });
        true
    }

    fn head(&mut self, fields: &Fields, certain: bool, bytes: u64, _at: Timestamp) -> Body {
        let Some(mut waiting) = self.pairing.incoming.take() else { return Body::Unframed };
        waiting.certain = certain;
        waiting.upgrade_h2c = fields.upgrade_h2c;
        waiting.request.bytes = bytes;
        // A request that follows an unframed response says that it has ended, unless requests are pipelined.
        if self.responses.is_unframed() && self.pairing.waiting.is_empty() {
            let Self { pairing, responses, cx } = self;
            responses.end_unframed(&mut ResponseEnd { pairing, cx });
        }
        if self.pairing.responses_lost {
            // Without pipelining, what waits was answered in what was lost.
            while self.pairing.waiting.drain_one().is_some() {
                self.cx.unparsed();
            }
            self.pairing.responses_lost = false;
        }
        self.pairing.arrive(waiting, self.cx);
        if !certain || fields.contradictory {
            return Body::Unframed;
        }
        match (fields.coded, fields.chunked, fields.length) {
            (_, true, _) => Body::Chunked,
            (true, false, _) => Body::Unframed,
            (false, false, Some(length)) if length > 0 => Body::Length(length),
            _ => Body::None,
        }
    }

    fn end(&mut self, bytes: u64, _at: Timestamp) {
        let Pairing { waiting, current, .. } = &mut *self.pairing;
        let newest = match (waiting.back_mut(), current) {
            (Some(newest), _) => Some(newest),
            (None, Some(Current { owner: Owner::Request(waiting), .. })) => Some(waiting),
            _ => None,
        };
        if let Some(newest) = newest {
            newest.request.bytes = newest.request.bytes.max(bytes);
        }
    }

    fn abandon(&mut self) {
        if self.pairing.incoming.take().is_some() {
            self.cx.unparsed();
        }
    }

    fn next_expected(&self) -> bool {
        // Only when everything before was answered: then the rest of the body will not come.
        let Pairing { waiting, current, .. } = &*self.pairing;
        waiting.is_empty() && (current.is_none() || self.responses.is_unframed())
    }

    fn gap(&mut self, gap: GapKind) {
        self.cx.count_gap();
        self.pairing.lost(Sender::Client, gap, self.cx);
    }
}

/// Takes what the server's reader finds.
pub(super) struct ResponseEnd<'a, 'c> {
    pub(super) pairing: &'a mut Pairing,
    pub(super) cx: &'a mut ConnectionContext<'c>,
}

impl Handler for ResponseEnd<'_, '_> {
    fn start(&mut self, line: &[u8], _whole: bool, at: Timestamp) -> bool {
        let Some(status) = status_line(line) else { return false };
        self.pairing.current = Some(Current { status, started: at, owner: Owner::Undecided });
        true
    }

    fn head(&mut self, fields: &Fields, certain: bool, bytes: u64, at: Timestamp) -> Body {
        let pairing = &mut *self.pairing;
        let Some(current) = &mut pairing.current else { return Body::Unframed };
        if (100..=199).contains(&current.status) && current.status != 101 {
            pairing.interim_bytes = pairing.interim_bytes.saturating_add(bytes);
            pairing.current = None;
            return Body::Interim;
        }
        current.owner = match pairing.waiting.pop() {
            None if pairing.trust == Trust::Desynced => Owner::Forgotten,
            Some(Next::Waiting(waiting)) => Owner::Request(waiting),
            Some(Next::Forgotten) => Owner::Forgotten,
            None => Owner::Unknown,
        };
        let method = match &current.owner {
            Owner::Request(waiting) => waiting.method,
            _ => Method::Other,
        };
        if current.status == 101 || (method == Method::Connect && (200..=299).contains(&current.status)) {
            self.tunnel(fields, bytes, at);
            return Body::Tunnel;
        }
        if matches!(current.status, 204 | 304) || method == Method::Head {
            return Body::None;
        }
        if !certain {
            return Body::Unframed;
        }
        match (fields.coded, fields.chunked, fields.length) {
            (_, true, _) => Body::Chunked,
            (false, false, Some(0)) if !fields.contradictory => Body::None,
            (false, false, Some(length)) if !fields.contradictory => Body::Length(length),
            _ => Body::UntilClose,
        }
    }

    fn end(&mut self, bytes: u64, at: Timestamp) {
        if let Some(current) = self.pairing.current.take() {
            self.pairing.settle(&current, bytes, at, self.cx);
        }
    }

    fn abandon(&mut self) {
        // The status was seen, the head's end was not: the request it answers still waits.
        self.pairing.current = None;
    }

    fn next_expected(&self) -> bool {
        !self.pairing.waiting.is_empty() || self.pairing.trust == Trust::Desynced
    }

    fn gap(&mut self, gap: GapKind) {
        self.cx.count_gap();
        self.pairing.lost(Sender::Server, gap, self.cx);
        self.pairing.responses_lost |= !self.pairing.waiting.is_empty();
    }
}

impl ResponseEnd<'_, '_> {
    /// The connection changes its protocol with this response.
    fn tunnel(&mut self, fields: &Fields, bytes: u64, at: Timestamp) {
        let pairing = &mut *self.pairing;
        let Some(current) = pairing.current.take() else { return };
        let Owner::Request(waiting) = current.owner else {
            pairing.tunnel = Some(Tunnel { to: None, handover: None });
            self.cx.orphan();
            return;
        };
        if waiting.upgrade_h2c && fields.upgrade_h2c {
            // The request is answered on stream 1.
            pairing.tunnel = Some(Tunnel { to: Some(Protocol::Http2), handover: Some(waiting.request) });
            return;
        }
        pairing.tunnel = Some(Tunnel { to: None, handover: None });
        let bytes = bytes + std::mem::take(&mut pairing.interim_bytes);
        emit(&waiting.request, current.status, bytes, at, self.cx);
    }
}

/// Bytes of a target whose end was not captured that still tell its route.
const TARGET_BYTES_MIN: usize = 256;

/// RFC 9112 section 3.
pub(super) struct RequestLine<'a> {
    pub(super) method: &'a [u8],
    pub(super) target: &'a [u8],
    /// Enough of the target is there for its route.
    pub(super) named: bool,
}

pub(super) fn request_line(line: &[u8], whole: bool) -> Option<RequestLine<'_>> {
    let method_end = line.iter().position(|b| !detect::is_token(*b))?;
    let (method, rest) = line.split_at(method_end);
    if method.is_empty() || rest.first() != Some(&b' ') {
        return None;
    }
    let rest = rest.trim_ascii_start();
    let (target, named) = if whole {
        if !detect::version_at_end(rest) {
            return None;
        }
        // " HTTP/1.1" was found at its end.
        (rest.trim_ascii_end().get(..rest.trim_ascii_end().len() - 9)?.trim_ascii(), true)
    } else {
        let end = rest.iter().position(|b| *b == b' ');
        let target = rest.get(..end.unwrap_or(rest.len()))?;
        (target, end.is_some() || target.contains(&b'?') || target.len() >= TARGET_BYTES_MIN)
    };
    let plausible = matches!(target.first()?, b'/' | b'*' | b'[' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')
        && !target.iter().any(|b| *b < b' ' || *b == 0x7f);
    plausible.then_some(RequestLine { method, target, named })
}

/// Status code of a status line (RFC 9112 section 4).
fn status_line(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, rest) = rest.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !matches!(rest.first(), None | Some(b' ')) {
        return None;
    }
    let status = digits.iter().fold(0_u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    (100..=999).contains(&status).then_some(status)
}
