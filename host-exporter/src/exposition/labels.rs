//! Label sets as prometheus-client encodes them; a label without a value is left out.

use std::fmt;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

use crate::identity::Identity;

/// Labels with names that are known at build time or derived once; empty values are left out.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a>(pub &'a [(&'static str, &'a str)]);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        for label in self.0.iter().filter(|(_, value)| !value.is_empty()) {
            label.encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// The labels that say whose numbers they are: from the registry's record alone.
pub fn identity<'a>(identity: &'a Identity, container: &'a str) -> [(&'static str, &'a str); 7] {
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
