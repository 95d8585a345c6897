//! Attributes in OpenTelemetry's form, and which of them are of the resource: what spans and metrics have in common.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

/// Attributes whose values are numbers.
const NUMBERS: [&str; 2] = ["http.response.status_code", "server.port"];

/// Labels that are attributes of the resource, with these attributes' names.
const OF_RESOURCE: [(&str, &str); 7] = [
    ("service_name", "service.name"),
    ("sandbox_id", INSTANCE),
    ("k8s_namespace_name", "k8s.namespace.name"),
    ("k8s_pod_name", "k8s.pod.name"),
    ("k8s_container_name", "k8s.container.name"),
    ("tenant", "porthole.tenant"),
    ("containerd_namespace", "porthole.containerd.namespace"),
];

/// Attribute with the sandbox.
pub(super) const INSTANCE: &str = "service.instance.id";

/// The attribute of the resource that a label is, if it is one.
pub(super) fn of_resource(label: &str) -> Option<&'static str> {
    OF_RESOURCE.iter().find(|(name, _)| *name == label).map(|(_, attribute)| *attribute)
}

/// The resource with the attributes of these labels.
pub(super) fn resource<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Resource {
    let labels = labels.into_iter().filter_map(|(label, value)| Some((of_resource(label)?, value)));
    Resource { attributes: texts(labels), ..Resource::default() }
}

/// Who made it.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "porthole".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

/// Attributes with these values. One without a name, or without a value, is none.
pub(super) fn texts<'a>(all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<KeyValue> {
    let there = all.into_iter().filter(|(name, value)| !name.is_empty() && !value.is_empty());
    let attributes = there.map(|(name, value)| match value.parse() {
        Ok(value) if NUMBERS.contains(&name) => number(name, value),
        _ => text(name, value),
    });
    attributes.collect()
}

pub(super) fn text(name: &str, value: &str) -> KeyValue {
    attribute(name, Value::StringValue(value.to_owned()))
}

pub(super) fn number(name: &str, value: i64) -> KeyValue {
    attribute(name, Value::IntValue(value))
}

fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
