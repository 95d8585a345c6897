//! The instance dimension: every series of every sandbox whose series are exposed.
//!
//! Series are copied out of a sandbox's lock some at a time, by protocol and side, and encoded outside of it.

use std::sync::Arc;

use super::{
    labels,
    sink::{Family, Kind, Sink},
};
use crate::{
    accumulate::{sandbox::Shown, series::SeriesKey},
    fleet::sandbox::Sandbox,
    identity::Identity,
    instrument::{INSTRUMENTS, Recorded},
};

/// Series that are copied under one hold of a sandbox's lock.
const COPIED_AT_ONCE: usize = 256;

/// Encodes one family for each instrument that has series.
pub fn encode(sink: &mut dyn Sink, sandboxes: &[Arc<Sandbox>]) {
    let mut copied = Vec::with_capacity(COPIED_AT_ONCE);
    for instrument in INSTRUMENTS.iter() {
        let family = format!("{}_seconds", instrument.name);
        let mut begun = false;
        for recorded in &instrument.recorded {
            for sandbox in sandboxes {
                let mut after: Option<Arc<SeriesKey>> = None;
                loop {
                    copied.clear();
                    let of = (recorded.protocol, recorded.side);
                    sandbox.accumulator.lock().copy_series(of, after.as_ref(), COPIED_AT_ONCE, &mut copied);
                    let Some(last) = copied.last() else { break };
                    after = Some(Arc::clone(&last.key));
                    if !begun {
                        begun = true;
                        sink.family(&Family {
                            name: &family,
                            help: instrument.help,
                            unit: Some("seconds"),
                            kind: Kind::Histogram,
                        });
                    }
                    for shown in &copied {
                        encode_series(sink, recorded, &sandbox.identity, shown);
                    }
                    if copied.len() < COPIED_AT_ONCE {
                        break;
                    }
                }
            }
        }
    }
}

fn encode_series(sink: &mut dyn Sink, recorded: &Recorded, identity: &Identity, shown: &Shown) {
    let key = &shown.key;
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
    sink.histogram(&labels, &shown.durations);
}
