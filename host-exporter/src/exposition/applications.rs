//! The golden values of the applications: one protocol-independent family each.

use std::collections::BTreeMap;

use super::sink::{Family, Kind, Sink};
use crate::{accumulate::golden::GoldenTable, identity::Application, protocol::ErrorClass};

/// Encodes requests, errors and durations of every application.
pub fn encode(sink: &mut dyn Sink, applications: &BTreeMap<Application, GoldenTable>) {
    let rows = || {
        applications.iter().flat_map(|(application, table)| {
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
        name: "porthole_app_request_duration_seconds",
        help: "Duration of an application's requests, over all its instances",
        unit: Some("seconds"),
        kind: Kind::Histogram,
    });
    for (labels, golden) in rows() {
        sink.histogram(&labels, &golden.durations);
    }
}
