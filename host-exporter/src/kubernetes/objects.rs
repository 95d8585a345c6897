//! What is read of Services and Pods (Kubernetes API reference, v1), and what their addresses are called.

use std::net::IpAddr;

use serde::Deserialize;

/// Addresses of one object that are looked at: one of each family, and what clusters add.
const ADDRESSES_MAX: usize = 4;

/// Longest name of an object or a namespace (RFC 1123, DNS subdomain).
const NAME_BYTES_MAX: usize = 253;

/// Objects that are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Services by their cluster addresses.
    Services,
    /// Pods by their own.
    Pods,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Services, Self::Pods];

    /// The word in the API's paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Pods => "pods",
        }
    }
}

/// Namespace and name of an object.
pub type Key = (Box<str>, Box<str>);

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Which it is.
    pub key: Key,
    /// What its addresses are called, without the namespace.
    pub name: Box<str>,
    /// Its addresses; none of one that has none of its own.
    pub addresses: Vec<IpAddr>,
}

/// An object, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Wire {
    pub metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    name: Box<str>,
    namespace: Box<str>,
    pub resource_version: Box<str>,
    labels: Labels,
    owner_references: Vec<Owner>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(rename = "pod-template-hash")]
    pod_template_hash: Option<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    name: Box<str>,
    controller: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<Box<str>>,
    host_network: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: Box<str>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: Box<str>,
}

impl Wire {
    /// What is kept of it; none of what is no object with a name.
    pub(super) fn object(self, kind: Kind) -> Option<Object> {
        let Metadata { name, namespace, labels, owner_references, .. } = self.metadata;
        let is_name = |name: &str| {
            (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(|c: char| c.is_control() || c == '/')
        };
        if !is_name(&name) || !is_name(&namespace) {
            return None;
        }
        let texts: Vec<Box<str>> = match kind {
            Kind::Services => self.spec.cluster_ips,
            // A node's address is not the pod's, and that of a pod that has ended may be another's.
            Kind::Pods if self.spec.host_network || matches!(&*self.status.phase, "Succeeded" | "Failed") => {
                Vec::new()
            }
            Kind::Pods => self.status.pod_ips.into_iter().map(|of| of.ip).collect(),
        };
        // That of a headless Service is `None`.
        let addresses = texts.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        let addresses = addresses.map(|address| address.to_canonical()).take(ADDRESSES_MAX).collect();
        let owner = owner_references.into_iter().find(|owner| owner.controller && is_name(&owner.name));
        let shown = owner.map_or_else(
            || name.clone(),
            |owner| match labels.pod_template_hash.as_deref().filter(|hash| !hash.is_empty()) {
                // A ReplicaSet is its Deployment's name and that hash.
                Some(hash) => {
                    let of = owner.name.strip_suffix(hash).and_then(|name| name.strip_suffix('-'));
                    of.map_or_else(|| owner.name.clone(), Box::from)
                }
                None => owner.name,
            },
        );
        Some(Object { key: (namespace, name), name: shown, addresses })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(kind: Kind, value: Value) -> Option<Object> {
        serde_json::from_value::<Wire>(value).expect("an object").object(kind)
    }

    fn read(kind: Kind, value: Value) -> (String, Vec<String>) {
        let object = object(kind, value).expect("it has a name");
        (object.name.to_string(), object.addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn services_have_cluster_addresses_and_headless_ones_have_none() {
        for (addresses, expected) in [
            (json!(["10.96.0.7", "fd00::7"]), vec!["10.96.0.7", "fd00::7"]),
            (json!(["None"]), vec![]),
            (json!([]), vec![]),
        ] {
            let service = json!({
                "metadata": { "name": "db", "namespace": "shop", "labels": { "app": "db" } },
                "spec": { "clusterIPs": addresses, "ports": [{ "port": 3306 }] },
            });
            let expected = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(read(Kind::Services, service), ("db".to_owned(), expected));
        }
    }

    #[test]
    fn pods_are_called_after_what_they_are_replicas_of() {
        let pod = |labels: Value, owners: Value, phase: &str, host_network: bool| {
            json!({
                "metadata": { "name": "web-7d4b-x2x", "namespace": "shop", "labels": labels, "ownerReferences": owners },
                "spec": { "hostNetwork": host_network },
                "status": { "phase": phase, "podIPs": [{ "ip": "10.1.0.9" }] },
            })
        };
        let set = json!([{ "name": "web-7d4b", "controller": true }]);
        let hash = json!({ "pod-template-hash": "7d4b" });
        let of = |pod| read(Kind::Pods, pod);
        let with = |name: &str| (name.to_owned(), vec!["10.1.0.9".to_owned()]);
        assert_eq!(of(pod(hash.clone(), set.clone(), "Running", false)), with("web"));
        assert_eq!(of(pod(json!({}), set.clone(), "Running", false)), with("web-7d4b"));
        assert_eq!(of(pod(json!({}), json!([]), "Pending", false)), with("web-7d4b-x2x"));
        assert_eq!(of(pod(hash.clone(), set.clone(), "Succeeded", false)).1, Vec::<String>::new());
        assert_eq!(of(pod(hash, set, "Running", true)).1, Vec::<String>::new());
    }

    #[test]
    fn what_has_no_name_is_no_object() {
        for name in ["", "a/b", "a\u{1b}b", &"a".repeat(254)] {
            let service = json!({ "metadata": { "name": name, "namespace": "shop" } });
            assert_eq!(object(Kind::Services, service), None, "{name}");
        }
    }
}
