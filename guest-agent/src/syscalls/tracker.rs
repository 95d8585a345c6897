//! From the programs' records to exchanges.

use std::{borrow::Cow, collections::VecDeque, net::SocketAddr, time::Duration};

use porthole_bpf_types::{
    connection::{role, transport},
    kernel_key::{Completed, RequestKey},
    offload::{OffloadedConnection, StatementKey},
    process,
    record::{self, Open, Record},
};
use porthole_framing::Framing;
use porthole_l7::{Connection, Exchange, ParserContext, ScopeId, Side, Symbol, Timestamp, Verdict};

use super::{
    connections::{Connections, Tracked, moved_by},
    fallback,
    kernel_keys::KernelKeys,
    numbered::Numbered,
    offers::Offering,
    pieces::{self, Pieces},
    processes::{self, Processes},
    record_order::{Order, Sequence},
    request_names::RequestName,
    threads::Threads,
};
use crate::{
    kernel::{
        command::{Command, Offer},
        places::Places,
        slots::Slots,
    },
    recorder::{Details, Recorder, SeriesTable, containers::Containers, peer::Peer},
};

/// What came of a record besides exchanges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    None,
    /// The last process of this container exits; its numbers must not wait. And when that process was made, since boot,
    /// if that is known.
    ContainerExit(String, Option<Duration>),
    /// A process of a container accepts connections from this time of the monotonic clock on.
    Listen(Timestamp),
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
    /// Connections of no known protocol.
    pub ignored: u64,
    /// Records that are missing in a connection's sequence.
    pub missing: u64,
    /// Records that came when those behind them had been taken, and were dropped.
    pub late: u64,
    /// Connections for which there was no room any more.
    pub evicted: u64,
    /// Offers that the programs accepted.
    pub accepted: u64,
}

/// How long a record that came early waits for the one before it. Two CPUs differ by microseconds.
const EARLY_WAIT_NS: u64 = 50_000_000;

/// The connections, and what is understood of them.
#[derive(Debug)]
pub struct Tracker {
    context: ParserContext,
    connections: Connections,
    containers: Containers,
    keys: KernelKeys,
    threads: Threads,
    processes: Processes,
    /// Connections that hold early records.
    waiting: Vec<u64>,
    /// Whether connections are offered to the programs.
    offers: bool,
    /// Connections that were idle when something was last seen of them.
    offerable: Vec<u64>,
    commands: Vec<Command>,
    /// When the names of what the programs aggregate were last kept, nanoseconds.
    names_kept_ns: u64,
    counts: TrackerCounts,
}

impl Tracker {
    /// An empty table.
    pub fn new(context: ParserContext) -> Self {
        Self {
            context,
            connections: Connections::default(),
            containers: Containers::default(),
            keys: KernelKeys::default(),
            threads: Threads::default(),
            processes: Processes::default(),
            waiting: Vec::new(),
            offers: false,
            offerable: Vec::new(),
            commands: Vec::new(),
            names_kept_ns: 0,
            counts: TrackerCounts::default(),
        }
    }

    /// Looks into what the programs know of processes, from now on.
    pub fn set_places(&mut self, places: Places) {
        self.processes.set_places(places);
    }

    /// Offers connections to the programs from now on.
    pub fn set_offers(&mut self, offers: bool) {
        self.offers = offers;
    }

    /// Offers what can be offered. Where there are `more` records to come it is too late for offers that do not last.
    pub fn offer(&mut self, more: bool) {
        for id in std::mem::take(&mut self.offerable) {
            let Some(tracked) = self.connections.get_mut(id) else { continue };
            let Some(mut offer) = tracked.offerable.take() else { continue };
            if tracked.offloaded {
                continue;
            }
            if !offer.is_lasting {
                let now = if more { None } else { tracked.l7.idle_state() };
                let Some(now) = now.as_ref().and_then(Offer::of) else { continue };
                offer = now;
            }
            let (context, keys, commands) = (&self.context, &mut self.keys, &mut self.commands);
            tracked.l7.export_statements(|number, operation, table| {
                if operation != Symbol::OTHER && table != Symbol::OTHER {
                    let request = keys.prepared(context.name(operation), context.name(table));
                    let key = StatementKey { connection: id, id: number.into() };
                    commands.push(Command::NameStatement { key, request });
                }
            });
            self.connections.make_offer(id, offer.is_lasting);
            self.commands.push(Command::Offer { connection: id, offer });
        }
    }

    /// Whether offers are not answered yet.
    pub fn has_offered(&self) -> bool {
        self.connections.offered() > 0
    }

    /// Takes one record as it comes from the ring buffer.
    pub fn record(&mut self, bytes: &[u8], recorder: &mut Recorder) -> Event {
        self.counts.records += 1;
        self.counts.bytes += bytes.len() as u64;
        let Some(record) = Record::read(bytes) else {
            self.counts.malformed += 1;
            return Event::None;
        };
        if let Some((connection, number, record)) = Numbered::of(&record) {
            self.numbered(connection, number, record, recorder);
            return Event::None;
        }
        match record {
            Record::Cgroup(cgroup) => self.containers.learn(cgroup.cgroup, &cgroup.names),
            Record::Exit(exit) => {
                let container = self.containers.of_cgroup(exit.cgroup);
                let container = self.containers.id(container);
                if (exit.init != 0 || exit.last != 0) && !container.is_empty() {
                    let made = (exit.made > 0).then(|| Duration::from_nanos(exit.made));
                    return Event::ContainerExit(container.to_owned(), made);
                }
            }
            Record::ClientSocket(socket) => {
                let container = self.containers.of_cgroup(socket.cgroup);
                let id = self.containers.id(container);
                let name = |address| self.context.looked_up(ScopeId(container.0), address);
                recorder.dependencies.record(&socket, container, id, name);
            }
            Record::Listen(listen) => {
                let container = self.containers.of_cgroup(listen.cgroup);
                if !self.containers.id(container).is_empty() {
                    return Event::Listen(Timestamp(listen.timestamp));
                }
            }
            Record::Open(open) => self.open(&open, recorder),
            Record::UnnamedRequest(unnamed, request) => {
                let name = RequestName::of(unnamed.protocol, request);
                self.keys.learn_name(unnamed.hash, name, &mut self.commands);
            }
            _ => self.counts.malformed += 1,
        }
        Event::None
    }

    fn open(&mut self, open: &Open, recorder: &mut Recorder) {
        if self.connections.contains(open.connection) {
            let again = Numbered::Reopened(Timestamp(open.timestamp));
            self.numbered(open.connection, open.sequence, again, recorder);
            return;
        }
        if self.connections.is_full() {
            for id in self.connections.longest_silent() {
                self.evict(id);
            }
        }
        let container = self.containers.of_cgroup(open.cgroup);
        let scope = ScopeId(container.0);
        let offloaded = open.role & role::OFFLOADED != 0;
        // The programs count those that they follow.
        self.counts.connections += u64::from(!offloaded);
        let is_datagram = open.transport == transport::UDP;
        let peer = Peer::of(open);
        // Of one that was open before, the first bytes may be within a message.
        let l7 = match open.role & !role::OFFLOADED {
            _ if is_datagram => Connection::datagram(scope),
            role::UNKNOWN => Connection::new(scope).joined(),
            _ => Connection::new(scope),
        };
        let tracked = Tracked {
            l7: l7.of_client(peer.client()),
            pieces: Pieces::default(),
            sequence: Sequence::starting_at(open.sequence + 1),
            container,
            peer,
            local: Peer::local_of(open),
            socket: open.socket,
            transport: open.transport,
            role: open.role & !role::OFFLOADED,
            offloaded,
            offering: Offering::default(),
            offerable: None,
            verdict: Verdict::Detecting,
            last_ns: open.timestamp,
            waiting_since_ns: 0,
            calls: VecDeque::new(),
            process: 0,
            open_requests: 0,
            reached: [None; 2],
        };
        self.connections.insert(open.connection, tracked);
    }

    /// Takes a numbered record of a connection: now, or when those before it have come.
    fn numbered(&mut self, id: u64, number: u64, record: Numbered<'_>, recorder: &mut Recorder) {
        // A connection that is ignored by now.
        let Some(tracked) = self.connections.get_mut(id) else { return };
        match tracked.sequence.take(number) {
            Order::Late => self.counts.late += 1,
            Order::Early => {
                if !tracked.sequence.is_waiting() {
                    // A fallback has no time of its own; the connection's last will do.
                    tracked.waiting_since_ns = record.time_ns().max(tracked.last_ns);
                    self.waiting.push(id);
                }
                if tracked.sequence.hold(number, record.into_owned()) {
                    self.counts.missing += tracked.sequence.skip_missing();
                    self.release(id, recorder);
                }
            }
            Order::Now => {
                self.take(id, record, recorder);
                self.release(id, recorder);
            }
        }
    }

    /// Takes the held records that come next.
    fn release(&mut self, id: u64, recorder: &mut Recorder) {
        while let Some(held) = self.connections.get_mut(id).and_then(|tracked| tracked.sequence.pop()) {
            self.take(id, held, recorder);
        }
    }

    /// Takes the record that comes next.
    fn take(&mut self, id: u64, record: Numbered<'_>, recorder: &mut Recorder) {
        if !matches!(record, Numbered::Chunk(..)) {
            self.release_pieces(id, recorder);
        }
        match record {
            // Datagrams come whole.
            Numbered::Chunk(chunk, head, peer @ Some(_)) => self.chunk(id, &chunk, &head, peer, recorder),
            Numbered::Chunk(chunk, head, None) => self.piece(id, chunk, head, recorder),
            Numbered::Completed(completed) => self.completed(id, &completed, recorder),
            Numbered::Fallback(offloaded) => self.fallback(id, &offloaded),
            Numbered::OfferAccepted(at) => self.offer_accepted(id, at, recorder),
            Numbered::Close(at, moved) => self.close(id, at, moved, recorder),
            Numbered::Reopened(_) => {}
        }
    }

    fn piece(&mut self, id: u64, chunk: record::Chunk, head: Cow<'_, [u8]>, recorder: &mut Recorder) {
        let Some(tracked) = self.connections.get_mut(id) else { return };
        for (chunk, head) in tracked.pieces.join(chunk, head).into_iter().flatten() {
            self.chunk(id, &chunk, &head, None, recorder);
        }
    }

    /// Takes what there is of calls whose last record did not come.
    fn release_pieces(&mut self, id: u64, recorder: &mut Recorder) {
        let Some(tracked) = self.connections.get_mut(id) else { return };
        for (chunk, head) in tracked.pieces.take() {
            self.chunk(id, &chunk, &head, None, recorder);
        }
    }

    fn chunk(
        &mut self,
        id: u64,
        chunk: &record::Chunk,
        head: &[u8],
        peer: Option<SocketAddr>,
        recorder: &mut Recorder,
    ) {
        self.connections.answer_offer(id, |offering| offering.moved(chunk.timestamp));
        // The fallback came before the record of the acceptance: two CPUs sent them at once.
        self.connections.set_offloaded(id, false);
        let Some(tracked) = self.connections.get_mut(id) else { return };
        tracked.last_ns = chunk.timestamp;
        tracked.sent(chunk);
        let mut details = moved_by(chunk);
        if tracked.may_serve() {
            if tracked.may_make_calls() {
                self.threads.served(details.worker(), chunk.timestamp);
            }
            tracked.served_by(id, chunk, &mut self.processes);
        }
        let piece = pieces::chunk(chunk, head);
        let mut done = Vec::new();
        tracked.l7.datagram_of(peer, &piece, &mut self.context, &mut |exchange| done.push(exchange));
        let at = (chunk.timestamp, chunk.timestamp);
        let open = tracked.open_now();
        details.process_serving = tracked.requests_moved(id, (&done, open), at, &mut self.processes);
        self.record_all(id, &done, details, recorder);
        self.list_offerable(id);
        self.report_verdict(id);
    }

    /// Continues with a connection that the programs followed.
    fn fallback(&mut self, id: u64, offloaded: &OffloadedConnection) {
        self.connections.set_offloaded(id, false);
        let Some(tracked) = self.connections.get_mut(id) else { return };
        tracked.offering.fell_back(tracked.last_ns);
        let scope = ScopeId(tracked.container.0);
        fallback::resume(&mut tracked.l7, scope, offloaded, &self.keys, &mut self.context);
        tracked.reached = offloaded.offset.map(Some);
        if let Some(start) = processes::oldest_start(offloaded) {
            tracked.process = process::of_key(offloaded.thread);
            let open = tracked.open_now();
            tracked.requests_moved(id, (&[], open), (start, start), &mut self.processes);
        }
        self.list_offerable(id);
        self.report_verdict(id);
    }

    fn offer_accepted(&mut self, id: u64, at: Timestamp, recorder: &mut Recorder) {
        self.connections.answer_offer(id, |offering| offering.answer(at.0));
        if self.connections.set_offloaded(id, true) {
            self.counts.accepted += 1;
        }
        let Some(tracked) = self.connections.get_mut(id) else { return };
        tracked.last_ns = at.0;
        let mut done = Vec::new();
        tracked.l7.offload_accepted(&mut self.context, &mut |exchange| done.push(exchange));
        tracked.requests_moved(id, (&done, Some(0)), (at.0, at.0), &mut self.processes);
        self.record_all(id, &done, Details::default(), recorder);
        self.report_verdict(id);
    }

    fn close(&mut self, id: u64, at: Timestamp, moved: [u64; 2], recorder: &mut Recorder) {
        let Some(tracked) = self.connections.get_mut(id) else { return };
        let mut done = Vec::new();
        tracked.l7.moved(moved, at, &mut self.context, &mut |exchange| done.push(exchange));
        tracked.l7.close(at, &mut self.context, &mut |exchange| done.push(exchange));
        let process_serving = tracked.requests_moved(id, (&done, Some(0)), (at.0, at.0), &mut self.processes);
        tracked.leaves(id, at.0, false, &mut self.processes);
        let details = Details { process: tracked.process, process_serving, ..Details::default() };
        self.record_all(id, &done, details, recorder);
        self.connections.remove(id);
        self.commands.push(Command::Forget(id));
    }

    /// Takes an exchange that the programs paired; they aggregate the next ones of the same key and status themselves.
    fn completed(&mut self, id: u64, completed: &Completed, recorder: &mut Recorder) {
        let Some(tracked) = self.connections.get_mut(id) else { return };
        tracked.last_ns = completed.end;
        let scope = ScopeId(tracked.container.0);
        let name = self.keys.name(&completed.key);
        let text = fallback::text(completed);
        let Some(exchange) = fallback::exchange(scope, tracked.peer.client(), completed, name, &text) else {
            return;
        };
        let Some(named) = self.context.name_offloaded(&exchange) else { return };
        let mut details = self.threads.details(completed);
        details.process_serving = if exchange.side == Side::Server {
            self.processes.of_completed(completed)
        } else {
            self.processes.of_call(details.process, details.process_serving, exchange.end.0)
        };
        let origin = tracked.origin(&self.containers, details);
        let series = recorder.record(&named.exchange, origin, &self.context);
        if let Some(series) = series.filter(|_| named.is_stable) {
            self.keys.learn(&completed.key, completed.status, series, &mut self.commands);
        }
    }

    fn record_all(&mut self, id: u64, done: &[Exchange], details: Details<'_>, recorder: &mut Recorder) {
        let Some(tracked) = self.connections.get_mut(id) else { return };
        for exchange in done {
            let mut details = tracked.details_of(exchange, details);
            if exchange.side == Side::Client {
                details.process_serving =
                    self.processes.of_call(details.process, details.process_serving, exchange.end.0);
            }
            recorder.record(exchange, tracked.origin(&self.containers, details), &self.context);
            if exchange.side == Side::Server {
                self.processes.recorded(&details, exchange.end.0, &recorder.spans);
            }
        }
    }

    /// Lists a connection that can be offered.
    fn list_offerable(&mut self, id: u64) {
        let Some(tracked) = self.connections.get_mut(id) else { return };
        if !self.offers || tracked.offloaded || tracked.offerable.is_some() {
            return;
        }
        let may = tracked.transport == transport::TCP && tracked.offering.is_due(tracked.last_ns);
        let idle = if may { tracked.l7.idle_state() } else { None };
        tracked.offerable = idle.as_ref().and_then(Offer::of);
        if tracked.offerable.is_some() {
            self.offerable.push(id);
        }
    }

    /// Reports to the programs which protocol was detected on a connection.
    fn report_verdict(&mut self, id: u64) {
        let Some(tracked) = self.connections.get_mut(id) else { return };
        let verdict = tracked.l7.verdict();
        if std::mem::replace(&mut tracked.verdict, verdict) == verdict {
            return;
        }
        match verdict {
            Verdict::Detecting => {}
            Verdict::Known(protocol) => {
                let framing = Framing::of(protocol);
                self.commands.push(Command::Follow { connection: id, framing });
            }
            Verdict::Ignored => {
                self.counts.ignored += 1;
                self.commands.push(Command::Ignore(id));
                tracked.leaves(id, tracked.last_ns, true, &mut self.processes);
                // The programs send nothing more of it.
                self.connections.remove(id);
            }
        }
    }

    /// Takes what the programs aggregated since the last time. Call it before the series are read.
    pub fn harvest(&mut self, slots: &Slots, recorder: &mut Recorder) {
        let exchanges = self.keys.harvest(slots, &mut recorder.series);
        self.context.count_offloaded(exchanges);
    }

    /// The series begin anew. Call it right behind [`Self::harvest`].
    pub fn series_renewed(&mut self, before: &SeriesTable) {
        self.keys.series_renewed(before);
    }

    /// Takes the entries of kernel keys that are not used, if others need them. Call it every few seconds; `forget` makes
    /// the programs forget a key, and returns whether it did.
    pub fn reclaim_keys(&mut self, now_ns: u64, forget: impl FnMut(&RequestKey) -> bool) {
        self.keys.make_room(now_ns, forget, &mut self.commands);
    }

    /// Goes on without records that have been missing too long. Call it after the ring buffer was emptied.
    pub fn skip_missing(&mut self, now_ns: u64, recorder: &mut Recorder) {
        for id in std::mem::take(&mut self.waiting) {
            let Some(tracked) = self.connections.get_mut(id) else { continue };
            if tracked.sequence.is_waiting()
                && now_ns.saturating_sub(tracked.waiting_since_ns) > EARLY_WAIT_NS
            {
                self.counts.missing += tracked.sequence.skip_missing();
                tracked.waiting_since_ns = now_ns;
                self.release(id, recorder);
            }
            if self.connections.get(id).is_some_and(|tracked| tracked.sequence.is_waiting()) {
                self.waiting.push(id);
            }
        }
    }

    /// Ends what waits only for time to pass, and drops connections that have been silent too long. Call it every few
    /// seconds.
    pub fn idle(&mut self, now_ns: u64, recorder: &mut Recorder) {
        let cut: Vec<u64> =
            self.connections.iter_mut().filter(|(_, it)| it.pieces.any()).map(|(&id, _)| id).collect();
        for id in cut {
            self.release_pieces(id, recorder);
        }
        recorder.dependencies.observe(now_ns);
        recorder.spans.release(now_ns);
        self.keep_names(now_ns, &recorder.series);
        let mut stale = Vec::new();
        let mut done: Vec<Exchange> = Vec::new();
        for (&id, tracked) in self.connections.iter_mut() {
            tracked.l7.tick(Timestamp(now_ns), &mut self.context, &mut |exchange| done.push(exchange));
            if !done.is_empty() {
                let open = tracked.open_now();
                tracked.requests_moved(id, (&done, open), (now_ns, now_ns), &mut self.processes);
            }
            for exchange in done.drain(..) {
                let origin = tracked.origin(&self.containers, Details::default());
                recorder.record(&exchange, origin, &self.context);
            }
            if tracked.is_stale(now_ns) {
                stale.push(id);
            }
        }
        for id in stale {
            self.evict(id);
        }
    }

    /// Names that only the programs' slots use are used.
    fn keep_names(&mut self, now_ns: u64, series: &SeriesTable) {
        let since_ns = std::mem::replace(&mut self.names_kept_ns, now_ns);
        for names in self.keys.names_in_use(since_ns, series) {
            let scope = ScopeId(names.container.0);
            self.context.keep_names(scope, names.symbols, Timestamp(now_ns));
        }
    }

    fn evict(&mut self, id: u64) {
        if let Some(tracked) = self.connections.remove(id) {
            self.counts.evicted += 1;
            // A request that is open goes on, and is not followed.
            let ignored = tracked.open_requests > 0;
            tracked.leaves(id, tracked.last_ns, ignored, &mut self.processes);
            self.commands.push(Command::Evict { socket: tracked.socket, connection: id });
        }
    }

    /// Commands to the programs since the last call.
    pub fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// What the parsers saw.
    pub fn context(&self) -> &ParserContext {
        &self.context
    }

    /// Counts of what went in.
    pub fn counts(&self) -> TrackerCounts {
        self.counts
    }

    /// Bounds of tables here that were met: how often, and what it means.
    pub fn bounds_met(&self) -> [(u64, &'static str); 3] {
        [
            (self.counts.evicted, "connections made room for newer ones"),
            (self.containers.displaced(), "containers made room for newer ones"),
            (self.keys.names_displaced(), "names of prepared statements made room for newer ones"),
        ]
    }

    /// Number of connections that are followed here, and not by the programs.
    pub fn connections(&self) -> usize {
        self.connections.followed()
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
#[path = "tracker_tests.rs"]
mod tests;
