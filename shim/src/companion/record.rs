//! The sandbox's record in the registry, which the exporter reads.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use porthole_registry::{ContainerId, ContainerRecord, SandboxRecord, SandboxState, channel::Channel};

use porthole_config::watch::Watched;

use super::{addresses::SandboxNetwork, context::Companion, keeper::Keeper, reason::Failure};
use crate::{
    bundle::Annotations,
    identity,
    identity::{Identity, Rules},
    names::Names,
    settings::{Settings, Tenants},
};

/// Writes the record whenever something in it changes.
#[derive(Debug)]
pub struct Publisher {
    directory: PathBuf,
    record: SandboxRecord,
    /// Where the sandbox's addresses are, until they are known.
    network: Option<SandboxNetwork>,
    /// The sandbox's bundle; those of its further containers are beside it.
    bundle: PathBuf,
    /// By what its names are made.
    tenants: Tenants,
    names: Names,
    configuration: Watched,
}

impl Publisher {
    /// The record of a sandbox that is about to be monitored; nothing is written yet. The configuration is watched as it was before
    /// it was read.
    pub fn new(companion: &Companion<'_>, network: Option<SandboxNetwork>, configuration: Watched) -> Self {
        let (assignment, settings) = (companion.assignment, companion.settings);
        let id = assignment.sandbox.id.as_str();
        let annotations = Annotations::read(&assignment.bundle).unwrap_or_default();
        let namespace = assignment.sandbox.namespace.as_str();
        let (tenants, names) = (settings.tenants.clone(), settings.names.clone());
        let rules = Rules { tenants: &tenants, names: &names };
        let identity = Identity::of(id, namespace, &annotations, rules);
        let own = identity::container_name(id, namespace, &annotations, rules);
        let own = own.map(|name| (assignment.sandbox.id.clone(), ContainerRecord { name }));
        let record = SandboxRecord {
            k8s_namespace_name: identity.k8s_namespace_name,
            k8s_pod_name: identity.k8s_pod_name,
            containers: own.into_iter().collect(),
            secret: Some(companion.secret.clone()),
            ..SandboxRecord::new(
                assignment.sandbox.clone(),
                identity.tenant,
                identity.service_name,
                assignment.runtime.clone(),
                unix_ms(),
            )
        };
        Self {
            directory: settings.registry.directory.clone(),
            record,
            network,
            bundle: assignment.bundle.clone(),
            tenants,
            names,
            configuration,
        }
    }

    /// Reads the configuration again when its file has changed, or on demand, and names the sandbox and its containers by it.
    /// Of a configuration that cannot be used, and of a bundle that is gone, the names stay.
    pub fn reload(&mut self, demanded: bool) {
        if !self.configuration.changed() && !demanded {
            return;
        }
        let settings = Settings::load();
        let id = self.record.key();
        if let Some(problem) = settings.problem {
            tracing::warn!(%id, problem, "the changed configuration cannot be used; names stay as they are");
            return;
        }
        if (&settings.tenants, &settings.names) == (&self.tenants, &self.names) {
            return;
        }
        (self.tenants, self.names) = (settings.tenants, settings.names);
        let before = self.record.clone();
        if let Ok(annotations) = Annotations::read(&self.bundle) {
            let namespace = self.record.containerd_namespace.as_str();
            let identity =
                Identity::of(self.record.sandbox_id.as_str(), namespace, &annotations, self.rules());
            self.record.tenant = identity.tenant;
            self.record.service_name = identity.service_name;
            self.record.k8s_namespace_name = identity.k8s_namespace_name;
            self.record.k8s_pod_name = identity.k8s_pod_name;
        }
        let mut containers = std::mem::take(&mut self.record.containers);
        for (container, named) in &mut containers {
            let annotations = Annotations::read(&self.bundle.with_file_name(container.as_str()));
            let name = annotations
                .ok()
                .and_then(|annotations| self.container_name(container.as_str(), &annotations));
            named.name = name.unwrap_or_else(|| std::mem::take(&mut named.name));
        }
        self.record.containers = containers;
        if self.record != before {
            let (tenant, service) = (&self.record.tenant, &self.record.service_name);
            tracing::info!(%id, tenant, service, "named anew by the changed configuration");
            self.publish();
        }
    }

    fn rules(&self) -> Rules<'_> {
        Rules { tenants: &self.tenants, names: &self.names }
    }

    /// Name of a container of the sandbox.
    pub fn container_name(&self, id: &str, annotations: &Annotations) -> Option<String> {
        identity::container_name(id, self.record.containerd_namespace.as_str(), annotations, self.rules())
    }

    /// Writes the record as it stands.
    pub fn publish(&self) {
        if let Err(error) = self.record.write(&self.directory) {
            tracing::warn!(id = %self.record.key(), %error, "cannot write the record");
        }
    }

    /// The agent is being put into the sandbox (again).
    pub fn injecting(&mut self) {
        self.set(SandboxState::Injecting, None);
    }

    /// The agent runs and listens there.
    pub fn watching(&mut self, channel: Channel) {
        self.record.channel = Some(channel);
        self.record.watching_unix_ms.get_or_insert_with(unix_ms);
        self.set(SandboxState::Watching, None);
    }

    /// The workload runs without an agent.
    pub fn unmonitored(&mut self, failure: &Failure) {
        let (code, why) = (failure.code.as_str(), &failure.message);
        tracing::warn!(id = %self.record.key(), code, why, "unmonitored");
        self.set(SandboxState::Unmonitored, Some(failure));
    }

    /// Where the agent listens, while there is one.
    pub fn agent(&self) -> Option<Channel> {
        self.record.channel.clone().filter(|_| self.record.state == SandboxState::Watching)
    }

    /// The sandbox has ended: what its agent reported last is left beside the record, before that has the state `ended`.
    pub async fn leave_last_state(&mut self, keeper: Keeper) {
        let record = SandboxRecord { state: SandboxState::Ended, reason: None, ..self.record.clone() };
        self.record.abrupt_end = keeper.finish(&record, &self.directory).await;
    }

    /// The workload has ended.
    pub fn ending(&mut self) {
        self.set(SandboxState::Ended, None);
    }

    /// The last state: like [`Self::ending`], if that was not written yet.
    pub fn ended(&mut self) {
        if self.record.state != SandboxState::Ended {
            self.ending();
        }
    }

    fn set(&mut self, state: SandboxState, failure: Option<&Failure>) {
        self.record.state = state;
        self.record.reason = failure.map(Failure::to_reason);
        self.find_addresses();
        self.publish();
    }

    /// Takes the sandbox's addresses, as soon as it has any, and for the last time when its workload is about to run.
    fn find_addresses(&mut self) {
        let Some(network) = &mut self.network else { return };
        self.record.addresses = network.addresses();
        if !self.record.addresses.is_empty() || self.record.state != SandboxState::Injecting {
            self.network = None;
        }
    }

    /// The workload's containers.
    pub fn containers(&self) -> &BTreeMap<ContainerId, ContainerRecord> {
        &self.record.containers
    }

    /// Replaces the workload's containers and writes the record if that changed it.
    pub fn set_containers(&mut self, containers: BTreeMap<ContainerId, ContainerRecord>) {
        if self.record.containers != containers {
            self.record.containers = containers;
            self.publish();
        }
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record of a sandbox that is watched.
    pub fn record() -> SandboxRecord {
        let sandbox = "acme@shop-1".parse().expect("key");
        let record = SandboxRecord::new(sandbox, "acme", "shop", "containerd-shim-x-v2", 1);
        SandboxRecord { state: SandboxState::Watching, ..record }
    }
}
