//! Who calls whom, over the last hour.
//!
//! ```text
//! accumulate: calls of each sandbox ──► every 15 s: addresses to names ──► the hour of each edge
//!                                             ▲                                   │
//!                    registry's records, table of addresses                       ▼
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
//! - names of addresses come from the host alone ([`addresses`]); of other tenants there is only that it was one;
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
    /// An address, with its port, of which the host knows no more; empty where the guest does not know it.
    Address(String),
}

impl Target {
    fn text(&self) -> &str {
        match self {
            Self::Itself | Self::AnotherTenant => "",
            Self::Application(name) | Self::Named(name) | Self::Address(name) => name,
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
        cost::text(&self.from) + cost::text(self.to.text())
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
        cost::text(&self.from) + cost::text(self.to.text())
    }
}

/// What a call or a connection goes to, where there is no room for a further one.
fn of_others() -> Target {
    Target::Address(OTHER.to_owned())
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

/// The sums of one tenant's lines, or of all tenants', from a step on.
fn sums<K: LineKey + Clone>(
    hour: &Hour<K>,
    tenant: Option<&str>,
    from: StepNumber,
) -> Vec<(String, K, Golden)> {
    let mut sums = Vec::new();
    let wanted = hour.iter().filter(|(name, _)| tenant.is_none_or(|tenant| tenant == *name));
    for (name, held) in wanted {
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
    names: RwLock<Names>,
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
        *self.names.write() = names;
        Ok(())
    }

    /// What a sandbox's containers call at an address and a port.
    pub fn target(&self, book: &AddressBook, caller: &Sandbox, at: [&str; 2]) -> Target {
        book.target(caller, at, &self.names.read())
    }

    /// Takes the calls and the connections of all sandboxes at the end of a step.
    pub fn record(&self, step: StepNumber, fleet: &Fleet) {
        let sandboxes = fleet.sandboxes();
        let book = AddressBook::of(sandboxes.iter().map(|sandbox| &**sandbox), clock::unix_ms());
        let names = self.names.read();
        let connections_held = self.record_connections(step, &sandboxes, &book, &names);
        let mut hour = self.hour.lock();
        for sandbox in &sandboxes {
            let calls = sandbox.accumulator.lock().take_calls();
            if calls.is_empty() {
                continue;
            }
            let lines = &mut hour.tenant(&sandbox.identity.tenant).lines;
            for (call, came) in calls {
                let from = sandbox.application().service_name.clone();
                let to = book.target(sandbox, [&call.address, &call.port], &names);
                let edge = Edge { from, to, protocol: call.protocol };
                let line = line_of(lines, edge, |edge| &mut edge.to);
                line.add(step, &came);
                let mut totals = line.totals.unpack();
                totals.add(&came);
                line.totals = PackedGolden::from(&totals);
            }
        }
        hour.end(step, self.budget.saturating_sub(connections_held), |_, _| false);
        self.admit(&mut hour, fleet);
    }

    /// Takes the connections; gives the bytes that they hold.
    fn record_connections(
        &self,
        step: StepNumber,
        sandboxes: &[Arc<Sandbox>],
        book: &AddressBook,
        names: &Names,
    ) -> usize {
        let mut hour = self.connections.lock();
        for sandbox in sandboxes {
            let came = sandbox.dependencies.lock().take_came();
            for ([address, port], came) in came {
                let lines = &mut hour.tenant(&sandbox.identity.tenant).lines;
                let from = sandbox.application().service_name.clone();
                let link = Link { from, to: book.target(sandbox, [&address, &port], names) };
                line_of(lines, link, |link| &mut link.to).add(step, &came);
            }
        }
        hour.end(step, self.budget / CONNECTIONS_PART, |_, _| false);
        hour.held()
    }

    /// Decides which edges scrapes show: as many as their tenants' parts have room for. One that is shown stays.
    fn admit(&self, hour: &mut Hour<Edge>, fleet: &Fleet) {
        let mut charges = self.charges.lock();
        charges.retain(|tenant, _| hour.of(tenant).is_some());
        for (name, tenant) in hour.iter_mut() {
            let charge =
                charges.entry(name.clone()).or_insert_with(|| Charge::new(fleet.tenant_budget(name)));
            let bytes = |edge: &Edge| ExposedEdge::of(edge, Golden::default()).bytes(name);
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
        let hour = self.hour.lock();
        let wanted = hour.iter().filter(|(name, _)| of.is_none_or(|tenant| tenant == *name));
        let tenants = wanted.map(|(name, tenant)| {
            let shown = tenant.lines.iter().filter(|(_, line)| line.exposed);
            let edges: Vec<_> =
                shown.map(|(edge, line)| ExposedEdge::of(edge, line.totals.unpack())).collect();
            TenantEdges { tenant: name.clone(), left_out: tenant.lines.len() - edges.len(), edges }
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
        sums(&self.hour.lock(), tenant, from)
    }

    /// The same of connections: their durations are the times until they were made, `no_response` the attempts that failed.
    fn connections_since(&self, tenant: Option<&str>, from: StepNumber) -> Vec<(String, Link, Golden)> {
        sums(&self.connections.lock(), tenant, from)
    }
}

#[cfg(test)]
mod tests;
