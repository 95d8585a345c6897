//! Names by address, as the cluster's API has them.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
};

use parking_lot::RwLock;

use super::objects::{Key, Kind, Object};
use crate::config::kubernetes::Kubernetes;

/// Objects of one kind; the names of further ones are left out.
pub const OBJECTS_MAX: usize = 50_000;

/// What is at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name there.
    pub name: Box<str>,
}

/// The objects of one kind.
#[derive(Debug, Default)]
struct Table {
    objects: BTreeMap<Key, Vec<IpAddr>>,
    /// Whose an address is, and its name.
    names: BTreeMap<IpAddr, (Key, Box<str>)>,
}

impl Table {
    /// Adds or changes an object; false where there is no room.
    fn put(&mut self, object: Object) -> bool {
        self.remove(&object.key);
        if object.addresses.is_empty() {
            return true;
        }
        if self.objects.len() >= OBJECTS_MAX {
            return false;
        }
        for address in &object.addresses {
            // Of two objects with one address the newer one has it: the other's end comes later.
            self.names.insert(*address, (object.key.clone(), object.name.clone()));
        }
        self.objects.insert(object.key, object.addresses);
        true
    }

    fn remove(&mut self, key: &Key) {
        for address in self.objects.remove(key).unwrap_or_default() {
            if let Entry::Occupied(entry) = self.names.entry(address)
                && entry.get().0 == *key
            {
                entry.remove();
            }
        }
    }
}

/// Names of a cluster's addresses.
#[derive(Debug)]
pub struct Cluster {
    tables: [RwLock<Table>; Kind::ALL.len()],
    shared_namespaces: BTreeSet<String>,
    tenants: BTreeMap<String, String>,
}

impl Cluster {
    /// Without names.
    pub fn new(config: &Kubernetes) -> Self {
        Self {
            tables: Default::default(),
            shared_namespaces: config.shared_namespaces.iter().cloned().collect(),
            tenants: config.tenants.clone(),
        }
    }

    fn table(&self, kind: Kind) -> &RwLock<Table> {
        &self.tables[kind as usize]
    }

    /// What a list has takes the place of what was known; how many objects have no place.
    pub fn replace(&self, kind: Kind, objects: impl IntoIterator<Item = Object>) -> usize {
        let mut table = Table::default();
        let left_out =
            objects.into_iter().map(|object| table.put(object)).filter(|has_place| !has_place).count();
        // What was before is dropped when the lock is released.
        let before = std::mem::replace(&mut *self.table(kind).write(), table);
        drop(before);
        left_out
    }

    /// An object is new, or was changed.
    pub fn put(&self, kind: Kind, object: Object) {
        self.table(kind).write().put(object);
    }

    /// An object is gone.
    pub fn remove(&self, kind: Kind, key: &Key) {
        self.table(kind).write().remove(key);
    }

    /// What is at an address: a Service, else a Pod.
    pub fn at(&self, address: IpAddr) -> Option<Named> {
        Kind::ALL.into_iter().find_map(|kind| {
            let table = self.table(kind).read();
            let ((namespace, _), name) = table.names.get(&address)?;
            Some(Named { namespace: namespace.clone(), name: name.clone() })
        })
    }

    /// Whose a namespace is by the host's configuration.
    pub fn tenant(&self, namespace: &str) -> Option<&str> {
        self.tenants.get(namespace).map(String::as_str)
    }

    /// Whether what is in a namespace is called by name for every tenant.
    pub fn is_shared(&self, namespace: &str) -> bool {
        self.shared_namespaces.contains(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, address: &str) -> Object {
        let addresses = address.parse().into_iter().collect();
        Object { key: ("shop".into(), name.into()), name: name.into(), addresses }
    }

    fn name(cluster: &Cluster, address: &str) -> Option<String> {
        cluster.at(address.parse().expect("address")).map(|named| named.name.to_string())
    }

    #[test]
    fn an_address_is_the_newest_objects_until_that_is_gone() {
        let cluster = Cluster::new(&Kubernetes::default());
        let (kind, address) = (Kind::Pods, "10.1.0.9");
        cluster.put(kind, object("old", address));
        cluster.put(kind, object("new", address));
        cluster.remove(kind, &("shop".into(), "old".into()));
        assert_eq!(name(&cluster, address).as_deref(), Some("new"));
        cluster.put(Kind::Services, object("service", address));
        assert_eq!(name(&cluster, address).as_deref(), Some("service"));
        cluster.replace(Kind::Services, [object("other", "10.96.0.1")]);
        assert_eq!(name(&cluster, address).as_deref(), Some("new"));
        cluster.put(kind, object("new", "ended"));
        assert_eq!((name(&cluster, address), name(&cluster, "10.96.0.1").as_deref()), (None, Some("other")));
    }

    #[test]
    fn objects_beyond_the_bound_are_left_out_and_counted() {
        let cluster = Cluster::new(&Kubernetes::default());
        let many = (0..OBJECTS_MAX + 3).map(|number| {
            let [_, a, b, c] = u32::try_from(number).expect("small").to_be_bytes();
            object(&format!("pod-{number}"), &format!("10.{a}.{b}.{c}"))
        });
        assert_eq!(cluster.replace(Kind::Pods, many), 3);
        let table = cluster.table(Kind::Pods).read();
        assert_eq!((table.objects.len(), table.names.len()), (OBJECTS_MAX, OBJECTS_MAX));
    }
}
