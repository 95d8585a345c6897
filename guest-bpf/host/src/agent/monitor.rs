//! One connection as programs and agent see it: calls in, exchanges out.

use std::borrow::Cow;

use aya_ebpf::machine;
use porthole_bpf_types::{
    connection::{Verdict as Decision, direction, role, state, transport},
    kernel_key::Completed,
    offload::{OffloadedConnection, StatementKey, side},
    record::{Plain, Record, Settings},
    redis::{HASH_START, RedisCommand, command_flag, hash_byte},
    sql,
};
use porthole_framing::Framing;
use porthole_l7::{
    ClientId, Connection, Direction, Exchange, ParserContext, ScopeId, Side, Symbol, Timestamp, Verdict,
    sql::name::prepared_name,
};
use porthole_protocol::Offload;

use super::{
    aggregates::{Aggregate, Aggregates},
    fallback,
    kernel_keys::KernelKeys,
    pieces::{self, Pieces},
};
use crate::{
    connections,
    maps::{COMMANDS, CONNECTIONS, NO_VECTOR, OFFLOADED, STATEMENTS, Scratch, VERDICTS, settings},
    offload, registers, transfer,
};

/// The socket, and its connection.
const SOCKET: u64 = 0x1000;
const CONNECTION: u64 = 1;

const SCOPE: ScopeId = ScopeId(1);

/// Which connections the programs follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// None: all are copied.
    Copied,
    /// Those that begin with a request, until they fall back.
    Begun,
    /// Those, and each one as soon as the agent finds it idle.
    Offered,
    /// The same, and exchanges that were named once are aggregated in slots.
    Aggregated,
}

impl Mode {
    fn offers(self) -> bool {
        matches!(self, Self::Offered | Self::Aggregated)
    }
}

/// One connection in the programs and in the agent.
#[derive(Debug)]
pub struct Monitor {
    mode: Mode,
    context: ParserContext,
    l7: Connection,
    pieces: Pieces,
    keys: KernelKeys,
    aggregates: Aggregates,
    exchanges: Vec<Exchange>,
    verdict: Verdict,
    /// Times that the programs took the connection over, and gave it back.
    turns: [u64; 2],
}

impl Monitor {
    /// A connection that begins now, on an empty machine of this thread.
    pub fn new(mode: Mode, observed: Side, context: ParserContext) -> Self {
        machine::reset();
        let (offload, offers) = (u32::from(mode != Mode::Copied), u32::from(mode.offers()));
        // SAFETY: a value of this thread's machine.
        unsafe { *settings() = Settings { reserved: 0, paused: 0, offload, offers } };
        for (id, name, mind_argument) in porthole_l7::redis_commands() {
            let flags = if mind_argument { command_flag::CHECK_ARGUMENT } else { 0 };
            let entry = RedisCommand { id: u32::try_from(id).unwrap_or(u32::MAX), flags };
            for spelt in [name.to_owned(), name.to_ascii_lowercase()] {
                let _ = COMMANDS.insert(spelt.bytes().fold(HASH_START, hash_byte), entry, 0);
            }
        }
        let role = if observed == Side::Server { role::ACCEPTED } else { role::CONNECTED };
        connections::create(SOCKET, CONNECTION, transport::TCP, role);
        Self {
            mode,
            context,
            l7: Connection::new(SCOPE),
            pieces: Pieces::default(),
            keys: KernelKeys::default(),
            aggregates: Aggregates::default(),
            exchanges: Vec::new(),
            verdict: Verdict::Detecting,
            turns: [0; 2],
        }
    }

    /// A call that moved these bytes, out of one buffer or out of several.
    pub fn call(&mut self, direction: Direction, buffers: &[&[u8]], now: Timestamp) {
        let total = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        if total == 0 {
            return;
        }
        let (Some(mut work), Some(entry)) = (Scratch::get(), CONNECTIONS.get_ptr_mut(SOCKET)) else {
            return;
        };
        machine::set_now(now.0);
        machine::forbid();
        machine::allow(registers::states());
        for buffer in buffers {
            machine::allow(buffer);
        }
        let vector: Vec<[u64; 2]> =
            buffers.iter().map(|buffer| [buffer.as_ptr().addr() as u64, buffer.len() as u64]).collect();
        work.message = 0;
        work.want = total;
        work.header.total = total;
        work.header.direction = match direction {
            Direction::Ingress => direction::INGRESS,
            Direction::Egress => direction::EGRESS,
        };
        if let [[address, _]] = vector[..] {
            work.address = address;
            work.count = NO_VECTOR;
        } else {
            machine::allow(bytes_of(&vector));
            work.address = vector.as_ptr().addr() as u64;
            work.count = vector.len() as u64;
        }
        let before = self.is_offloaded();
        transfer::record(work, entry, SOCKET);
        let after = self.is_offloaded();
        self.turns[0] += u64::from(!before && after);
        self.turns[1] += u64::from(before && !after);
        self.take_records();
        self.decide();
        self.offer();
    }

    /// The connection is closed.
    pub fn close(&mut self, now: Timestamp) {
        machine::set_now(now.0);
        if let Some(entry) = CONNECTIONS.get_ptr_mut(SOCKET) {
            offload::closed(entry, SOCKET);
        }
        self.take_records();
        for (chunk, head) in self.pieces.take().collect::<Vec<_>>() {
            self.chunk(&chunk, &head);
        }
        self.l7.close(now, &mut self.context, &mut |exchange| self.exchanges.push(exchange));
    }

    /// The exchanges so far, and what gives their names.
    pub fn exchanges(&self) -> (&[Exchange], &ParserContext) {
        (&self.exchanges, &self.context)
    }

    /// What the programs have aggregated of the exchanges.
    pub fn aggregates(&self) -> Vec<Aggregate> {
        self.aggregates.read()
    }

    /// How often the programs took the connection over, and gave it back.
    pub fn turns(&self) -> [u64; 2] {
        self.turns
    }

    /// Whether the programs follow the connection.
    pub fn is_offloaded(&self) -> bool {
        // SAFETY: a value that a look-up gave, of this thread's machine.
        CONNECTIONS.get_ptr(SOCKET).is_some_and(|entry| unsafe { (*entry).state == state::OFFLOADED })
    }

    fn take_records(&mut self) {
        for bytes in machine::take_records() {
            let record = Record::read(&bytes).expect("the programs write whole records");
            self.record(&record);
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        if !matches!(record, Record::Chunk(..) | Record::UnnamedRequest(..)) {
            for (chunk, head) in self.pieces.take().collect::<Vec<_>>() {
                self.chunk(&chunk, &head);
            }
        }
        match record {
            Record::Chunk(chunk, head, _) => {
                for (chunk, head) in self.pieces.join(*chunk, Cow::Borrowed(head)).into_iter().flatten() {
                    self.chunk(&chunk, &head);
                }
            }
            Record::UnnamedRequest(unnamed, request) => {
                self.keys.learn(unnamed.protocol, unnamed.hash, request);
            }
            Record::Completed(completed) => self.completed(completed),
            Record::Fallback(bytes) => {
                let offloaded = OffloadedConnection::read(bytes).expect("a whole record");
                fallback::resume(&mut self.l7, SCOPE, &offloaded, &self.keys, &mut self.context);
            }
            Record::OfferAccepted(_) => {
                self.l7.offload_accepted(&mut self.context, &mut |exchange| self.exchanges.push(exchange));
            }
            Record::Open(_)
            | Record::Close(_)
            | Record::Cgroup(_)
            | Record::Exit(_)
            | Record::ClientSocket(_)
            | Record::Listen(_) => {}
        }
    }

    fn chunk(&mut self, chunk: &porthole_bpf_types::record::Chunk, head: &[u8]) {
        self.l7.chunk(&pieces::chunk(chunk, head), &mut self.context, &mut |exchange| {
            self.exchanges.push(exchange);
        });
    }

    fn completed(&mut self, completed: &Completed) {
        let (name, text) = (self.keys.name(&completed.key), fallback::text(completed));
        let exchange = fallback::exchange(SCOPE, ClientId::default(), completed, name, &text);
        let named = exchange.and_then(|exchange| self.context.name_offloaded(&exchange));
        let named = named.expect("a protocol that the programs parse");
        if named.is_stable && self.mode == Mode::Aggregated {
            self.aggregates.learn(completed, &named.exchange);
        }
        self.exchanges.push(named.exchange);
    }

    /// Writes the verdict where the programs look for it.
    fn decide(&mut self) {
        let verdict = self.l7.verdict();
        if std::mem::replace(&mut self.verdict, verdict) == verdict {
            return;
        }
        let decision = match verdict {
            Verdict::Detecting => return,
            Verdict::Known(protocol) => Decision::followed(Framing::of(protocol)),
            Verdict::Ignored => Decision::IGNORED,
        };
        let _ = VERDICTS.insert(CONNECTION, decision.0, 0);
    }

    /// Offers the connection to the programs if nothing is under way on it.
    fn offer(&mut self) {
        if !self.mode.offers() || self.is_offloaded() {
            return;
        }
        let Some(idle) = self.l7.idle_state() else { return };
        let Some(protocol) = idle.protocol.row().offload else { return };
        let keys = &mut self.keys;
        let context = &self.context;
        self.l7.export_statements(|number, operation, table| {
            if operation == Symbol::OTHER || table == Symbol::OTHER {
                return;
            }
            let name = prepared_name(context.name(operation), context.name(table));
            let (request, _) = sql::hash(Offload::Mysql.number(), &name);
            keys.learn_prepared(request, &name);
            let _ = STATEMENTS.insert(StatementKey { connection: CONNECTION, id: number.into() }, request, 0);
        });
        let side = if idle.side == Side::Server { side::SERVER } else { side::CLIENT };
        let offer = OffloadedConnection::offered(CONNECTION, protocol.number(), side, idle.offsets);
        let _ = OFFLOADED.insert(CONNECTION, offer, 0);
    }
}

fn bytes_of(vector: &[[u64; 2]]) -> &[u8] {
    // SAFETY: words, borrowed for their whole length.
    unsafe { std::slice::from_raw_parts(vector.as_ptr().cast(), size_of_val(vector)) }
}
