//! Whose addresses are whose, by what the host knows: the sandboxes' own, which companions read in their network namespaces,
//! those of the host's table ([`super::names`]), and the cluster's Services and Pods ([`crate::kubernetes`]). What a guest looked up comes behind them, and names servers for its own tenant alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{HostNames, Name, Target};
use crate::{
    accumulate::dependencies::LookedUp,
    fleet::sandbox::Sandbox,
    identity::{Application, Identity},
    peer::Peer,
};

/// How long the addresses of an ended sandbox are still its own, milliseconds: what was called at its end is reported after it.
const ENDED_KEEP_MS: u64 = 60_000;

/// Names of addresses.
#[derive(Debug, Default)]
pub struct AddressBook {
    owners: BTreeMap<IpAddr, BTreeSet<Application>>,
    /// Tenants of the sandboxes in each namespace of the cluster.
    tenants: BTreeMap<String, BTreeSet<String>>,
}

impl AddressBook {
    /// The addresses of sandboxes that run, or ran a moment ago.
    pub fn of<'a>(sandboxes: impl IntoIterator<Item = &'a Sandbox>, now_unix_ms: u64) -> Self {
        let mut book = Self::default();
        for sandbox in sandboxes {
            let ended = sandbox.phase().ended_unix_ms();
            if sandbox.is_former() || ended.is_some_and(|at| now_unix_ms.saturating_sub(at) > ENDED_KEEP_MS) {
                continue;
            }
            let Identity { tenant, k8s_namespace_name, .. } = &*sandbox.identity;
            if !k8s_namespace_name.is_empty() {
                book.tenants.entry(k8s_namespace_name.clone()).or_default().insert(tenant.clone());
            }
            let Some(record) = sandbox.record() else { continue };
            for address in &record.addresses {
                book.owners.entry(address.to_canonical()).or_default().insert(sandbox.application().clone());
            }
        }
        book
    }

    /// Whom a sandbox called, as its tenant may see it. An address that two applications have, in networks that do not know each
    /// other, has no name of the host's, only one that the sandbox looked up.
    pub fn target(&self, caller: &Sandbox, peer: Peer, names: &HostNames, looked_up: &LookedUp) -> Target {
        let Peer::Address(address, port) = peer else {
            return match peer {
                // Within the sandbox.
                Peer::Path(_) => Target::Itself,
                peer => Target::Address(peer, None),
            };
        };
        let own = || caller.record().is_some_and(|record| record.addresses.contains(&address));
        if address.is_loopback() || address.is_unspecified() || own() {
            return Target::Itself;
        }
        let owners = self.owners.get(&address);
        let mut owners = owners.into_iter().flatten();
        match (owners.next(), owners.next()) {
            (Some(only), None) if only.tenant == caller.identity.tenant => {
                Target::Application(only.service_name.clone())
            }
            (Some(only), None) if only.tenant != caller.identity.tenant => Target::AnotherTenant,
            _ => {
                let tenant = &caller.identity.tenant;
                let by_table = || names.table.target(tenant, address, port);
                let by_cluster = || self.in_cluster(tenant, &peer, address, names);
                // A guest's word must not look like another address.
                let is_name = |name: &str| name.trim_matches(['[', ']', '.']).parse::<IpAddr>().is_err();
                let looked_up = looked_up.get(&address).filter(|name| is_name(name));
                let looked_up = || looked_up.cloned().map(Name::LookedUp);
                by_table().or_else(by_cluster).unwrap_or_else(|| Target::Address(peer, looked_up()))
            }
        }
    }

    /// What the cluster's API has at an address, as a tenant may see it: of a namespace that is the tenant's, or shared. Whose one is, the
    /// host's configuration has, else the sandboxes there show. Of one without sandboxes on this node, or with those of several tenants, it is
    /// not known, and its names are not shown.
    fn in_cluster(&self, tenant: &str, peer: &Peer, address: IpAddr, names: &HostNames) -> Option<Target> {
        let cluster = names.cluster.as_deref()?;
        let found = cluster.at(address)?;
        let is_own = || {
            if let Some(configured) = cluster.tenant(&found.namespace) {
                return Some(configured == tenant);
            }
            let mut tenants = self.tenants.get(&*found.namespace)?.iter();
            let first = tenants.next()?;
            tenants.next().is_none().then_some(first == tenant)
        };
        if cluster.is_shared(&found.namespace) || is_own()? {
            let name = format!("{}.{}", found.name, found.namespace);
            return Some(Target::Address(peer.clone(), Some(Name::Cluster(name.into()))));
        }
        Some(Target::AnotherTenant)
    }
}
