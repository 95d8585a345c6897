//! Containers that start and end in a sandbox that runs, as those of a pod do: each serves one request and ends at once.

use anyhow::{Result, ensure};

use super::{Counted, NAMESPACE, SERVE_ONE, settle, whole};
use crate::{
    container::{Container, Launch, PORTHOLE},
    environment::{Environment, Progress},
    exposition, scenario,
};

/// Name of the containers, as Kubernetes would give it to each start of one of them.
const NAME: &str = "crashing";

/// Exit status of the containers.
const STATUS: i32 = 3;

/// What was counted of a pod's containers.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    /// All requests.
    pub counted: Counted,
    /// Requests in series that have the containers' name, of the server's side.
    pub named: u64,
}

/// Runs `starts` containers, one after another, in a pod of the application `service`; without the exporter, if `exporter_down`.
pub fn run(
    environment: &std::sync::Arc<Environment>,
    service: &str,
    starts: u32,
    exporter_down: bool,
    progress: Progress,
) -> Result<Pod> {
    let sandbox = format!("{service}-pod");
    let kind = "io.kubernetes.cri.container-type";
    let of_sandbox = ("io.kubernetes.cri.sandbox-id", sandbox.as_str());
    let own = [(kind, "sandbox"), of_sandbox, ("io.porthole.service", service)];
    let pause = Launch::new(NAMESPACE, &sandbox, PORTHOLE, &["sleep", "3600"]).annotated(&own);
    let pause: Container = pause.start(&environment.containerd)?;
    scenario::wait_watched(environment, &sandbox)?;
    if exporter_down {
        environment.exporter()?.stop()?;
    }
    let ran = (0..starts).try_for_each(|number| {
        if number % 20 == 0 && number > 0 {
            progress(&format!("{number} of {starts} starts"));
        }
        let id = format!("{service}-{number}");
        let joined = [(kind, "container"), of_sandbox, ("io.kubernetes.cri.container-name", NAME)];
        let script = format!("{SERVE_ONE}\nexit {STATUS}");
        let command = ["sh", "-c", &script];
        let finished = Launch::new(NAMESPACE, &id, PORTHOLE, &command)
            .annotated(&joined)
            .run(&environment.containerd)?;
        ensure!(finished.status.code() == Some(STATUS), "{id}: {finished}");
        Ok(())
    });
    if exporter_down {
        environment.exporter()?.restart()?;
    }
    ran?;
    let counted = settle(environment, service, starts.into(), true)?;
    let samples = environment.exporter()?.samples()?;
    let labels = [("sandbox_id", sandbox.as_str()), ("k8s_container_name", NAME)];
    let named = whole(exposition::sum(&samples, "http_server_request_duration_seconds_count", &labels));
    pause.remove()?;
    Ok(Pod { counted, named })
}
