//! The whole environment, made and taken down in order.

mod configuration;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use porthole_registry::last_state;

use crate::{
    container,
    containerd::Containerd,
    dist::Dist,
    exporter::{self, Exporter},
    footprint::{self, Footprint},
    image, interrupt,
    network::{Endpoint, Network},
    prometheus::Prometheus,
    sweep::{self, Scratch},
    wait,
};

pub use configuration::Settings;

/// Where the embedded runtime keeps the state of its sandboxes, of all environments.
pub const MICROVM_STATE: &str = "/run/porthole/microvm";

/// A containerd with everything around it. Fields are dropped in this order.
#[derive(Debug)]
pub struct Environment {
    /// Prometheus, which scrapes the exporter.
    pub prometheus: Option<Prometheus>,
    /// The exporter.
    exporter: Mutex<Exporter>,
    /// containerd, shared with the containers.
    pub containerd: Arc<Containerd>,
    /// The hub from which sandboxes are reached.
    pub network: Network,
    /// Where the built parts are.
    pub dist: Dist,
    /// The configuration file that the shim and the exporter read.
    pub configuration: PathBuf,
    settings: Settings,
    exporter_address: SocketAddr,
    footprint: Footprint,
    /// Directories for all environments that were not there.
    missing: Vec<PathBuf>,
    scratch: Scratch,
}

/// Prints what is being done, so that a wait is explained.
pub type Progress<'a> = &'a dyn Fn(&str);

impl Environment {
    /// Starts containerd, the exporter and, if `prometheus`, Prometheus, and imports the image into the namespaces.
    pub fn start(
        dist: Dist,
        settings: &Settings,
        namespaces: &[&str],
        with_prometheus: bool,
        progress: Progress,
    ) -> Result<Self> {
        if !image::DEMO.is_cached(&dist.cache) {
            progress("making the container image from distribution packages (once)");
        }
        let archive = image::DEMO.build(&dist.cache)?;
        let scratch = Scratch::create()?;
        let missing = Path::new(MICROVM_STATE).ancestors().filter(|path| !path.exists());
        let missing = missing.map(Path::to_owned).collect();
        let directory = scratch.path();
        progress("starting containerd");
        let address = exporter::free_address()?;
        let configuration = directory.join("porthole.toml");
        fs::write(&configuration, settings.render(&dist, directory, address)?)
            .context("write the configuration")?;
        let network = Network::create(&scratch.tag())?;
        let containerd = start_containerd(&dist, directory, &configuration)?;
        for namespace in namespaces {
            progress(&format!("importing the image into namespace {namespace}"));
            containerd.import(namespace, &archive)?;
        }
        progress("starting the exporter");
        let exporter = Exporter::start(dist.program(exporter::PROGRAM), directory, &configuration, address)?;
        let prometheus = if with_prometheus {
            progress("starting Prometheus");
            Some(Prometheus::start(directory, address)?)
        } else {
            None
        };
        let footprint = Footprint::take(&[scratch.mark()], &[directory])?;
        Ok(Self {
            prometheus,
            exporter: Mutex::new(exporter),
            containerd: Arc::new(containerd),
            network,
            dist,
            configuration,
            settings: settings.clone(),
            exporter_address: address,
            footprint,
            missing,
            scratch,
        })
    }

    /// The exporter.
    pub fn exporter(&self) -> Result<MutexGuard<'_, Exporter>> {
        self.exporter.lock().map_err(|_| anyhow!("a test panicked while using the exporter"))
    }

    /// The environment's directory.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// The registry of sandboxes.
    pub fn registry(&self) -> PathBuf {
        self.scratch.path().join("registry")
    }

    /// Runs `work` while sandboxes that start find other settings beside the environment's own. The exporter, which
    /// reads the configuration when it starts, keeps what it has.
    pub fn with_settings<T>(&self, other: &Settings, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let write = |settings: &Settings| -> Result<()> {
            let text = settings.render(&self.dist, self.scratch.path(), self.exporter_address)?;
            let staged = self.configuration.with_extension("new");
            fs::write(&staged, text).context("write the configuration")?;
            fs::rename(&staged, &self.configuration).context("replace the configuration")
        };
        write(&self.settings.clone().and(other))?;
        let done = work();
        write(&self.settings)?;
        done
    }

    /// Where companions keep the sidecars' bundles.
    pub fn companions(&self) -> PathBuf {
        self.scratch.path().join("companion")
    }

    /// A directory in which containerd finds programs before any other.
    pub fn extra_programs(&self) -> PathBuf {
        self.scratch.path().join("bin")
    }

    /// The shim's log.
    pub fn shim_log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log/shim.log")).unwrap_or_default()
    }

    /// Everything that bears this mark, beside what bears the environment's own.
    pub fn footprint_of(&self, mark: &str) -> Result<Footprint> {
        Footprint::take(&[mark], &[self.directory()])
    }

    /// Waits until nothing that bears the mark is left beyond `before`: processes, mounts, sockets, files, locks.
    pub fn wait_gone(&self, mark: &str, before: &Footprint, deadline: Duration) -> Result<()> {
        let kept = |line: &String| is_ours_to_keep(line, self.directory());
        wait::until(&format!("nothing of {mark} is left"), deadline, || {
            let left = self.footprint_of(mark)?.beyond(before);
            let left: Vec<_> = left.into_iter().filter(|line| !kept(line)).collect();
            if left.is_empty() { Ok(Some(())) } else { Err(anyhow!("still there:\n  {}", left.join("\n  "))) }
        })
    }

    /// Makes a network namespace for a sandbox.
    pub fn endpoint(&self, name: &str, host: u8) -> Result<Endpoint> {
        self.network.endpoint(name, host)
    }

    /// An id that no other environment on this machine uses at the same time.
    pub fn unique(&self, name: &str) -> String {
        format!("{name}-{}", self.scratch.tag().rsplit('-').next().unwrap_or_default())
    }

    /// The address that `10.231.0.<host>` stands for.
    pub fn address(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 231, 0, host)
    }

    /// Sends requests from where the sandboxes can be reached.
    pub fn from_hub<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.network.inside(work)?
    }

    /// Waits until no process of a sandbox is left.
    pub fn wait_quiet(&self, deadline: Duration) -> Result<()> {
        sweep::wait_until_quiet(self.scratch.mark(), &self.own_processes(), deadline)
    }

    /// Removes all containers; it is an error if anything is left but what the environment itself began with.
    pub fn finish(self) -> Result<()> {
        interrupt::heed();
        self.remove_containers();
        self.wait_quiet(wait::SOON)?;
        self.wait_taken()?;
        let (mark, directory) = (self.scratch.mark().to_owned(), self.directory().to_owned());
        let left = Footprint::take(&[&mark], &[&directory])?.beyond(&self.footprint);
        // The exporter may have been restarted since the environment began.
        let own = self.own_processes();
        let is_own = |line: &String| own.iter().any(|pid| line.starts_with(&format!("process {pid} ")));
        let kept = |line: &String| is_ours_to_keep(line, &directory) || is_own(line);
        let leaks: Vec<_> = left.into_iter().filter(|line| !kept(line)).collect();
        ensure!(leaks.is_empty(), "left behind by sandboxes that are gone:\n  {}", leaks.join("\n  "));
        let missing = self.missing.clone();
        drop(self);
        footprint::gone(&[&mark], &[&directory], &Footprint::default(), wait::SOON)?;
        wait::until("directories of the first sandbox go with the last", wait::SOON, || {
            // Another environment may use them.
            let is_empty =
                |path: &&PathBuf| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
            match missing.iter().find(is_empty) {
                Some(empty) => Err(anyhow!("{} is empty", empty.display())),
                None => Ok(Some(())),
            }
        })
    }

    /// Waits until the exporter, if it runs, has taken what companions left last: it removes a last state when its ledger holds it.
    fn wait_taken(&self) -> Result<()> {
        if self.exporter()?.pid().is_none() {
            return Ok(());
        }
        // It writes its ledger for each, on a disk that others use too.
        wait::until("the exporter takes the last states", Duration::from_mins(3), || {
            let left = last_state::list(&self.registry()).context("read the registry")?;
            Ok(left.is_empty().then_some(()))
        })
    }

    fn remove_containers(&self) {
        for (namespace, id) in self.containerd.containers().unwrap_or_default() {
            container::remove_quietly(&self.containerd, &namespace, &id);
        }
    }

    fn own_processes(&self) -> Vec<i32> {
        let exporter = self.exporter().ok().and_then(|exporter| exporter.pid());
        let prometheus = self.prometheus.as_ref().map(Prometheus::pid);
        [Some(self.containerd.pid()), exporter, prometheus].into_iter().flatten().collect()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        self.remove_containers();
        if let Err(error) = self.wait_quiet(wait::SOON) {
            eprintln!("teardown: {error:#}");
        }
    }
}

/// Starts containerd so that the shims find our programs and our configuration.
fn start_containerd(dist: &Dist, directory: &Path, configuration: &Path) -> Result<Containerd> {
    let configuration = configuration.to_str().context("a configuration path in UTF-8")?;
    let environment = [
        ("PORTHOLE_CONFIG".to_owned(), configuration.to_owned()),
        ("PORTHOLE_LOG".to_owned(), std::env::var("PORTHOLE_LOG").unwrap_or_else(|_| "info".into())),
    ];
    let extra = directory.join("bin");
    fs::create_dir_all(&extra).context("make a directory for programs")?;
    let mut search_path = extra.into_os_string();
    search_path.push(":");
    search_path.push(dist.search_path());
    Containerd::start(directory, &environment, &search_path)
}

/// containerd's own bookkeeping, the totals that the exporter keeps, Prometheus' storage, and logs grow; they are no leak
/// of a sandbox. Nor are the directory of all companions, which the first one makes, and programs that a test has put
/// into containerd's way.
fn is_ours_to_keep(line: &str, directory: &Path) -> bool {
    if line == format!("file {}", directory.join("companion").display()) {
        return true;
    }
    let growing = ["log", "prometheus", "containerd/root", "exporter", "bin"]
        .map(|part| format!("file {}", directory.join(part).display()));
    // containerd keeps the directory of a namespace in which there was a task.
    let tasks =
        format!("file {}/", directory.join("containerd/state/io.containerd.runtime.v2.task").display());
    let namespace = line.strip_prefix(&tasks).is_some_and(|rest| !rest.contains('/'));
    namespace || growing.iter().any(|prefix| line.starts_with(prefix.as_str()))
}
