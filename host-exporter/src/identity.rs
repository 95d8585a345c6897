//! The identity of a sandbox, as labels: from the registry's record alone, never from a guest.

use porthole_registry::SandboxRecord;
use serde::{Deserialize, Serialize};

/// The labels of a sandbox. An empty text stands for a label that this sandbox does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Whom the numbers belong to.
    pub tenant: String,
    /// The application.
    pub service_name: String,
    /// Kubernetes namespace of a pod.
    pub k8s_namespace_name: String,
    /// Kubernetes name of a pod.
    pub k8s_pod_name: String,
    /// containerd's namespace of the sandbox.
    #[serde(default)]
    pub containerd_namespace: String,
    /// containerd's id of the sandbox.
    pub sandbox_id: String,
}

impl From<&SandboxRecord> for Identity {
    fn from(record: &SandboxRecord) -> Self {
        Self {
            tenant: record.tenant.clone(),
            service_name: record.service_name.clone(),
            k8s_namespace_name: record.k8s_namespace_name.clone().unwrap_or_default(),
            k8s_pod_name: record.k8s_pod_name.clone().unwrap_or_default(),
            containerd_namespace: record.containerd_namespace.to_string(),
            sandbox_id: record.sandbox_id.to_string(),
        }
    }
}

impl Identity {
    /// One of containerd's default namespace and of no pod.
    #[cfg(test)]
    pub(crate) fn in_default(tenant: &str, service_name: &str, sandbox_id: &str) -> Self {
        Self {
            tenant: tenant.into(),
            service_name: service_name.into(),
            k8s_namespace_name: String::new(),
            k8s_pod_name: String::new(),
            containerd_namespace: "default".into(),
            sandbox_id: sandbox_id.into(),
        }
    }

    /// The labels with the identity of the sandbox; the container's is a series' own.
    pub fn labels(&self) -> [(&'static str, &str); 6] {
        [
            ("tenant", &self.tenant),
            ("service_name", &self.service_name),
            ("k8s_namespace_name", &self.k8s_namespace_name),
            ("k8s_pod_name", &self.k8s_pod_name),
            ("containerd_namespace", &self.containerd_namespace),
            ("sandbox_id", &self.sandbox_id),
        ]
    }

    /// The application that the sandbox is an instance of.
    pub fn application(&self) -> Application {
        Application { tenant: self.tenant.clone(), service_name: self.service_name.clone() }
    }
}

/// An application of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Application {
    /// Whom it belongs to.
    pub tenant: String,
    /// OpenTelemetry's `service.name`.
    pub service_name: String,
}
