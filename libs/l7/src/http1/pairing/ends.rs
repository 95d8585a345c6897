//! The handlers of both ends' readers: what they find goes into the pairing.

use super::{Current, Malformed, Method, Owner, Pairing, Trust, Tunnel, Waiting, emit, refuses};
use crate::{
    Protocol, Symbol, Timestamp,
    http1::{
        self,
        fields::Fields,
        reader::{Body, Handler, Reader},
        start_line::{RequestLine, request_line, status_line},
    },
    parser::{ConnectionContext, Request, Resource, Sender, Unrecognised},
    pending::Next,
    resync::GapKind,
};

/// Takes what the client's reader finds.
pub(in crate::http1) struct RequestEnd<'a, 'c> {
    pub(in crate::http1) pairing: &'a mut Pairing,
    pub(in crate::http1) responses: &'a mut Reader,
    pub(in crate::http1) cx: &'a mut ConnectionContext<'c>,
}

impl Handler for RequestEnd<'_, '_> {
    fn start(&mut self, line: &[u8], whole: bool, at: Timestamp) -> bool {
        let Some(RequestLine { method, target, named }) = request_line(line, whole) else { return false };
        if let Malformed::Line(_) = std::mem::take(&mut self.pairing.malformed) {
            self.pairing.desync(Sender::Client, GapKind::Malformed, self.cx);
        }
        let operation = http1::operation(method, self.cx);
        let method = match method {
            b"HEAD" => Method::Head,
            b"CONNECT" => Method::Connect,
            _ => Method::Other,
        };
        let resource =
            if named { Resource::Route(self.cx.route(target)) } else { Resource::Name(Symbol::OTHER) };
        self.cx.message();
        self.pairing.incoming = Some(Waiting {
            request: Request { operation, resource, start: at, bytes: line.len() as u64 },
            method,
            upgrade_h2c: false,
            certain: true,
            trace: None,
        });
        true
    }

    fn head(&mut self, fields: &Fields, certain: bool, bytes: u64, _at: Timestamp) -> Body {
        let Some(mut waiting) = self.pairing.incoming.take() else { return Body::Unframed };
        waiting.certain = certain;
        waiting.upgrade_h2c = fields.upgrade_h2c;
        waiting.trace = fields.trace();
        waiting.request.bytes = bytes;
        // A request that follows an unframed response shows that it has ended, unless requests are pipelined.
        if self.responses.is_unframed() && self.pairing.waiting.is_empty() {
            let Self { pairing, responses, cx } = self;
            responses.end_unframed(&mut ResponseEnd { pairing, cx });
        }
        self.pairing.settle_unread(self.cx);
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

    fn malformed(&mut self, since: Option<Timestamp>, bytes: u64, is_line: bool) {
        let is_quiet = self.pairing.is_quiet();
        let refusable = since.filter(|_| is_quiet).map(|start| Unrecognised { start, bytes });
        self.pairing.malformed = match refusable {
            // A request behind it is the rest of the same line, and has the same answer.
            Some(malformed) if !is_line => Malformed::Refusable(malformed),
            // The rest of a body.
            None if is_quiet && !is_line => Malformed::Nothing,
            refusable => Malformed::Line(refusable),
        };
    }

    fn next_expected(&self) -> bool {
        // Only when everything before was answered: then the rest of the body will not come.
        let Pairing { waiting, current, .. } = &*self.pairing;
        waiting.is_empty() && (current.is_none() || self.responses.is_unframed())
    }

    fn gap(&mut self, gap: GapKind) {
        self.cx.count_gap();
        if gap == GapKind::Truncated {
            // The next request, too, began in what cannot be read.
            self.pairing.settle_unread(self.cx);
        }
        self.pairing.lost(Sender::Client, gap, self.cx);
    }
}

/// Takes what the server's reader finds.
pub(in crate::http1) struct ResponseEnd<'a, 'c> {
    pub(in crate::http1) pairing: &'a mut Pairing,
    pub(in crate::http1) cx: &'a mut ConnectionContext<'c>,
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
            // A server need not wait for a head's end to refuse it.
            None => match pairing.incoming.take_if(|_| refuses(current.status)) {
                Some(incoming) => Owner::Request(incoming),
                None => Owner::Unknown,
            },
        };
        if pairing.waiting.is_empty() {
            // What came before was an interim response.
            pairing.unread = None;
        }
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
        if fields.is_event_stream {
            // What follows are events, as they happen.
            self.end(bytes, at);
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

    fn malformed(&mut self, _since: Option<Timestamp>, _bytes: u64, _is_line: bool) {}

    fn next_expected(&self) -> bool {
        !self.pairing.waiting.is_empty() || self.pairing.trust == Trust::Desynced
    }

    fn gap(&mut self, gap: GapKind) {
        self.cx.count_gap();
        let is_lone = self.pairing.waiting.len() == 1;
        self.pairing.lost(Sender::Server, gap, self.cx);
        if is_lone && gap == GapKind::Truncated && !self.pairing.waiting.is_empty() {
            self.pairing.unreadable();
        } else {
            self.pairing.responses_lost |= !self.pairing.waiting.is_empty();
        }
    }
}

impl ResponseEnd<'_, '_> {
    /// The connection changes its protocol with this response.
    fn tunnel(&mut self, fields: &Fields, bytes: u64, at: Timestamp) {
        let pairing = &mut *self.pairing;
        let Some(current) = pairing.current.take() else { return };
        let Owner::Request(waiting) = current.owner else {
            pairing.tunnel = Some(Tunnel { to: None, handover: None, connected: false });
            self.cx.orphan();
            return;
        };
        if waiting.upgrade_h2c && fields.upgrade_h2c {
            // The request is answered on stream 1.
            let (to, handover) = (Some(Protocol::Http2), Some(waiting.request));
            pairing.tunnel = Some(Tunnel { to, handover, connected: false });
            return;
        }
        let connected = waiting.method == Method::Connect;
        pairing.tunnel = Some(Tunnel { to: None, handover: None, connected });
        let bytes = bytes + std::mem::take(&mut pairing.interim_bytes);
        self.cx.set_trace(waiting.trace);
        emit(&waiting.request, current.status, bytes, at, self.cx);
    }
}
