//! What the client sends: the login, commands, files.

use crate::{
    NameKind, Symbol,
    mysql::{
        HEAD_MAX, LastCommand, Mysql, Next, PacketRole, Pairing, Phase, Statement, Waiting,
        command::{self, Command, Content, Shape},
        detect,
        wire::{self, HEADER_BYTES, Header, PacketMatch, capability},
    },
    parser::{ConnectionContext, Request, Resource, Sender},
    pending::ById,
    sql,
    stream::{Framer, Head, Step},
};

impl Mysql {
    pub(super) fn client_head(
        &mut self,
        head: &Head<'_>,
        total: u64,
        cx: &mut ConnectionContext<'_>,
    ) -> Step {
        let Some((header, payload)) = wire::packet(head.bytes) else { return Step::More };
        let length = HEADER_BYTES + header.length;
        let take = Step::Take(length as u64);
        if self.client_packet == PacketRole::File {
            if head.resync {
                return Step::Lost;
            }
            // An empty packet ends it.
            self.client_packet = if header.length > 0 { PacketRole::File } else { PacketRole::First };
            self.add_request_bytes(length);
            if let Some(answer) = &mut self.answer {
                answer.sequence = Some(header.sequence.wrapping_add(1));
            }
            return take;
        }
        if self.client_packet == PacketRole::Continuation {
            self.client_packet = PacketRole::behind(header.length);
            self.add_request_bytes(length);
            if let Some(waiting) = self.waiting.back_mut() {
                waiting.sequence = waiting.sequence.wrapping_add(1);
            }
            return take;
        }
        if header.sequence != 0 {
            return match self.phase {
                Phase::Commands if self.waiting.front().is_some_and(|front| front.shape == Shape::Login) => {
                    // The client's part of an authentication: the server's packets are numbered on from it.
                    if let Some(answer) = &mut self.answer {
                        answer.sequence = Some(header.sequence.wrapping_add(1));
                    }
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
            || (doubtful && !detect::is_command(head.bytes, total.max(head.bytes.len() as u64)))
        {
            return Step::Lost;
        }
        if head.lacks((HEADER_BYTES + wanted).min(HEAD_MAX)) {
            cx.incomplete();
        }
        self.phase = Phase::Commands;
        self.client_packet = PacketRole::behind(header.length);
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
            PacketMatch::No => Step::Lost,
            PacketMatch::More => Step::More,
            PacketMatch::Yes(hello) => {
                self.phase = Phase::Login;
                if hello.tls {
                    self.next = Next::TlsRequested;
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

    pub(super) fn client_end(&mut self) -> Step {
        match self.next {
            Next::TlsRequested | Next::Tls => {
                self.next = Next::Tls;
                Step::Stop
            }
            Next::Packets | Next::Nothing => Step::Lost,
        }
    }

    pub(super) fn client_gap(&mut self, cx: &mut ConnectionContext<'_>) {
        if self.client_packet == PacketRole::Continuation {
            self.client_packet = PacketRole::First;
        }
        if self.client_packet == PacketRole::File {
            // Its end is not seen, but the answer behind it is.
            cx.count_gap();
            if let Some(answer) = &mut self.answer {
                answer.sequence = None;
            }
            return;
        }
        self.lose(cx);
        // Commands may have been among what is missing.
        self.last_sender = Sender::Client;
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
        cx: &mut ConnectionContext<'_>,
    ) {
        let id = wire::u32_at(content, 0);
        self.last_command = match number {
            command::QUERY | command::PING => LastCommand::Offloadable,
            _ => LastCommand::Stateful,
        };
        let Some(shape) = command.answer else {
            match (number, id) {
                (command::QUIT, _) => self.finish_truncated(cx),
                (command::CLOSE, Some(id)) => drop(self.statements.remove(id)),
                _ => {}
            }
            return;
        };
        self.finish_truncated(cx);
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
                    // MariaDB's clients may refer to the one prepared last before they know its id.
                    Some(u32::MAX) => self.prepared_last,
                    Some(id) => self.statements.get_used(id).copied(),
                    None => None,
                };
                request.operation = cx.word(command.name);
                if let Some(known) = known {
                    request.resource = Resource::Name(known.table);
                    if command.name == "EXECUTE" {
                        request.operation = known.operation;
                        self.last_command = LastCommand::Offloadable;
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

    fn shape(&mut self, text: &[u8], complete: bool, cx: &mut ConnectionContext<'_>) -> Statement {
        let operation = sql::shape(sql::Dialect::Mysql, text, complete, &mut self.scratch);
        let table = cx.candidate(NameKind::Table, &self.scratch);
        self.scratch.clear();
        Statement { operation: cx.word(operation), table, exported: false }
    }

    fn wait(&mut self, waiting: Waiting, cx: &mut ConnectionContext<'_>) {
        let before = std::mem::replace(&mut self.last_sender, Sender::Client);
        if !self.is_aligned() {
            // Joined in the middle, or behind a loss: only the answer to a lone command is known to be its.
            self.drop_waiting(cx);
            if before == Sender::Client {
                return cx.unparsed();
            }
            // What the server sent before is no part of the answer.
            self.server = Framer::default();
        } else if self.waiting.len() >= cx.pending_max() {
            self.drop_waiting(cx);
            self.pairing = Pairing::Unknown;
            return cx.unparsed();
        }
        // Never full.
        let _ = self.waiting.push(waiting, usize::MAX);
    }
}
