//! The instance dimension: every series of every sandbox whose series are exposed.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::{
    Holding, buckets,
    labels::{self, Labels},
};
use crate::{
    accumulate::{series::SeriesKey, values::Values},
    fleet::sandbox::Sandbox,
    identity::Identity,
    instrument::{INSTRUMENTS, Recorded},
};

/// Encodes one family for each instrument that has series.
pub fn encode(encoder: &mut DescriptorEncoder, sandboxes: &[Arc<Sandbox>], holding: &Holding) -> fmt::Result {
    for instrument in INSTRUMENTS.iter() {
        let recorded: Vec<_> =
            instrument.recorded.iter().map(|recorded| (recorded.protocol, recorded.side)).collect();
        let with_series: Vec<_> =
            sandboxes.iter().filter(|sandbox| sandbox.accumulator.lock().has_any(&recorded)).collect();
        if with_series.is_empty() {
            continue;
        }
        let mut family = encoder.encode_descriptor(
            instrument.name,
            instrument.help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for sandbox in with_series {
            let accumulator = sandbox.accumulator.lock();
            holding.store(true, Ordering::Relaxed);
            let visited = accumulator.for_each_series(|key, values| {
                let recorded = instrument
                    .recorded
                    .iter()
                    .find(|recorded| recorded.protocol == key.protocol && recorded.side == key.side);
                match recorded {
                    Some(recorded) => encode_series(&mut family, recorded, &sandbox.identity, key, values),
                    None => Ok(()),
                }
            });
            drop(accumulator);
            holding.store(false, Ordering::Relaxed);
            visited?;
        }
    }
    Ok(())
}

fn encode_series(
    family: &mut MetricEncoder,
    recorded: &Recorded,
    identity: &Identity,
    key: &SeriesKey,
    values: &Values,
) -> fmt::Result {
    let [tenant, service, namespace, pod, container, containerd_namespace, sandbox] =
        labels::identity(identity, &key.container);
    let labels = [
        tenant,
        service,
        namespace,
        pod,
        container,
        containerd_namespace,
        sandbox,
        recorded.system.unwrap_or_default(),
        (recorded.operation, &*key.operation),
        (recorded.resource, &*key.resource),
        (recorded.status, &*key.status),
        ("error_type", &*key.error_type),
        ("server_address", &*key.peer_address),
        ("server_port", &*key.peer_port),
    ];
    let durations = &values.durations;
    family.encode_family(&Labels(&labels))?.encode_histogram::<NoLabelSet>(
        buckets::sum_seconds(durations),
        durations.count(),
        &buckets::classic(durations),
        None,
    )
}
