//! Pods of several containers, as containerd's CRI plugin annotates them: are two of the same ids two sandboxes, and do they
//! live through a restart of containerd?

use anyhow::{Context, Result, ensure};
use porthole_registry::{ContainerId, SandboxKey, SandboxRecord, record_path};
use porthole_testbed::{
    container::{Container, Launch, PORTHOLE},
    environment::Environment,
    wait,
};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] =
    &[("pods::pods_of_the_same_ids_keep_apart_and_live_through_a_restart_of_containerd", twin_pods)];

const TENANTS: [&str; 2] = ["acme", "globex"];

/// A pod: its sandbox's own container and one that has joined it.
struct Pod {
    sandbox: Container,
    member: Container,
}

impl Pod {
    fn start(environment: &Environment, tenant: &str, ids: [&str; 2]) -> Result<Self> {
        let [sandbox, member] = ids;
        let kind = "io.kubernetes.cri.container-type";
        let own = [(kind, "sandbox"), ("io.kubernetes.cri.sandbox-id", sandbox)];
        let joined = [(kind, "container"), ("io.kubernetes.cri.sandbox-id", sandbox)];
        let launch = |id, annotations| {
            Launch::new(tenant, id, PORTHOLE, &["sleep", "3600"])
                .annotated(annotations)
                .start(&environment.containerd)
        };
        Ok(Self { sandbox: launch(sandbox, &own)?, member: launch(member, &joined)? })
    }

    fn containers(&self) -> [&Container; 2] {
        [&self.sandbox, &self.member]
    }

    /// Both run for containerd, the same process of the host stands for them, and each has files of its own.
    fn is_whole(&self) -> Result<()> {
        for container in self.containers() {
            let name = format!("{}/{}", container.namespace, container.id);
            ensure!(container.status()?.as_deref() == Some("RUNNING"), "{name} is {:?}", container.status()?);
            let said = container.exec(&["cat", "/tmp/whose"])?;
            ensure!(said.text().trim() == name, "{name} reads {said}");
        }
        ensure!(self.sandbox.pid()? == self.member.pid()?, "two machines");
        Ok(())
    }
}

/// Waits until the exporter is connected to a tenant's sandbox and its record has the container that has joined it.
fn watched(environment: &Environment, tenant: &str, ids: [&str; 2]) -> Result<()> {
    let [id, member] = ids;
    wait::until(&format!("{tenant}'s pod is watched"), wait::SOON, || {
        let sandboxes = environment.exporter()?.sandboxes()?;
        let own = sandboxes.iter().find(|found| found["sandbox_id"] == id && found["tenant"] == tenant);
        let own = own.context("it is not listed")?;
        ensure!(own["connection"]["state"] == "connected", "{}", own["connection"]);
        let key: SandboxKey = format!("{tenant}@{id}").parse().context("a key")?;
        let record = SandboxRecord::read(&record_path(&environment.registry(), &key))?;
        let names: Vec<_> = record.containers.keys().map(ContainerId::as_str).collect();
        ensure!(names.contains(&member), "the record has {names:?}");
        Ok(Some(()))
    })
}

fn twin_pods(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let (sandbox, member) = (environment.unique("pod"), environment.unique("member"));
    let before = [environment.footprint_of(&sandbox)?, environment.footprint_of(&member)?];
    let mut pods = Vec::new();
    for tenant in TENANTS {
        let pod = Pod::start(&environment, tenant, [&sandbox, &member])?;
        for container in pod.containers() {
            let write = format!("echo {}/{} > /tmp/whose", container.namespace, container.id);
            ensure!(container.exec(&["sh", "-c", &write])?.status.success(), "{write}");
        }
        pods.push(pod);
    }
    let all_watched =
        || TENANTS.iter().try_for_each(|tenant| watched(&environment, tenant, [&sandbox, &member]));
    all_watched()?;
    let processes = || pods.iter().map(|pod| pod.sandbox.pid()).collect::<Result<Vec<_>>>();
    let machines = processes()?;
    ensure!(machines[0] != machines[1], "one machine for two tenants");
    environment.containerd.restart()?;
    pods.iter().try_for_each(Pod::is_whole)?;
    ensure!(processes()? == machines, "the machines are others");
    all_watched()?;
    // A member goes alone; the same id of the other tenant stays.
    let Pod { sandbox: first, member: gone } = pods.remove(0);
    gone.remove()?;
    ensure!(first.status()?.as_deref() == Some("RUNNING"), "the sandbox went with its member");
    pods[0].is_whole()?;
    first.remove()?;
    pods[0].is_whole()?;
    let Pod { sandbox: second, member: last } = pods.remove(0);
    last.remove()?;
    second.remove()?;
    for (id, before) in [&sandbox, &member].into_iter().zip(&before) {
        environment.wait_gone(id, before, wait::SOON)?;
    }
    Ok(())
}
