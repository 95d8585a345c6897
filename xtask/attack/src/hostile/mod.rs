//! The hostile agents. [`batches`] makes what they send, [`channel`] how they use the connection, [`web`] what hostile
//! clients do at the exporter's HTTP server.

mod batches;
mod channel;
mod web;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::{net::UnixListener, runtime::Runtime};

use crate::{
    attack::{Attack, Kind},
    sandbox::{HOSTILE, Sandbox},
};

/// What attackers saw that must not be.
pub type Findings = Arc<Mutex<Vec<String>>>;

/// Threads of the attackers.
const THREADS: usize = 2;

/// Clients of an attack on the HTTP server.
const CLIENTS: usize = 400;

/// All attackers of one attack; they stop when it goes.
#[derive(Debug)]
pub struct Hostile {
    runtime: Option<Runtime>,
    _sandboxes: Vec<Arc<Sandbox>>,
    /// What they saw.
    pub findings: Findings,
}

/// How many sandboxes and tenants are hostile.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Sandboxes.
    pub sandboxes: usize,
    /// Tenants that they belong to.
    pub tenants: usize,
}

/// What a hostile tenant is called.
pub fn tenant(number: usize) -> String {
    format!("{HOSTILE}{number:02}")
}

impl Hostile {
    /// Starts the attack: each sandbox does the same, by a seed of its own.
    pub fn start(
        directory: &Path,
        attacks: &[Attack],
        size: Size,
        seed: u64,
        exporter: SocketAddr,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .context("a runtime")?;
        let findings = Findings::default();
        let mut sandboxes = Vec::new();
        let guard = runtime.enter();
        for number in 0..size.sandboxes {
            let attack = *attacks.get(number % attacks.len()).context("an attack")?;
            let id = format!("{HOSTILE}box-{number:03}");
            let (sandbox, listener) = Sandbox::create(directory, &id, &tenant(number % size.tenants))?;
            let sandbox = Arc::new(sandbox);
            let random = fastrand::Rng::with_seed(seed ^ (attack.number() << 32) ^ number as u64);
            runtime.spawn(serve(listener, attack, Arc::clone(&sandbox), random));
            sandboxes.push(sandbox);
        }
        let web: Vec<_> = attacks.iter().copied().filter(|attack| attack.kind() == Kind::Web).collect();
        for number in 0..if web.is_empty() { 0 } else { CLIENTS } {
            let attack = *web.get(number % web.len()).context("an attack")?;
            let random = fastrand::Rng::with_seed(seed ^ (attack.number() << 32) ^ number as u64);
            runtime.spawn(web::client(attack, exporter, random, Arc::clone(&findings)));
        }
        drop(guard);
        Ok(Self { runtime: Some(runtime), _sandboxes: sandboxes, findings })
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// Serves every connection that the exporter makes.
async fn serve(listener: UnixListener, attack: Attack, sandbox: Arc<Sandbox>, mut random: fastrand::Rng) {
    let mut connections = 0_u64;
    while let Ok((stream, _)) = listener.accept().await {
        connections += 1;
        let random = random.fork();
        let sandbox = Arc::clone(&sandbox);
        // An attacker's connection ends with an error more often than not.
        tokio::spawn(async move { drop(channel::run(attack, stream, &sandbox, connections, random).await) });
    }
}
