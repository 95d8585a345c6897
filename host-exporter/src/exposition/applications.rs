//! The golden values of the applications: one protocol-independent family each, monotonic for good.

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::{buckets, labels::Labels};
use crate::{fleet::Fleet, protocol::ErrorClass};

/// Encodes requests, errors and durations of every application.
pub fn encode(encoder: &mut DescriptorEncoder, fleet: &Arc<Fleet>) -> fmt::Result {
    let applications = fleet.applications();
    if applications.is_empty() {
        return Ok(());
    }
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
    let mut requests = encoder.encode_descriptor(
        "porthole_app_requests",
        "Requests of an application, over all its instances, for good",
        None,
        MetricType::Counter,
    )?;
    for (labels, golden) in rows() {
        requests
            .encode_family(&Labels(&labels))?
            .encode_counter::<NoLabelSet, u64, f64>(&golden.durations.count(), None)?;
    }
    let mut errors = encoder.encode_descriptor(
        "porthole_app_errors",
        "Failed requests of an application by whose fault it was, over all its instances, for good",
        None,
        MetricType::Counter,
    )?;
    for (labels, golden) in rows() {
        for class in [ErrorClass::Client, ErrorClass::Server, ErrorClass::NoResponse] {
            let [tenant, service, side, protocol] = labels;
            let labels = [tenant, service, side, protocol, ("error_class", class.name())];
            errors
                .encode_family(&Labels(&labels))?
                .encode_counter::<NoLabelSet, u64, f64>(&golden.errors.of(class), None)?;
        }
    }
    let mut durations = encoder.encode_descriptor(
        "porthole_app_request_duration",
        "Duration of an application's requests, over all its instances, for good",
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    for (labels, golden) in rows() {
        durations.encode_family(&Labels(&labels))?.encode_histogram::<NoLabelSet>(
            buckets::sum_seconds(&golden.durations),
            golden.durations.count(),
            &buckets::classic(&golden.durations),
            None,
        )?;
    }
    Ok(())
}
