//! Within a sandbox: which server's span a client's span was made during.
//!
//! Of an agent that numbers its spans what it reports counts. Of spans without numbers it is concluded from threads: a thread that serves one request after the other makes calls for the request that it serves. A
//! thread that has several requests in progress, an event loop, does not: which one a call is for cannot be found by times, so its calls
//! stay where they are. That it is one is known when two of its requests, or two of its calls over separate connections, overlap. What is
//! below none then, the trace contexts of request and call join.

use std::{collections::HashMap, sync::Arc};

use super::calls::{SLACK_NS, begin, end, sandbox};
use crate::{
    protocol::{ParentCertainty, Side},
    spans::{Connection, Kept},
};

/// A thread of a sandbox.
type Thread = (usize, u32, u32);

/// A client's span and the server's span that it belongs to, by their places, and how that is known.
pub(super) type Within = (usize, usize, ParentCertainty);

/// Clients' spans with the servers' spans that they belong to.
pub(super) fn link(spans: &[Arc<Kept>]) -> Vec<Within> {
    let mut links = by_number(spans);
    links.extend(by_thread(spans));
    links.extend(by_context(spans));
    links
}

/// By the trace that both requests carry, where an agent or a thread shows no parent: the program passed it on. The call has to be made
/// within the time of the request, and of no other request of that trace to that sandbox.
fn by_context(spans: &[Arc<Kept>]) -> Vec<Within> {
    let context = |kept: &Kept| kept.span.lineage.context.map(|context| (sandbox(kept), context.trace));
    let mut servers: HashMap<_, Vec<usize>> = HashMap::new();
    for (at, kept) in spans.iter().enumerate().filter(|(_, kept)| kept.key.side == Side::Server) {
        if let Some(context) = context(kept) {
            servers.entry(context).or_default().push(at);
        }
    }
    let clients = spans.iter().enumerate().filter(|(_, kept)| kept.key.side == Side::Client);
    let links = clients.filter_map(|(at, kept)| {
        let is_within = |server: &&usize| {
            let server = &spans[**server];
            begin(server) <= begin(kept) && end(kept) <= end(server) + SLACK_NS
        };
        let mut during = servers.get(&context(kept)?)?.iter().filter(is_within);
        let server = during.next()?;
        during.next().is_none().then_some((at, *server, ParentCertainty::Propagated))
    });
    links.collect()
}

/// What agents report. The number of a parent can be that of another request, before the agent was started again, so the call has to
/// begin during the request; both have one clock.
fn by_number(spans: &[Arc<Kept>]) -> Vec<Within> {
    // None where a number is there twice: an agent that was started again numbers anew.
    let mut servers: HashMap<(usize, u64), Option<usize>> = HashMap::new();
    for (at, kept) in spans.iter().enumerate() {
        let number = kept.span.lineage.number;
        if kept.key.side == Side::Server && number != 0 {
            servers.entry((sandbox(kept), number)).and_modify(|server| *server = None).or_insert(Some(at));
        }
    }
    let clients = spans.iter().enumerate().filter(|(_, kept)| kept.key.side == Side::Client);
    let links = clients.filter_map(|(at, kept)| {
        let lineage = &kept.span.lineage;
        let server = servers.get(&(sandbox(kept), lineage.parent)).copied().flatten()?;
        let during = begin(&spans[server])..=end(&spans[server]) + SLACK_NS;
        let certainty = lineage.certainty?;
        during.contains(&begin(kept)).then_some((at, server, certainty))
    });
    links.collect()
}

/// What can be concluded from threads of agents that do not number their spans.
fn by_thread(spans: &[Arc<Kept>]) -> Vec<Within> {
    let mut threads: HashMap<Thread, [Vec<usize>; 2]> = HashMap::new();
    for (at, kept) in spans.iter().enumerate() {
        if kept.span.thread_id != 0 && kept.span.lineage.number == 0 {
            let thread = (sandbox(kept), kept.span.process_id, kept.span.thread_id);
            let of_side = &mut threads.entry(thread).or_default()[usize::from(kept.key.side == Side::Client)];
            of_side.push(at);
        }
    }
    let mut links = Vec::new();
    for [mut servers, mut clients] in threads.into_values() {
        let by_begin = |at: &usize| begin(&spans[*at]);
        servers.sort_unstable_by_key(by_begin);
        clients.sort_unstable_by_key(by_begin);
        let several_requests = overlap(spans, &servers, |_| None);
        if several_requests || overlap(spans, &clients, |kept| kept.reception.connection) {
            continue;
        }
        for client in clients {
            let before = servers.partition_point(|server| by_begin(server) <= by_begin(&client));
            let server = before.checked_sub(1).map(|last| servers[last]);
            links.extend(
                server
                    .filter(|server| end(&spans[client]) <= end(&spans[*server]))
                    .map(|server| (client, server, ParentCertainty::Thread)),
            );
        }
    }
    links
}

/// Whether two of these spans, which are sorted by their beginnings, overlap and are not of one connection.
fn overlap(spans: &[Arc<Kept>], sorted: &[usize], connection: impl Fn(&Kept) -> Option<Connection>) -> bool {
    let mut latest: Option<&Kept> = None;
    for &at in sorted {
        let kept = &spans[at];
        if let Some(before) = latest
            && end(before) > begin(kept)
        {
            let (one, other) = (connection(before), connection(kept));
            if one.is_none() || one != other {
                return true;
            }
        }
        if latest.is_none_or(|before| end(before) < end(kept)) {
            latest = Some(kept);
        }
    }
    false
}
