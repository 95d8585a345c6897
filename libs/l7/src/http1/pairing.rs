//! Pairs requests with responses, in order.
//!
//! A response normally finds its request waiting. Two threads can make the capture deliver them the other way round;
//! then the response waits, briefly. On a connection that was joined in the middle the first response can belong to a
//! request that was not captured: a response before the first request is never paired with it.
//!
//! After a loss it is unknown which responses belong to which requests until [`Resync`] has found out. What was
//! requested before bytes of the client's were lost is still answered first. Where only the rest of a call was not
//! captured, and nothing looks like pipelining, the newest request is the only one unanswered.

mod ends;

use std::{collections::VecDeque, num::NonZeroU64};

pub(super) use ends::{RequestEnd, ResponseEnd};

use crate::{
    ErrorClass, Protocol, Status, Symbol, Timestamp,
    http1::reader::{Reader, UNFRAMED_QUIET_NS},
    offload::{ConnectionState, FramingState},
    parser::{ConnectionContext, Outcome, Request, Resource, Segment, Sender, Unrecognised},
    pending::{Fifo, Next},
    resync::{EARLY_NS_MAX, GapKind, ResponsePosition, Resync},
    trace::TraceContext,
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
    trace: Option<TraceContext>,
}

/// What the client sent last, where it begins no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Malformed {
    #[default]
    Nothing,
    /// Nothing else waits for a response: a server may refuse it.
    Refusable(Unrecognised),
    /// A line between requests, which may be answered like one; a server may refuse it if nothing else waits for a response.
    Line(Option<Unrecognised>),
}

impl Malformed {
    fn refusable(self) -> Option<Unrecognised> {
        match self {
            Self::Refusable(malformed) => Some(malformed),
            Self::Line(malformed) => malformed,
            Self::Nothing => None,
        }
    }
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
    /// It carries anything: what follows is to be recognised anew.
    pub(super) connected: bool,
}

/// Requests and responses of one connection.
#[derive(Debug, Default)]
pub(super) struct Pairing {
    waiting: Fifo<Waiting>,
    early: VecDeque<Early>,
    /// The request that is being read, until its head ends.
    incoming: Option<Waiting>,
    current: Option<Current>,
    /// Bytes so far of the newest request, while its body goes on: a response may come before the upload's end.
    pub(super) uploaded: Option<u64>,
    /// Bytes of interim responses.
    interim_bytes: u64,
    trust: Trust,
    /// Bytes of responses were no HTTP since requests began to wait.
    responses_lost: bool,
    /// Bytes of the response to the request that waits, which began in bytes that could not be read.
    unread: Option<NonZeroU64>,
    /// Bytes of the server's segment that is taken.
    taken: u64,
    /// A request was certainly sent before the one before it was answered.
    pipelined: bool,
    resync: Resync,
    /// Pairing began again after a loss.
    realigned: bool,
    malformed: Malformed,
    pub(super) tunnel: Option<Tunnel>,
}

impl Pairing {
    /// Of a connection on which the client sent something else before.
    pub(super) fn answering(malformed: Option<Unrecognised>) -> Self {
        let malformed = malformed.map_or(Malformed::Nothing, Malformed::Refusable);
        Self { malformed, ..Self::default() }
    }

    /// What waits on a connection that the kernel followed; its client has shown before what it does.
    pub(super) fn resumed(&self, resumed: &ConnectionState<'_>, cx: &mut ConnectionContext<'_>) -> Self {
        let pipelined = self.pipelined || resumed.pending.len() > 1;
        let resync = self.resync.resumed();
        let mut pairing = Self { trust: Trust::Aligned, pipelined, resync, ..Self::default() };
        for (index, request) in resumed.pending.iter().enumerate() {
            let (operation, resource) = super::words(request.request, cx);
            // The kernel counts a body with its head; what of the newest one has not moved may never do.
            let rest = match resumed.requests.framing {
                FramingState::Body(rest) if index + 1 == resumed.pending.len() => rest,
                _ => 0,
            };
            cx.message();
            let method = if request.head { Method::Head } else { Method::Other };
            let bytes = request.bytes.saturating_sub(rest);
            let trace = request.trace;
            let request = Request { operation, resource, start: request.start, bytes };
            pairing.resync.request();
            let waiting = Waiting { request, method, upgrade_h2c: false, certain: true, trace };
            if pairing.waiting.push(waiting, cx.pending_max()).is_some() {
                cx.unparsed();
            }
        }
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

    /// How many requests wait.
    pub(super) fn pending(&self) -> usize {
        self.waiting.known()
    }

    /// Requests that are read or answered or wait; `None` where requests and responses may not correspond.
    pub(super) fn open_requests(&self) -> Option<usize> {
        // Until the head of a response has ended its request waits.
        let answered =
            self.current.as_ref().is_some_and(|current| !matches!(current.owner, Owner::Undecided));
        let open = self.waiting.len() + usize::from(self.incoming.is_some()) + usize::from(answered);
        (self.trust == Trust::Aligned).then_some(open)
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

    /// Whether nothing is being read, and nothing waits.
    fn is_quiet(&self) -> bool {
        self.trust != Trust::Desynced
            && self.waiting.is_empty()
            && self.early.is_empty()
            && self.incoming.is_none()
            && self.current.is_none()
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

    /// Whether the server sent last.
    pub(super) fn is_turn(&self) -> bool {
        self.resync.is_turn()
    }

    /// The server sent a segment.
    pub(super) fn server(&mut self, segment: &Segment<'_>) {
        self.resync.server(segment);
        self.taken = (segment.bytes.len() as u64).saturating_add(segment.truncated);
        self.unread = self.unread.map(|unread| unread.saturating_add(self.taken));
    }

    /// In the server's segment neither the end nor the start of a response was found.
    pub(super) fn blind(&mut self, segment: &Segment<'_>) {
        if self.trust == Trust::Desynced {
            self.resync.desync(Sender::Server, GapKind::Malformed);
        } else if segment.is_unreadable() && self.current.is_none() && self.waiting.len() == 1 {
            self.unreadable();
        }
    }

    /// The response to the request that waits, the only one, began in bytes that could not be read.
    fn unreadable(&mut self) {
        self.unread = self.unread.or(NonZeroU64::new(self.taken));
    }

    /// The response that could not be read has ended: its request counts, with a status that is not known.
    fn settle_unread(&mut self, cx: &mut ConnectionContext<'_>) {
        let Some(bytes) = self.unread.take().map(NonZeroU64::get) else { return };
        while let Some(waiting) = self.waiting.drain_one() {
            if !waiting.certain {
                cx.unparsed();
                continue;
            }
            self.resync.response();
            let (status, error) = cx.unknown_status();
            cx.set_trace(waiting.trace);
            let outcome = Outcome { status, error, end: self.resync.answered(), bytes };
            cx.emit(Protocol::Http1, &waiting.request, &outcome);
        }
    }

    /// Nothing moved for a while.
    pub(super) fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if self.unread.is_some() && now.since(self.resync.answered()) >= UNFRAMED_QUIET_NS {
            self.settle_unread(cx);
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

    /// The connection was closed, and both readers have emitted their last events.
    pub(super) fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if let Some(current) = self.current.take() {
            self.settle(&current, 0, now, cx);
        }
        self.settle_unread(cx);
        while let Some(waiting) = self.waiting.drain_one() {
            if waiting.certain && !self.responses_lost {
                cx.set_trace(waiting.trace);
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
                cx.set_trace(waiting.trace);
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
            // Its head was cut by a loss, and what the server sent since may have been the response.
            cx.unparsed();
            return;
        }
        if self.waiting.push(waiting, cx.pending_max()).is_some() {
            cx.unparsed();
        }
    }

    /// Bytes of one end are missing.
    pub(super) fn lost(&mut self, of: Sender, gap: GapKind, cx: &mut ConnectionContext<'_>) {
        // What waits for a response before bytes of the client's that no request was found in is answered first.
        let is_pipelined = self.pipelined || (of == Sender::Client && self.waiting.len() > 1);
        if gap == GapKind::Lost || is_pipelined || self.trust == Trust::Desynced {
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
        self.malformed = self.malformed.refusable().map_or(Malformed::Nothing, Malformed::Refusable);
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
                let mut request = waiting.request;
                if let Some(uploaded) = self.uploaded.filter(|_| self.waiting.is_empty()) {
                    request.bytes = request.bytes.max(uploaded);
                }
                cx.set_trace(waiting.trace);
                emit(&request, current.status, bytes, ended, cx);
            }
            _ if refuses(current.status) && self.malformed.refusable().is_some() => {
                let malformed = std::mem::take(&mut self.malformed);
                let Some(Unrecognised { start, bytes: request_bytes }) = malformed.refusable() else {
                    return;
                };
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

/// Whether a status refuses a request that is malformed, too long or incomplete, or whose method is unknown (RFC 9110
/// section 15.5, RFC 9112 section 3).
fn refuses(status: u16) -> bool {
    matches!(status, 400 | 405 | 408 | 414 | 431 | 501 | 505)
}

/// The error class of a status (RFC 9110 section 15).
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
