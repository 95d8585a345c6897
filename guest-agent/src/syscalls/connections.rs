//! The table of connections: bounded, with the counts that depend on who follows each.

use std::collections::{VecDeque, hash_map};

use foldhash::HashMap;
use porthole_bpf_types::{
    connection::{direction, role, transport},
    record::Chunk,
    thread::serving,
};
use porthole_l7::{Connection, Exchange, Protocol, Side, Verdict};

use super::{
    numbered::Numbered,
    offers::Offering,
    pieces::Pieces,
    processes::{Moved, Processes},
    record_order::Sequence,
};
use crate::{
    kernel::command::Offer,
    recorder::{
        Details, Origin, ProcessServing, Serving, containers::ContainerIndex, containers::Containers,
        peer::Peer,
    },
};

/// Most connections that are followed at a time.
pub const CONNECTIONS_MAX: usize = 4096;

/// How long a connection may be silent before it must make room: sockets whose end is not seen would stay forever.
const IDLE_NS: u64 = 15 * 60 * 1_000_000_000;

/// The same for TCP, whose end is seen unless its record is lost.
const IDLE_TCP_NS: u64 = 4 * 3600 * 1_000_000_000;

/// One connection.
#[derive(Debug)]
pub(super) struct Tracked {
    pub l7: Connection,
    pub pieces: Pieces,
    pub sequence: Sequence<Numbered<'static>>,
    pub container: ContainerIndex,
    pub peer: Peer,
    pub local: Peer,
    /// Key in the kernel's table.
    pub socket: u64,
    pub transport: u8,
    /// A process accepted it.
    /// One of [`role`].
    pub role: u8,
    /// The programs follow it.
    pub offloaded: bool,
    pub offering: Offering,
    /// What could be offered when it was listed as such.
    pub offerable: Option<Offer>,
    /// The verdict that the programs know.
    pub verdict: Verdict,
    /// When something was last seen of it, nanoseconds.
    pub last_ns: u64,
    /// When the first held record came, nanoseconds.
    pub waiting_since_ns: u64,
    /// What the client's threads or goroutines served when they sent, the newest last; empty before one that served one request.
    pub calls: VecDeque<Call>,
    /// Of a server: the process, and how many of its requests are open.
    pub process: u32,
    pub open_requests: usize,
    /// Position behind what came of each direction; none where that is not known.
    pub reached: [Option<u64>; 2],
}

/// When a thread or goroutine of a client sent something, one call after the other, and what it served all the while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub by: Details<'static>,
    /// The first one and the last one, nanoseconds.
    pub first_ns: u64,
    pub last_ns: u64,
}

/// Most of one connection that are kept: those of pipelined and of multiplexed requests of several threads.
const CALLS_MAX: usize = 32;

impl Tracked {
    /// Where its exchanges are seen.
    pub fn origin<'a>(&'a self, containers: &'a Containers, details: Details<'a>) -> Origin<'a> {
        Origin {
            container: self.container,
            container_id: containers.id(self.container),
            peer: &self.peer,
            details: Details { local: Some(&self.local), ..details },
        }
    }

    /// A chunk of a server's connection comes.
    pub fn served_by(&mut self, id: u64, chunk: &Chunk, processes: &mut Processes) {
        let (direction, end) = (usize::from(chunk.direction & 1), chunk.offset.saturating_add(chunk.total));
        let reached = self.reached[direction].replace(end);
        let is_other = self.process != chunk.tgid;
        if is_other && self.process != 0 {
            self.leaves(id, chunk.timestamp, false, processes);
            self.open_requests = 0;
        }
        let is_handed_on = is_other && self.process != 0;
        self.process = chunk.tgid;
        if is_handed_on || reached.is_some_and(|reached| reached != chunk.offset) {
            processes.missed(chunk.tgid, chunk.timestamp);
        }
    }

    /// Requests of a server may have begun, and these exchanges ended, so that so many are open; gives what the process served, if that is
    /// one.
    pub fn requests_moved(
        &mut self,
        id: u64,
        (done, after): (&[Exchange], Option<usize>),
        (began_ns, at_ns): (u64, u64),
        processes: &mut Processes,
    ) -> ProcessServing {
        if !self.may_serve() || self.process == 0 {
            return ProcessServing::Unknown;
        }
        let ended: Vec<_> = done.iter().map(|exchange| (exchange.start.0, exchange.end.0)).collect();
        if self.verdict == Verdict::Detecting && self.l7.verdict() != Verdict::Detecting {
            // What was taken for a request until the protocol was detected.
            self.leaves(id, at_ns, false, processes);
            self.open_requests = 0;
        }
        let before = std::mem::replace(&mut self.open_requests, after.unwrap_or(0));
        let moved = Moved { connection: id, before, after, ended: &ended, began_ns, at_ns };
        processes.moved(self.process, &moved)
    }

    /// Whether it may be a server's: of one that was open before, the protocol shows it.
    pub fn may_serve(&self) -> bool {
        match self.role {
            role::ACCEPTED => true,
            role::UNKNOWN => self.l7.side() != Some(Side::Client),
            _ => false,
        }
    }

    /// Whether the thread that serves it may make calls for its requests. Servers of other protocols are databases and the like, which
    /// make none.
    pub fn may_make_calls(&self) -> bool {
        match self.l7.verdict() {
            Verdict::Known(protocol) => {
                matches!(protocol, Protocol::Http1 | Protocol::Http2 | Protocol::Grpc)
            }
            Verdict::Detecting | Verdict::Ignored => true,
        }
    }

    /// Requests that are open; none where that is not known.
    pub fn open_now(&self) -> Option<usize> {
        let is_server = self.l7.side() != Some(Side::Client);
        if is_server { self.l7.open_requests() } else { None }
    }

    /// The connection is followed no longer; by no one, where it is `ignored`.
    pub fn leaves(&self, id: u64, at_ns: u64, ignored: bool, processes: &mut Processes) {
        if self.may_serve() && self.process != 0 {
            processes.left(self.process, (id, self.open_requests), at_ns, ignored);
        }
    }

    /// Keeps what a client's thread or goroutine served when it sent this. A long request is sent by many calls, and its first one counts.
    pub fn sent(&mut self, chunk: &Chunk) {
        if chunk.direction != direction::EGRESS {
            return;
        }
        let process_serving = process_serving(chunk.serving);
        let by = Details { serving: serving(chunk.serving), process_serving, ..moved_by(chunk) };
        let at_ns = chunk.timestamp;
        if let Some(last) = self.calls.back_mut()
            && (last.by.worker(), last.by.serving, last.by.process_serving)
                == (by.worker(), by.serving, by.process_serving)
        {
            last.last_ns = at_ns;
            return;
        }
        if self.calls.is_empty() && !by.serves_one() {
            return;
        }
        if self.calls.len() >= CALLS_MAX {
            self.calls.pop_front();
        }
        self.calls.push_back(Call { by, first_ns: at_ns, last_ns: at_ns });
    }

    /// The details of a client's exchange: with what sent the request, where that served one alone.
    pub fn details_of<'a>(&self, exchange: &Exchange, details: Details<'a>) -> Details<'a> {
        if exchange.side != Side::Client {
            return details;
        }
        let is_in = |call: &&Call| (call.first_ns..=call.last_ns).contains(&exchange.start.0);
        match self.calls.iter().rev().find(is_in) {
            Some(&Call { by, .. }) if by.serves_one() => {
                Details { local: details.local, sampled: details.sampled, ..by }
            }
            _ => details,
        }
    }

    /// Whether it has been silent too long. What the programs aggregate is silent as a rule.
    pub fn is_stale(&self, now_ns: u64) -> bool {
        let limit = if self.transport == transport::TCP { IDLE_TCP_NS } else { IDLE_NS };
        !self.offloaded && now_ns.saturating_sub(self.last_ns) > limit
    }
}

/// The goroutine of a number of [`mod@serving`], if it is one.
pub(super) fn goroutine(number: u8, goroutine: u32) -> Option<u32> {
    (number & serving::GOROUTINE != 0).then_some(goroutine)
}

/// What moved the bytes of a chunk.
pub(super) fn moved_by(chunk: &Chunk) -> Details<'static> {
    let goroutine = goroutine(chunk.serving, chunk.tid);
    let thread = if goroutine.is_none() { chunk.tid } else { 0 };
    Details { process: chunk.tgid, thread, goroutine, ..Details::default() }
}

/// What the programs know of a thread or goroutine, by their number.
pub(super) fn serving(number: u8) -> Serving {
    let sampled = number & serving::REPORTED != 0;
    match number & !(serving::REPORTED | serving::GOROUTINE | serving::PROCESS) {
        serving::ALONE => Serving::One { always: true, sampled },
        serving::ONLY => Serving::One { always: false, sampled },
        _ => Serving::Unknown,
    }
}

/// The same of the process of a client.
pub(super) fn process_serving(number: u8) -> ProcessServing {
    let sampled = number & serving::REPORTED != 0;
    if number & serving::PROCESS != 0 { ProcessServing::One { sampled } } else { ProcessServing::Unknown }
}

/// All connections, by the programs' numbers.
#[derive(Debug, Default)]
pub(super) struct Connections {
    table: HashMap<u64, Tracked>,
    /// Those that the programs do not follow.
    followed: usize,
    /// Offers that are not answered.
    offered: usize,
}

impl Connections {
    /// Whether another one needs others to go first.
    pub fn is_full(&self) -> bool {
        self.table.len() >= CONNECTIONS_MAX
    }

    pub fn contains(&self, id: u64) -> bool {
        self.table.contains_key(&id)
    }

    pub fn get(&self, id: u64) -> Option<&Tracked> {
        self.table.get(&id)
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut Tracked> {
        self.table.get_mut(&id)
    }

    pub fn iter_mut(&mut self) -> hash_map::IterMut<'_, u64, Tracked> {
        self.table.iter_mut()
    }

    pub fn insert(&mut self, id: u64, tracked: Tracked) {
        self.followed += usize::from(!tracked.offloaded);
        self.table.insert(id, tracked);
    }

    pub fn remove(&mut self, id: u64) -> Option<Tracked> {
        let tracked = self.table.remove(&id)?;
        self.followed -= usize::from(!tracked.offloaded);
        self.offered -= usize::from(tracked.offering.is_out());
        Some(tracked)
    }

    /// The programs follow the connection from now on, or do not; returns whether that is new.
    pub fn set_offloaded(&mut self, id: u64, offloaded: bool) -> bool {
        let Some(tracked) = self.table.get_mut(&id) else { return false };
        if std::mem::replace(&mut tracked.offloaded, offloaded) == offloaded {
            return false;
        }
        if offloaded {
            self.followed -= 1;
        } else {
            self.followed += 1;
        }
        true
    }

    /// Something that answers an offer, if one is out.
    pub fn answer_offer(&mut self, id: u64, answer: impl FnOnce(&mut Offering) -> bool) {
        if let Some(tracked) = self.table.get_mut(&id) {
            self.offered -= usize::from(answer(&mut tracked.offering));
        }
    }

    /// An offer is made.
    pub fn make_offer(&mut self, id: u64, is_lasting: bool) {
        if let Some(tracked) = self.table.get_mut(&id) {
            tracked.offering.make(tracked.last_ns, is_lasting);
            self.offered += 1;
        }
    }

    /// The eighth of the connections that has been silent longest. What the programs aggregate is silent as a rule, and goes
    /// only if there is nothing else.
    pub fn longest_silent(&self) -> Vec<u64> {
        let only_offloaded = self.followed == 0;
        let mut by_age: Vec<(u64, u64)> = self
            .table
            .iter()
            .filter(|(_, tracked)| only_offloaded || !tracked.offloaded)
            .map(|(&id, tracked)| (tracked.last_ns, id))
            .collect();
        if by_age.is_empty() {
            return Vec::new();
        }
        let count = by_age.len() / 8;
        by_age.select_nth_unstable(count);
        by_age[..=count].iter().map(|(_, id)| *id).collect()
    }

    /// Connections that the programs do not follow.
    pub fn followed(&self) -> usize {
        self.followed
    }

    /// Offers that are not answered.
    pub fn offered(&self) -> usize {
        self.offered
    }
}
