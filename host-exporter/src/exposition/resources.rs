//! What the containers of every sandbox and its guest take.

use std::{sync::Arc, time::Duration};

use porthole_agent_api::resources::Measured;

use super::sink::{Family, Kind, Label, Sink};
use crate::{
    fleet::sandbox::Sandbox,
    instrument::resources::{FAMILIES, Form},
};

/// Values of a container, by its name; those of the guest without.
type Values = (Option<Box<str>>, Measured);

/// Encodes the families that have values.
pub fn encode(sink: &mut dyn Sink, sandboxes: &[Arc<Sandbox>]) {
    // The values of one moment, so that those of different families fit each other.
    let measured: Vec<(&Sandbox, Vec<Values>)> = sandboxes
        .iter()
        .map(|sandbox| {
            let resources = sandbox.resources.lock();
            let values = resources.iter().map(|(name, values)| (name.map(Box::from), *values)).collect();
            (&**sandbox, values)
        })
        .collect();
    for family in FAMILIES {
        let mut begun = false;
        for (sandbox, values) in &measured {
            for (name, values) in values {
                for (resource, of_sample) in family.samples {
                    let Some(value) = values.get(*resource) else { continue };
                    if !begun {
                        begun = true;
                        let kind = if family.cumulative { Kind::Counter } else { Kind::Gauge };
                        sink.family(&Family {
                            name: family.name,
                            help: family.help,
                            unit: family.unit,
                            kind,
                        });
                    }
                    let of_sample = family.labels.iter().copied().zip(of_sample.iter().copied());
                    let mut labels: Vec<Label<'_>> = sandbox.identity.labels().to_vec();
                    labels.push(("k8s_container_name", name.as_deref().unwrap_or_default()));
                    labels.extend(of_sample);
                    match family.form {
                        Form::Whole => sink.number(&labels, value),
                        Form::Seconds => sink.float(&labels, Duration::from_nanos(value).as_secs_f64()),
                    }
                }
            }
        }
    }
}
