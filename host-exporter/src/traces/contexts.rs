//! Both ends of one call by the trace context that its request carries: the caller chose the id of its span for this request alone. It
//! holds where addresses are translated on the way.
//!
//! Several spans have the same ids where a program passes them on as they are, as many proxies do, where it sends a request again, and
//! where another sandbox of the tenant that knows them reports them too. Of those the ones are a call of which the server's end names the
//! client's own address: often only the other address is translated.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    Certainty,
    calls::{Call, begin, fit, sandbox},
};
use crate::{
    ids::{SpanId, TraceId},
    protocol::Side,
    spans::{Context, Kept},
};

/// Finds calls among the spans that are of none yet.
pub(super) fn join(spans: &[Arc<Kept>], joined: &[Call]) -> Vec<Call> {
    let joined: HashSet<usize> = joined.iter().flat_map(|call| [call.client, call.server]).collect();
    let mut left: HashMap<(TraceId, SpanId), [Vec<usize>; 2]> = HashMap::new();
    for (at, kept) in spans.iter().enumerate().filter(|(at, _)| !joined.contains(at)) {
        if let Some(Context { trace, parent: Some(parent), .. }) = kept.span.lineage.context {
            left.entry((trace, parent)).or_default()[usize::from(kept.key.side == Side::Server)].push(at);
        }
    }
    let ends = left.into_values().flat_map(|[clients, servers]| match (&clients[..], &servers[..]) {
        (&[client], &[server]) => vec![(client, server)],
        _ => by_address(spans, &clients, &servers),
    });
    let mut calls: Vec<Call> = ends
        .filter(|&(client, server)| {
            // What a program passes on while it serves a request is no call to itself; both have one clock.
            let [client, server] = [&spans[client], &spans[server]];
            sandbox(client) != sandbox(server) || begin(client) < begin(server)
        })
        .filter_map(|(client, server)| {
            let shift = fit(&spans[client], &spans[server])?;
            Some(Call { client, server, certainty: Certainty::Propagated, shift })
        })
        .collect();
    calls.sort_unstable_by_key(|call| call.server);
    calls
}

/// Clients and servers of which one names the own address of the other, and no other one does or has it.
fn by_address(spans: &[Arc<Kept>], clients: &[usize], servers: &[usize]) -> Vec<(usize, usize)> {
    let mut by_address: HashMap<SocketAddr, [Vec<usize>; 2]> = HashMap::new();
    for &at in clients {
        if let Some(connection) = spans[at].reception.connection.filter(|connection| connection.is_own) {
            by_address.entry(connection.local).or_default()[0].push(at);
        }
    }
    for &at in servers {
        if let Some(connection) = spans[at].reception.connection {
            by_address.entry(connection.remote).or_default()[1].push(at);
        }
    }
    let pairs = by_address.into_values().filter_map(|ends| match ends.each_ref().map(Vec::as_slice) {
        [&[client], &[server]] => Some((client, server)),
        _ => None,
    });
    pairs.collect()
}
