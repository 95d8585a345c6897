//! Whose addresses are whose, by what the host knows: the sandboxes' own, which companions read in their network namespaces,
//! and those of the host's table ([`super::names`]). What a guest looked up comes behind them, and names servers for its own tenant alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Target, names::Names};
use crate::{accumulate::dependencies::LookedUp, fleet::sandbox::Sandbox, identity::Application, peer::Peer};

/// How long the addresses of an ended sandbox are still its own, milliseconds: what was called at its end is reported after it.
const ENDED_KEEP_MS: u64 = 60_000;

/// Names of addresses.
#[derive(Debug, Default)]
pub struct AddressBook {
    owners: BTreeMap<IpAddr, BTreeSet<Application>>,
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
            let Some(record) = sandbox.record() else { continue };
            for address in &record.addresses {
                book.owners.entry(address.to_canonical()).or_default().insert(sandbox.application().clone());
            }
        }
        book
    }

    /// Whom a sandbox called, as its tenant may see it. An address that two applications have, in networks that do not know each
    /// other, has no name of the host's, only one that the sandbox looked up.
    pub fn target(&self, caller: &Sandbox, peer: Peer, names: &Names, looked_up: &LookedUp) -> Target {
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
            _ => names
                .target(&caller.identity.tenant, address, port)
                .unwrap_or_else(|| Target::Address(peer, looked_up.get(&address).cloned())),
        }
    }
}
