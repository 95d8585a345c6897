//! What someone else followed of MySQL: commands and answers by name, and where a connection stands.

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol,
    elsewhere::{AnswerStand, Found, Part, Resumed, Stand},
    mysql::{
        Answer, Mysql, Phase, Waiting, command,
        command::Shape,
        outcome,
        response::{Response, Stage},
        wire,
    },
    parser::{Context, Outcome, Parser, Request, Resource, Segment, Sender},
    sql,
};

/// Gives out an exchange that was found elsewhere; says whether an equal one will always be called the same.
pub(crate) fn name_found(
    name: &[u8],
    failure: Option<&[u8]>,
    found: &Found<'_>,
    cx: &mut Context<'_>,
) -> bool {
    let (operation, table, _) = words(name, cx);
    let request = Request {
        operation,
        resource: Resource::Name(table),
        start: found.start,
        bytes: found.request_bytes,
    };
    let (status, error) = match failure {
        None => (Status::None, ErrorClass::None),
        Some(text) => wire::failure_behind(text).map_or((Status::None, ErrorClass::Client), outcome),
    };
    cx.emit(
        Protocol::Mysql,
        &request,
        &Outcome { status, error, end: found.end, bytes: found.response_bytes },
    );
    failure.is_none() && operation != Symbol::OTHER && table != Symbol::OTHER
}

/// Operation, table and shape of the answer.
fn words(name: &[u8], cx: &mut Context<'_>) -> (Symbol, Symbol, Shape) {
    if let [number] = name
        && let Some(command) = command::command(*number)
    {
        return (cx.word(command.name), Symbol::NONE, command.answer.unwrap_or(Shape::Single));
    }
    match sql::name::decode(name) {
        Some((operation, table)) => (cx.word(operation), cx.name(NameKind::Table, table), Shape::Results),
        None => (Symbol::OTHER, Symbol::OTHER, Shape::Results),
    }
}

impl Mysql {
    /// Whether nothing is under way, and what was asked last can be followed elsewhere.
    pub(super) fn rests(&self) -> bool {
        self.phase == Phase::Commands
            && self.aligned
            && self.plain
            && !self.ended
            && !self.file
            && !self.blind
            && !self.client_continued
            && !self.server_continued
            && self.stray.is_none()
            && self.waiting.is_empty()
            && self.answer.is_none()
            && [&self.client, &self.server].iter().all(|framer| !framer.in_message() && !framer.is_lost())
    }

    /// Someone else goes on where the client asks next: an answer whose end was not captured has ended.
    pub(super) fn handed(&mut self, cx: &mut Context<'_>) {
        self.finish_unseen(cx);
        self.drop_waiting(cx);
        (self.client, self.server) = Default::default();
        self.server_position = self.server_bytes;
        self.stray = None;
        self.aligned = true;
    }

    /// Goes on where someone else stopped, who took over when it [rested](Self::rests).
    pub(super) fn follow_on(&mut self, resumed: &Resumed<'_>, cx: &mut Context<'_>) {
        // Who followed it has forgotten them, or not.
        self.statements.for_each_mut(|statement| statement.told = false);
        for waiting in resumed.waiting {
            cx.message();
            let (operation, table, shape) = words(waiting.request, cx);
            let resource = Resource::Name(table);
            let request = Request { operation, resource, start: waiting.start, bytes: waiting.bytes };
            let _ = self.waiting.push(Waiting { request, shape, statement: None, sequence: 1 }, usize::MAX);
        }
        if let Stand::Header(length) = resumed.requests.stand {
            let [low, middle, high, ..] = length.to_le_bytes();
            self.say(Sender::Client, &[low, middle, high, 0], resumed, cx);
        }
        let Stand::Answer(AnswerStand { part, left, held }) = resumed.responses.stand else { return };
        let stage = match part {
            Part::Start => Stage::First,
            // The packet that is going by was counted already.
            Part::Columns(columns) => Stage::Columns(u64::from(columns) + u64::from(left > 0)),
            Part::BehindColumns if left > 0 => Stage::Columns(1),
            Part::BehindColumns => Stage::BehindColumns,
            Part::Rows => Stage::Rows,
        };
        let bytes = resumed.responses.bytes;
        if bytes > 0 {
            let shape = self.waiting.front().map_or(Shape::Results, |front| front.shape);
            self.answer = Some(Answer {
                response: Response::at(shape, stage),
                start: self.server_position,
                bytes,
                sequence: None,
                end: None,
            });
        }
        if left > 0 {
            // At least a byte of its payload is behind.
            let [low, middle, high, ..] = (left + 1).to_le_bytes();
            self.say(Sender::Server, &[low, middle, high, 0, 0], resumed, cx);
            if let Some(answer) = &mut self.answer {
                answer.sequence = None;
                answer.bytes = bytes + left;
            }
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
