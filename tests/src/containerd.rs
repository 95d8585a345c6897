//! A containerd of our own: its root, state, sockets and configuration are in the environment's directory.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    command::{self, Finished},
    daemon::Daemon,
    wait,
};

/// Long enough for a guest to boot under emulation on a busy machine.
pub const CALL_DEADLINE: Duration = Duration::from_mins(2);

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    daemon: Mutex<Daemon>,
    directory: PathBuf,
    environment: Vec<(String, String)>,
    search_path: OsString,
}

impl Containerd {
    /// Starts containerd below `directory`. `environment` is handed on to the shims.
    pub fn start(directory: &Path, environment: &[(String, String)], search_path: &OsStr) -> Result<Self> {
        let home = directory.join("containerd");
        std::fs::create_dir_all(&home).context("make containerd's directory")?;
        std::fs::write(home.join("config.toml"), configuration(&home))
            .context("write containerd's configuration")?;
        let daemon = spawn(&home, environment, search_path)?;
        let containerd = Self {
            daemon: Mutex::new(daemon),
            directory: home,
            environment: environment.to_vec(),
            search_path: search_path.to_owned(),
        };
        containerd.wait_answers()?;
        Ok(containerd)
    }

    fn wait_answers(&self) -> Result<()> {
        wait::until("containerd answers", wait::SOON, || {
            self.daemon().check()?;
            let finished = command::run(self.ctr("default").arg("version"), CALL_DEADLINE)?;
            Ok(finished.status.success().then_some(()))
        })
    }

    fn daemon(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops containerd and starts it again; shims and guests live on, as they do when the machine's is upgraded.
    pub fn restart(&self) -> Result<()> {
        let mut daemon = self.daemon();
        daemon.stop()?;
        *daemon = spawn(&self.directory, &self.environment, &self.search_path)?;
        drop(daemon);
        self.wait_answers()
    }

    /// Its socket.
    pub fn address(&self) -> PathBuf {
        self.directory.join("c.sock")
    }

    /// The socket that takes the events of shims.
    pub fn ttrpc_address(&self) -> PathBuf {
        self.directory.join("c.sock.ttrpc")
    }

    /// `ctr` for a containerd namespace; add the subcommand.
    pub fn ctr(&self, namespace: &str) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.address()).args(["--namespace", namespace]);
        command
    }

    /// Runs `ctr`; any exit code but 0 is an error.
    pub fn call(&self, namespace: &str, arguments: &[&str]) -> Result<Finished> {
        command::succeed(self.ctr(namespace).args(arguments), CALL_DEADLINE)
    }

    /// Runs `ctr`, whatever it answers.
    pub fn attempt(&self, namespace: &str, arguments: &[&str]) -> Result<Finished> {
        command::run(self.ctr(namespace).args(arguments), CALL_DEADLINE)
    }

    /// Brings an image archive into a namespace.
    pub fn import(&self, namespace: &str, archive: &Path) -> Result<()> {
        let archive = archive.to_str().context("an image path in UTF-8")?;
        self.call(namespace, &["images", "import", archive]).map(drop)
    }

    /// Directory of a running task's bundle.
    pub fn bundle(&self, namespace: &str, id: &str) -> PathBuf {
        self.directory.join("state/io.containerd.runtime.v2.task").join(namespace).join(id)
    }

    /// What containerd logged so far.
    pub fn log(&self) -> String {
        self.daemon().output()
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.daemon().pid().as_raw()
    }

    /// The state directory: what is left in it when all containers are gone is a leak.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Namespaces, and the containers in them.
    pub fn containers(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        let namespaces =
            command::try_quietly(self.ctr("default").args(["namespaces", "ls", "-q"]), CALL_DEADLINE)?;
        for namespace in namespaces.text().split_whitespace() {
            let listing =
                command::try_quietly(self.ctr(namespace).args(["containers", "ls", "-q"]), CALL_DEADLINE)?;
            found.extend(listing.text().split_whitespace().map(|id| (namespace.to_owned(), id.to_owned())));
        }
        Ok(found)
    }
}

fn spawn(home: &Path, environment: &[(String, String)], search_path: &OsStr) -> Result<Daemon> {
    let mut command = Command::new("containerd");
    command
        .arg("--config")
        .arg(home.join("config.toml"))
        .env("PATH", search_path)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    Daemon::spawn("containerd", &mut command, &home.with_file_name("log/containerd.log"))
}

fn configuration(home: &Path) -> String {
    let home = home.display();
    // On a busy machine a shim takes longer than the few seconds that it has by default, and containerd would take one that lives
    // for dead.
    // cri and opt would touch /etc/cni and /opt; the snapshotters other than overlayfs only complain.
    format!(
        r#"version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{home}/c.sock"
[ttrpc]
address = "{home}/c.sock.ttrpc"
[debug]
level = "info"
[timeouts]
"io.containerd.timeout.shim.cleanup" = "60s"
"io.containerd.timeout.shim.load" = "60s"
"io.containerd.timeout.shim.shutdown" = "30s"
"io.containerd.timeout.task.state" = "30s"
"#
    )
}
