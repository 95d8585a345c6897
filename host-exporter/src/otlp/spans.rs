//! Spans in OpenTelemetry's form, with the attributes of its semantic conventions: those of a protocol are in the table of
//! protocols, from which metrics' labels derive as well.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};

use super::attributes::{self, number, text, texts};
use crate::{
    identity::Identity,
    protocol::Side,
    traces::{Trace, TraceSpan},
};

/// Spans, each with its trace, as a request.
pub(super) fn request(spans: &[(&Trace, &TraceSpan)]) -> ExportTraceServiceRequest {
    let mut by_resource: BTreeMap<(&Identity, &str), Vec<Span>> = BTreeMap::new();
    for (trace, span) in spans {
        let resource = (&*span.kept.identity, span.kept.key.labels().container);
        by_resource.entry(resource).or_default().push(one(trace, span));
    }
    let resource_spans = by_resource.into_iter().map(|((identity, container), spans)| {
        let labels = identity.labels().into_iter().chain([("k8s_container_name", container)]);
        ResourceSpans {
            resource: Some(attributes::resource(labels)),
            scope_spans: vec![ScopeSpans {
                scope: Some(attributes::scope()),
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
}

fn one(trace: &Trace, span: &TraceSpan) -> Span {
    let kept = &span.kept;
    let (labels, row, side) = (kept.key.labels(), kept.key.protocol.row(), kept.key.side);
    let connection = kept.reception.connection;
    let server = match side {
        Side::Client => (labels.peer_address.to_owned(), labels.peer_port.to_owned()),
        Side::Server => connection.map_or_else(Default::default, |connection| {
            (connection.local.ip().to_string(), connection.local.port().to_string())
        }),
    };
    let (system, system_name) = row.system.unwrap_or_default();
    let mut attributes = texts([
        (system, system_name),
        (row.operation.attribute.unwrap_or_default(), labels.operation),
        (row.resource.attribute.unwrap_or_default(), labels.resource),
        (row.status.attribute.unwrap_or_default(), labels.status),
        ("error.type", labels.error_type),
        ("server.address", &server.0),
        ("server.port", &server.1),
        ("porthole.parent.certainty", span.parent.map_or("", |(_, certainty)| certainty.as_str())),
    ]);
    if let Some(connection) = connection {
        attributes.push(text("network.peer.address", &connection.remote.ip().to_string()));
        attributes.push(number("network.peer.port", connection.remote.port().into()));
    }
    for (name, value) in [
        ("thread.id", kept.span.thread_id.into()),
        ("porthole.request.size", saturated(kept.span.request_bytes)),
        ("porthole.response.size", saturated(kept.span.response_bytes)),
        ("porthole.clock.error", saturated(span.clock_error_ns.saturating_add(trace.clock_error_ns))),
    ] {
        if value != 0 {
            attributes.push(number(name, value));
        }
    }
    // Above the first span may be one of the program's own, which only its context has.
    let propagated = kept.span.lineage.context.filter(|context| context.trace == trace.id);
    let parent = span.parent.map(|(parent, _)| trace.spans[parent].id);
    let parent = parent.or_else(|| propagated.and_then(|context| context.parent));
    let status = if labels.error_type.is_empty() { StatusCode::Unset } else { StatusCode::Error };
    Span {
        trace_id: trace.id.0.to_vec(),
        span_id: span.id.0.to_vec(),
        parent_span_id: parent.map(|id| id.0.to_vec()).unwrap_or_default(),
        // W3C Trace Context, 3.2.2.5: the flag of a sampled trace.
        flags: propagated.map_or(1, |context| context.is_sampled.into()),
        name: format!("{} {}", labels.operation, labels.resource).trim().to_owned(),
        kind: if side == Side::Client { SpanKind::Client } else { SpanKind::Server }.into(),
        start_time_unix_nano: span.start_unix_ns,
        end_time_unix_nano: span.start_unix_ns.saturating_add(kept.span.duration_ns),
        attributes,
        status: Some(Status { code: status.into(), message: String::new() }),
        ..Span::default()
    }
}

fn saturated(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
