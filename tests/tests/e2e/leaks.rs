//! Is anything left when a sandbox is gone, however it went?

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use porthole_testbed::{
    container::{Container, Launch, MICROVM, PORTHOLE},
    environment::Environment,
    footprint::{self, Footprint, Process},
    http::Connection,
    image,
    network::Endpoint,
    scenario, wait,
};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[
    ("leaks::nothing_remains_after_kill_and_delete", after_kill_and_delete),
    ("leaks::nothing_remains_after_qemu_was_killed", after_qemu_was_killed),
    ("leaks::nothing_remains_after_the_shim_was_killed", after_the_shim_was_killed),
    ("leaks::nothing_remains_after_the_companion_was_killed", after_the_companion_was_killed),
    ("leaks::control_groups_of_a_namespace_go_with_its_last_sandbox", groups_of_a_namespace),
];

/// A watched sandbox, and how things were before it.
struct Sandbox {
    endpoint: Endpoint,
    container: Container,
    before: Footprint,
    interfaces: Vec<String>,
    rules: String,
}

impl Sandbox {
    fn start(environment: &Environment, name: &str, host: u8) -> Result<Self> {
        let endpoint = environment.endpoint(name, host)?;
        let id = environment.unique(&format!("box-{name}"));
        let before = environment.footprint_of(&id)?;
        let (interfaces, rules) = (endpoint.interfaces()?, endpoint.traffic_rules()?);
        let launch = Launch::new("acme", &id, PORTHOLE, scenario::BLOG.command).on(&endpoint);
        let container = launch.start(&environment.containerd)?;
        scenario::wait_watched(environment, &id)?;
        Ok(Self { endpoint, container, before, interfaces, rules })
    }

    /// The one process of this sandbox that runs this program.
    fn process(&self, program: &str) -> Result<Process> {
        let mut found = footprint::processes(&[&self.container.id])?;
        found.retain(|process| {
            let first = process.command_line.split(' ').next().unwrap_or_default();
            first.rsplit('/').next() == Some(program)
        });
        ensure!(found.len() == 1, "processes of {program}: {found:?}");
        found.pop().context("a process")
    }

    /// Kills that process and nothing else.
    fn kill(&self, program: &str) -> Result<()> {
        let process = self.process(program)?;
        kill(Pid::from_raw(process.id), Signal::SIGKILL).with_context(|| format!("kill {process:?}"))
    }

    /// Waits until containerd knows that the task is over, and removes it; it is an error if anything is left.
    fn must_vanish(self, environment: &Environment) -> Result<()> {
        let Self { endpoint, container, before, interfaces, rules } = self;
        container.wait_stopped(wait::SOON)?;
        let (id, socket) = (container.id.clone(), container.shim_socket.clone());
        container.remove()?;
        environment.wait_gone(&id, &before, wait::SOON)?;
        // containerd's own clean-up of a shim that died goes on behind the removal.
        wait::until("its socket and what it did to the network go", wait::SOON, || {
            if let Some(socket) = &socket {
                ensure!(!std::path::Path::new(socket).exists(), "the shim's socket {socket} is left");
            }
            let left = endpoint.interfaces()?;
            ensure!(names(&left) == names(&interfaces), "interfaces before: {interfaces:?}, left: {left:?}");
            let left = endpoint.traffic_rules()?;
            ensure!(left == rules, "traffic rules before: {rules:?}, left: {left:?}");
            Ok(Some(()))
        })?;
        let listed = environment.containerd.containers()?;
        ensure!(!listed.iter().any(|(_, known)| *known == id), "containerd still lists it");
        Ok(())
    }
}

/// Names of interfaces: their state may differ.
fn names(interfaces: &[String]) -> Vec<&str> {
    interfaces.iter().filter_map(|line| line.split_whitespace().next()).collect()
}

fn after_kill_and_delete(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    Sandbox::start(&environment, "deleted", 41)?.container_killed(&environment)
}

impl Sandbox {
    fn container_killed(self, environment: &Environment) -> Result<()> {
        ensure!(self.container.kill("SIGKILL")?.status.success(), "SIGKILL was refused");
        self.must_vanish(environment)
    }
}

fn after_qemu_was_killed(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let sandbox = Sandbox::start(&environment, "qemu", 42)?;
    sandbox.kill("qemu-system-x86_64")?;
    sandbox.must_vanish(&environment)
}

fn after_the_shim_was_killed(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let sandbox = Sandbox::start(&environment, "shim", 43)?;
    sandbox.kill("containerd-shim-porthole-microvm-v2")?;
    sandbox.must_vanish(&environment)
}

fn after_the_companion_was_killed(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let sandbox = Sandbox::start(&environment, "companion", 44)?;
    sandbox.kill("porthole-companion")?;
    // The workload does not notice.
    let address = sandbox.endpoint.at(80);
    let response = environment.from_hub(|| Connection::open_once_listening(address)?.request("GET", "/"))?;
    ensure!(response.status == 200, "the workload answers {}", response.status);
    wait::until("containerd says that it runs", wait::SOON, || {
        Ok((sandbox.container.status()?.as_deref() == Some("RUNNING")).then_some(()))
    })?;
    sandbox.container_killed(&environment)
}

/// The control groups in which a namespace's containers are, one in each hierarchy of version 1, or the one of version 2.
fn groups_of(namespace: &str) -> Vec<PathBuf> {
    const MOUNTED: &str = "/sys/fs/cgroup";
    let hierarchies = std::fs::read_dir(MOUNTED).into_iter().flatten().flatten().map(|entry| entry.path());
    let groups = hierarchies.chain([MOUNTED.into()]).map(|hierarchy| hierarchy.join(namespace));
    groups.filter(|group| group.is_dir()).collect()
}

fn groups_of_a_namespace(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let namespace = environment.unique("initech");
    environment.containerd.import(&namespace, &image::DEMO.build(&environment.dist.cache)?)?;
    let start =
        |name: &str| Launch::new(&namespace, name, MICROVM, &["sleep", "600"]).start(&environment.containerd);
    let (first, last) = (start("first")?, start("last")?);
    let groups = groups_of(&namespace);
    ensure!(!groups.is_empty(), "the sandboxes are in no group of the namespace");
    first.remove()?;
    ensure!(groups_of(&namespace) == groups, "groups went while a sandbox was in them");
    last.remove()?;
    wait::until("the groups of the namespace go", wait::SOON, || {
        let left = groups_of(&namespace);
        if left.is_empty() { Ok(Some(())) } else { Err(anyhow::anyhow!("still there: {left:?}")) }
    })
}
