//! From the kernel's records to exchanges: the table of connections.
//!
//! ```text
//! Record → order → l7's Connection → Exchange → series
//! ```
//!
//! It does no I/O: what the kernel side is to be told comes out as [`Command`]s.

use std::collections::HashMap;

use porthole_bpf_types::{
    connection::{direction, role, transport},
    kernel_key::{Completed, KernelKey, RequestKey},
    offload::{OffloadedConnection, StatementKey},
    record::{self, Open, Plain, Record, kind},
};
use porthole_l7::{
    Chunk, Connection, Direction, Exchange, ParserContext, ScopeId, Symbol, Timestamp, Verdict,
};

use crate::{
    containers::{ContainerIndex, Containers},
    handover,
    learned::{Keys, Name},
    offers::{Offer, Offering},
    order::{Order, Sequence},
    peer::Peer,
    probes::slots::Slots,
    series::{Details, Origin, SeriesTable},
};

/// What the kernel side is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// This connection is worth following.
    Follow(u64),
    /// Nobody understands this connection.
    Ignore(u64),
    /// This connection ended.
    Forget(u64),
    /// This hash has a name.
    Name(u64),
    /// This hash has none any more.
    Unname(u64),
    /// The entry of a learned key.
    Learn {
        /// Its place.
        place: u32,
        /// The entry.
        entry: KernelKey,
    },
    /// Where a learned key's entry is.
    Request {
        /// The key.
        key: RequestKey,
        /// The entry's place.
        place: u32,
    },
    /// What executions of a prepared statement ask for.
    Statement {
        /// The statement.
        key: StatementKey,
        /// As in [`RequestKey::request`].
        request: u64,
    },
    /// Nothing is under way on this connection: it can be followed by the kernel side.
    Offer {
        /// The connection.
        connection: u64,
        /// Where it stands.
        offer: Offer,
    },
    /// There is no room for this connection: announce it anew when something moves on it.
    Evict {
        /// Key in the kernel's table.
        socket: u64,
        /// The connection.
        connection: u64,
    },
}

/// What came of a record besides exchanges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    None,
    /// The last process of this container exits; its numbers must not wait.
    ContainerExit(String),
}

/// Counts of what went in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackerCounts {
    /// Records read.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were no record: programs and agent are of different builds.
    pub malformed: u64,
    /// Connections announced.
    pub connections: u64,
    /// Connections that nobody understood.
    pub ignored: u64,
    /// Records that are missing in a connection's sequence.
    pub missing: u64,
    /// Connections for which there was no room any more.
    pub evicted: u64,
    /// Times that the kernel side took a connection that it was offered.
    pub taken: u64,
}

/// Most connections that are followed at a time.
pub const CONNECTIONS_MAX: usize = 4096;

/// How long a record that came early waits for the one before it. Two CPUs differ by microseconds.
const EARLY_WAIT_NS: u64 = 50_000_000;

/// How long a connection may be silent before it must make room: sockets whose end is not seen would stay forever.
const IDLE_NS: u64 = 15 * 60 * 1_000_000_000;

/// The same for TCP, whose end is seen unless its record is lost.
const IDLE_TCP_NS: u64 = 4 * 3600 * 1_000_000_000;

#[derive(Debug)]
struct Tracked {
    l7: Connection,
    sequence: Sequence<Held>,
    container: ContainerIndex,
    peer: Peer,
    local: Peer,
    socket: u64,
    transport: u8,
    /// The kernel side follows it.
    counted: bool,
    offering: Offering,
    /// What could be offered when it was put into [`Tracker::offerable`].
    offerable: Option<Offer>,
    /// What the kernel side was told.
    told: Verdict,
    /// When something was last heard of it.
    last_ns: u64,
    /// When the first held record came.
    waiting_since_ns: u64,
}

/// A record that came early.
#[derive(Debug)]
enum Held {
    Chunk(record::Chunk, Box<[u8]>),
    Close(Timestamp),
    Completed(Completed),
    Handover(Box<OffloadedConnection>),
    Taken(Timestamp),
    /// A second announcement.
    Nothing,
}

/// The connections, and what is understood of them.
#[derive(Debug)]
pub struct Tracker {
    engine: ParserContext,
    connections: HashMap<u64, Tracked>,
    /// Those of them that the kernel side does not follow.
    followed: usize,
    containers: Containers,
    keys: Keys,
    /// Connections that hold early records.
    waiting: Vec<u64>,
    /// Whether connections are offered to the kernel side.
    offers: bool,
    /// Connections on which nothing was under way when last heard of.
    offerable: Vec<u64>,
    /// Offers that are not answered.
    offered: usize,
    commands: Vec<Command>,
    counts: TrackerCounts,
    /// Nanoseconds from the monotonic clock's zero to 1970.
    unix_offset_ns: u64,
}

impl Tracker {
    /// An empty table. `unix_offset_ns` is the wall clock's time when the monotonic clock showed 0.
    pub fn new(engine: ParserContext, unix_offset_ns: u64) -> Self {
        Self {
            engine,
            connections: HashMap::new(),
            followed: 0,
            containers: Containers::default(),
            keys: Keys::default(),
            waiting: Vec::new(),
            offers: false,
            offerable: Vec::new(),
            offered: 0,
            commands: Vec::new(),
            counts: TrackerCounts::default(),
            unix_offset_ns,
        }
    }

    /// Offers connections to the kernel side from now on.
    pub fn set_offers(&mut self, offers: bool) {
        self.offers = offers;
    }

    /// Offers what can be offered. Where there are `more` records to come it is too late for offers that do not stand.
    pub fn offer(&mut self, more: bool) {
        for id in std::mem::take(&mut self.offerable) {
            let Some(tracked) = self.connections.get_mut(&id) else { continue };
            let Some(mut offer) = tracked.offerable.take() else { continue };
            if tracked.counted {
                continue;
            }
            if !offer.stands {
                let now = if more { None } else { tracked.l7.idle_state() };
                let Some(now) = now.as_ref().and_then(Offer::of) else { continue };
                offer = now;
            }
            tracked.offering.make(tracked.last_ns, offer.stands);
            self.offered += 1;
            let (engine, keys, commands) = (&self.engine, &mut self.keys, &mut self.commands);
            tracked.l7.export_statements(|number, operation, table| {
                let unnamed = operation == Symbol::OTHER || table == Symbol::OTHER;
                let request = keys.prepared(engine.name(operation), engine.name(table));
                if let Some(request) = request.filter(|_| !unnamed) {
                    let key = StatementKey { connection: id, id: number.into() };
                    commands.push(Command::Statement { key, request });
                }
            });
            self.commands.push(Command::Offer { connection: id, offer });
        }
    }

    /// Whether offers are not answered yet.
    pub fn has_offered(&self) -> bool {
        self.offered > 0
    }

    /// Takes one record as it comes from the ring buffer.
    pub fn record(&mut self, bytes: &[u8], series: &mut SeriesTable) -> Event {
        self.counts.records += 1;
        self.counts.bytes += bytes.len() as u64;
        match Record::read(bytes) {
            None => self.counts.malformed += 1,
            Some(Record::Cgroup(cgroup)) => self.containers.learn(cgroup.cgroup, &cgroup.names),
            Some(Record::Exit(exit)) => {
                let container = self.containers.id(self.containers.of_cgroup(exit.cgroup));
                if (exit.init != 0 || exit.last != 0) && !container.is_empty() {
                    return Event::ContainerExit(container.to_owned());
                }
            }
            Some(Record::Open(open)) => self.open(&open, series),
            Some(Record::Chunk(chunk, head)) => {
                self.numbered(chunk.connection, chunk.sequence, series, |order| match order {
                    Order::Now => Step::Chunk(&chunk, head),
                    _ => Step::Hold(Held::Chunk(chunk, head.into()), chunk.timestamp),
                });
            }
            Some(Record::Name(chunk, request)) => {
                self.keys.learn_name(chunk.offset, Name::of(chunk.sequence, request), &mut self.commands);
            }
            Some(Record::Completed(completed)) => {
                self.numbered(completed.connection, completed.sequence, series, |order| match order {
                    Order::Now => Step::Completed(&completed),
                    _ => Step::Hold(Held::Completed(completed), completed.end),
                });
            }
            Some(Record::Fallback(bytes)) => {
                let Some(counted) = OffloadedConnection::read(bytes).map(Box::new) else {
                    return Event::None;
                };
                let (connection, sequence) = (counted.connection, counted.sequence);
                self.numbered(connection, sequence, series, |order| match order {
                    Order::Now => Step::Handover(counted),
                    // Its own time is not in it; the connection's last will do.
                    _ => Step::Hold(Held::Handover(counted), 0),
                });
            }
            Some(Record::OfferAccepted(taken)) => {
                let at = Timestamp(taken.timestamp);
                self.numbered(taken.connection, taken.sequence, series, |order| match order {
                    Order::Now => Step::Taken(at),
                    _ => Step::Hold(Held::Taken(at), taken.timestamp),
                });
            }
            Some(Record::Close(close)) => {
                self.numbered(close.connection, close.sequence, series, |order| match order {
                    Order::Now => Step::Close(Timestamp(close.timestamp)),
                    _ => Step::Hold(Held::Close(Timestamp(close.timestamp)), close.timestamp),
                });
            }
        }
        Event::None
    }

    fn open(&mut self, open: &Open, series: &mut SeriesTable) {
        if self.connections.contains_key(&open.connection) {
            // Two CPUs announced it at once.
            self.numbered(open.connection, open.sequence, series, |order| match order {
                Order::Now => Step::Nothing,
                _ => Step::Hold(Held::Nothing, open.timestamp),
            });
            return;
        }
        if self.connections.len() >= CONNECTIONS_MAX {
            self.make_room();
        }
        let container = self.containers.of_cgroup(open.cgroup);
        let scope = ScopeId(container.0);
        let counted = open.role & role::OFFLOADED != 0;
        // The kernel side counts those that it follows.
        self.counts.connections += u64::from(!counted);
        self.followed += usize::from(!counted);
        self.connections.insert(
            open.connection,
            Tracked {
                l7: if open.transport == transport::UDP {
                    Connection::datagram(scope)
                } else {
                    Connection::new(scope)
                },
                sequence: Sequence::starting_at(open.sequence + 1),
                container,
                peer: Peer::of(open),
                local: Peer::local_of(open),
                socket: open.socket,
                transport: open.transport,
                counted,
                offering: Offering::default(),
                offerable: None,
                told: Verdict::Detecting,
                last_ns: open.timestamp,
                waiting_since_ns: 0,
            },
        );
    }

    /// Takes a numbered record of a connection: now, or when its turn comes.
    fn numbered<'a>(
        &mut self,
        id: u64,
        number: u64,
        series: &mut SeriesTable,
        step: impl FnOnce(Order) -> Step<'a>,
    ) {
        // A connection that is ignored by now.
        let Some(tracked) = self.connections.get_mut(&id) else { return };
        match tracked.sequence.take(number) {
            Order::Late => {}
            Order::Early => {
                let Step::Hold(held, now) = step(Order::Early) else { return };
                if !tracked.sequence.is_waiting() {
                    tracked.waiting_since_ns = now;
                    self.waiting.push(id);
                }
                if tracked.sequence.hold(number, held) {
                    self.counts.missing += tracked.sequence.give_up();
                    self.held(id, series);
                }
            }
            Order::Now => {
                self.step(id, &step(Order::Now), series);
                self.held(id, series);
            }
        }
    }

    /// Takes the held records whose turn has come.
    fn held(&mut self, id: u64, series: &mut SeriesTable) {
        while let Some(held) = self.connections.get_mut(&id).and_then(|tracked| tracked.sequence.pop()) {
            match &held {
                Held::Chunk(chunk, head) => self.step(id, &Step::Chunk(chunk, head), series),
                Held::Close(at) => self.step(id, &Step::Close(*at), series),
                Held::Taken(at) => self.step(id, &Step::Taken(*at), series),
                Held::Completed(completed) => self.step(id, &Step::Completed(completed), series),
                Held::Handover(_) => {
                    if let Held::Handover(counted) = held {
                        self.step(id, &Step::Handover(counted), series);
                    }
                }
                Held::Nothing => {}
            }
        }
    }

    fn step(&mut self, id: u64, step: &Step<'_>, series: &mut SeriesTable) {
        let Some(tracked) = self.connections.get_mut(&id) else { return };
        let Tracked { l7, container, peer, local, .. } = tracked;
        let (process, thread) = match step {
            Step::Chunk(chunk, _) => (chunk.tgid, chunk.tid),
            _ => (0, 0),
        };
        let origin = Origin {
            container: *container,
            container_id: self.containers.id(*container),
            peer: &*peer,
            details: Details { local: Some(&*local), process, thread, chosen: false },
        };
        let mut done: Vec<Exchange> = Vec::new();
        let mut sink = |exchange| done.push(exchange);
        let closed = match step {
            Step::Chunk(chunk, head) => {
                tracked.last_ns = chunk.timestamp;
                self.offered -= usize::from(tracked.offering.moved(chunk.timestamp));
                // It was given back before it was said to be taken: two CPUs did so at once.
                self.followed += usize::from(std::mem::take(&mut tracked.counted));
                let chunk = Chunk {
                    direction: if chunk.direction == direction::EGRESS {
                        Direction::Egress
                    } else {
                        Direction::Ingress
                    },
                    timestamp: Timestamp(chunk.timestamp),
                    offset: chunk.offset,
                    bytes: head,
                    total: chunk.total,
                };
                l7.chunk(&chunk, &mut self.engine, &mut sink);
                false
            }
            Step::Close(at) => {
                l7.close(*at, &mut self.engine, &mut sink);
                true
            }
            Step::Completed(completed) => {
                tracked.last_ns = completed.end;
                self.completed(id, completed, series);
                return;
            }
            Step::Handover(counted) => {
                let scope = ScopeId(container.0);
                self.followed += usize::from(std::mem::take(&mut tracked.counted));
                tracked.offering.handed_over(tracked.last_ns);
                handover::resume(l7, scope, counted, &self.keys, &mut self.engine);
                false
            }
            Step::Taken(at) => {
                tracked.last_ns = at.0;
                self.offered -= usize::from(tracked.offering.answer(at.0));
                l7.offload_accepted(&mut self.engine, &mut sink);
                if !std::mem::replace(&mut tracked.counted, true) {
                    self.followed -= 1;
                    self.counts.taken += 1;
                }
                false
            }
            Step::Nothing | Step::Hold(..) => false,
        };
        if self.offers && !tracked.counted && !closed && tracked.offerable.is_none() {
            let may = tracked.transport == transport::TCP && tracked.offering.is_due(tracked.last_ns);
            let settled = if may { l7.idle_state() } else { None };
            tracked.offerable = settled.as_ref().and_then(Offer::of);
            if tracked.offerable.is_some() {
                self.offerable.push(id);
            }
        }
        let verdict = l7.verdict();
        for exchange in &done {
            let now = self.unix_offset_ns.saturating_add(exchange.end.0);
            series.record(exchange, origin, &self.engine, now);
        }
        if closed {
            self.remove(id);
            self.commands.push(Command::Forget(id));
            return;
        }
        if verdict == tracked.told {
            return;
        }
        tracked.told = verdict;
        match verdict {
            Verdict::Detecting => {}
            Verdict::Known(_) => self.commands.push(Command::Follow(id)),
            Verdict::Ignored => {
                self.counts.ignored += 1;
                self.commands.push(Command::Ignore(id));
                // The kernel side says nothing more about it.
                self.remove(id);
            }
        }
    }

    /// Takes an exchange that the kernel side paired; it counts the next ones of the same key and status itself.
    fn completed(&mut self, id: u64, completed: &Completed, series: &mut SeriesTable) {
        let Some(tracked) = self.connections.get(&id) else { return };
        let scope = ScopeId(tracked.container.0);
        let name = self.keys.name(&completed.key);
        let text = handover::text(completed);
        let Some(found) = handover::found(scope, completed, name, &text) else { return };
        let Some(named) = self.engine.name_offloaded(&found) else { return };
        let origin = Origin {
            container: tracked.container,
            container_id: self.containers.id(tracked.container),
            peer: &tracked.peer,
            details: Details {
                local: Some(&tracked.local),
                process: completed.tgid,
                thread: completed.tid,
                chosen: completed.kind == kind::SAMPLED,
            },
        };
        let now = self.unix_offset_ns.saturating_add(completed.end);
        let at = series.record(&named.exchange, origin, &self.engine, now);
        if let Some(at) = at.filter(|_| named.is_stable) {
            self.keys.learn(&completed.key, completed.status, at, &mut self.commands);
        }
    }

    /// Takes what the kernel side counted since the last time. Call it before the series are looked at.
    pub fn harvest(&mut self, slots: &Slots, series: &mut SeriesTable) {
        let exchanges = self.keys.harvest(slots, series);
        self.engine.count_offloaded(exchanges);
    }

    /// Takes places back from learned keys that are not used, if others need them. Call it every few seconds; `forget` makes
    /// the kernel side forget a key, and says whether it did.
    pub fn reclaim_keys(&mut self, now_ns: u64, forget: impl FnMut(&RequestKey) -> bool) {
        self.keys.make_room(now_ns, forget, &mut self.commands);
    }

    /// Gives up what has been missing too long. Call it after the ring buffer was emptied.
    pub fn settle(&mut self, now_ns: u64, series: &mut SeriesTable) {
        for id in std::mem::take(&mut self.waiting) {
            let Some(tracked) = self.connections.get_mut(&id) else { continue };
            if tracked.sequence.is_waiting()
                && now_ns.saturating_sub(tracked.waiting_since_ns) > EARLY_WAIT_NS
            {
                self.counts.missing += tracked.sequence.give_up();
                tracked.waiting_since_ns = now_ns;
                self.held(id, series);
            }
            if self.connections.get(&id).is_some_and(|tracked| tracked.sequence.is_waiting()) {
                self.waiting.push(id);
            }
        }
    }

    /// Ends what waits only for time to pass, and drops connections that have been silent too long. Call it every few
    /// seconds.
    pub fn idle(&mut self, now_ns: u64, series: &mut SeriesTable) {
        let mut stale = Vec::new();
        let mut done: Vec<Exchange> = Vec::new();
        for (&id, tracked) in &mut self.connections {
            let silent = now_ns.saturating_sub(tracked.last_ns);
            tracked.l7.tick(Timestamp(now_ns), &mut self.engine, &mut |exchange| done.push(exchange));
            let origin = Origin {
                container: tracked.container,
                container_id: self.containers.id(tracked.container),
                peer: &tracked.peer,
                details: Details { local: Some(&tracked.local), ..Details::default() },
            };
            for exchange in done.drain(..) {
                let now = self.unix_offset_ns.saturating_add(exchange.end.0);
                series.record(&exchange, origin, &self.engine, now);
            }
            // What the kernel side counts is silent when all is well.
            if !tracked.counted
                && silent > if tracked.transport == transport::TCP { IDLE_TCP_NS } else { IDLE_NS }
            {
                stale.push(id);
            }
        }
        for id in stale {
            self.evict(id);
        }
    }

    /// Evicts the eighth of the connections that has been silent longest. What the kernel side counts is silent when all is
    /// well, and goes only if there is nothing else.
    fn make_room(&mut self) {
        let only_counted = self.followed == 0;
        let mut by_age: Vec<(u64, u64)> = self
            .connections
            .iter()
            .filter(|(_, tracked)| only_counted || !tracked.counted)
            .map(|(&id, tracked)| (tracked.last_ns, id))
            .collect();
        let count = by_age.len() / 8;
        by_age.select_nth_unstable(count);
        for &(_, id) in &by_age[..=count] {
            self.evict(id);
        }
    }

    fn remove(&mut self, id: u64) -> Option<Tracked> {
        let tracked = self.connections.remove(&id)?;
        self.followed -= usize::from(!tracked.counted);
        self.offered -= usize::from(tracked.offering.is_out());
        Some(tracked)
    }

    fn evict(&mut self, id: u64) {
        if let Some(tracked) = self.remove(id) {
            self.counts.evicted += 1;
            self.commands.push(Command::Evict { socket: tracked.socket, connection: id });
        }
    }

    /// What the kernel side is to be told since the last call.
    pub fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// What the parsers saw.
    pub fn engine(&self) -> &ParserContext {
        &self.engine
    }

    /// Counts of what went in.
    pub fn counts(&self) -> TrackerCounts {
        self.counts
    }

    /// Number of connections that are followed here, and not by the kernel side.
    pub fn connections(&self) -> usize {
        self.followed
    }
}

/// What a record does when its turn has come, or in what form it waits.
enum Step<'a> {
    Chunk(&'a record::Chunk, &'a [u8]),
    Close(Timestamp),
    Completed(&'a Completed),
    Handover(Box<OffloadedConnection>),
    Taken(Timestamp),
    Nothing,
    Hold(Held, u64),
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
#[path = "tracker_tests.rs"]
mod tests;
