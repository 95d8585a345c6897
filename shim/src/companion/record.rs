//! The sandbox's record in the registry, which the exporter reads.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use porthole_registry::{
    ContainerId, ContainerRecord, RECORD_VERSION, SandboxRecord, SandboxState, channel::Channel,
};

use super::{context::Companion, reason::Failure};
use crate::{bundle::Annotations, identity, identity::Identity};

/// Writes the record whenever something in it changes.
#[derive(Debug)]
pub struct Publisher {
    directory: PathBuf,
    record: SandboxRecord,
}

impl Publisher {
    /// The record of a sandbox that is about to be monitored; nothing is written yet.
    pub fn new(companion: &Companion<'_>) -> Self {
        let (assignment, settings) = (companion.assignment, companion.settings);
        let id = assignment.sandbox.id.as_str();
        let annotations = Annotations::read(&assignment.bundle).unwrap_or_default();
        let identity =
            Identity::of(id, assignment.sandbox.namespace.as_str(), &annotations, &settings.tenants);
        let own = identity::container_name(id, &annotations);
        let own = own.map(|name| (assignment.sandbox.id.clone(), ContainerRecord { name }));
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let record = SandboxRecord {
            version: RECORD_VERSION,
            sandbox_id: assignment.sandbox.id.clone(),
            containerd_namespace: assignment.sandbox.namespace.clone(),
            tenant: identity.tenant,
            service_name: identity.service_name,
            k8s_namespace_name: identity.k8s_namespace_name,
            k8s_pod_name: identity.k8s_pod_name,
            containers: own.into_iter().collect(),
            runtime: assignment.runtime.clone(),
            channel: None,
            secret: Some(companion.secret.clone()),
            state: SandboxState::Injecting,
            reason: None,
            created_unix_ms: u64::try_from(created.as_millis()).unwrap_or(u64::MAX),
        };
        Self { directory: settings.registry.directory.clone(), record }
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
        self.set(SandboxState::Watching, None);
    }

    /// The workload runs without an agent.
    pub fn unmonitored(&mut self, failure: &Failure) {
        let (code, why) = (failure.code.as_str(), &failure.message);
        tracing::warn!(id = %self.record.key(), code, why, "unmonitored");
        self.set(SandboxState::Unmonitored, Some(failure));
    }

    /// The workload has ended.
    pub fn ending(&mut self) {
        self.set(SandboxState::Ended, None);
    }

    /// The last word: like [`Self::ending`], if that was not said yet.
    pub fn ended(&mut self) {
        if self.record.state != SandboxState::Ended {
            self.ending();
        }
    }

    fn set(&mut self, state: SandboxState, failure: Option<&Failure>) {
        self.record.state = state;
        self.record.reason = failure.map(Failure::to_reason);
        self.publish();
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
