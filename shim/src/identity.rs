//! Identity of a sandbox: its tenant and its application, from containerd's namespace, annotations and the host's
//! configuration.
//!
//! Annotations come from the user who deploys the workload: the tenant is taken from one only where the host trusts them.
//! Those of CRI come from Kubernetes only in the containerd namespaces in which CRI alone makes containers.
//! Everything that becomes a label is bounded and free of control characters.

use crate::{
    bundle::{Annotations, CONTAINER_NAME, Role, SANDBOX_NAME, SANDBOX_NAMESPACE, TENANT},
    label::is_label_value,
    names::{Names, Values},
    settings::Tenants,
};

/// Annotation that switches the monitoring off with `false`, where `[shim] allow_opt_out` is set.
pub const ENABLED: &str = "io.porthole.enabled";

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
    pub fn of(sandbox: &str, namespace: &str, annotations: &Annotations, rules: Rules<'_>) -> Self {
        let Rules { tenants, names } = rules;
        let valid = |key| annotations.get(key).filter(|name| is_label_value(name)).map(str::to_owned);
        let values = rules.values(sandbox, namespace, annotations);
        let owner = values.namespace;
        let tenant = (tenants.trust_annotation.then(|| valid(TENANT)).flatten())
            .or_else(|| tenants.by_namespace.get(owner).cloned())
            .or_else(|| values.name(&names.tenant))
            .unwrap_or_else(|| owner.to_owned());
        let application = values.name(&names.application).unwrap_or_else(|| sandbox.to_owned());
        let renamed = names.applications.get(&format!("{tenant}/{application}"));
        let service_name = renamed.cloned().unwrap_or(application);
        let k8s_namespace_name = rules.of_cri(SANDBOX_NAMESPACE, namespace, annotations).map(str::to_owned);
        let k8s_pod_name = values.name(&names.pod);
        Self { tenant, service_name, k8s_namespace_name, k8s_pod_name }
    }
}

/// The parts of the host's configuration that decide about names.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// `[tenants]`
    pub tenants: &'a Tenants,
    /// `[names]`
    pub names: &'a Names,
}

impl Rules<'_> {
    /// An annotation of CRI's, in a namespace in which CRI alone makes containers.
    fn of_cri<'v>(self, key: &str, namespace: &str, annotations: &'v Annotations) -> Option<&'v str> {
        let by_cri = self.tenants.cri_namespaces.iter().any(|known| known == namespace);
        annotations.get(key).filter(|name| by_cri && is_label_value(name))
    }

    /// What there is for templates besides a container's name.
    fn values<'v>(self, id: &'v str, namespace: &'v str, annotations: &'v Annotations) -> Values<'v> {
        let of_cri = |key| self.of_cri(key, namespace, annotations);
        Values {
            namespace: of_cri(SANDBOX_NAMESPACE).unwrap_or(namespace),
            containerd_namespace: namespace,
            pod: of_cri(SANDBOX_NAME),
            container: None,
            id,
            annotations,
        }
    }
}

/// Whether the workload opts out of monitoring.
pub fn opted_out(annotations: &Annotations) -> bool {
    annotations.get(ENABLED) == Some("false")
}

/// Name of a container of the workload; `None` for the sandbox of a pod, which runs nothing of the tenant's.
pub fn container_name(
    id: &str,
    namespace: &str,
    annotations: &Annotations,
    rules: Rules<'_>,
) -> Option<String> {
    if annotations.role() == Role::PodSandbox {
        return None;
    }
    let values =
        Values { container: annotations.get(CONTAINER_NAME), ..rules.values(id, namespace, annotations) };
    Some(values.name(&rules.names.container).unwrap_or_else(|| id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::SERVICE;

    fn rules<'a>(tenants: &'a Tenants, names: &'a Names) -> Rules<'a> {
        Rules { tenants, names }
    }

    fn names(text: &str) -> Names {
        toml::from_str(text).expect("names")
    }

    fn identity(pairs: &[(&str, &str)], tenants: &Tenants) -> Identity {
        Identity::of("shop-1", "acme", &pairs.iter().copied().collect(), rules(tenants, &Names::default()))
    }

    fn pod(pairs: &[(&str, &str)], tenants: &Tenants) -> Identity {
        Identity::of("shop-1", "k8s.io", &pairs.iter().copied().collect(), rules(tenants, &Names::default()))
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
    fn templates_and_tables_name_pods_and_their_applications() {
        let pairs =
            [(SANDBOX_NAMESPACE, "red-web"), (SANDBOX_NAME, "shop-5d4b8c7f6b-x2vqz"), ("team", "red")];
        let names = names(
            "tenant = [\"of {namespace}\"]\napplication = [\"{deployment}.{annotation:team}\"]\n\
             pod = [\"{namespace}/{pod}\"]\n[applications]\n\"of red-web/shop.red\" = \"storefront\"\n\
             \"other/shop.red\" = \"no\"",
        );
        let annotations = pairs.iter().copied().collect();
        let tenants = Tenants::default();
        let identity = Identity::of("s", "k8s.io", &annotations, rules(&tenants, &names));
        assert_eq!((identity.tenant.as_str(), identity.service_name.as_str()), ("of red-web", "storefront"));
        assert_eq!(identity.k8s_pod_name.as_deref(), Some("red-web/shop-5d4b8c7f6b-x2vqz"));
        assert_eq!(identity.k8s_namespace_name.as_deref(), Some("red-web"));
        // The table by namespace comes first, and the table of applications is by the tenant that comes out.
        let tenants =
            Tenants { by_namespace: [("red-web".into(), "other".into())].into(), ..Tenants::default() };
        let identity = Identity::of("s", "k8s.io", &annotations, rules(&tenants, &names));
        assert_eq!((identity.tenant.as_str(), identity.service_name.as_str()), ("other", "no"));
        // A plain container has no pod: no template gives a name, and its id remains.
        let plain = Identity::of("s", "acme", &Annotations::default(), rules(&tenants, &names));
        assert_eq!((plain.tenant.as_str(), plain.service_name.as_str()), ("of acme", "s"));
        assert_eq!(plain.k8s_pod_name, None);
    }

    #[test]
    fn the_sandbox_of_a_pod_is_no_container_of_the_workload() {
        let pod: Annotations = [(crate::bundle::CONTAINER_TYPE, "sandbox")].into_iter().collect();
        let (tenants, by_default) = (Tenants::default(), Names::default());
        let name = |id: &str, annotations: &Annotations| {
            container_name(id, "acme", annotations, rules(&tenants, &by_default))
        };
        assert_eq!(name("s", &pod), None);
        let web: Annotations = [
            (crate::bundle::CONTAINER_TYPE, "container"),
            (crate::bundle::SANDBOX_ID, "s"),
            (CONTAINER_NAME, "web"),
        ]
        .into_iter()
        .collect();
        assert_eq!(name("c", &web).as_deref(), Some("web"));
        assert_eq!(name("c", &Annotations::default()).as_deref(), Some("c"));
        let names = names("container = [\"{annotation:image}-{id}\", \"{container}\"]");
        let other = |annotations| container_name("c", "acme", annotations, rules(&tenants, &names));
        assert_eq!(other(&web).as_deref(), Some("web"));
        assert_eq!(other(&[("image", "nginx")].into_iter().collect()).as_deref(), Some("nginx-c"));
    }
}
