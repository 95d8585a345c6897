//! The guest's first process.
//!
//! At boot: file systems ([`mounts`]), kernel modules ([`modules`]), the loopback interface ([`network`]); then it starts the
//! monitoring agent ([`agent`]), listens on vsock and writes a line to the console. From then on it serves the host's calls
//! ([`service`]): [`containers`] keeps the table, [`being_made`] what is not in it yet, [`helper`] makes containers with
//! libcontainer in a process of its own, below their [`seccomp`] profiles, [`streams`] carries standard streams, [`terminal`]
//! fetches a container's terminal, [`cgroup`] counts, freezes and kills, [`reaper`] collects what has ended, and
//! [`mount_namespace`] keeps a container's mounts beyond its end.
//!
//! Invariants: this process never forks a copy of itself that goes on running its code: helpers are executed afresh, so that no
//! lock and no runtime is inherited. Nothing here blocks for long: one thread serves all calls, and what does block has a
//! thread of its own.

use std::{process::ExitCode, sync::Arc};

use tokio::sync::Notify;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};
use ttrpc::r#async::{Server, transport::Listener};

use crate::wire::{CONTROL_PORT, HOST_CID, READY_LINE, STREAM_PORT, guest_ttrpc};

pub mod agent;
pub mod being_made;
pub mod cgroup;
pub mod containers;
pub mod helper;
pub mod modules;
pub mod mount_namespace;
pub mod mounts;
pub mod network;
pub mod oom;
pub mod reaper;
pub mod seccomp;
pub mod service;
pub mod streams;
pub mod terminal;

/// Something that the guest could not do; the text goes to the host.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A system call or a file.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to what.
        what: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// libcontainer refused.
    #[error("{0}")]
    Container(String),
    /// No such container or process.
    #[error("{0} not found")]
    NotFound(String),
    /// The container is not in a state for this.
    #[error("{0}")]
    State(String),
    /// What the host sent cannot be read.
    #[error("{what}: {source}")]
    Json {
        /// What it was.
        what: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
    /// The network refused.
    #[error("network: {0}")]
    Network(#[from] rtnetlink::Error),
}

impl GuestError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let what = what.into();
        move |errno| Self::Io { what, source: errno.into() }
    }
}

/// The program: the init as process 1, else the helper that the command line names.
pub fn main() -> ExitCode {
    if std::process::id() == 1 {
        let Err(error) = boot();
        // The kernel panics when this process ends, which ends the machine; the host has the console's text.
        eprintln!("porthole-init: {error}");
        return ExitCode::FAILURE;
    }
    helper::main()
}

/// Boots the guest and serves; comes back only with an error.
fn boot() -> Result<std::convert::Infallible, GuestError> {
    mounts::early()?;
    modules::load_all()?;
    mounts::late()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(GuestError::io("start the runtime"))?;
    runtime.block_on(serve())
}

async fn serve() -> Result<std::convert::Infallible, GuestError> {
    let reaper = reaper::Reaper::start()?;
    // First of all: what it needs is there, and it takes longest.
    let agent = agent::Agent::start(&reaper);
    network::loopback_up().await?;
    let streams = Arc::new(streams::Streams::default());
    streams::listen(listen(STREAM_PORT)?, Arc::clone(&streams));
    let containers = Arc::new(containers::Containers::new(reaper, streams, agent));
    let service = guest_ttrpc::create_guest(Arc::new(service::GuestService::new(containers)));
    let connections = futures_util::stream::unfold(listen(CONTROL_PORT)?, |listener| async {
        loop {
            match listener.accept().await {
                Ok((connection, peer)) if peer.cid() == HOST_CID => return Some((Ok(connection), listener)),
                Ok((_, peer)) => eprintln!("porthole-init: refused a connection from vsock {}", peer.cid()),
                Err(error) => return Some((Err(error), listener)),
            }
        }
    });
    let mut server = Server::new().add_listener(Listener::new(connections)).register_service(service);
    server.start().await.map_err(|error| GuestError::Container(error.to_string()))?;
    println!("{READY_LINE}");
    modules::load_after_boot();
    // The server's tasks do the rest.
    Notify::new().notified().await;
    unreachable!("nothing notifies")
}

fn listen(port: u32) -> Result<VsockListener, GuestError> {
    VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))
        .map_err(GuestError::io(format!("listen on vsock {port}")))
}
