//! Connections that containers make, by the address that they go to.

use std::{sync::Arc, time::Duration};

use porthole_agent_api::dependencies::Failure;

use super::sink::{Family, Kind, Label, Sink};
use crate::{
    accumulate::dependencies::{Connections, Failures, SharedConnections},
    fleet::sandbox::Sandbox,
};

/// Reasons that are shown before they were met, so that the first failure is an increase.
const FAILED: &[Failure] = &[Failure::Refused, Failure::TimedOut, Failure::Unreachable, Failure::Abandoned];
const BROKEN: &[Failure] = &[Failure::Reset, Failure::TimedOut];

/// A sandbox and its addresses.
type OfSandbox<'a> = (&'a Sandbox, Vec<SharedConnections>);

/// Encodes the families, if there is any address.
pub fn encode(sink: &mut dyn Sink, sandboxes: &[Arc<Sandbox>]) {
    let known: Vec<OfSandbox<'_>> =
        sandboxes.iter().map(|sandbox| (&**sandbox, sandbox.dependencies.lock().shared())).collect();
    if known.iter().all(|(_, known)| known.is_empty()) {
        return;
    }
    family(
        sink,
        "tcp_client_connect_duration_seconds",
        "Time until a TCP connection was made",
        Kind::Histogram,
    );
    for_each(&known, |labels, connections| sink.histogram(labels, &connections.made));
    family(
        sink,
        "tcp_client_connections_failed",
        "Attempts to make a TCP connection that failed, by reason",
        Kind::Counter,
    );
    for_each(&known, |labels, connections| by_reason(sink, labels, &connections.failed, FAILED));
    family(
        sink,
        "tcp_client_connections_broken",
        "TCP connections that were made, carried bytes, and did not end by being closed, by reason",
        Kind::Counter,
    );
    for_each(&known, |labels, connections| by_reason(sink, labels, &connections.broken, BROKEN));
    family(
        sink,
        "tcp_client_retransmitted_segments",
        "Segments that this end sent again on TCP connections that have ended",
        Kind::Counter,
    );
    for_each(&known, |labels, connections| sink.number(labels, connections.retransmitted_segments));
    if known.iter().flat_map(|(_, known)| known).all(|(_, connections)| connections.round_trip_us == 0) {
        return;
    }
    family(
        sink,
        "tcp_client_round_trip_seconds",
        "TCP's smoothed time of a round trip, of the connection that ended last",
        Kind::Gauge,
    );
    for_each(&known, |labels, connections| {
        if connections.round_trip_us > 0 {
            let time = Duration::from_micros(connections.round_trip_us.into());
            sink.float(labels, time.as_secs_f64());
        }
    });
}

fn family(sink: &mut dyn Sink, name: &str, help: &str, kind: Kind) {
    let unit = name.ends_with("_seconds").then_some("seconds");
    sink.family(&Family { name, help, unit, kind });
}

fn for_each(known: &[OfSandbox<'_>], mut write: impl FnMut(&[Label<'_>], &Connections)) {
    for (sandbox, known) in known {
        let of_sandbox = sandbox.identity.labels();
        for (key, connections) in known {
            let [container, address, port] = &**key;
            let mut labels: Vec<Label<'_>> = of_sandbox.to_vec();
            labels.extend([
                ("k8s_container_name", &**container),
                ("server_address", &**address),
                ("server_port", &**port),
            ]);
            write(&labels, connections);
        }
    }
}

fn by_reason(sink: &mut dyn Sink, labels: &[Label<'_>], counts: &Failures, always: &[Failure]) {
    for (failure, count) in Failure::ALL.iter().zip(counts) {
        if *count > 0 || always.contains(failure) {
            let labels = [labels, &[("error_type", failure.as_str())]].concat();
            sink.number(&labels, *count);
        }
    }
}
