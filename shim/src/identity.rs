//! Identity of a sandbox: its tenant and its application, from containerd's namespace, annotations and the host's
//! configuration.
//!
//! Annotations come from whoever deploys the workload: the tenant is taken from one only where the host trusts them.
//! Those of CRI are Kubernetes' word only in the containerd namespaces in which nobody but CRI makes containers.
//! Everything that becomes a label is bounded and free of control characters.

use crate::{
    bundle::{Annotations, CONTAINER_NAME, Role, SANDBOX_NAME, SANDBOX_NAMESPACE},
    label::is_label_value,
    settings::Tenants,
};

/// Annotation that names the application.
pub const SERVICE: &str = "io.porthole.service";
/// Annotation that names the tenant, where `[tenants] trust_annotation` is set.
pub const TENANT: &str = "io.porthole.tenant";
/// Annotation that switches the monitoring off with `false`, where `[shim] allow_opt_out` is set.
pub const ENABLED: &str = "io.porthole.enabled";

/// Letters and digits of Kubernetes' generated suffixes (`k8s.io/apimachinery/pkg/util/rand`).
const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Identity of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whom the numbers belong to.
    pub tenant: String,
    /// The application.
    pub service_name: String,
    /// Kubernetes namespace of a CRI pod.
    pub k8s_namespace_name: Option<String>,
    /// Kubernetes name of a CRI pod.
    pub k8s_pod_name: Option<String>,
}

impl Identity {
    /// The identity of the sandbox whose first container has these annotations.
    pub fn of(sandbox: &str, namespace: &str, annotations: &Annotations, tenants: &Tenants) -> Self {
        let valid = |key| annotations.get(key).filter(|name| is_label_value(name)).map(str::to_owned);
        let by_cri = tenants.cri_namespaces.iter().any(|known| known == namespace);
        let of_cri = |key| by_cri.then(|| valid(key)).flatten();
        let (k8s_namespace_name, k8s_pod_name) = (of_cri(SANDBOX_NAMESPACE), of_cri(SANDBOX_NAME));
        let owner = k8s_namespace_name.as_deref().unwrap_or(namespace);
        let tenant = (tenants.trust_annotation.then(|| valid(TENANT)).flatten())
            .or_else(|| tenants.by_namespace.get(owner).cloned())
            .unwrap_or_else(|| owner.to_owned());
        let service_name = valid(SERVICE)
            .or_else(|| k8s_pod_name.as_deref().map(|pod| without_generated_suffix(pod).to_owned()))
            .unwrap_or_else(|| sandbox.to_owned());
        Self { tenant, service_name, k8s_namespace_name, k8s_pod_name }
    }
}

/// Whether the workload asks not to be monitored.
pub fn opted_out(annotations: &Annotations) -> bool {
    annotations.get(ENABLED) == Some("false")
}

/// Name of a container of the workload; `None` for the sandbox of a pod, which runs nothing of the tenant's.
pub fn container_name(id: &str, annotations: &Annotations) -> Option<String> {
    if annotations.role() == Role::PodSandbox {
        return None;
    }
    let named = annotations.get(CONTAINER_NAME).filter(|name| is_label_value(name));
    Some(named.unwrap_or(id).to_owned())
}

/// The name of what made the pod: without the suffixes of Deployments (`-<hash>-<5>`), `DaemonSets` and Jobs (`-<5>`),
/// `CronJobs` (`-<minutes>-<5>`) and `StatefulSets` (`-<ordinal>`).
pub fn without_generated_suffix(pod: &str) -> &str {
    let generated = |part: &str| part.bytes().all(|b| GENERATED.contains(&b));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let Some((owner, last)) = pod.rsplit_once('-').filter(|(owner, _)| !owner.is_empty()) else { return pod };
    if last.len() == 5 && generated(last) {
        return match owner.rsplit_once('-') {
            Some((name, hash))
                if !name.is_empty()
                    && ((6..=10).contains(&hash.len()) && generated(hash)
                        || (8..=10).contains(&hash.len()) && digits(hash)) =>
            {
                name
            }
            _ => owner,
        };
    }
    if (1..=5).contains(&last.len()) && digits(last) { owner } else { pod }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pairs: &[(&str, &str)], tenants: &Tenants) -> Identity {
        Identity::of("shop-1", "acme", &pairs.iter().copied().collect(), tenants)
    }

    fn pod(pairs: &[(&str, &str)], tenants: &Tenants) -> Identity {
        Identity::of("shop-1", "k8s.io", &pairs.iter().copied().collect(), tenants)
    }

    #[test]
    fn annotations_of_cri_name_nothing_outside_its_namespaces() {
        let pairs = [(SANDBOX_NAMESPACE, "victim"), (SANDBOX_NAME, "shop-0")];
        let tenants =
            Tenants { by_namespace: [("victim".into(), "Victim Inc.".into())].into(), ..Tenants::default() };
        let plain = identity(&pairs, &tenants);
        assert_eq!((plain.tenant.as_str(), plain.service_name.as_str()), ("acme", "shop-1"));
        assert_eq!((plain.k8s_namespace_name, plain.k8s_pod_name), (None, None));
        assert_eq!(pod(&pairs, &tenants).tenant, "Victim Inc.");
        let none = Tenants { cri_namespaces: Vec::new(), ..tenants };
        assert_eq!(pod(&pairs, &none).tenant, "k8s.io");
    }

    #[test]
    fn plain_containers_are_named_by_their_id_and_namespace() {
        let identity = identity(&[], &Tenants::default());
        assert_eq!((identity.tenant.as_str(), identity.service_name.as_str()), ("acme", "shop-1"));
        assert_eq!(identity.k8s_pod_name, None);
    }

    #[test]
    fn pods_are_named_by_their_owner_and_kubernetes_namespace() {
        let pairs = [(SANDBOX_NAMESPACE, "web"), (SANDBOX_NAME, "shop-5d4b8c7f6b-x2vqz")];
        let tenants =
            Tenants { by_namespace: [("web".into(), "Acme Inc.".into())].into(), ..Tenants::default() };
        let identity = pod(&pairs, &tenants);
        assert_eq!((identity.tenant.as_str(), identity.service_name.as_str()), ("Acme Inc.", "shop"));
        assert_eq!(identity.k8s_namespace_name.as_deref(), Some("web"));
    }

    #[test]
    fn the_tenant_is_taken_from_an_annotation_only_where_trusted() {
        let pairs = [(TENANT, "globex")];
        assert_eq!(identity(&pairs, &Tenants::default()).tenant, "acme");
        let trusting = Tenants { trust_annotation: true, ..Tenants::default() };
        assert_eq!(identity(&pairs, &trusting).tenant, "globex");
        assert_eq!(identity(&[(TENANT, "a\nb")], &trusting).tenant, "acme");
    }

    #[test]
    fn the_service_annotation_wins_when_it_can_be_a_label() {
        assert_eq!(identity(&[(SERVICE, "shöp \"1\"")], &Tenants::default()).service_name, "shöp \"1\"");
        for bad in ["", "a\u{7}b", &"x".repeat(254)] {
            assert_eq!(identity(&[(SERVICE, bad)], &Tenants::default()).service_name, "shop-1");
        }
    }

    #[test]
    fn generated_suffixes_are_cut_and_names_left_alone() {
        for (pod, name) in [
            ("shop-5d4b8c7f6b-x2vqz", "shop"),
            ("log-collector-x2vqz", "log-collector"),
            ("report-28391040-x2vqz", "report"),
            ("db-0", "db"),
            ("shop", "shop"),
            ("my-redis", "my-redis"),
            ("web-nginx", "web-nginx"),
            ("-x2vqz", "-x2vqz"),
            ("kv-store-v2", "kv-store-v2"),
        ] {
            assert_eq!(without_generated_suffix(pod), name, "{pod}");
        }
    }

    #[test]
    fn the_sandbox_of_a_pod_is_no_container_of_the_workload() {
        let pod: Annotations = [(crate::bundle::CONTAINER_TYPE, "sandbox")].into_iter().collect();
        assert_eq!(container_name("s", &pod), None);
        let web: Annotations = [
            (crate::bundle::CONTAINER_TYPE, "container"),
            (crate::bundle::SANDBOX_ID, "s"),
            (CONTAINER_NAME, "web"),
        ]
        .into_iter()
        .collect();
        assert_eq!(container_name("c", &web).as_deref(), Some("web"));
        assert_eq!(container_name("c", &Annotations::default()).as_deref(), Some("c"));
    }
}
