//! One container started with `ctr`, from its start to its removal.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{self, Finished},
    containerd::{CALL_DEADLINE, Containerd},
    image::{self, Image},
    network::Endpoint,
    wait,
};

/// The runtime under test.
pub const PORTHOLE: &str = "io.containerd.porthole.v2";

/// Its delegate alone.
pub const MICROVM: &str = "io.containerd.porthole-microvm.v2";

/// The machine's ordinary runtime, for what is about the harness itself.
pub const RUNC: &str = "io.containerd.runc.v2";

/// Distinguishes exec ids.
static EXECS: AtomicU64 = AtomicU64::new(1);

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container's id.
    pub id: &'a str,
    /// [`PORTHOLE`], [`MICROVM`] or [`RUNC`].
    pub runtime: &'a str,
    /// The network namespace that it joins.
    pub network: Option<&'a Endpoint>,
    /// OCI annotations.
    pub annotations: &'a [(&'a str, &'a str)],
    /// Whether it has every capability, as one who has taken over the guest's kernel would.
    pub privileged: bool,
    /// Further options of `ctr run`.
    pub options: &'a [&'a str],
    /// What it is made from.
    pub image: Image,
    /// Program and arguments.
    pub command: &'a [&'a str],
}

impl<'a> Launch<'a> {
    /// A container without network and annotations.
    pub fn new(namespace: &'a str, id: &'a str, runtime: &'a str, command: &'a [&'a str]) -> Self {
        Self {
            namespace,
            id,
            runtime,
            network: None,
            annotations: &[],
            privileged: false,
            options: &[],
            image: image::DEMO,
            command,
        }
    }

    /// The same in a network namespace.
    #[must_use]
    pub fn on(self, endpoint: &'a Endpoint) -> Self {
        Self { network: Some(endpoint), ..self }
    }

    /// The same with annotations.
    #[must_use]
    pub fn annotated(self, annotations: &'a [(&'a str, &'a str)]) -> Self {
        Self { annotations, ..self }
    }

    /// The same from another image.
    #[must_use]
    pub fn from_image(self, image: Image) -> Self {
        Self { image, ..self }
    }

    /// The same with every capability.
    #[must_use]
    pub fn privileged(self) -> Self {
        Self { privileged: true, ..self }
    }

    /// The same with further options of `ctr run`.
    #[must_use]
    pub fn with_options(self, options: &'a [&'a str]) -> Self {
        Self { options, ..self }
    }

    /// `ctr run` with everything but the options of the attachment.
    fn command(&self, containerd: &Containerd, how: &[&str]) -> Command {
        let mut command = containerd.ctr(self.namespace);
        command.args(["run", "--runtime", self.runtime]).args(how);
        if let Some(endpoint) = self.network {
            command.arg("--with-ns").arg(format!("network:{}", endpoint.path().display()));
        }
        if self.privileged {
            command.arg("--privileged");
        }
        command.args(self.options);
        for (name, value) in self.annotations {
            command.arg("--annotation").arg(format!("{name}={value}"));
        }
        command.arg(self.image.name).arg(self.id).args(self.command);
        command
    }

    /// Runs in the foreground to the end and removes the container: output and exit code are the container's.
    pub fn run(&self, containerd: &Containerd) -> Result<Finished> {
        self.run_within(CALL_DEADLINE, containerd)
    }

    /// The same for one that takes longer.
    pub fn run_within(&self, deadline: Duration, containerd: &Containerd) -> Result<Finished> {
        command::run(&mut self.command(containerd, &["--rm"]), deadline)
    }

    /// Starts and returns when containerd lists it as running.
    pub fn start(&self, containerd: &Arc<Containerd>) -> Result<Container> {
        let start = Instant::now();
        // Made before the call, so that a start that half succeeds is removed too.
        let mut container = Container {
            containerd: Arc::clone(containerd),
            namespace: self.namespace.to_owned(),
            id: self.id.to_owned(),
            start: Duration::ZERO,
            shim_socket: None,
            removed: false,
        };
        command::succeed(&mut self.command(containerd, &["--detach", "--null-io"]), CALL_DEADLINE)?;
        container.start = start.elapsed();
        let address = containerd.bundle(self.namespace, self.id).join("address");
        let address = fs::read_to_string(&address).with_context(|| format!("read {}", address.display()))?;
        container.shim_socket = address.strip_prefix("unix://").map(|path| path.trim().to_owned());
        Ok(container)
    }
}

/// A container that was started detached.
#[derive(Debug)]
pub struct Container {
    containerd: Arc<Containerd>,
    /// containerd's namespace.
    pub namespace: String,
    /// The container's id.
    pub id: String,
    /// From the call to the running first process.
    pub start: Duration,
    /// The shim's socket, outside the environment's directory.
    pub shim_socket: Option<String>,
    removed: bool,
}

impl Container {
    /// The task's status in containerd; none when it has no task.
    pub fn status(&self) -> Result<Option<String>> {
        let listing =
            command::try_quietly(self.containerd.ctr(&self.namespace).args(["tasks", "ls"]), CALL_DEADLINE)?;
        ensure!(listing.status.success(), "ctr tasks ls: {listing}");
        Ok(listing.text().lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(&self.id)).then(|| words.nth(1).unwrap_or_default().to_owned())
        }))
    }

    /// The task's process id as containerd has it.
    pub fn pid(&self) -> Result<i32> {
        let listing = self.containerd.call(&self.namespace, &["tasks", "ls"])?.text();
        let line = listing.lines().find(|line| line.split_whitespace().next() == Some(&self.id));
        let pid = line.and_then(|line| line.split_whitespace().nth(1)).context("no such task")?;
        pid.parse().context("process id")
    }

    /// Runs a program in the container.
    pub fn exec(&self, command: &[&str]) -> Result<Finished> {
        self.exec_within(CALL_DEADLINE, command)
    }

    /// The same for one that takes longer.
    pub fn exec_within(&self, deadline: Duration, command: &[&str]) -> Result<Finished> {
        let id = format!("exec-{}", EXECS.fetch_add(1, Ordering::Relaxed));
        let mut call = self.containerd.ctr(&self.namespace);
        call.args(["tasks", "exec", "--exec-id", &id, &self.id]).args(command);
        command::run(&mut call, deadline)
    }

    /// Sends a signal to the first process.
    pub fn kill(&self, signal: &str) -> Result<Finished> {
        self.containerd.attempt(&self.namespace, &["tasks", "kill", "--signal", signal, &self.id])
    }

    /// Waits until containerd knows that the task has ended.
    pub fn wait_stopped(&self, deadline: Duration) -> Result<()> {
        wait::until(&format!("{} stops", self.id), deadline, || {
            Ok(self.status()?.is_none_or(|status| status == "STOPPED").then_some(()))
        })
    }

    /// Kills, deletes the task, removes the container: the way an operator does. Every step must succeed.
    pub fn remove(mut self) -> Result<()> {
        self.removed = true;
        if self.status()?.is_some_and(|status| status == "RUNNING") {
            let killed = self.kill("SIGKILL")?;
            ensure!(killed.status.success(), "ctr tasks kill {}: {killed}", self.id);
        }
        self.wait_stopped(wait::SOON)?;
        if self.status()?.is_some() {
            let deleted = self.containerd.attempt(&self.namespace, &["tasks", "delete", &self.id])?;
            // ctr hands on the task's exit code.
            ensure!(!deleted.complaint().contains("error"), "ctr tasks delete {}: {deleted}", self.id);
        }
        self.containerd.call(&self.namespace, &["containers", "delete", &self.id]).map(drop)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.removed {
            remove_quietly(&self.containerd, &self.namespace, &self.id);
        }
    }
}

/// Removes whatever of the container exists; for teardown.
pub(crate) fn remove_quietly(containerd: &Containerd, namespace: &str, id: &str) {
    let attempts: [&[&str]; 2] = [&["tasks", "delete", "--force", id], &["containers", "delete", id]];
    for arguments in attempts {
        // The sweep takes away what this does not.
        let _ = command::try_quietly(containerd.ctr(namespace).args(arguments), wait::SOON);
    }
}
