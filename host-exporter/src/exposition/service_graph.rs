//! Who calls whom, under the names that Grafana's service graph reads (Grafana Tempo, "Service graphs", and OpenTelemetry's
//! service graph connector), and the addresses by which rules join edges over nodes.

use std::sync::Arc;

use super::sink::{Family, Kind, Label, Sink};
use crate::{
    fleet::sandbox::{Phase, Sandbox},
    topology::exposed::{ExposedEdge, TenantEdges},
};

/// Encodes the edges of the last hour, their number by tenant, and the sandboxes' addresses.
pub fn encode(sink: &mut dyn Sink, tenants: &[TenantEdges], sandboxes: &[Arc<Sandbox>]) {
    let edges = || {
        tenants.iter().flat_map(|tenant| tenant.edges.iter().map(move |edge| (labels(tenant, edge), edge)))
    };
    if edges().next().is_some() {
        sink.family(&Family {
            name: "traces_service_graph_request",
            help: "Requests of an application to a server, counted at the client's end",
            unit: None,
            kind: Kind::Counter,
        });
        for (labels, edge) in edges() {
            sink.number(&labels, edge.totals.durations.count());
        }
        sink.family(&Family {
            name: "traces_service_graph_request_failed",
            help: "Requests of an application to a server that failed",
            unit: None,
            kind: Kind::Counter,
        });
        for (labels, edge) in edges() {
            sink.number(&labels, edge.totals.errors.total());
        }
        sink.family(&Family {
            name: "traces_service_graph_request_server_seconds",
            help: "Durations of requests of an application to a server, as the client waited for them",
            unit: Some("seconds"),
            kind: Kind::Histogram,
        });
        for (labels, edge) in edges() {
            sink.histogram(&labels, &edge.totals.durations);
        }
    }
    if !tenants.is_empty() {
        gauge(sink, tenants, "porthole_tenant_edges", "Edges of the topology of the last hour", |tenant| {
            tenant.edges.len() + tenant.left_out
        });
        let unexposed = "Edges that scrapes have no room for";
        gauge(sink, tenants, "porthole_tenant_edges_unexposed", unexposed, |tenant| tenant.left_out);
    }
    encode_addresses(sink, sandboxes);
}

fn gauge(
    sink: &mut dyn Sink,
    tenants: &[TenantEdges],
    name: &str,
    help: &str,
    number: impl Fn(&TenantEdges) -> usize,
) {
    sink.family(&Family { name, help, unit: None, kind: Kind::Gauge });
    for tenant in tenants {
        sink.number(&[("tenant", &tenant.tenant)], number(tenant) as u64);
    }
}

fn labels<'a>(tenant: &'a TenantEdges, edge: &'a ExposedEdge) -> [Label<'a>; 7] {
    [
        ("tenant", &tenant.tenant),
        ("client", &edge.client),
        ("server", &edge.server),
        ("connection_type", edge.connection_type),
        ("protocol", edge.protocol.name()),
        ("server_address", &edge.address),
        ("server_port", &edge.port),
    ]
}

fn encode_addresses(sink: &mut dyn Sink, sandboxes: &[Arc<Sandbox>]) {
    let mut begun = false;
    for sandbox in sandboxes.iter().filter(|sandbox| sandbox.phase() == Phase::Live) {
        let Some(record) = sandbox.record() else { continue };
        for address in &record.addresses {
            if !begun {
                begun = true;
                sink.family(&Family {
                    name: "porthole_sandbox_address_info",
                    help: "Addresses of the sandboxes that run, as their network namespaces have them",
                    unit: None,
                    kind: Kind::Gauge,
                });
            }
            let address = address.to_canonical().to_string();
            let [tenant, _, _, _, containerd_namespace, sandbox_id] = sandbox.identity.labels();
            let service_name = ("service_name", sandbox.application().service_name.as_str());
            let labels = [
                tenant,
                service_name,
                containerd_namespace,
                sandbox_id,
                ("server_address", address.as_str()),
            ];
            sink.number(&labels, 1);
        }
    }
}
