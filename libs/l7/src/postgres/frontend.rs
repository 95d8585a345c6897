//! What the client sends: statements, in the order in which the server will answer them.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use crate::{
    Symbol, Timestamp,
    parser::{ConnectionContext, Request, Resource, Sender},
    postgres::{
        ClientData, ClientPosition, FURTHER_MAX, HEAD_MAX, Item, Kind, LastRequest, Next, PORTALS_MAX,
        Pairing, Phase, Postgres, STATEMENTS_MAX, ServerState, Statement, detect,
        wire::{self, HEADER_BYTES, Header, Startup},
    },
    resync::GapKind,
    sql,
    stream::{Head, Step},
};

/// What was sent since the last statement was executed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    start: Timestamp,
    bytes: u64,
    /// What was parsed and is not yet in line.
    parsed: Option<Statement>,
}

impl Batch {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A bound statement.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Portal {
    statement: Option<Statement>,
    /// It was executed before, and may have been suspended.
    executed: bool,
}

/// Bytes of a `Bind`, `Execute`, `Describe` or `Close` that are looked at: two names.
const NAMES_MAX: usize = 160;

impl Postgres {
    pub(super) fn client_head(
        &mut self,
        head: &Head<'_>,
        total: u64,
        cx: &mut ConnectionContext<'_>,
    ) -> Step {
        if self.phase != Phase::Commands && head.bytes.first() == Some(&0) {
            return self.startup(head);
        }
        let Some((header, content)) = wire::message(head.bytes) else { return Step::More };
        let take = Step::Take(header.length.max(1) as u64);
        if matches!(self.phase, Phase::Login | Phase::Start)
            && header.kind == b'p'
            && header.length > HEADER_BYTES
        {
            self.phase = Phase::Login;
            return take;
        }
        if !wire::is_frontend(header) {
            return Step::Lost;
        }
        if header.kind == b'd' && self.phase == Phase::Commands && !head.resync && !self.line.is_empty() {
            // Some clients do not wait for the server's `CopyInResponse`.
            self.client_data = ClientData::Copy;
        }
        if self.client_data == ClientData::Copy {
            return if head.resync { Step::Lost } else { self.copied(header) };
        }
        let wanted = match header.kind {
            b'Q' | b'P' => header.length,
            b'B' | b'E' | b'D' | b'C' => header.length.min(NAMES_MAX),
            _ => HEADER_BYTES,
        };
        if head.bytes.len() < wanted.min(HEAD_MAX) && !head.last {
            return Step::More;
        }
        if head.resync || self.phase != Phase::Commands {
            // What comes first was identified already; after a loss every message is checked.
            let begins = matches!(header.kind, b'Q' | b'P' | b'B' | b'E' | b'D' | b'C');
            if !begins || (head.resync && !detect::is_request(head.bytes, total.max(head.bytes.len() as u64)))
            {
                return Step::Lost;
            }
            self.client_position = ClientPosition::BetweenBatches;
        }
        if head.lacks(wanted.min(HEAD_MAX)) {
            cx.incomplete();
        }
        self.phase = Phase::Commands;
        self.request(header, content, head.at, cx);
        take
    }

    fn startup(&mut self, head: &Head<'_>) -> Step {
        if head.bytes.len() < 8 {
            return if wire::may_be_startup(head.bytes) { Step::More } else { Step::Lost };
        }
        let Some((kind, length)) = wire::startup(head.bytes) else { return Step::Lost };
        match kind {
            Startup::Login => {
                self.phase = Phase::Login;
                self.login_start = head.at;
                self.login_bytes = u64::from(length);
            }
            Startup::Encryption => self.phase = Phase::Encryption,
            Startup::Cancel => self.next = Next::Nothing,
        }
        Step::Take(u64::from(length))
    }

    /// While the client copies: data, its end, and what the server passes over.
    fn copied(&mut self, header: Header) -> Step {
        match header.kind {
            b'c' | b'f' => self.client_data = ClientData::Statements,
            b'd' | b'H' | b'S' => {}
            _ => return Step::Lost,
        }
        if let Some(front) = self.line.front_mut() {
            front.request.bytes += header.length as u64;
        }
        Step::Take(header.length as u64)
    }

    pub(super) fn client_gap(&mut self, gap: GapKind, cx: &mut ConnectionContext<'_>) {
        if self.client_data == ClientData::Copy {
            // Its end is not seen, but the answer behind it is.
            return cx.count_gap();
        }
        self.lose(Sender::Client, gap, cx);
        // Requests may have been among what is missing.
        self.server_state = ServerState::Busy;
    }

    fn request(&mut self, header: Header, content: &[u8], at: Timestamp, cx: &mut ConnectionContext<'_>) {
        if self.client_position == ClientPosition::BetweenBatches
            && !matches!(header.kind, b'H' | b'X' | b'd' | b'c' | b'f')
        {
            self.client_position = ClientPosition::InBatch;
            self.batch_begins(cx);
        }
        let length = header.length as u64;
        self.last_request =
            if header.kind == b'Q' { LastRequest::Offloadable } else { LastRequest::Stateful };
        let complete = content.len() + HEADER_BYTES == header.length;
        if header.kind == b'P' {
            // One that is only prepared may have come before.
            self.prepare(cx);
        }
        if !matches!(header.kind, b'S' | b'H' | b'X' | b'd' | b'c' | b'f') {
            let batch = self.batch.get_or_insert(Batch { start: at, bytes: 0, parsed: None });
            batch.bytes += length;
        }
        match header.kind {
            b'Q' => self.query(content, complete, cx),
            b'P' => self.parse(content, complete, cx),
            b'B' => self.bind(content),
            b'E' => self.execute(content, cx),
            b'F' => {
                let statement = Statement { operation: Some("CALL"), table: Symbol::NONE };
                self.queue(Kind::Function, statement, VecDeque::new(), cx);
                self.client_position = ClientPosition::BetweenBatches;
                self.resync.request();
            }
            b'C' => {
                if let Some((name, _)) = wire::text(content.get(1..).unwrap_or_default()) {
                    match content.first() {
                        Some(b'S') => drop(self.statements.remove(hash(name))),
                        _ => drop(self.portals.remove(hash(name))),
                    }
                }
            }
            b'S' => self.sync(at, cx),
            b'H' => self.prepare(cx),
            b'X' => self.finish_truncated(cx),
            _ => {}
        }
    }

    fn batch_begins(&mut self, cx: &mut ConnectionContext<'_>) {
        self.finish_truncated(cx);
        let ready = std::mem::replace(&mut self.server_state, ServerState::Busy);
        if self.pairing != Pairing::Aligned {
            // Joined in the middle, or behind a loss: only the answer to a lone batch is known to be its.
            let idle = self.resync.in_flight() == 0 && !self.resync.is_desynced();
            let alone = ready == ServerState::Ready && self.line.is_empty() && idle;
            self.pairing = if alone { Pairing::LoneBatch } else { Pairing::Unknown };
            self.drop_line(cx);
            if alone {
                // What the server sent before is no part of the answer.
                self.server = crate::stream::Framer::default();
                self.message = None;
            }
        } else if self.line.len() >= cx.pending_max() {
            self.drop_line(cx);
            self.pairing = Pairing::Unknown;
        }
    }

    fn query(&mut self, content: &[u8], complete: bool, cx: &mut ConnectionContext<'_>) {
        let text = content.strip_suffix(&[0]).unwrap_or(content);
        let first = self.shape(text, complete, cx);
        let mut further = VecDeque::new();
        let mut rest = sql::following(sql::Dialect::Postgresql, text);
        while let Some(text) = rest.filter(|_| further.len() < FURTHER_MAX) {
            let statement = self.shape(text, complete, cx);
            further.push_back(statement);
            rest = sql::following(sql::Dialect::Postgresql, text);
        }
        self.queue(Kind::Query, first, further, cx);
        self.client_position = ClientPosition::BetweenBatches;
        self.resync.request();
    }

    fn parse(&mut self, content: &[u8], complete: bool, cx: &mut ConnectionContext<'_>) {
        let (name, text) = wire::text(content).unwrap_or((content, &[]));
        let (text, complete) = wire::text(text).map_or((text, complete), |(text, _)| (text, true));
        let statement = self.shape(text, complete, cx);
        if name.is_empty() {
            self.unnamed_statement = Some(statement);
        } else {
            let _ = self.statements.insert(hash(name), statement, STATEMENTS_MAX);
        }
        if let Some(batch) = &mut self.batch {
            batch.parsed = Some(statement);
        }
    }

    fn bind(&mut self, content: &[u8]) {
        let Some((portal, rest)) = wire::text(content) else { return };
        let statement = match wire::text(rest) {
            Some((b"", _)) => self.unnamed_statement,
            Some((name, _)) => self.statements.get_used(hash(name)).copied(),
            None => None,
        };
        let bound = Portal { statement, executed: false };
        if portal.is_empty() {
            self.unnamed_portal = bound;
        } else {
            let _ = self.portals.insert(hash(portal), bound, PORTALS_MAX);
        }
    }

    fn execute(&mut self, content: &[u8], cx: &mut ConnectionContext<'_>) {
        let portal = match wire::text(content) {
            Some((b"", _)) => Some(&mut self.unnamed_portal),
            Some((name, _)) => self.portals.get_used(hash(name)),
            None => None,
        };
        let mut statement = Statement::UNKNOWN;
        if let Some(portal) = portal {
            statement = portal.statement.unwrap_or(Statement::UNKNOWN);
            if std::mem::replace(&mut portal.executed, true) {
                statement.operation = Some("FETCH");
            }
        }
        if let Some(batch) = &mut self.batch {
            batch.parsed = None;
        }
        self.queue(Kind::Execute, statement, VecDeque::new(), cx);
    }

    /// Puts what was parsed and not executed in line.
    fn prepare(&mut self, cx: &mut ConnectionContext<'_>) {
        if let Some(statement) = self.batch.and_then(|batch| batch.parsed) {
            let statement = Statement { operation: Some("PREPARE"), ..statement };
            self.queue(Kind::Prepare, statement, VecDeque::new(), cx);
        }
    }

    fn sync(&mut self, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        self.prepare(cx);
        self.batch = None;
        self.client_position = ClientPosition::BetweenBatches;
        self.resync.request();
        if self.pairing == Pairing::Unknown {
            return;
        }
        match self.line.back_mut() {
            Some(item) if !item.sync => {
                item.sync = true;
                item.request.bytes += HEADER_BYTES as u64;
            }
            _ => {
                let resource = Resource::Name(Symbol::NONE);
                let request = Request { operation: Symbol::NONE, resource, start: at, bytes: 0 };
                let further = VecDeque::new();
                self.line.push_back(Item { kind: Kind::Sync, request, unnamed: false, sync: true, further });
            }
        }
    }

    /// Puts a statement in line that starts with what was sent since the one before.
    fn queue(
        &mut self,
        kind: Kind,
        statement: Statement,
        further: VecDeque<Statement>,
        cx: &mut ConnectionContext<'_>,
    ) {
        let Some(batch) = self.batch.take() else { return };
        cx.message();
        if self.pairing == Pairing::Unknown {
            return cx.unparsed();
        }
        let request = Request {
            operation: cx.word(statement.operation.unwrap_or(sql::OTHER)),
            resource: Resource::Name(statement.table),
            start: batch.start,
            bytes: batch.bytes,
        };
        let unnamed = statement.operation.is_none();
        let sync = matches!(kind, Kind::Query | Kind::Function);
        self.line.push_back(Item { kind, request, unnamed, sync, further });
        if let Some((state, at)) = self.early.take() {
            self.failed(state, at, cx);
        }
    }
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
