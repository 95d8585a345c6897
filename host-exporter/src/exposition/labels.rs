//! The labels that say whose numbers they are.

use super::sink::Label;
use crate::identity::Identity;

/// The labels that say whose numbers they are: from the registry's record alone.
pub fn identity<'a>(identity: &'a Identity, container: &'a str) -> [Label<'a>; 7] {
    [
        ("tenant", &identity.tenant),
        ("service_name", &identity.service_name),
        ("k8s_namespace_name", &identity.k8s_namespace_name),
        ("k8s_pod_name", &identity.k8s_pod_name),
        ("k8s_container_name", container),
        ("containerd_namespace", &identity.containerd_namespace),
        ("sandbox_id", &identity.sandbox_id),
    ]
}
