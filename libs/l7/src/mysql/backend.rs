//! What the server sends: its part of the login, and the answers.

use crate::{
    Protocol, Symbol, Timestamp,
    mysql::{
        AnswerFraming, CurrentResponse, LoginPacket, Mysql, Next, PacketRole, Pairing, Phase, outcome,
        response::{Progress, Response},
        wire::{self, Failure, HEADER_BYTES, Header, PacketMatch, capability},
    },
    parser::{ConnectionContext, Outcome, Request, Resource},
    stream::{Head, Step},
};

impl Mysql {
    pub(super) fn server_head(
        &mut self,
        head: &Head<'_>,
        before: u64,
        cx: &mut ConnectionContext<'_>,
    ) -> Step {
        let Some((header, payload)) = wire::packet(head.bytes) else { return Step::More };
        let length = (HEADER_BYTES + header.length) as u64;
        if head.resync {
            self.server_position = before;
        }
        if self.server_packet == PacketRole::Continuation {
            self.server_packet = PacketRole::behind(header.length);
            let Some(answer) = &mut self.answer else { return Step::Lost };
            answer.bytes += length;
            answer.sequence = Some(header.sequence.wrapping_add(1));
            return self.take(length);
        }
        let decisive = |wanted: usize| payload.len() >= wanted.min(header.length) || head.last;
        if self.phase != Phase::Commands {
            return self.login_answer(head, header, payload);
        }
        let begun = self.answer.is_some();
        if self.answer.is_none() {
            if !decisive(24) {
                return Step::More;
            }
            if self.stray.take() == Some(header.sequence)
                && header.length == 5
                && payload.first() == Some(&0xfe)
            {
                self.deprecated_eof = Some(false);
                return self.take(length);
            }
            match self.waiting.front() {
                Some(front) if front.sequence == header.sequence || is_farewell(header, payload) => {
                    self.answer = Some(CurrentResponse {
                        response: Response::new(front.shape),
                        start: self.server_position,
                        bytes: 0,
                        sequence: Some(header.sequence),
                        end: None,
                        framing: AnswerFraming::Followed,
                    });
                }
                Some(_) if self.is_aligned() || head.resync => return Step::Lost,
                _ if head.resync => return Step::Lost,
                Some(_) => return self.take(length),
                None => {
                    if header.sequence == 1 && self.is_aligned() {
                        cx.orphan();
                        self.pairing = Pairing::Unknown;
                    }
                    return self.take(length);
                }
            }
        } else if head.resync {
            // Within an answer nothing marks where a packet starts.
            return Step::Lost;
        }
        let Some(answer) = &mut self.answer else { return Step::Lost };
        let wanted = answer.response.wants(payload, header.length);
        if payload.len() < wanted && !head.last {
            if !begun {
                self.answer = None;
            }
            return Step::More;
        }
        if answer.sequence.is_some_and(|sequence| sequence != header.sequence) {
            return Step::Lost;
        }
        match answer.response.packet(payload, header.length, &mut self.deprecated_eof) {
            Progress::Broken => {
                if !begun {
                    self.answer = None;
                }
                return Step::Lost;
            }
            Progress::Continues => {}
            Progress::File => {
                self.client_packet = PacketRole::File;
            }
            Progress::Ends(end) => answer.end = Some(end),
        }
        answer.sequence = Some(header.sequence.wrapping_add(1));
        answer.bytes += length;
        self.pairing = Pairing::Aligned;
        self.server_packet = PacketRole::behind(header.length);
        self.take(length)
    }

    fn take(&mut self, length: u64) -> Step {
        self.server_position += length;
        Step::Take(length)
    }

    fn login_answer(&mut self, head: &Head<'_>, header: Header, payload: &[u8]) -> Step {
        let length = (HEADER_BYTES + header.length) as u64;
        let Some(&first) = payload.first() else {
            return if header.length == 0 { Step::Lost } else { Step::More };
        };
        if self.phase == Phase::Start && (header.sequence != 0 || !matches!(first, 10 | 0xff)) {
            return Step::Lost;
        }
        if payload.len() < header.length.min(24) && !head.last {
            return Step::More;
        }
        match (self.phase, first) {
            (Phase::Start, 10) if header.sequence == 0 => match wire::greeting(payload, header.length) {
                PacketMatch::Yes(capabilities) => {
                    self.capabilities = Some(capabilities);
                    self.phase = Phase::Login;
                    self.hello_start = head.at;
                }
                PacketMatch::More => return Step::More,
                PacketMatch::No => return Step::Lost,
            },
            (Phase::Start, 0xff) if header.sequence == 0 => {
                self.hello_start = head.at;
                self.login_packet = LoginPacket::error(payload);
            }
            (Phase::Login, 0xff) => self.login_packet = LoginPacket::error(payload),
            (Phase::Login, 0) if header.length >= 7 => self.login_packet = LoginPacket::Accepts,
            (Phase::Login, _) => {}
            (Phase::Start | Phase::Commands, _) => return Step::Lost,
        }
        self.take(length)
    }

    pub(super) fn server_end(&mut self, at: Timestamp, cx: &mut ConnectionContext<'_>) -> Step {
        match std::mem::take(&mut self.login_packet) {
            LoginPacket::Refuses(failure) => self.refuse_login(failure, at, cx),
            LoginPacket::Accepts => {
                self.phase = Phase::Commands;
                self.pairing = Pairing::Aligned;
                let agreed = self.capabilities.unwrap_or(u32::MAX) & self.hello.unwrap_or_default();
                if agreed & (capability::COMPRESS | capability::ZSTD) != 0 {
                    self.next = Next::Nothing;
                }
            }
            LoginPacket::Continues => {
                if let Some(CurrentResponse { end: Some(end), bytes, sequence, .. }) = self.answer
                    && self.server_packet != PacketRole::Continuation
                {
                    self.answer = None;
                    self.finish(Some(end), at, bytes, sequence, cx);
                }
            }
        }
        if self.next == Next::Nothing { Step::Stop } else { Step::Lost }
    }

    /// The server does not let the client in.
    fn refuse_login(&mut self, failure: Failure, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        cx.message();
        let request = Request {
            operation: cx.word("CONNECT"),
            resource: Resource::Name(Symbol::NONE),
            start: self.hello_start,
            bytes: self.hello_bytes,
        };
        let (status, error) = outcome(failure);
        cx.emit(Protocol::Mysql, &request, &Outcome { status, error, end: at, bytes: self.server_position });
        self.next = Next::Nothing;
    }
}

/// A server that ends a connection sends packet 0 without a request.
fn is_farewell(header: Header, payload: &[u8]) -> bool {
    header.sequence == 0 && wire::failure(payload).is_some()
}
