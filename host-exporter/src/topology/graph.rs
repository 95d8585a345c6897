//! The nodes and edges of one time.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Name, Target, Topology, shown};
use crate::{
    accumulate::golden::Golden,
    history::{History, Points, Recent, STEP, STEPS, StepNumber, range::Range},
    protocol::{Protocol, Side},
};

/// Edges in one answer; further ones are counted in `edges_left_out`.
const EDGES_MAX: usize = 20_000;

/// Who calls whom.
#[derive(Debug, Serialize)]
pub struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Flow>,
    edges_left_out: usize,
    /// TCP connections between the same nodes.
    connections: Vec<Connections>,
    connections_left_out: usize,
    /// What the counts are of: so many seconds before `end_unix_ms`.
    window_seconds: u64,
    end_unix_ms: u64,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It serves requests, or only calls.
    Application,
    /// It serves a database's protocols alone.
    Database,
    /// It serves a broker's protocols alone.
    Broker,
    /// It serves DNS alone.
    NameServer,
    /// A server that is not monitored here, or callers whose end was not observed.
    Outside,
    /// Sandboxes of other tenants.
    AnotherTenant,
}

impl Kind {
    /// What serves these protocols; none of them for what serves nothing.
    fn serving(protocols: &BTreeSet<Protocol>) -> Option<Self> {
        let mut kinds = protocols.iter().map(|protocol| Self::of(*protocol));
        let first = kinds.next()??;
        kinds.all(|kind| kind == Some(first)).then_some(first)
    }

    /// What serves a protocol, where that determines what it is.
    pub(super) fn of(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Mysql
            | Protocol::Postgresql
            | Protocol::Redis
            | Protocol::Mongodb
            | Protocol::Memcached => Some(Self::Database),
            Protocol::Kafka | Protocol::Amqp | Protocol::Nats => Some(Self::Broker),
            Protocol::Dns => Some(Self::NameServer),
            Protocol::Http1 | Protocol::Http2 | Protocol::Grpc | Protocol::Tls => None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Node {
    id: String,
    kind: Kind,
    tenant: String,
    /// The application's name, the table's name, or `address:port`, with the name that its callers looked up in place of the address;
    /// empty where there is none.
    name: String,
    /// The name is one that its callers looked up: their guests' word.
    #[serde(skip_serializing_if = "is_false")]
    looked_up: bool,
    /// Whether it is an application that Porthole monitors on this node.
    monitored: bool,
    /// The protocol that it is called by, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Debug, Serialize)]
struct Flow {
    from: String,
    to: String,
    #[serde(with = "crate::protocol::by_name")]
    protocol: Protocol,
    /// Whose end counted: `client`, or `server` where the client's was not observed.
    #[serde(with = "crate::protocol::by_name")]
    counted_by: Side,
    requests: u64,
    errors: u64,
    /// Requests a second.
    rate: f64,
    seconds: Seconds,
}

/// TCP connections that an application made to one server, whatever was sent over them.
#[derive(Debug, Serialize)]
struct Connections {
    from: String,
    to: String,
    made: u64,
    /// Attempts that failed.
    failed: u64,
    /// Connections that did not end by being closed.
    broken: u64,
    /// Until they were made.
    seconds: Seconds,
}

/// Upper bounds of the buckets with the quantiles; none where the durations of these requests alone are not known.
#[derive(Debug, Default, Serialize)]
struct Seconds {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
}

impl Seconds {
    fn of(golden: &Golden) -> Self {
        let quantile = |q| golden.durations.quantile(q);
        Self { p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99) }
    }
}

/// A node's place in the graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Application(String),
    Address(String),
    /// An address, by the name that its callers looked up.
    LookedUp(String),
    AnotherTenant,
    /// Callers whose end was not observed.
    Callers,
}

impl Place {
    fn of(from: &str, to: &Target) -> Self {
        match to {
            Target::Itself => Self::Application(from.to_owned()),
            Target::Application(name) => Self::Application(name.clone()),
            Target::AnotherTenant => Self::AnotherTenant,
            Target::Named(name) => Self::Address(name.clone()),
            Target::Address(peer, name @ Some(Name::LookedUp(_))) => {
                Self::LookedUp(shown(peer, name.as_ref()))
            }
            Target::Address(peer, name) => Self::Address(shown(peer, name.as_ref())),
        }
    }

    fn id(&self, tenant: &str) -> String {
        // Names may have slashes, and a tenant chooses those of its applications.
        let part = |name: &str| name.replace('%', "%25").replace('/', "%2F");
        let (tenant, name) = (part(tenant), part(self.name()));
        match self {
            Self::Application(_) => format!("application/{tenant}/{name}"),
            Self::Address(_) => format!("address/{tenant}/{name}"),
            Self::LookedUp(_) => format!("looked-up/{tenant}/{name}"),
            Self::AnotherTenant => format!("another-tenant/{tenant}"),
            Self::Callers => format!("callers/{tenant}"),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Application(name) | Self::Address(name) | Self::LookedUp(name) => name,
            Self::AnotherTenant | Self::Callers => "",
        }
    }

    fn kind(&self, served: &BTreeSet<Protocol>) -> Kind {
        match self {
            Self::Application(_) => Kind::serving(served).unwrap_or(Kind::Application),
            Self::Address(_) | Self::LookedUp(_) => Kind::serving(served).unwrap_or(Kind::Outside),
            Self::AnotherTenant => Kind::AnotherTenant,
            Self::Callers => Kind::Outside,
        }
    }
}

/// The graph of one tenant, or of all, over so many steps before the last one's end.
pub fn of(topology: &Topology, history: &History, tenant: Option<&str>, steps: u64) -> Graph {
    let steps = steps.clamp(1, STEPS);
    let range = Range { steps, each: 1, until: None };
    let Recent { end, lines: served, .. } =
        history.points(|name, _| tenant.is_none_or(|tenant| tenant == name), range);
    let from = end.saturating_sub(steps);
    let window_seconds = STEP.as_secs().saturating_mul(steps);
    let mut nodes: BTreeMap<(String, Place), BTreeSet<Protocol>> = BTreeMap::new();
    let mut edges = Vec::new();
    let mut seen_by_clients: BTreeMap<(String, String, Protocol), Golden> = BTreeMap::new();
    // Several addresses of one name are one node.
    let mut calls = BTreeMap::<(String, Place, Place, Protocol), Golden>::new();
    for (tenant, edge, sum) in topology.since(tenant, from) {
        let place = Place::of(&edge.from, &edge.to);
        calls.entry((tenant, Place::Application(edge.from), place, edge.protocol)).or_default().add(&sum);
    }
    for ((tenant, caller, place, protocol), sum) in calls {
        edges.push(Flow {
            from: caller.id(&tenant),
            to: place.id(&tenant),
            protocol,
            counted_by: Side::Client,
            requests: sum.durations.count(),
            errors: sum.errors.total(),
            rate: rate(sum.durations.count(), window_seconds),
            seconds: Seconds::of(&sum),
        });
        nodes.entry((tenant.clone(), caller)).or_default();
        nodes.entry((tenant.clone(), place.clone())).or_default().insert(protocol);
        if let Place::Application(name) = place {
            seen_by_clients.entry((tenant, name, protocol)).or_default().add(&sum);
        }
    }
    for line in served.iter().filter(|line| line.side == Side::Server) {
        let (tenant, name) = (&line.application.tenant, &line.application.service_name);
        let seen = seen_by_clients.get(&(tenant.clone(), name.clone(), line.protocol));
        let Some(further) = Further::of(line, seen, end) else { continue };
        let (callers, place) = (Place::Callers, Place::Application(name.clone()));
        edges.push(Flow {
            from: callers.id(tenant),
            to: place.id(tenant),
            protocol: line.protocol,
            counted_by: Side::Server,
            requests: further.requests,
            errors: further.errors,
            rate: rate(further.requests, window_seconds),
            seconds: further.seconds,
        });
        nodes.entry((tenant.clone(), callers)).or_default();
        nodes.entry((tenant.clone(), place)).or_default().insert(line.protocol);
    }
    let mut connections = Vec::new();
    let mut links = BTreeMap::<(String, Place, Place), Golden>::new();
    for (tenant, link, sum) in topology.connections_since(tenant, from) {
        let place = Place::of(&link.from, &link.to);
        links.entry((tenant, Place::Application(link.from), place)).or_default().add(&sum);
    }
    for ((tenant, caller, place), sum) in links {
        connections.push(Connections {
            from: caller.id(&tenant),
            to: place.id(&tenant),
            made: sum.durations.count(),
            failed: sum.errors.no_response,
            broken: sum.errors.server,
            seconds: Seconds::of(&sum),
        });
        for place in [caller, place] {
            nodes.entry((tenant.clone(), place)).or_default();
        }
    }
    let connections_left_out = connections.len().saturating_sub(EDGES_MAX);
    connections.sort_by(|a, b| {
        (b.failed, b.made).cmp(&(a.failed, a.made)).then_with(|| (&a.from, &a.to).cmp(&(&b.from, &b.to)))
    });
    connections.truncate(EDGES_MAX);
    let edges_left_out = edges.len().saturating_sub(EDGES_MAX);
    // Those with the most requests stay.
    edges.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| (&a.from, &a.to).cmp(&(&b.from, &b.to))));
    edges.truncate(EDGES_MAX);
    let nodes = nodes.into_iter().map(|((tenant, place), served)| Node {
        id: place.id(&tenant),
        kind: place.kind(&served),
        monitored: matches!(place, Place::Application(_)),
        name: place.name().to_owned(),
        looked_up: matches!(place, Place::LookedUp(_)),
        protocol: (served.len() == 1).then(|| served.first().map(|only| only.name())).flatten(),
        tenant,
    });
    let mut nodes: Vec<Node> = nodes.collect();
    if edges_left_out + connections_left_out > 0 {
        let of_edges = edges.iter().flat_map(|edge| [edge.from.as_str(), edge.to.as_str()]);
        let of_connections = connections.iter().flat_map(|of| [of.from.as_str(), of.to.as_str()]);
        let ends: BTreeSet<&str> = of_edges.chain(of_connections).collect();
        nodes.retain(|node| ends.contains(node.id.as_str()));
    }
    let end_unix_ms = end.saturating_mul(STEP.as_secs()).saturating_mul(1_000);
    Graph { nodes, edges, edges_left_out, connections, connections_left_out, window_seconds, end_unix_ms }
}

#[allow(clippy::cast_precision_loss)]
fn rate(requests: u64, seconds: u64) -> f64 {
    requests as f64 / seconds as f64
}

/// What an application served and no client of its tenant reported.
struct Further {
    requests: u64,
    errors: u64,
    seconds: Seconds,
}

impl Further {
    /// Both ends report at times of their own: what was served in the last step may be among the calls of the next one. So no
    /// more than the last step's requests beyond the calls are no sign of further callers yet.
    fn of(line: &Points, seen: Option<&Golden>, end: StepNumber) -> Option<Self> {
        let mut served = Golden::default();
        let mut last = 0;
        for (step, golden) in &line.points {
            served.add(golden);
            if *step == end {
                last = golden.durations.count();
            }
        }
        let nobody = Golden::default();
        let calls = seen.unwrap_or(&nobody);
        let requests = served.durations.count().saturating_sub(calls.durations.count());
        (requests > last).then(|| Self {
            requests,
            errors: served.errors.total().saturating_sub(calls.errors.total()).min(requests),
            // Those of a part of the requests are not known.
            seconds: if seen.is_none() { Seconds::of(&served) } else { Seconds::default() },
        })
    }
}
