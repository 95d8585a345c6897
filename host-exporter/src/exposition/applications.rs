//! The golden values of the applications, one protocol-independent family each, and the objectives beside them.

use super::sink::{Family, Kind, Label, Sink};
use crate::{
    accumulate::golden::GoldenTable,
    identity::Application,
    objectives::{Objective, Objectives},
    protocol::{ErrorClass, Side},
};

/// Encodes requests, errors and durations of every application, and what is expected of those that have requests.
pub fn encode(sink: &mut dyn Sink, applications: &[(&Application, &GoldenTable)], objectives: &Objectives) {
    let rows = || {
        applications.iter().flat_map(|&(application, table)| {
            table.iter().map(move |(side, protocol, golden)| {
                let labels = [
                    ("tenant", application.tenant.as_str()),
                    ("service_name", application.service_name.as_str()),
                    ("side", side.name()),
                    ("protocol", protocol.name()),
                ];
                (labels, golden)
            })
        })
    };
    if rows().next().is_none() {
        return;
    }
    sink.family(&Family {
        name: "porthole_app_requests",
        help: "Requests of an application, over all its instances",
        unit: None,
        kind: Kind::Counter,
    });
    for (labels, golden) in rows() {
        sink.number(&labels, golden.durations.count());
    }
    sink.family(&Family {
        name: "porthole_app_errors",
        help: "Failed requests of an application by error class, over all its instances",
        unit: None,
        kind: Kind::Counter,
    });
    for (labels, golden) in rows() {
        for class in [ErrorClass::Client, ErrorClass::Server, ErrorClass::NoResponse] {
            let [tenant, service, side, protocol] = labels;
            sink.number(
                &[tenant, service, side, protocol, ("error_class", class.name())],
                golden.errors.of(class),
            );
        }
    }
    sink.family(&Family {
        name: "porthole_app_requests_unknown",
        help: "Requests of an application whose status is not known, so that they are neither successes nor failures",
        unit: None,
        kind: Kind::Counter,
    });
    for (labels, golden) in rows() {
        sink.number(&labels, golden.unknown);
    }
    sink.family(&Family {
        name: "porthole_app_request_duration_seconds",
        help: "Duration of an application's requests, over all its instances",
        unit: Some("seconds"),
        kind: Kind::Histogram,
    });
    for (labels, golden) in rows() {
        sink.histogram(&labels, &golden.durations);
    }
    encode_objectives(sink, applications, objectives);
}

fn encode_objectives(
    sink: &mut dyn Sink,
    applications: &[(&Application, &GoldenTable)],
    objectives: &Objectives,
) {
    let of_servers: Vec<_> = applications
        .iter()
        .filter(|(_, table)| table.iter().any(|(side, ..)| side == Side::Server))
        .map(|&(application, table)| (application, table, objectives.of(application)))
        .collect();
    if of_servers.is_empty() {
        return;
    }
    sink.family(&Family {
        name: "porthole_app_slow_requests",
        help: "Requests that an application answered later than its objective's threshold",
        unit: None,
        kind: Kind::Counter,
    });
    for (application, table, Objective { latency, .. }) in &of_servers {
        for (_, protocol, golden) in table.iter().filter(|(side, ..)| *side == Side::Server) {
            let [tenant, service_name] = application_labels(application);
            sink.number(
                &[tenant, service_name, ("side", Side::Server.name()), ("protocol", protocol.name())],
                latency.exceeded(&golden.durations),
            );
        }
    }
    sink.family(&Family {
        name: "porthole_app_objective_ratio",
        help: "Share of an application's requests that should not fail, and that should be answered within the threshold",
        unit: Some("ratio"),
        kind: Kind::Gauge,
    });
    for (application, _, Objective { availability, latency_share, .. }) in &of_servers {
        for (objective, share) in [("availability", *availability), ("latency", *latency_share)] {
            let [tenant, service_name] = application_labels(application);
            sink.float(&[tenant, service_name, ("objective", objective)], share);
        }
    }
    sink.family(&Family {
        name: "porthole_app_objective_latency_seconds",
        help: "Threshold of an application's objective for latency",
        unit: Some("seconds"),
        kind: Kind::Gauge,
    });
    for (application, _, Objective { latency, .. }) in &of_servers {
        sink.float(&application_labels(application), latency.seconds());
    }
}

fn application_labels(application: &Application) -> [Label<'_>; 2] {
    [("tenant", &application.tenant), ("service_name", &application.service_name)]
}
