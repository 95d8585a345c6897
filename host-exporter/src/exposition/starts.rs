//! How long sandboxes take to start, by application.

use super::sink::{Family, Kind, Sink};
use crate::fleet::Fleet;

/// Encodes the family, if there is any start.
pub fn encode(sink: &mut dyn Sink, fleet: &Fleet, of: Option<&str>) {
    let starts = fleet.starts(of);
    if starts.is_empty() {
        return;
    }
    sink.family(&Family {
        name: "porthole_sandbox_start_seconds",
        help: "Time from a sandbox's creation, when its companion began, until it reached a phase, of the sandboxes that were created since the exporter began",
        unit: Some("seconds"),
        kind: Kind::Histogram,
    });
    for (application, phase, durations) in &starts {
        let labels = [
            ("tenant", application.tenant.as_str()),
            ("service_name", application.service_name.as_str()),
            ("phase", phase.as_str()),
        ];
        sink.histogram(&labels, durations);
    }
}
