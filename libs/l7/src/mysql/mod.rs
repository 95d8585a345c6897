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
//! - Where the capture of a long answer is cut, its end is recognised by its last packet, or is the last byte before the
//!   next command: this protocol's clients wait for it.
//! - TLS is handed to its own parser; compressed connections and replication streams are ignored.
//!
//! Only the statement's verb, its table and the error number leave this module.

mod backend;
mod command;
mod detect;
mod frontend;
mod offload;
mod response;
#[cfg(test)]
mod tests;
mod wire;

use crate::{
    ErrorClass, Protocol, Status, Symbol, Timestamp,
    mysql::{
        command::Shape,
        response::{End, Response},
        wire::{Failure, PAYLOAD_MAX},
    },
    parser::{
        ConnectionContext, Entry, Flow, Framing, Offload, Offloadable, Outcome, Parser, Request, Segment,
        Sender, Start, Transport,
    },
    pending::{self, ById, Fifo},
    stream::{Framer, Piece, Step},
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Mysql,
    transports: &[Transport::Stream],
    detect: detect::detect,
    start: |_: Start| Box::new(Mysql::new()),
    offload: Some(Offload { name: offload::name_offloaded, restore: None }),
};

/// Bytes of a packet that are looked at.
const HEAD_MAX: usize = 4096;

/// An answer of which the end was not captured has ended after this time without bytes, nanoseconds.
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
    /// The kernel has it.
    exported: bool,
}

/// The answer that is being read.
#[derive(Clone, Copy, Debug)]
struct CurrentResponse {
    response: Response,
    /// Where it started, in the server's stream.
    start: u64,
    bytes: u64,
    /// The sequence number of its next packet, where that is known.
    sequence: Option<u8>,
    end: Option<End>,
    framing: AnswerFraming,
}

/// Whether an answer's end can be found by its framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerFraming {
    /// Every packet was seen.
    Followed,
    /// Bytes were not captured: its tail, the next command or a pause shows that it has ended.
    Truncated,
}

/// What the current packet of the server means for the login.
#[derive(Clone, Copy, Debug, Default)]
enum LoginPacket {
    /// Nothing: the login continues, or is over.
    #[default]
    Continues,
    /// The client is let in.
    Accepts,
    /// It is not.
    Refuses(Failure),
}

impl LoginPacket {
    /// Of an ERR packet.
    fn error(payload: &[u8]) -> Self {
        wire::failure(payload).map_or(Self::Continues, Self::Refuses)
    }
}

/// What the next packet of one end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PacketRole {
    /// The first packet of a message.
    #[default]
    First,
    /// It continues the message of the packet before, which had the largest length.
    Continuation,
    /// Contents of a file that the client sends.
    File,
}

impl PacketRole {
    /// What follows a packet with a payload of this length.
    fn behind(length: usize) -> Self {
        if length == PAYLOAD_MAX { Self::Continuation } else { Self::First }
    }
}

/// What comes next on the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    /// Packets.
    #[default]
    Packets,
    /// The current packet requests TLS.
    TlsRequested,
    /// TLS.
    Tls,
    /// Nothing that can be followed: compression, replication, or the connection's end.
    Nothing,
}

/// Whether commands and answers are known to correspond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pairing {
    #[default]
    Unknown,
    Aligned,
}

/// What is known about the last command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LastCommand {
    /// The kernel can follow it without knowing more about the connection.
    Offloadable,
    /// It may change the connection's state.
    #[default]
    Stateful,
}

/// One connection.
#[derive(Debug)]
struct Mysql {
    client: Framer,
    server: Framer,
    phase: Phase,
    capabilities: Option<u32>,
    hello: Option<u32>,
    hello_start: Timestamp,
    hello_bytes: u64,
    login_packet: LoginPacket,
    next: Next,
    waiting: Fifo<Waiting>,
    answer: Option<CurrentResponse>,
    statements: ById<u32, Statement>,
    prepared_last: Option<Statement>,
    deprecated_eof: Option<bool>,
    /// The sequence number of an EOF packet that may follow definitions.
    stray: Option<u8>,
    pairing: Pairing,
    /// Who sent last; the server does before the first command.
    last_sender: Sender,
    client_packet: PacketRole,
    server_packet: PacketRole,
    server_bytes: u64,
    server_position: u64,
    server_at: Timestamp,
    last_command: LastCommand,
    scratch: String,
}

impl Parser for Mysql {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        let rest = match segment.from {
            Sender::Client => {
                if segment.is_unreadable() && !self.client.in_message() {
                    self.finish_truncated(cx);
                }
                let mut framer = std::mem::take(&mut self.client);
                let total = segment.bytes.len() as u64 + segment.truncated;
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
                let before = self.server_bytes + segment.gap;
                let mut framer = std::mem::take(&mut self.server);
                self.server_at = segment.at;
                self.last_sender = Sender::Server;
                if self.is_unread(segment) {
                    self.answer = self.waiting.front().map(|front| CurrentResponse {
                        response: response::Response::new(front.shape),
                        start: before,
                        bytes: 0,
                        sequence: None,
                        end: None,
                        framing: AnswerFraming::Truncated,
                    });
                }
                let rest = framer.segment(segment, HEAD_MAX, |piece| match piece {
                    Piece::Head(head) => self.server_head(&head, before, cx),
                    Piece::End { at } => self.server_end(at, cx),
                    Piece::Gap => {
                        self.server_gap(cx);
                        Step::Lost
                    }
                });
                self.server = framer;
                self.server_bytes = before + segment.bytes.len() as u64 + segment.truncated;
                if self.is_truncated()
                    && segment.truncated == 0
                    && let Some(end) = response::tail(segment.bytes, self.deprecated_eof)
                {
                    self.finish_by_tail(Some(end), cx);
                }
                rest
            }
        };
        match self.next {
            Next::Packets | Next::TlsRequested => Flow::Continue,
            Next::Tls => {
                self.drop_waiting(cx);
                Flow::Switch { to: Protocol::Tls, rest, handover: None, unrecognised: None }
            }
            Next::Nothing => {
                self.drop_waiting(cx);
                Flow::Done
            }
        }
    }

    fn offloadable(&mut self) -> Option<&mut dyn Offloadable> {
        Some(self)
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if now.since(self.server_at) > PAUSE {
            self.finish_truncated(cx);
        }
    }

    fn framing(&self, from: Sender) -> Framing {
        match from {
            Sender::Client => self.client.framing(),
            Sender::Server => self.server.framing(),
        }
    }

    fn pending(&self) -> usize {
        self.waiting.known()
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        self.finish_truncated(cx);
        while let Some(waiting) = self.waiting.drain_one() {
            cx.emit(Protocol::Mysql, &waiting.request, &Outcome::none(now));
        }
    }
}

impl Mysql {
    fn new() -> Self {
        Self {
            client: Framer::default(),
            server: Framer::default(),
            phase: Phase::default(),
            capabilities: None,
            hello: None,
            hello_start: Timestamp::default(),
            hello_bytes: 0,
            login_packet: LoginPacket::default(),
            next: Next::default(),
            waiting: Fifo::default(),
            answer: None,
            statements: ById::default(),
            prepared_last: None,
            deprecated_eof: None,
            stray: None,
            pairing: Pairing::default(),
            last_sender: Sender::Server,
            client_packet: PacketRole::default(),
            server_packet: PacketRole::default(),
            server_bytes: 0,
            server_position: 0,
            server_at: Timestamp::default(),
            last_command: LastCommand::default(),
            scratch: String::new(),
        }
    }

    fn is_aligned(&self) -> bool {
        self.pairing == Pairing::Aligned
    }

    /// Whether a segment that could not be read is of the answer to the only command that waits.
    fn is_unread(&self, segment: &Segment<'_>) -> bool {
        segment.is_unreadable()
            && self.phase == Phase::Commands
            && self.is_aligned()
            && self.answer.is_none()
            && !self.server.in_message()
            && self.waiting.len() == 1
    }

    /// Whether the end of the answer that is being read cannot be found by its framing.
    fn is_truncated(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.framing == AnswerFraming::Truncated)
    }

    /// The client sends no file any more.
    fn end_file(&mut self) {
        if self.client_packet == PacketRole::File {
            self.client_packet = PacketRole::First;
        }
    }

    /// Ends the answer to the first command; how it ended may be among bytes that are missing.
    fn finish(
        &mut self,
        end: Option<End>,
        at: Timestamp,
        bytes: u64,
        sequence: Option<u8>,
        cx: &mut ConnectionContext<'_>,
    ) {
        let Some(pending::Next::Waiting(waiting)) = self.waiting.pop() else { return };
        let (status, error) = match end {
            None => cx.unknown_status(),
            Some(End { failure: None, .. }) => (Status::None, ErrorClass::None),
            Some(End { failure: Some(failure), .. }) => outcome(failure),
        };
        let end = end.unwrap_or_default();
        if let (Some(id), Some(mut statement)) = (end.prepared, waiting.statement) {
            statement.table = cx.confirmed(statement.table, at);
            let _ = self.statements.insert(id, statement, STATEMENTS_MAX);
            self.stray = sequence.filter(|_| self.deprecated_eof.is_none());
        }
        if waiting.shape == Shape::Stream && end.failure.is_none() {
            self.next = Next::Nothing;
        }
        self.end_file();
        cx.emit(Protocol::Mysql, &waiting.request, &Outcome { status, error, end: at, bytes });
    }

    /// Bytes of the server are missing.
    fn server_gap(&mut self, cx: &mut ConnectionContext<'_>) {
        self.server_packet = PacketRole::First;
        let aligned = self.is_aligned();
        match &mut self.answer {
            Some(answer) if aligned && self.waiting.len() == 1 => {
                cx.count_gap();
                answer.framing = AnswerFraming::Truncated;
            }
            _ if aligned || !self.waiting.is_empty() => self.lose(cx),
            _ => {}
        }
    }

    /// The client sends the next command: the answer whose end was not captured has ended.
    fn finish_truncated(&mut self, cx: &mut ConnectionContext<'_>) {
        if self.is_truncated() {
            self.finish_by_tail(None, cx);
        }
    }

    fn finish_by_tail(&mut self, end: Option<End>, cx: &mut ConnectionContext<'_>) {
        if let Some(answer) = self.answer.take() {
            let bytes = self.server_bytes.saturating_sub(answer.start);
            self.finish(end, self.server_at, bytes, None, cx);
        }
    }

    /// Bytes are missing: nothing that waits can be paired any more.
    fn lose(&mut self, cx: &mut ConnectionContext<'_>) {
        cx.count_gap();
        self.drop_waiting(cx);
        self.pairing = Pairing::Unknown;
    }

    fn drop_waiting(&mut self, cx: &mut ConnectionContext<'_>) {
        self.answer = None;
        self.end_file();
        while self.waiting.drain_one().is_some() {
            cx.unparsed();
        }
    }
}

/// Errors that are the server's doing although their SQLSTATE is not of that class (MySQL: server error reference): no
/// memory, disk or connections left, shutting down, locks not granted in time, deadlock, read-only.
const SERVER_ERRORS: [u16; 30] = [
    1015, 1016, 1020, 1021, 1023, 1026, 1030, 1037, 1038, 1040, 1041, 1053, 1078, 1105, 1114, 1135, 1180,
    1181, 1194, 1203, 1205, 1206, 1213, 1226, 1290, 1637, 1792, 1836, 3024, 3572,
];

#[cfg(test)]
pub(crate) fn class(code: u16) -> ErrorClass {
    outcome(Failure { code, state: None }).1
}

fn outcome(failure: Failure) -> (Status, ErrorClass) {
    let by_state =
        matches!(failure.state, Some([b'0', b'8', ..] | [b'5', b'3' | b'7' | b'8', ..] | [b'X', b'A', ..]));
    let server = by_state || SERVER_ERRORS.contains(&failure.code);
    let class = if server { ErrorClass::Server } else { ErrorClass::Client };
    (Status::Code(u32::from(failure.code)), class)
}
