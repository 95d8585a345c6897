//! What someone else followed of PostgreSQL: simple queries by name, and where a connection stands.

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol,
    elsewhere::{AnswerStand, Found, Part, Resumed, Stand},
    parser::{Context, Outcome, Parser, Request, Resource, Segment, Sender},
    postgres::{Phase, Postgres, UNKNOWN_STATE, failure, wire, wire::HEADER_BYTES},
    sql,
};

/// Gives out an exchange that was found elsewhere; says whether an equal one will always be called the same. `text` are
/// an error's fields or the command's tag.
pub(crate) fn name_found(
    name: &[u8],
    failed: bool,
    text: &[u8],
    found: &Found<'_>,
    cx: &mut Context<'_>,
) -> bool {
    let named = words(name, cx);
    let tag = if failed { None } else { wire::tag(text) };
    let (operation, table) = match named {
        Some((Some(operation), table)) => (operation, table),
        Some((None, table)) => (cx.word(tag.unwrap_or(sql::OTHER)), table),
        None => (Symbol::OTHER, Symbol::OTHER),
    };
    let resource = Resource::Name(table);
    let request = Request { operation, resource, start: found.start, bytes: found.request_bytes };
    let (status, error) = if failed {
        failure(wire::sqlstate(text).unwrap_or(UNKNOWN_STATE), cx)
    } else {
        (Status::None, ErrorClass::None)
    };
    let outcome = Outcome { status, error, end: found.end, bytes: found.response_bytes };
    cx.emit(Protocol::Postgresql, &request, &outcome);
    // What the tag names may be another the next time.
    !failed && matches!(named, Some((Some(_), table)) if table != Symbol::OTHER)
}

/// Operation, where the statement says it, and table; `None` when nothing is known of it.
fn words(name: &[u8], cx: &mut Context<'_>) -> Option<(Option<Symbol>, Symbol)> {
    let (operation, table) = sql::name::decode(name)?;
    let operation = (operation != sql::OTHER).then(|| cx.word(operation));
    Some((operation, cx.name(NameKind::Table, table)))
}

/// A query that stands for one that someone else has seen.
const QUERY: &[u8] = b"Q\0\0\0\x0dSELECT 1\0";

impl Postgres {
    /// Whether nothing is under way, and what was asked last can be followed elsewhere.
    pub(super) fn rests(&self) -> bool {
        self.phase == Phase::Commands
            && self.aligned
            && self.ready
            && self.between
            && self.plain
            && !self.ended
            && !self.encrypted
            && !self.begun
            && !self.skipping
            && !self.copy
            && !self.blind
            && !self.turns.is_adrift()
            && self.early.is_none()
            && self.held.is_none()
            && self.batch.is_none()
            && self.message.is_none()
            && self.line.is_empty()
            && [&self.client, &self.server].iter().all(|framer| !framer.in_message() && !framer.is_lost())
    }

    /// Someone else goes on where the client asks next: an answer whose end was not captured has ended.
    pub(super) fn handed(&mut self, cx: &mut Context<'_>) {
        self.finish_unseen(cx);
        self.drop_line(cx);
        (self.client, self.server) = Default::default();
        self.server_position = self.server_bytes;
        self.message = None;
        (self.ready, self.between, self.aligned) = (true, true, true);
    }

    /// Goes on where someone else stopped, who took over when it [rested](Self::rests).
    pub(super) fn follow_on(&mut self, resumed: &Resumed<'_>, cx: &mut Context<'_>) {
        for waiting in resumed.waiting {
            self.say(Sender::Client, QUERY, resumed, cx);
            let (operation, table) = words(waiting.request, cx).unwrap_or((None, Symbol::NONE));
            if let Some(item) = self.line.back_mut() {
                item.unnamed = operation.is_none();
                item.request = Request {
                    operation: operation.unwrap_or(Symbol::OTHER),
                    resource: Resource::Name(table),
                    start: waiting.start,
                    bytes: waiting.bytes,
                };
            }
        }
        let Stand::Answer(AnswerStand { part, left, held }) = resumed.responses.stand else { return };
        let bytes = resumed.responses.bytes;
        if part != Part::Start {
            self.ready = false;
            self.begun = true;
            self.answer_start = self.server_position;
            self.answer_bytes = bytes;
        }
        if left > 0 {
            // Its header was counted already. Data to copy may be of any length, and says nothing.
            self.answer_bytes = bytes.saturating_sub(HEADER_BYTES as u64);
            let length = u32::try_from(left + 4).unwrap_or(u32::MAX).to_be_bytes();
            self.say(Sender::Server, &[&b"d"[..], &length].concat(), resumed, cx);
        }
        self.say(Sender::Server, held.bytes(), resumed, cx);
    }

    /// Bytes that someone else has seen.
    fn say(&mut self, from: Sender, bytes: &[u8], resumed: &Resumed<'_>, cx: &mut Context<'_>) {
        let at = if from == Sender::Client { resumed.requests.start } else { resumed.responses.start };
        if !bytes.is_empty() {
            self.segment(&Segment { from, at, lost: 0, bytes, unseen: 0 }, cx);
        }
    }
}
