//! Start: a container's first process runs, or a further one.

use std::sync::{Arc, PoisonError};

use containerd_shim::protos::{
    events::task::{TaskExecStarted, TaskStart},
    protobuf::MessageField,
};

use super::{
    ShimError,
    container::{Container, Process, Status},
    sandbox::{Running, Sandbox},
    stdio::Stdio,
};
use crate::{
    vm::{network, record::Record, system::Linux},
    wire::guest,
};

impl Sandbox {
    /// Starts a process; answers the process number that stands for it.
    pub async fn start(self: &Arc<Self>, id: &str, exec_id: &str) -> Result<u32, ShimError> {
        let container = self.container(id)?;
        let process = container.process(exec_id)?;
        if process.status() != Status::Created {
            return Err(ShimError::State(format!("{} was started already", process.name())));
        }
        let running = self.running()?;
        if exec_id.is_empty() {
            self.start_container(&running, &container).await?;
        } else {
            self.start_process(&running, &container, &process).await?;
        }
        Ok(self.pid())
    }

    async fn start_container(
        self: &Arc<Self>,
        running: &Arc<Running>,
        container: &Container,
    ) -> Result<(), ShimError> {
        if container.id == self.id {
            // Now at the latest the pod's network is there.
            self.join_network(running).await?;
        } else if self.container(&self.id)?.init.status() != Status::Running {
            return Err(ShimError::State(format!("sandbox {} is not running", self.id)));
        }
        let request = guest::StartContainerRequest {
            id: container.id.clone(),
            agent_enrols: running.monitor.address_requested(),
            ..Default::default()
        };
        // Running from here on: a process that ends at once has ended after it ran.
        container.init.set(Status::Running);
        if let Err(error) =
            running.call(async |guest, context| guest.start_container(context, &request).await).await
        {
            container.init.set(Status::Created);
            return Err(error.into());
        }
        if container.known_to_containerd {
            self.events.publish(TaskStart {
                container_id: container.id.clone(),
                pid: self.pid(),
                ..Default::default()
            });
        }
        Ok(())
    }

    async fn join_network(&self, running: &Arc<Running>) -> Result<(), ShimError> {
        let panicked = |_| ShimError::Internal("the network task panicked");
        let namespace = running.machine.namespace().to_owned();
        let found = tokio::task::spawn_blocking(move || network::survey(&Linux, &namespace)).await;
        let Some(junction) = found.map_err(panicked)?? else { return Ok(()) };
        let request = junction.request.clone();
        // On record before it is done.
        self.record(running, |record| record.mirrored.push(junction.interface().to_owned()))?;
        let joined = tokio::task::spawn_blocking(move || junction.connect(&Linux)).await;
        if let Err(error) = joined.map_err(panicked)? {
            // What another has made on the interface must not be taken away at the end.
            self.record(running, |record| record.mirrored.clear())?;
            return Err(error.into());
        }
        running.call(async |guest, context| guest.set_network(context, &request).await).await?;
        Ok(())
    }

    fn record(&self, running: &Running, change: impl FnOnce(&mut Record)) -> Result<(), ShimError> {
        let mut record = running.record.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut record);
        let directory = self.directory();
        record.save(&directory).map_err(ShimError::io("write the record in", &directory))
    }

    async fn start_process(
        self: &Arc<Self>,
        running: &Arc<Running>,
        container: &Container,
        process: &Arc<Process>,
    ) -> Result<(), ShimError> {
        if container.init.status() != Status::Running {
            return Err(ShimError::State(format!("container {} is not running", container.id)));
        }
        let (stdio, streams) = Stdio::open(&running.machine, &process.paths).await?;
        *process.stdio.lock().await = Some(stdio);
        let request = guest::ExecRequest {
            id: process.container.clone(),
            exec_id: process.exec_id.clone(),
            process: process.spec.clone(),
            streams: MessageField::some(streams),
            ..Default::default()
        };
        running.call(async |guest, context| guest.exec(context, &request).await).await?;
        process.set(Status::Running);
        if container.known_to_containerd {
            self.events.publish(TaskExecStarted {
                container_id: process.container.clone(),
                exec_id: process.exec_id.clone(),
                pid: self.pid(),
                ..Default::default()
            });
        }
        self.follow(running, Arc::clone(process), container.known_to_containerd);
        Ok(())
    }
}
