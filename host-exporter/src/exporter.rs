//! The exporter as a whole: started from its configuration, stopped by a signal or by a test.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context as _;
use porthole_config::{ConfigFile, Location, watch::Watched};
use rustix::process::setpriority_process;
use tokio::{
    net::TcpListener,
    runtime::{self, Runtime},
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use crate::{
    agent::{backoff::Backoff, task::Links},
    config::{self, seconds},
    fleet::{ApplicationLimits, Fleet, Retention},
    history::{self, History, webhook::Webhook},
    http::{
        self, App,
        access::Access,
        encoding::Encodings,
        events::Streams,
        hosts::Hosts,
        reload,
        server::Bounds,
        tls::{Files, Tls, TlsError},
    },
    http_url::HttpUrl,
    kubernetes,
    ledger::{self, Store, file::DirectoryLock},
    memory,
    objectives::Objectives,
    otlp::{self, Destinations, MetricRounds},
    query::{Source, prometheus::Prometheus},
    steps::{LastHour, Recorder},
    supervisor::{Supervisor, Watching},
    topology::Topology,
    trace_rounds::{self, Rounds},
};

/// A running exporter.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    fleet: Arc<Fleet>,
    history: Arc<History>,
    topology: Arc<Topology>,
    /// None once others decide when a step ends.
    recorder: Option<Recorder>,
    stop: watch::Sender<bool>,
    reload: watch::Sender<u64>,
    server: JoinHandle<()>,
    supervisor: JoinHandle<()>,
    _ingest: Ingest,
    ledger: JoinHandle<()>,
    _directory: DirectoryLock,
}

/// How much less of a processor that is short the threads of ingestion get than those of scrapes (setpriority(2)): a third.
const INGEST_NICE: i32 = 5;

/// The runtime of the agents' tasks: one thread, so that what agents send takes one core at most, and little of the time of
/// scrapes. Tasks take turns by batches. Listings are made by its blocking threads.
#[derive(Debug)]
struct Ingest(Option<Runtime>);

impl Ingest {
    fn start() -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ingest")
            .on_thread_start(|| {
                // Of this thread alone; where it fails, threads are equal.
                let _ = setpriority_process(None, INGEST_NICE);
            })
            .enable_all()
            .build()
            .context("starting the runtime of the agents' tasks")?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> runtime::Handle {
        self.0.as_ref().map_or_else(runtime::Handle::current, |runtime| runtime.handle().clone())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        match &self.0 {
            Some(runtime) => runtime.spawn(task),
            None => tokio::spawn(task),
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Does not wait: it may be dropped in a task.
            runtime.shutdown_background();
        }
    }
}

/// What may need privileges: taken before they are dropped.
#[derive(Debug)]
pub struct Prepared {
    directory: DirectoryLock,
    listener: std::net::TcpListener,
    access: Arc<Access>,
    tls: Option<Arc<Tls>>,
    watched: Watched,
}

/// Takes the state directory and the address, and reads who may look.
pub fn prepare(config: &config::Exporter) -> anyhow::Result<Prepared> {
    let mut paths = vec![config.access_file.clone()];
    paths.extend(Files::of(config).iter().flat_map(Files::paths).cloned());
    paths.extend(config.addresses_file.clone());
    paths.extend(config.file.clone().map(|file| file.path));
    let watched = Watched::new(paths);
    let access = Arc::new(Access::load(config)?);
    let tls = load_tls(config).context("the TLS files of [exporter] cannot be used")?.map(Arc::new);
    if tls.is_none() && !config.listen.ip().to_canonical().is_loopback() {
        tracing::warn!(
            "tokens are sent without encryption: set `tls_certificate` and `tls_key` of [exporter]"
        );
    }
    otlp::check(&config.otlp).context("a destination of [[exporter.otlp]] cannot be used")?;
    let directory = ledger::file::take_directory(&config.state_directory)
        .context("`state_directory` of [exporter] cannot be used")?;
    let listener = std::net::TcpListener::bind(config.listen)
        .with_context(|| format!("`listen` of [exporter] cannot be used: {}", config.listen))?;
    listener.set_nonblocking(true)?;
    Ok(Prepared { directory, listener, access, tls, watched })
}

/// What the configuration has of TLS.
pub fn load_tls(config: &config::Exporter) -> Result<Option<Tls>, TlsError> {
    Files::of(config).map(Tls::load).transpose()
}

/// Starts the exporter; it serves when this returns.
pub fn start(
    prepared: Prepared,
    config: &config::Exporter,
    objectives: Objectives,
    registry: PathBuf,
) -> anyhow::Result<Running> {
    let fleet = Fleet::new(
        config.limits(),
        Retention {
            scrapes: config.ended_scrapes,
            at_least: seconds(config.ended_keep_at_least_seconds),
            at_most: seconds(config.ended_keep_at_most_seconds),
        },
    );
    let fleet = Arc::new(fleet.with_objectives(objectives).with_applications(ApplicationLimits {
        per_tenant: config.applications_per_tenant,
        idle: seconds(config.application_idle_seconds),
    }));
    let store = Arc::new(ledger::restore(&fleet, &config.state_directory)?);
    let listener = TcpListener::from_std(prepared.listener)?;
    let address = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let ready = Arc::new(AtomicBool::new(false));
    let links = Links {
        fleet: Arc::clone(&fleet),
        connections: Arc::new(Semaphore::new(config.agent_connections_max)),
        idle: seconds(config.agent_idle_seconds),
        backoff: Backoff::new(seconds(config.reconnect_first_seconds), seconds(config.reconnect_cap_seconds)),
    };
    let watching = Watching {
        directory: registry,
        rescan: seconds(config.rescan_seconds),
        orphan_grace: seconds(config.orphan_grace_seconds),
    };
    let ingest = Ingest::start()?;
    let topology = Arc::new(Topology::new(config.topology_bytes()));
    if let Some(path) = &config.addresses_file {
        topology.read_names(path).context("`addresses_file` of [exporter] cannot be used")?;
    }
    follow_cluster(config, &topology, &fleet, &stopped);
    let encodings = Arc::new(Encodings::new(Arc::clone(&store), Arc::clone(&topology), ingest.handle()));
    let history = Arc::new(History::new(config.history_bytes()));
    let hour = LastHour { history: Arc::clone(&history), topology: Arc::clone(&topology) };
    let outgoing =
        Outgoing { fleet: Arc::clone(&fleet), store: Arc::clone(&store), topology: Arc::clone(&topology) };
    let destinations = outgoing.send(config, &ingest, &stopped)?;
    let shed = shed(Arc::clone(&encodings), hour.clone(), Arc::clone(&destinations));
    // Not waited for: it holds nothing that must be finished.
    tokio::spawn(memory::watch(Arc::clone(&fleet), shed, stopped.clone()));
    let (burning, burns) = watch::channel(Vec::new());
    let recorder = Recorder::start(Arc::clone(&fleet), hour, burning);
    let supervisor = ingest.spawn(Supervisor::new(links, watching, Arc::clone(&ready)).run());
    if let Some(url) = fleet.objectives.webhook.as_deref().and_then(HttpUrl::parse) {
        let repeat = seconds(fleet.objectives.webhook_repeat_seconds);
        tokio::spawn(history::alerts::post(Webhook(url), repeat, burns, stopped.clone()));
    }
    let app = App {
        fleet: Arc::clone(&fleet),
        source: match Prometheus::new(config) {
            Some(server) => Source::Prometheus(Arc::new(server)),
            None => Source::Memory(Arc::clone(&history)),
        },
        history: Arc::clone(&history),
        topology: Arc::clone(&topology),
        ready,
        encodings,
        access: Arc::clone(&prepared.access),
        streams: Arc::new(Streams::new(history.steps())),
        classic_with_native: config.classic_with_native,
    };
    let server = tokio::spawn(http::server::serve(
        listener,
        http::router(app, Hosts::new(&config.hosts)),
        prepared.tls.clone(),
        Bounds {
            connections_max: config.http_connections_max,
            client_max: config.http_connections_per_client,
            io_timeout: seconds(config.http_timeout_seconds),
        },
        stopped.clone(),
    ));
    let (reload, demanded) = watch::channel(0);
    let names = config.addresses_file.clone().map(|path| (Arc::clone(&topology), path));
    let otlp = config.file.clone().map(|file| (destinations, file));
    let read_again = read_again(prepared.access, prepared.tls, names, otlp, Arc::clone(&fleet));
    // Not waited for: it holds nothing that must be finished.
    tokio::spawn(reload::watch(prepared.watched, demanded, stopped.clone(), read_again));
    let interval = seconds(config.ledger_interval_seconds);
    let ledger = tokio::spawn(ledger::keep(Arc::clone(&fleet), store, interval, stopped));
    Ok(Running {
        address,
        fleet,
        history,
        topology,
        recorder: Some(recorder),
        stop,
        reload,
        server,
        supervisor,
        _ingest: ingest,
        ledger,
        _directory: prepared.directory,
    })
}

/// Drops what can be done without where memory is scarce.
fn shed(encodings: Arc<Encodings>, hour: LastHour, destinations: Arc<Destinations>) -> impl Fn() + Send {
    move || {
        encodings.shed();
        hour.shed();
        destinations.shed();
    }
}

/// What is sent by OTLP is made of these.
struct Outgoing {
    fleet: Arc<Fleet>,
    store: Arc<Store>,
    topology: Arc<Topology>,
}

impl Outgoing {
    /// Starts the tasks that send traces and metrics. They are not waited for: they hold nothing that must be finished.
    fn send(
        self,
        config: &config::Exporter,
        ingest: &Ingest,
        stop: &watch::Receiver<bool>,
    ) -> anyhow::Result<Arc<Destinations>> {
        let Self { fleet, store, topology } = self;
        let destinations = Arc::new(Destinations::start(config, &fleet, stop)?);
        let traces = Rounds::new(Arc::clone(&destinations), config.sampling());
        ingest.spawn(trace_rounds::keep(Arc::clone(&fleet), traces, stop.clone()));
        let to = Arc::clone(&destinations);
        let metrics = MetricRounds::new(fleet, store, topology, to, &config.state_directory);
        ingest.spawn(otlp::keep(metrics, stop.clone()));
        Ok(destinations)
    }
}

/// Reads tokens, certificates, names of addresses and destinations of OTLP again; the last ones stay in force while that fails.
fn read_again(
    access: Arc<Access>,
    tls: Option<Arc<Tls>>,
    names: Option<(Arc<Topology>, PathBuf)>,
    otlp: Option<(Arc<Destinations>, Location)>,
    fleet: Arc<Fleet>,
) -> impl Fn() + Send + Sync + Clone + 'static {
    let done = move |what: &'static str, error: Option<String>| match error {
        None => tracing::info!("{what} were read again"),
        Some(error) => {
            fleet.own.reloads_failed.inc();
            tracing::error!(error, "{what} could not be read again; the last ones stay in force");
        }
    };
    move || {
        done("tokens", access.reload().err().map(|error| error.to_string()));
        if let Some(tls) = &tls {
            done("certificates", tls.reload().err().map(|error| error.to_string()));
        }
        if let Some((topology, path)) = &names {
            done("names of addresses", topology.read_names(path).err().map(|error| error.to_string()));
        }
        if let Some((destinations, file)) = &otlp {
            let read = read_destinations(destinations, file);
            done("destinations of OTLP", read.err().map(|error| format!("{error:#}")));
        }
    }
}

/// Takes the destinations that the configuration has now. What else is new in it applies when the exporter is started again.
fn read_destinations(destinations: &Destinations, file: &Location) -> anyhow::Result<()> {
    let config: config::Exporter = ConfigFile::load_at(file.clone())?.section()?;
    config.validate()?;
    destinations.apply(&config)?;
    Ok(())
}

/// Gives addresses the names of the configured cluster. Not waited for: it holds nothing that must be finished.
fn follow_cluster(
    config: &config::Exporter,
    topology: &Topology,
    fleet: &Arc<Fleet>,
    stopped: &watch::Receiver<bool>,
) {
    if let Some(settings) = &config.kubernetes {
        topology.follow(kubernetes::start(settings, fleet, stopped));
    }
}

impl Running {
    /// Reads the files that can change again, at once.
    pub fn reload(&self) {
        self.reload.send_modify(|demands| *demands += 1);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its sandboxes and totals.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// The last hour of every application.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// The last hour of who calls whom.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// Records no further step of the last hour by the clock: the caller decides when one ends.
    pub async fn stop_recording(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            recorder.stop().await;
        }
    }

    /// Ends open requests, lets go of the agents, and writes the ledger.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // Agents' tasks end with the supervisor only in a program that ends; what they still count is in the ledger's
        // last write or will be reported again.
        self.supervisor.abort();
        let _ = self.server.await;
        let _ = self.ledger.await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn destinations_are_none_without_a_file_that_may_be_absent() {
        let retention = Retention { scrapes: 1, at_least: Duration::ZERO, at_most: Duration::ZERO };
        let fleet = Arc::new(Fleet::new(config::Exporter::default().limits(), retention));
        let (_stop, stopped) = watch::channel(false);
        let destinations =
            Destinations::start(&config::Exporter::default(), &fleet, &stopped).expect("started");
        let absent = |may_be_absent| Location { path: "/nonexistent.toml".into(), may_be_absent };
        read_destinations(&destinations, &absent(true)).expect("defaults");
        assert!(read_destinations(&destinations, &absent(false)).is_err(), "it was named");
    }
}
