//! Whose addresses are whose, by what the host knows: the sandboxes' own, which companions read in their network namespaces,
//! and those of the host's table ([`super::names`]). Nothing that a guest reports is among them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Target, names::Names};
use crate::{fleet::sandbox::Sandbox, identity::Application};

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
    /// other, has no name.
    pub fn target(&self, caller: &Sandbox, [address, port]: [&str; 2], names: &Names) -> Target {
        let Ok(address) = address.parse::<IpAddr>() else {
            return match address {
                // A socket's path, or its abstract name: within the sandbox.
                path if path.starts_with(['/', '@']) => Target::Itself,
                name => Target::Address(joined(name, port)),
            };
        };
        let address = address.to_canonical();
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
                .unwrap_or_else(|| Target::Address(joined(&address.to_string(), port))),
        }
    }
}

/// `address:port`, with brackets where an address has colons of its own.
fn joined(address: &str, port: &str) -> String {
    match port {
        "" => address.to_owned(),
        _ if address.contains(':') => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}
