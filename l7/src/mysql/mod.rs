//! MySQL and MariaDB: one exchange per command that is answered.
//!
//! ```text
//! Segment → Framer (one per direction) → command → waiting → Response → Exchange
//! ```
//!
//! - The operation is the statement's (`SELECT`, `INSERT`, …), else the command's (`PING`, `PREPARE`). An execution
//!   resolves to what was prepared; the statements that are remembered are bounded, and one that is not is `EXECUTE`.
//! - Commands without an answer (closing a statement, sending long data, quitting) and logins are no exchanges; a
//!   login that the server refuses is one, `CONNECT`.
//! - The status is the server's error number. SQLSTATE decides whose fault it was, where it can.
//! - All results of a statement belong to its exchange, as does the file that `LOAD DATA LOCAL` sends.
//! - Where the capture of a long answer is cut, its end is the last byte before the next command: this protocol's
//!   clients wait for it.
//! - TLS is handed to its own parser; compressed connections and replication streams are left alone.
//!
//! Only the statement's verb, its table and the error number leave this module.

mod command;
mod identify;
mod response;
#[cfg(test)]
mod tests;
mod wire;

use crate::{
    ErrorClass, NameKind, Protocol, Status, Symbol, Timestamp,
    mysql::{
        command::{Command, Content, Shape},
        response::{End, Progress, Response},
        wire::{Failure, Found, HEADER_BYTES, Header, PAYLOAD_MAX, capability},
    },
    parser::{Context, Entry, Flow, Outcome, Parser, Request, Resource, Segment, Sender, Start, Transport},
    pending::{ById, Fifo, Next},
    sql,
    stream::{Framer, Head, Piece, Step},
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Mysql,
    transports: &[Transport::Stream],
    identify: identify::identify,
    start: |_: Start| Box::new(Mysql { turn: true, ..Mysql::default() }),
};

/// Bytes of a packet that are looked at.
const HEAD_MAX: usize = 4096;

/// An answer of which the end was not captured has ended when nothing came for so long, nanoseconds.
const PAUSE: u64 = 2_000_000_000;

/// Most prepared statements that are remembered on one connection.
const STATEMENTS_MAX: usize = 512;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing is known.
    #[default]
    Start,
    /// The server has greeted.
    Login,
    Commands,
}

/// A command that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: Request,
    shape: Shape,
    /// What was prepared, in a `COM_STMT_PREPARE`.
    statement: Option<Statement>,
    /// The sequence number of its first answer: how many packets it has.
    sequence: u8,
}

/// What a statement is about.
#[derive(Clone, Copy, Debug)]
struct Statement {
    operation: Symbol,
    table: Symbol,
}

/// The answer that is being read.
#[derive(Clone, Copy, Debug)]
struct Answer {
    response: Response,
    /// Where it started, in the server's stream.
    start: u64,
    bytes: u64,
    /// The sequence number of its next packet, where that is known.
    sequence: Option<u8>,
    end: Option<End>,
}

/// One connection.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Independent facts about one connection, not states.
struct Mysql {
    client: Framer,
    server: Framer,
    phase: Phase,
    capabilities: Option<u32>,
    hello: Option<u32>,
    hello_start: Timestamp,
    hello_bytes: u64,
    /// The packet in work ends the login, or starts TLS.
    login_ends: bool,
    refused: Option<Failure>,
    /// The client asks for TLS.
    tls: bool,
    /// It has done so, and goes on in it.
    tls_begins: bool,
    waiting: Fifo<Waiting>,
    answer: Option<Answer>,
    statements: ById<u32, Statement>,
    prepared_last: Option<Statement>,
    deprecated_eof: Option<bool>,
    /// The sequence number of an EOF packet that may follow definitions.
    stray: Option<u8>,
    /// Commands and answers are known to correspond.
    aligned: bool,
    /// The server has spoken since the last command.
    turn: bool,
    /// The client's packet goes on in the next one.
    client_continued: bool,
    server_continued: bool,
    /// The client sends a file.
    file: bool,
    /// The end of the answer in work was not captured.
    blind: bool,
    server_bytes: u64,
    server_position: u64,
    server_at: Timestamp,
    ended: bool,
    scratch: String,
}

impl Parser for Mysql {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut Context<'_>) -> Flow {
        let rest = match segment.from {
            Sender::Client => {
                let mut framer = std::mem::take(&mut self.client);
                let total = segment.bytes.len() as u64 + segment.unseen;
                let rest = framer.segment(segment, HEAD_MAX, |piece| match piece {
                    Piece::Head(head) => self.client_head(&head, total, cx),
                    Piece::End { .. } => self.client_end(),
                    Piece::Gap => {
                        self.client_gap(cx);
                        Step::Lost
                    }
                });
                self.client = framer;
                rest
            }
            Sender::Server => {
                let before = self.server_bytes + segment.lost;
                let mut framer = std::mem::take(&mut self.server);
                self.server_at = segment.at;
                self.turn = true;
                let rest = framer.segment(segment, HEAD_MAX, |piece| match piece {
                    Piece::Head(head) => self.server_head(&head, before, cx),
                    Piece::End { at } => self.server_end(at, cx),
                    Piece::Gap => {
                        self.server_gap(cx);
                        Step::Lost
                    }
                });
                self.server = framer;
                self.server_bytes = before + segment.bytes.len() as u64 + segment.unseen;
                rest
            }
        };
        if self.ended {
            self.drop_waiting(cx);
            Flow::Done
        } else if self.tls_begins {
            self.drop_waiting(cx);
            Flow::Switch { to: Protocol::Tls, rest, handover: None }
        } else {
            Flow::Continue
        }
    }

    fn idle(&mut self, now: Timestamp, cx: &mut Context<'_>) {
        if now.since(self.server_at) > PAUSE {
            self.finish_unseen(cx);
        }
    }

    fn close(&mut self, now: Timestamp, cx: &mut Context<'_>) {
        self.finish_unseen(cx);
        while let Some(waiting) = self.waiting.drain_one() {
            cx.emit(Protocol::Mysql, &waiting.request, &Outcome::none(now));
        }
    }
}

/// What the client says.
impl Mysql {
    fn client_head(&mut self, head: &Head<'_>, total: u64, cx: &mut Context<'_>) -> Step {
        let Some((header, payload)) = wire::packet(head.bytes) else { return Step::More };
        let length = HEADER_BYTES + header.length;
        let take = Step::Take(length as u64);
        if self.file {
            if head.resync {
                return Step::Lost;
            }
            // An empty packet ends it.
            self.file = header.length > 0;
            self.add_request_bytes(length);
            if let Some(answer) = &mut self.answer {
                answer.sequence = Some(header.sequence.wrapping_add(1));
            }
            return take;
        }
        if self.client_continued {
            self.client_continued = header.length == PAYLOAD_MAX;
            self.add_request_bytes(length);
            if let Some(waiting) = self.waiting.back_mut() {
                waiting.sequence = waiting.sequence.wrapping_add(1);
            }
            return take;
        }
        if header.sequence != 0 {
            return match self.phase {
                Phase::Commands if self.waiting.front().is_some_and(|front| front.shape == Shape::Login) => {
                    take
                }
                Phase::Commands => Step::Lost,
                Phase::Start | Phase::Login if self.hello.is_some() => take,
                Phase::Start | Phase::Login => self.client_hello(head, header, payload),
            };
        }
        let Some((&number, content)) = payload.split_first() else {
            return if header.length == 0 { Step::Lost } else { Step::More };
        };
        let Some(command) = command::command(number) else { return Step::Lost };
        let wanted = match command.content {
            Content::Statement => header.length,
            Content::Id => header.length.min(16),
            Content::Other => 1,
        };
        if payload.len() < wanted.min(HEAD_MAX - HEADER_BYTES) && !head.last {
            return Step::More;
        }
        let doubtful = head.resync || self.phase != Phase::Commands;
        if header.length < command.shortest
            || (doubtful && !identify::is_command(head.bytes, total.max(head.bytes.len() as u64)))
        {
            return Step::Lost;
        }
        self.phase = Phase::Commands;
        self.client_continued = header.length == PAYLOAD_MAX;
        self.stray = None;
        let request = Request {
            operation: Symbol::NONE,
            resource: Resource::Name(Symbol::NONE),
            start: head.at,
            bytes: length as u64,
        };
        self.command(number, command, content, header.length - 1, request, cx);
        take
    }

    fn client_hello(&mut self, head: &Head<'_>, header: Header, payload: &[u8]) -> Step {
        match wire::hello(payload, header.length) {
            Found::No => Step::Lost,
            Found::More => Step::More,
            Found::Yes(hello) => {
                self.phase = Phase::Login;
                if hello.tls {
                    self.tls = true;
                } else {
                    self.hello = Some(hello.capabilities);
                    self.hello_start = head.at;
                    self.hello_bytes = (HEADER_BYTES + header.length) as u64;
                    if let Some(server) = self.capabilities {
                        let agreed = server & hello.capabilities;
                        self.deprecated_eof = Some(agreed & capability::DEPRECATE_EOF != 0);
                    }
                }
                Step::Take((HEADER_BYTES + header.length) as u64)
            }
        }
    }

    fn client_end(&mut self) -> Step {
        self.tls_begins = self.tls;
        if self.tls { Step::Stop } else { Step::Lost }
    }

    fn client_gap(&mut self, cx: &mut Context<'_>) {
        self.client_continued = false;
        if self.file {
            // Its end is not seen, but the answer behind it is.
            cx.gap();
            if let Some(answer) = &mut self.answer {
                answer.sequence = None;
            }
            return;
        }
        self.lose(cx);
        // Commands may have been among what is missing.
        self.turn = false;
    }

    fn add_request_bytes(&mut self, bytes: usize) {
        if let Some(waiting) = self.waiting.back_mut() {
            waiting.request.bytes += bytes as u64;
        }
    }

    fn command(
        &mut self,
        number: u8,
        command: Command,
        content: &[u8],
        length: usize,
        mut request: Request,
        cx: &mut Context<'_>,
    ) {
        let id = wire::u32_at(content, 0);
        let Some(shape) = command.answer else {
            match (number, id) {
                (command::QUIT, _) => self.finish_unseen(cx),
                (command::CLOSE, Some(id)) => drop(self.statements.remove(id)),
                _ => {}
            }
            return;
        };
        self.finish_unseen(cx);
        cx.message();
        let mut statement = None;
        match command.content {
            Content::Statement => {
                let text = if number == command::QUERY { command::statement(content) } else { content };
                let shaped = self.shape(text, content.len() == length, cx);
                if number == command::QUERY {
                    request.operation = shaped.operation;
                } else {
                    request.operation = cx.word(command.name);
                    statement = Some(shaped);
                    self.prepared_last = statement;
                }
                request.resource = Resource::Name(shaped.table);
            }
            Content::Id => {
                let known = match id {
                    // MariaDB's clients may say "the one prepared last" before they know its id.
                    Some(u32::MAX) => self.prepared_last,
                    Some(id) => self.statements.get_mut(id).copied(),
                    None => None,
                };
                request.operation = cx.word(command.name);
                if let Some(known) = known {
                    request.resource = Resource::Name(known.table);
                    if command.name == "EXECUTE" {
                        request.operation = known.operation;
                    }
                }
            }
            Content::Other => request.operation = cx.word(command.name),
        }
        if shape == Shape::Login || number == command::RESET_CONNECTION {
            self.statements = ById::default();
        }
        self.wait(Waiting { request, shape, statement, sequence: 1 }, cx);
    }

    fn shape(&mut self, text: &[u8], complete: bool, cx: &mut Context<'_>) -> Statement {
        let operation = sql::shape(text, complete, &mut self.scratch);
        Statement { operation: cx.word(operation), table: cx.name(NameKind::Table, &self.scratch) }
    }

    fn wait(&mut self, waiting: Waiting, cx: &mut Context<'_>) {
        let turn = std::mem::take(&mut self.turn);
        if !self.aligned {
            // Joined in the middle, or behind a loss: only the answer to a lone command is known to be its.
            self.drop_waiting(cx);
            if !turn {
                return cx.not_understood();
            }
            // What the server said before is no part of the answer.
            self.server = Framer::default();
        } else if self.waiting.len() >= cx.limits().pending_per_connection {
            self.drop_waiting(cx);
            self.aligned = false;
            return cx.not_understood();
        }
        // Never full.
        let _ = self.waiting.push(waiting, usize::MAX);
    }
}

/// What the server says.
impl Mysql {
    fn server_head(&mut self, head: &Head<'_>, before: u64, cx: &mut Context<'_>) -> Step {
        let Some((header, payload)) = wire::packet(head.bytes) else { return Step::More };
        let length = (HEADER_BYTES + header.length) as u64;
        if head.resync {
            self.server_position = before;
        }
        if self.server_continued {
            self.server_continued = header.length == PAYLOAD_MAX;
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
                    self.answer = Some(Answer {
                        response: Response::new(front.shape),
                        start: self.server_position,
                        bytes: 0,
                        sequence: Some(header.sequence),
                        end: None,
                    });
                }
                Some(_) if self.aligned || head.resync => return Step::Lost,
                _ if head.resync => return Step::Lost,
                Some(_) => return self.take(length),
                None => {
                    if header.sequence == 1 && self.aligned {
                        cx.orphan();
                        self.aligned = false;
                    }
                    return self.take(length);
                }
            }
        } else if head.resync {
            // Within an answer nothing tells where a packet starts.
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
            Progress::Goes => {}
            Progress::File => {
                self.file = true;
            }
            Progress::Ends(end) => answer.end = Some(end),
        }
        answer.sequence = Some(header.sequence.wrapping_add(1));
        answer.bytes += length;
        self.aligned = true;
        self.server_continued = header.length == PAYLOAD_MAX;
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
                Found::Yes(capabilities) => {
                    self.capabilities = Some(capabilities);
                    self.phase = Phase::Login;
                    self.hello_start = head.at;
                }
                Found::More => return Step::More,
                Found::No => return Step::Lost,
            },
            (Phase::Start, 0xff) if header.sequence == 0 => {
                self.hello_start = head.at;
                self.refused = wire::failure(payload);
            }
            (Phase::Login, 0xff) => self.refused = wire::failure(payload),
            (Phase::Login, 0) if header.length >= 7 => self.login_ends = true,
            (Phase::Login, _) => {}
            (Phase::Start | Phase::Commands, _) => return Step::Lost,
        }
        self.take(length)
    }

    fn server_end(&mut self, at: Timestamp, cx: &mut Context<'_>) -> Step {
        if let Some(failure) = self.refused.take() {
            cx.message();
            let request = Request {
                operation: cx.word("CONNECT"),
                resource: Resource::Name(Symbol::NONE),
                start: self.hello_start,
                bytes: self.hello_bytes,
            };
            let (status, error) = outcome(failure);
            cx.emit(
                Protocol::Mysql,
                &request,
                &Outcome { status, error, end: at, bytes: self.server_position },
            );
            self.ended = true;
        } else if std::mem::take(&mut self.login_ends) {
            self.phase = Phase::Commands;
            self.aligned = true;
            let agreed = self.capabilities.unwrap_or(u32::MAX) & self.hello.unwrap_or_default();
            self.ended = agreed & (capability::COMPRESS | capability::ZSTD) != 0;
        } else if let Some(Answer { end: Some(end), bytes, sequence, .. }) = self.answer
            && !self.server_continued
        {
            self.answer = None;
            self.finish(end, at, bytes, sequence, cx);
        }
        if self.ended { Step::Stop } else { Step::Lost }
    }

    fn finish(&mut self, end: End, at: Timestamp, bytes: u64, sequence: Option<u8>, cx: &mut Context<'_>) {
        let Some(Next::Waiting(waiting)) = self.waiting.pop() else { return };
        let (status, error) = end.failure.map_or((Status::None, ErrorClass::None), outcome);
        if let (Some(id), Some(statement)) = (end.prepared, waiting.statement) {
            let _ = self.statements.insert(id, statement, STATEMENTS_MAX);
            self.stray = sequence.filter(|_| self.deprecated_eof.is_none());
        }
        self.ended |= waiting.shape == Shape::Stream && end.failure.is_none();
        self.file = false;
        cx.emit(Protocol::Mysql, &waiting.request, &Outcome { status, error, end: at, bytes });
    }

    /// Bytes are missing in what the server said.
    fn server_gap(&mut self, cx: &mut Context<'_>) {
        self.server_continued = false;
        if self.answer.is_some() && self.aligned && self.waiting.len() == 1 {
            cx.gap();
            self.blind = true;
        } else if self.aligned || !self.waiting.is_empty() {
            self.lose(cx);
        }
    }

    /// The client goes on: the answer whose end was not captured has ended.
    fn finish_unseen(&mut self, cx: &mut Context<'_>) {
        if !std::mem::take(&mut self.blind) {
            return;
        }
        if let Some(answer) = self.answer.take() {
            let bytes = self.server_bytes.saturating_sub(answer.start);
            self.finish(End::default(), self.server_at, bytes, None, cx);
        }
    }

    /// Bytes are missing: nothing that waits can be paired any more.
    fn lose(&mut self, cx: &mut Context<'_>) {
        cx.gap();
        self.drop_waiting(cx);
        self.aligned = false;
    }

    fn drop_waiting(&mut self, cx: &mut Context<'_>) {
        self.answer = None;
        self.blind = false;
        self.file = false;
        while self.waiting.drain_one().is_some() {
            cx.not_understood();
        }
    }
}

/// A server that ends a connection says so without being asked, as packet 0.
fn is_farewell(header: Header, payload: &[u8]) -> bool {
    header.sequence == 0 && wire::failure(payload).is_some()
}

/// Errors that are the server's doing although their SQLSTATE does not say so (MySQL: server error reference): no
/// memory, disk or connections left, shutting down, locks not granted in time, deadlock, read-only.
const SERVER_ERRORS: [u16; 30] = [
    1015, 1016, 1020, 1021, 1023, 1026, 1030, 1037, 1038, 1040, 1041, 1053, 1078, 1105, 1114, 1135, 1180,
    1181, 1194, 1203, 1205, 1206, 1213, 1226, 1290, 1637, 1792, 1836, 3024, 3572,
];

fn outcome(failure: Failure) -> (Status, ErrorClass) {
    let by_state =
        matches!(failure.state, Some([b'0', b'8', ..] | [b'5', b'3' | b'7' | b'8', ..] | [b'X', b'A', ..]));
    let server = by_state || SERVER_ERRORS.contains(&failure.code);
    let class = if server { ErrorClass::Server } else { ErrorClass::Client };
    (Status::Code(u32::from(failure.code)), class)
}
