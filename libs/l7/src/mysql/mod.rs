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
//! - TLS is handed to its own parser; compressed connections and replication streams are left alone.
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
        wire::Failure,
    },
    offload::ConnectionState,
    parser::{
        ConnectionContext, Entry, Flow, Offload, Outcome, Parser, Request, Segment, Sender, Start, Transport,
    },
    pending::{ById, Fifo, Next},
    stream::{Framer, Piece, Step},
};

/// Its line in the table.
pub(crate) const ENTRY: Entry = Entry {
    protocol: Protocol::Mysql,
    transports: &[Transport::Stream],
    detect: detect::detect,
    start: |_: Start| Box::new(Mysql { turn: true, ..Mysql::default() }),
    offload: Some(Offload { name: offload::name_offloaded, restore: None }),
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
    /// Someone else knows it.
    exported: bool,
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
    /// What was asked last can be followed without knowing more about the connection.
    plain: bool,
    ended: bool,
    scratch: String,
}

impl Parser for Mysql {
    fn segment(&mut self, segment: &Segment<'_>, cx: &mut ConnectionContext<'_>) -> Flow {
        let rest = match segment.from {
            Sender::Client => {
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
                self.server_bytes = before + segment.bytes.len() as u64 + segment.truncated;
                if self.blind
                    && segment.truncated == 0
                    && let Some(end) = response::tail(segment.bytes, self.deprecated_eof)
                {
                    self.finish_blind(end, cx);
                }
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

    fn is_idle(&self) -> bool {
        self.is_between_exchanges()
    }

    fn export_statements(&mut self, export: &mut dyn FnMut(u32, Symbol, Symbol)) {
        self.statements.for_each_entry_mut(|id, statement| {
            if !std::mem::replace(&mut statement.exported, true) {
                export(id, statement.operation, statement.table);
            }
        });
    }

    fn offload_accepted(&mut self, cx: &mut ConnectionContext<'_>) {
        self.hand_over(cx);
    }

    fn resume(&mut self, resumed: &ConnectionState<'_>, cx: &mut ConnectionContext<'_>) -> bool {
        self.resume_from(resumed, cx);
        true
    }

    fn tick(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        if now.since(self.server_at) > PAUSE {
            self.finish_truncated(cx);
        }
    }

    fn close(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        self.finish_truncated(cx);
        while let Some(waiting) = self.waiting.drain_one() {
            cx.emit(Protocol::Mysql, &waiting.request, &Outcome::none(now));
        }
    }
}

impl Mysql {
    fn finish(
        &mut self,
        end: End,
        at: Timestamp,
        bytes: u64,
        sequence: Option<u8>,
        cx: &mut ConnectionContext<'_>,
    ) {
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
    fn server_gap(&mut self, cx: &mut ConnectionContext<'_>) {
        self.server_continued = false;
        if self.answer.is_some() && self.aligned && self.waiting.len() == 1 {
            cx.count_gap();
            self.blind = true;
        } else if self.aligned || !self.waiting.is_empty() {
            self.lose(cx);
        }
    }

    /// The client goes on: the answer whose end was not captured has ended.
    fn finish_truncated(&mut self, cx: &mut ConnectionContext<'_>) {
        if self.blind {
            self.finish_blind(End::default(), cx);
        }
    }

    fn finish_blind(&mut self, end: End, cx: &mut ConnectionContext<'_>) {
        self.blind = false;
        if let Some(answer) = self.answer.take() {
            let bytes = self.server_bytes.saturating_sub(answer.start);
            self.finish(end, self.server_at, bytes, None, cx);
        }
    }

    /// Bytes are missing: nothing that waits can be paired any more.
    fn lose(&mut self, cx: &mut ConnectionContext<'_>) {
        cx.count_gap();
        self.drop_waiting(cx);
        self.aligned = false;
    }

    fn drop_waiting(&mut self, cx: &mut ConnectionContext<'_>) {
        self.answer = None;
        self.blind = false;
        self.file = false;
        while self.waiting.drain_one().is_some() {
            cx.unparsed();
        }
    }
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
