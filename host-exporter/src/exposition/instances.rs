//! The instance dimension: every series of every sandbox whose series are exposed.
//!
//! Series are copied out of a sandbox's lock some at a time, by protocol and side, and encoded outside of it.

use std::sync::Arc;

use super::sink::{Family, Kind, Sink};
use crate::{
    accumulate::{sandbox::Shown, series::SeriesKey},
    fleet::sandbox::Sandbox,
    identity::Identity,
    instrument::{INSTRUMENTS, Recorded},
    spans::{Exemplar, Exemplars},
};

/// Series that are copied under one hold of a sandbox's lock.
const COPIED_AT_ONCE: usize = 256;

/// Encodes one family for each instrument that has series.
pub fn encode(sink: &mut dyn Sink, sandboxes: &[Arc<Sandbox>], exemplars: &Exemplars) {
    let mut copied = Vec::with_capacity(COPIED_AT_ONCE);
    for instrument in INSTRUMENTS.iter() {
        let family = format!("{}_seconds", instrument.name);
        let mut begun = false;
        for recorded in &instrument.recorded {
            for sandbox in sandboxes {
                let exemplars = exemplars.of_sandbox(&sandbox.identity);
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
                        let exemplars = Exemplars::of_series(exemplars, &shown.key);
                        encode_series(sink, recorded, &sandbox.identity, shown, exemplars);
                    }
                    if copied.len() < COPIED_AT_ONCE {
                        break;
                    }
                }
            }
        }
    }
}

fn encode_series(
    sink: &mut dyn Sink,
    recorded: &Recorded,
    identity: &Identity,
    shown: &Shown,
    exemplars: &[Exemplar],
) {
    let of_key = shown.key.labels();
    let [tenant, service, namespace, pod, containerd_namespace, sandbox] = identity.labels();
    let labels = [
        tenant,
        service,
        namespace,
        pod,
        ("k8s_container_name", of_key.container),
        containerd_namespace,
        sandbox,
        recorded.system.unwrap_or_default(),
        (recorded.operation, of_key.operation),
        (recorded.resource, of_key.resource),
        (recorded.status, of_key.status),
        ("error_type", of_key.error_type),
        ("server_address", of_key.peer_address),
        ("server_port", of_key.peer_port),
    ];
    sink.histogram_with(&labels, &shown.durations, exemplars);
}
