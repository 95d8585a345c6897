//! Who calls whom, over the last hour.
//!
//! ```text
//! accumulate: calls of each sandbox ──► every 15 s: addresses to names ──► the hour of each edge
//!                                             ▲                                   │
//!         records, table, cluster's API, lookups                       ▼
//!                          history: what each application served ──────────► graph: nodes and edges
//! ```
//!
//! A connection has two ends, and often both are observed. *The client's end counts*: it knows whom it called, and how long that
//! took with the way there; what a server served is not added to it. Of what a server served beyond the calls of its
//! tenant's clients the client's end was not observed: that comes from outside ([`graph`]).
//!
//! Beside the calls are the TCP connections that containers make, by the same names: a server that is down is called by no request.
//!
//! Invariants:
//! - an edge belongs to the tenant whose guest counted it. What a guest reports changes no other tenant's edges;
//! - names of applications come from the host alone ([`addresses`]); of other tenants there is only that it was one. An address that the host
//!   has no name for is shown with the name that the guest looked up, to its own tenant;
//! - memory is bounded, in all and by tenant: [`EDGES_PER_TENANT_MAX`], and the budget of the hour.

pub mod addresses;
pub mod exposed;
pub mod graph;
pub mod names;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use parking_lot::{Mutex, RwLock};

use self::{
    addresses::AddressBook,
    exposed::{ExposedEdge, TenantEdges},
    names::{Names, NamesError},
};
use crate::{
    accumulate::{budget::Charge, cost, golden::Golden, series::OTHER},
    clock,
    fleet::{Fleet, sandbox::Sandbox},
    history::{
        StepNumber,
        hour::{Hour, Line, LineKey},
        step::PackedGolden,
    },
    kubernetes::table::Cluster,
    peer::{Peer, joined},
    protocol::Protocol,
};

/// Edges of one tenant; calls to further servers are counted as calls to `other`. As many for connections.
pub const EDGES_PER_TENANT_MAX: usize = 5_000;

/// Part of the budget that connections may hold.
const CONNECTIONS_PART: usize = 4;

/// Whom an application calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A server within the same sandbox.
    Itself,
    /// An application of the same tenant.
    Application(String),
    /// A sandbox of another tenant.
    AnotherTenant,
    /// What the host's table names.
    Named(String),
    /// An address that is none of this node's, with a name where there is one.
    Address(Peer, Option<Name>),
}

/// What an address is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A Service or a Pod with its namespace, by the cluster's API.
    Cluster(Box<str>),
    /// The name for which the caller looked it up: its guest's word.
    LookedUp(Box<str>),
}

impl Name {
    fn text(&self) -> &str {
        match self {
            Self::Cluster(name) | Self::LookedUp(name) => name,
        }
    }
}

/// An address as it is shown: by its name, if it has one.
fn shown(peer: &Peer, name: Option<&Name>) -> String {
    name.map_or_else(|| peer.to_string(), |name| joined(name.text(), &peer.port()))
}

/// What the host knows of addresses besides the sandboxes' own.
#[derive(Clone, Debug, Default)]
pub struct HostNames {
    table: Arc<Names>,
    cluster: Option<Arc<Cluster>>,
}

impl Target {
    /// Bytes of memory besides its own.
    fn bytes(&self) -> usize {
        match self {
            Self::Itself | Self::AnotherTenant => 0,
            Self::Application(name) | Self::Named(name) => cost::text(name),
            Self::Address(peer, name) => {
                let texts = peer.texts().into_iter().chain(name.as_ref().map(Name::text));
                texts.map(cost::text).sum()
            }
        }
    }
}

/// An edge of a tenant's graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    /// The calling application.
    from: String,
    to: Target,
    protocol: Protocol,
}

impl LineKey for Edge {
    const STAYS_WITHOUT_STEPS: bool = false;

    fn bytes(&self) -> usize {
        cost::text(&self.from) + self.to.bytes()
    }
}

/// An application and what its connections go to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    from: String,
    to: Target,
}

impl LineKey for Link {
    const STAYS_WITHOUT_STEPS: bool = false;

    fn bytes(&self) -> usize {
        cost::text(&self.from) + self.to.bytes()
    }
}

/// What a call or a connection goes to, where there is no room for a further one.
fn of_others() -> Target {
    Target::Address(Peer::of(OTHER, ""), None)
}

/// The line of a key; that of [`of_others`] beyond the bound.
fn line_of<K: LineKey>(
    lines: &mut BTreeMap<K, Line>,
    mut key: K,
    target: impl FnOnce(&mut K) -> &mut Target,
) -> &mut Line {
    if lines.len() >= EDGES_PER_TENANT_MAX && !lines.contains_key(&key) {
        *target(&mut key) = of_others();
    }
    lines.entry(key).or_default()
}

/// The tenants that have lines, or the one that is wanted.
fn tenants_of<K: LineKey>(hour: &Mutex<Hour<K>>, wanted: Option<&str>) -> Vec<String> {
    wanted.map_or_else(|| hour.lock().names(), |tenant| vec![tenant.to_owned()])
}

/// The sums of one tenant's lines, or of all tenants', from a step on. It is locked for one tenant at a time.
fn sums<K: LineKey + Clone>(
    hour: &Mutex<Hour<K>>,
    tenant: Option<&str>,
    from: StepNumber,
) -> Vec<(String, K, Golden)> {
    let mut sums = Vec::new();
    for name in tenants_of(hour, tenant) {
        let hour = hour.lock();
        let Some(held) = hour.of(&name) else { continue };
        for (key, line) in &held.lines {
            let mut sum = Golden::default();
            for (_, packed) in line.since(from) {
                sum.add(&packed.unpack());
            }
            if sum.durations.count() > 0 || sum.errors.total() > 0 {
                sums.push((name.clone(), key.clone(), sum));
            }
        }
    }
    sums
}

/// The edges of the last hour.
#[derive(Debug)]
pub struct Topology {
    /// Bytes that it may hold.
    budget: usize,
    hour: Mutex<Hour<Edge>>,
    connections: Mutex<Hour<Link>>,
    /// What each tenant's edges and addresses take of its part of a scrape.
    charges: Mutex<BTreeMap<String, Charge>>,
    names: RwLock<HostNames>,
}

impl Topology {
    /// Without edges; it holds at most `budget` bytes.
    pub fn new(budget: usize) -> Self {
        Self {
            budget,
            hour: Mutex::default(),
            connections: Mutex::default(),
            charges: Mutex::default(),
            names: RwLock::default(),
        }
    }

    /// Reads the table of names, again or for the first time. The names before stay where it cannot be used.
    pub fn read_names(&self, path: &Path) -> Result<(), NamesError> {
        let names = Names::read(path)?;
        self.names.write().table = Arc::new(names);
        Ok(())
    }

    /// Addresses have the names of this cluster's Services and Pods.
    pub fn follow(&self, cluster: Arc<Cluster>) {
        self.names.write().cluster = Some(cluster);
    }

    /// What the host knows.
    pub fn names(&self) -> HostNames {
        self.names.read().clone()
    }

    /// Takes the calls and the connections of all sandboxes at the end of a step. What they hold is locked for one sandbox at a time, and
    /// not while names are looked for.
    pub fn record(&self, step: StepNumber, fleet: &Fleet) {
        let mut sandboxes = fleet.sandboxes();
        let book = AddressBook::of(sandboxes.iter().map(|sandbox| &**sandbox), clock::unix_ms());
        let names = self.names();
        sandboxes.sort_by(|a, b| a.identity.tenant.cmp(&b.identity.tenant));
        for of_tenant in sandboxes.chunk_by(|a, b| a.identity.tenant == b.identity.tenant) {
            for sandbox in of_tenant {
                self.record_sandbox(step, sandbox, &book, &names);
            }
            self.fit_with(&of_tenant[0].identity.tenant);
        }
        let connections_held = {
            let mut connections = self.connections.lock();
            connections.end(step, self.budget / CONNECTIONS_PART, |_, _| false);
            connections.held()
        };
        self.hour.lock().end(step, self.budget.saturating_sub(connections_held), |_, _| false);
        self.admit(fleet);
    }

    /// Keeps within the budget when a tenant's lines were recorded, so that a step takes no more than one tenant's above it.
    fn fit_with(&self, tenant: &str) {
        self.connections.lock().fit_with(tenant, self.budget / CONNECTIONS_PART);
        self.hour.lock().fit_with(tenant, self.budget);
    }

    /// Takes the calls and the connections of one sandbox.
    fn record_sandbox(&self, step: StepNumber, sandbox: &Sandbox, book: &AddressBook, names: &HostNames) {
        let calls = sandbox.accumulator.lock().take_calls();
        let (increments, looked_up) = {
            let mut dependencies = sandbox.dependencies.lock();
            (dependencies.take_increments(), dependencies.names())
        };
        let (tenant, from) = (&sandbox.identity.tenant, &sandbox.application().service_name);
        let target =
            |address: &str, port: &str| book.target(sandbox, Peer::of(address, port), names, &looked_up);
        if !calls.is_empty() {
            let edges = calls.into_iter().map(|(call, increment)| {
                let to = target(&call.address, &call.port);
                (Edge { from: from.clone(), to, protocol: call.protocol }, increment)
            });
            let edges: Vec<_> = edges.collect();
            let mut hour = self.hour.lock();
            let lines = &mut hour.tenant(tenant).lines;
            for (edge, increment) in edges {
                let line = line_of(lines, edge, |edge| &mut edge.to);
                line.add(step, &increment);
                let mut totals = line.totals.unpack();
                totals.add(&increment);
                line.totals = PackedGolden::from(&totals);
            }
        }
        if !increments.is_empty() {
            let new = increments.into_iter().map(|([address, port], increment)| {
                (Link { from: from.clone(), to: target(&address, &port) }, increment)
            });
            let new: Vec<_> = new.collect();
            let mut connections = self.connections.lock();
            let lines = &mut connections.tenant(tenant).lines;
            for (link, increment) in new {
                line_of(lines, link, |link| &mut link.to).add(step, &increment);
            }
        }
    }

    /// Decides which edges scrapes show: as many as their tenants' parts have room for. One that is shown stays.
    fn admit(&self, fleet: &Fleet) {
        let tenants = self.hour.lock().names();
        let mut charges = self.charges.lock();
        charges.retain(|tenant, _| tenants.contains(tenant));
        for name in tenants {
            let mut hour = self.hour.lock();
            let Some(tenant) = hour.of_mut(&name) else { continue };
            let charge =
                charges.entry(name.clone()).or_insert_with(|| Charge::new(fleet.tenant_budget(&name)));
            let bytes = |edge: &Edge| ExposedEdge::of(edge, Golden::default()).bytes(&name);
            let shown =
                tenant.lines.iter().filter(|(_, line)| line.exposed).map(|(edge, _)| bytes(edge)).sum();
            charge.set_exposed(shown);
            for (edge, line) in tenant.lines.iter_mut().filter(|(_, line)| !line.exposed) {
                line.exposed = charge.budget().exposed.admits(bytes(edge));
                if line.exposed {
                    charge.set_exposed(charge.exposed() + bytes(edge));
                }
            }
        }
    }

    /// The edges of one tenant, or of all, as scrapes show them.
    pub fn exposed(&self, of: Option<&str>) -> Vec<TenantEdges> {
        let tenants = tenants_of(&self.hour, of).into_iter().filter_map(|name| {
            let hour = self.hour.lock();
            let tenant = hour.of(&name)?;
            let shown = tenant.lines.iter().filter(|(_, line)| line.exposed);
            let edges: Vec<_> =
                shown.map(|(edge, line)| ExposedEdge::of(edge, line.totals.unpack())).collect();
            let left_out = tenant.lines.len() - edges.len();
            Some(TenantEdges { tenant: name, left_out, edges: ExposedEdge::merged(edges) })
        });
        tenants.collect()
    }

    /// Drops some of it: the oldest five minutes of the tenant that holds the most.
    pub fn shed(&self) {
        let (mut hour, mut connections) = (self.hour.lock(), self.connections.lock());
        if connections.held() > hour.held() / CONNECTIONS_PART {
            connections.shed();
        } else {
            hour.shed();
        }
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        self.hour.lock().held() + self.connections.lock().held()
    }

    /// The sums of one tenant's edges, or of all tenants', from a step on.
    fn since(&self, tenant: Option<&str>, from: StepNumber) -> Vec<(String, Edge, Golden)> {
        sums(&self.hour, tenant, from)
    }

    /// The same of connections: their durations are the times until they were made, `no_response` the attempts that failed.
    fn connections_since(&self, tenant: Option<&str>, from: StepNumber) -> Vec<(String, Link, Golden)> {
        sums(&self.connections, tenant, from)
    }
}

#[cfg(test)]
mod tests;
