//! Both ends of one call: which client's span and which server's span are of the same request.
//!
//! Both sandboxes report the connection, each from its end. That it is one connection is certain; which of its requests are the same is
//! found by time. Both clocks differ by something that the host knows within bounds ([`crate::guest_clock`]), and a server serves a
//! request while its client waits, so each pair of spans that could be one call bounds the difference of the clocks further. Pairs
//! that are right agree about it; a pair that contradicts them is none. Where both ends read the ids of a trace context in the request,
//! these distinguish the requests of a connection, whatever the clocks are worth.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    Certainty,
    interval::{self, Interval},
};
use crate::{accumulate::series::OTHER, protocol::Side, spans::Kept};

/// How far the times of both ends may contradict each other, nanoseconds: a read or write is noted when it returns, and the other end
/// may have returned before.
pub(super) const SLACK_NS: i128 = 2_000_000;

/// Over what time pairs agree about the difference of the clocks, nanoseconds: beyond it a clock may have been set.
const AGREEMENT_NS: i128 = 10_000_000_000;

/// Spans of the other end that are compared with one client's span. A connection with more at one time is too ambiguous.
const COMPARED_MAX: usize = 256;

/// Candidates of a connection, for each of its spans. A connection with more is too ambiguous. Each span is of one connection, so this
/// bounds a tenant's as well, and no sandbox uses up what its neighbours' connections may have.
pub(super) const CANDIDATES_PER_SPAN: usize = 4;

/// How exactly the difference of the clocks must be known for pairing in order, nanoseconds.
const ORDER_NS: i128 = 100_000_000;

/// Both ends of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Its client's span.
    pub client: usize,
    /// Its server's span.
    pub server: usize,
    /// How it is known.
    pub certainty: Certainty,
    /// What the clock of the server's guest has to be moved by to show the time of the client's.
    pub shift: Interval,
}

/// Spans that could be of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    call: Call,
    connection: usize,
    /// The client's beginning by the host's clock, for comparing.
    at: i128,
    /// Both requests carry the same ids, and those of no other span of the connection.
    same_ids: bool,
    ruled_out: bool,
}

/// A connection: its client's end, its server's, and the sandbox that it is within.
type Key = (SocketAddr, SocketAddr, Option<usize>);

/// Finds the calls of which both ends are among the spans, by their connections.
pub(super) fn join(spans: &[Arc<Kept>]) -> Vec<Call> {
    let mut calls: Vec<Call> = pairs(spans).into_values().flat_map(|pair| pair.resolve(spans)).collect();
    // An address that two sandboxes have, in networks that do not know each other.
    let mut uses: HashMap<usize, usize> = HashMap::new();
    calls
        .iter()
        .flat_map(|call| [call.client, call.server])
        .for_each(|end| *uses.entry(end).or_default() += 1);
    calls.retain(|call| uses[&call.client] == 1 && uses[&call.server] == 1);
    calls.sort_unstable_by_key(|call| call.server);
    calls
}

/// What could be calls, by the sandboxes of both ends.
pub(super) fn pairs(spans: &[Arc<Kept>]) -> HashMap<(usize, usize), Pair> {
    let mut connections: HashMap<Key, [Vec<usize>; 2]> = HashMap::new();
    for (at, kept) in spans.iter().enumerate() {
        let Some(connection) = kept.reception.connection else { continue };
        // An end that is not the sandbox's own is a claim about another's.
        if !connection.is_own && !connection.is_inside() {
            continue;
        }
        let (client, server, side) = match kept.key.side {
            Side::Client => (connection.local, connection.remote, 0),
            Side::Server => (connection.remote, connection.local, 1),
        };
        let inside = connection.is_inside().then(|| sandbox(kept));
        connections.entry((client, server, inside)).or_default()[side].push(at);
    }
    let mut pairs: HashMap<(usize, usize), Pair> = HashMap::new();
    for (connection, [clients, servers]) in connections.into_values().enumerate() {
        for call in of_connection(spans, &clients, servers).unwrap_or_default() {
            let pair = pairs.entry((sandbox(&spans[call.client]), sandbox(&spans[call.server]))).or_default();
            let at = at_host(&spans[call.client]).low;
            let same_ids = ids_agree(&spans[call.client], &spans[call.server]) == Some(true);
            pair.candidates.push(Candidate { call, connection, at, same_ids, ruled_out: false });
        }
    }
    pairs
}

/// A sandbox has one identity for all of its spans.
pub(super) fn sandbox(kept: &Kept) -> usize {
    Arc::as_ptr(&kept.identity).addr()
}

pub(super) fn begin(kept: &Kept) -> i128 {
    kept.span.start_unix_ns.into()
}

pub(super) fn end(kept: &Kept) -> i128 {
    begin(kept) + i128::from(kept.span.duration_ns)
}

/// A span's beginning by the host's clock.
fn at_host(kept: &Kept) -> Interval {
    let offset = kept.reception.offset;
    Interval { low: begin(kept) + i128::from(offset.low_ns), high: begin(kept) + i128::from(offset.high_ns) }
}

/// What can be calls over one connection; none of one that is too ambiguous.
fn of_connection(spans: &[Arc<Kept>], clients: &[usize], mut servers: Vec<usize>) -> Option<Vec<Call>> {
    servers.sort_unstable_by_key(|&at| at_host(&spans[at]).low);
    let bounds = servers.iter().map(|&at| at_host(&spans[at]));
    let widest = bounds.map(|bounds| bounds.high - bounds.low).max().unwrap_or_default();
    let most = CANDIDATES_PER_SPAN * (clients.len() + servers.len());
    let mut calls = Vec::new();
    for &client in clients {
        let kept = &spans[client];
        let begins = at_host(kept);
        let from = begins.low - SLACK_NS - widest;
        let to = begins.high + i128::from(kept.span.duration_ns) + SLACK_NS;
        let first = servers.partition_point(|&at| at_host(&spans[at]).low < from);
        let near = servers[first..].iter().take_while(|&&at| at_host(&spans[at]).low <= to);
        for (compared, &server) in near.enumerate() {
            if compared == COMPARED_MAX {
                return None;
            }
            let Some(shift) = fit(kept, &spans[server]) else { continue };
            if ids_agree(kept, &spans[server]) == Some(false) {
                continue;
            }
            if calls.len() == most {
                return None;
            }
            calls.push(Call { client, server, certainty: Certainty::Connection, shift });
        }
    }
    Some(calls)
}

/// Whether the requests of two spans of one connection carry the same ids. None where that is not known: an agent does not find the
/// context of every request.
fn ids_agree(client: &Kept, server: &Kept) -> Option<bool> {
    let [client, server] = [client, server].map(|kept| kept.span.lineage.context);
    let (client, server) = (client?, server?);
    if client.trace != server.trace || client.parent != server.parent {
        return Some(false);
    }
    client.parent.map(|_| true)
}

/// By which difference of their clocks two spans can be one call, if they can.
pub(super) fn fit(client: &Kept, server: &Kept) -> Option<Interval> {
    // A server has a request after its client sent it, and the client has the response after the server sent it.
    let causal = Interval {
        low: begin(client) - begin(server) - SLACK_NS,
        high: end(client) - end(server) + SLACK_NS,
    };
    let shift = clocks(client, server).and(causal)?;
    let (of_client, of_server) = (client.key.labels(), server.key.labels());
    // Of what exceeded a bound the name is not known, and of what got no response the status.
    let agree = |one: &str, other: &str| one == other || [one, other].contains(&OTHER);
    let has_statuses = !of_client.status.is_empty() && !of_server.status.is_empty();
    let is_same = client.key.protocol == server.key.protocol
        && agree(of_client.operation, of_server.operation)
        && (!has_statuses || agree(of_client.status, of_server.status));
    is_same.then_some(shift)
}

/// What the host knows of the difference of two spans' clocks.
fn clocks(client: &Kept, server: &Kept) -> Interval {
    if sandbox(client) == sandbox(server) {
        return Interval::ZERO;
    }
    let [client, server] = [client, server].map(|kept| kept.reception.offset);
    Interval {
        low: i128::from(server.low_ns) - i128::from(client.high_ns),
        high: i128::from(server.high_ns) - i128::from(client.low_ns),
    }
}

/// What could be calls of one sandbox to another one.
#[derive(Default)]
pub(super) struct Pair {
    pub candidates: Vec<Candidate>,
}

impl Pair {
    fn resolve(mut self, spans: &[Arc<Kept>]) -> Vec<Call> {
        self.candidates.sort_by_key(|candidate| (candidate.at, candidate.call.client, candidate.call.server));
        self.prefer_same_ids();
        // Each round rules out at least one; a few are enough for what honest sandboxes report.
        for _ in 0..4 {
            if !self.narrow() {
                break;
            }
        }
        let mut calls: Vec<Call> = self.only_ones().map(|at| self.candidates[at].call).collect();
        calls.extend(self.in_order(spans));
        calls
    }

    /// Of candidates with the same ids the ones count whose ends have them with no other; they rule out others of these ends.
    fn prefer_same_ids(&mut self) {
        let mut uses: [HashMap<usize, usize>; 2] = Default::default();
        let ends = |call: &Call| [call.client, call.server];
        for candidate in self.candidates.iter().filter(|candidate| candidate.same_ids) {
            for (uses, end) in uses.iter_mut().zip(ends(&candidate.call)) {
                *uses.entry(end).or_default() += 1;
            }
        }
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.same_ids) {
            candidate.same_ids = uses.iter().zip(ends(&candidate.call)).all(|(uses, end)| uses[&end] == 1);
        }
        let [clients, servers] = [|call: &Call| call.client, |call: &Call| call.server].map(|end| {
            let same = self.candidates.iter().filter(|candidate| candidate.same_ids);
            same.map(|candidate| end(&candidate.call)).collect::<HashSet<_>>()
        });
        for candidate in self.candidates.iter_mut().filter(|candidate| !candidate.same_ids) {
            let call = &candidate.call;
            candidate.ruled_out |= clients.contains(&call.client) || servers.contains(&call.server);
        }
    }

    /// Candidates of which each end fits to the other alone.
    fn only_ones(&self) -> impl Iterator<Item = usize> {
        let mut uses: HashMap<(usize, usize), usize> = HashMap::new();
        let left = self.candidates.iter().filter(|candidate| !candidate.ruled_out);
        let ends = left.flat_map(|candidate| [(0, candidate.call.client), (1, candidate.call.server)]);
        for end in ends {
            *uses.entry(end).or_default() += 1;
        }
        (0..self.candidates.len()).filter(move |&at| {
            let Candidate { call, ruled_out, .. } = self.candidates[at];
            !ruled_out && uses[&(0, call.client)] == 1 && uses[&(1, call.server)] == 1
        })
    }

    /// Rules out what contradicts those that are certain by themselves; whether there was something.
    fn narrow(&mut self) -> bool {
        let mut by_time: HashMap<i128, Vec<usize>> = HashMap::new();
        for at in self.only_ones() {
            by_time.entry(self.candidates[at].at.div_euclid(AGREEMENT_NS)).or_default().push(at);
        }
        let agreed: HashMap<i128, Option<Interval>> = by_time
            .into_iter()
            .map(|(time, certain)| {
                let shifts: Vec<_> = certain.iter().map(|&at| self.candidates[at].call.shift).collect();
                // Without a majority none of them is certain.
                let best = interval::most_common(&shifts).filter(|(_, agree)| 2 * agree > shifts.len());
                (time, best.map(|(best, _)| best))
            })
            .collect();
        let mut ruled_out = false;
        for candidate in self.candidates.iter_mut().filter(|candidate| !candidate.ruled_out) {
            let Some(agreed) = agreed.get(&candidate.at.div_euclid(AGREEMENT_NS)) else { continue };
            if let Some(shift) = agreed.and_then(|agreed| agreed.and(candidate.call.shift)) {
                candidate.call.shift = shift;
            } else if !candidate.same_ids {
                candidate.ruled_out = true;
                ruled_out = true;
            }
        }
        ruled_out
    }

    /// Pairs what is left of a connection in order, where as many requests as responses of it are left, one after the other at both
    /// ends, and all pairs agree.
    fn in_order(&self, spans: &[Arc<Kept>]) -> Vec<Call> {
        let certain: Vec<_> = self.only_ones().collect();
        let mut by_connection: HashMap<usize, Vec<Call>> = HashMap::new();
        for (at, candidate) in self.candidates.iter().enumerate() {
            if !candidate.ruled_out && certain.binary_search(&at).is_err() {
                by_connection.entry(candidate.connection).or_default().push(candidate.call);
            }
        }
        let mut calls = Vec::new();
        for left in by_connection.into_values() {
            let ends = [|call: &Call| call.client, |call: &Call| call.server].map(|end| {
                let mut ends: Vec<usize> = left.iter().map(end).collect();
                ends.sort_unstable_by_key(|&at| (begin(&spans[at]), at));
                ends.dedup();
                ends
            });
            let [clients, servers] = ends;
            let one_by_one =
                |ends: &[usize]| ends.windows(2).all(|two| end(&spans[two[0]]) <= begin(&spans[two[1]]));
            if clients.len() != servers.len() || !one_by_one(&clients) || !one_by_one(&servers) {
                continue;
            }
            let paired = clients.iter().zip(&servers).map(|(&client, &server)| {
                left.iter().find(|call| call.client == client && call.server == server).copied()
            });
            let Some(paired) = paired.collect::<Option<Vec<_>>>() else { continue };
            let is_exact = |call: &Call| {
                let clocks = clocks(&spans[call.client], &spans[call.server]);
                clocks.high - clocks.low <= ORDER_NS
            };
            if !paired.iter().all(is_exact) {
                continue;
            }
            let common = paired.iter().map(|call| call.shift).try_fold(paired[0].shift, Interval::and);
            let Some(shift) = common else { continue };
            calls.extend(paired.into_iter().map(|call| Call { shift, ..call }));
        }
        calls
    }
}
