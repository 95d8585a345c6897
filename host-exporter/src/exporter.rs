//! The exporter as a whole: started from its configuration, stopped by a signal or by a test.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context as _;
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
    http::{self, App, encoding::Encodings, hosts::Hosts},
    ledger::{self, file::DirectoryLock},
    supervisor::{Supervisor, Watching},
};

/// A running exporter.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    fleet: Arc<Fleet>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    supervisor: JoinHandle<()>,
    _ingest: Ingest,
    ledger: JoinHandle<()>,
    _directory: DirectoryLock,
}

/// The runtime of the agents' tasks: one thread, so that what agents send takes one core at most, and none of the time
/// of scrapes. Tasks take turns by batches.
#[derive(Debug)]
struct Ingest(Option<Runtime>);

impl Ingest {
    fn start() -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ingest")
            .enable_all()
            .build()
            .context("starting the runtime of the agents' tasks")?;
        Ok(Self(Some(runtime)))
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
}

/// Takes the state directory and the address.
pub fn prepare(config: &config::Exporter) -> anyhow::Result<Prepared> {
    let directory = ledger::file::take_directory(&config.state_directory)
        .context("`state_directory` of [exporter] cannot be used")?;
    let listener = std::net::TcpListener::bind(config.listen)
        .with_context(|| format!("`listen` of [exporter] cannot be used: {}", config.listen))?;
    listener.set_nonblocking(true)?;
    Ok(Prepared { directory, listener })
}

/// Starts the exporter; it serves when this returns.
pub fn start(prepared: Prepared, config: &config::Exporter, registry: PathBuf) -> anyhow::Result<Running> {
    let fleet = Fleet::new(
        config.series_per_tenant,
        Retention {
            scrapes: config.ended_scrapes,
            at_least: seconds(config.ended_keep_at_least_seconds),
            at_most: seconds(config.ended_keep_at_most_seconds),
        },
    );
    let fleet = Arc::new(fleet.with_applications(ApplicationLimits {
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
    let supervisor = ingest.spawn(Supervisor::new(links, watching, Arc::clone(&ready)).run());
    let app = App {
        fleet: Arc::clone(&fleet),
        ready,
        encodings: Arc::new(Encodings::new(Arc::clone(&store))),
        listings: Arc::new(Semaphore::new(http::CONCURRENT_LISTINGS)),
    };
    let server = tokio::spawn(http::server::serve(
        listener,
        http::router(app, Hosts::new(&config.hosts)),
        config.http_connections_max,
        seconds(config.http_timeout_seconds),
        stopped.clone(),
    ));
    let ledger = tokio::spawn(ledger::keep(
        Arc::clone(&fleet),
        store,
        seconds(config.ledger_interval_seconds),
        stopped,
    ));
    Ok(Running {
        address,
        fleet,
        stop,
        server,
        supervisor,
        _ingest: ingest,
        ledger,
        _directory: prepared.directory,
    })
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it knows.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
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
