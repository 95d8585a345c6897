//! The exporter as a whole: started from its configuration, stopped by a signal or by a test.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use crate::{
    agent::{backoff::Backoff, task::Links},
    config::{self, seconds},
    fleet::{Fleet, Retention},
    http::{self, App},
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
    ledger: JoinHandle<()>,
    _directory: DirectoryLock,
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
    let fleet = Arc::new(Fleet::new(
        config.series_per_tenant,
        Retention {
            scrapes: config.ended_scrapes,
            at_least: seconds(config.ended_keep_at_least_seconds),
            at_most: seconds(config.ended_keep_at_most_seconds),
        },
    ));
    ledger::restore(&fleet, &config.state_directory)?;
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
    let supervisor = tokio::spawn(Supervisor::new(links, watching, Arc::clone(&ready)).run());
    let app = App {
        fleet: Arc::clone(&fleet),
        ready,
        encodings: Arc::default(),
        listings: Arc::new(Semaphore::new(http::CONCURRENT_LISTINGS)),
    };
    let server = tokio::spawn(http::server::serve(
        listener,
        http::router(app),
        config.http_connections_max,
        seconds(config.http_timeout_seconds),
        stopped.clone(),
    ));
    let ledger = tokio::spawn(ledger::keep(
        Arc::clone(&fleet),
        config.state_directory.clone(),
        seconds(config.ledger_interval_seconds),
        stopped,
    ));
    Ok(Running { address, fleet, stop, server, supervisor, ledger, _directory: prepared.directory })
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
        // last write or will be told again.
        self.supervisor.abort();
        let _ = self.server.await;
        let _ = self.ledger.await;
    }
}
