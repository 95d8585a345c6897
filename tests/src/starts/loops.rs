//! Many sandboxes at one time, to which requests are sent in a loop from the first accepted connection on.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};

use super::{Counted, NAMESPACE, settle};
use crate::{
    container::{Container, Launch, PORTHOLE},
    environment::{Environment, Progress},
    http::Connection,
    network::Endpoint,
    scenario::BLOG,
};

/// Last byte of the first sandbox's address.
const FIRST_HOST: u8 = 100;

/// Most sandboxes: each has an address of its own.
pub const SANDBOXES_MAX: u8 = 100;

/// Starts under way at one time: more of them would only take longer on few processors.
const STARTS_AT_ONCE: usize = 3;

/// Requests on one connection.
const PER_CONNECTION: u32 = 10;

/// A sandbox that serves.
struct Serving {
    container: Container,
    // Outlives the container, which is in its network.
    _endpoint: Endpoint,
}

/// Starts `sandboxes` sandboxes of the application `service`, and sends `requests` requests to each from its first accepted
/// connection on. All of them run until the last one has got its requests.
pub fn run(
    environment: &Environment,
    service: &str,
    sandboxes: u8,
    requests: u32,
    progress: Progress,
) -> Result<Counted> {
    ensure!((1..=SANDBOXES_MAX).contains(&sandboxes), "{sandboxes} sandboxes");
    let next = AtomicU8::new(0);
    let serving = Mutex::new(Vec::new());
    let sent = thread::scope(|scope| {
        let one_after_another = || -> Result<u64> {
            let mut sent = 0;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= sandboxes {
                    return Ok(sent);
                }
                let (one, answered) = serve(environment, service, number, requests)?;
                serving.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                sent += answered;
            }
        };
        let starters: Vec<_> = (0..STARTS_AT_ONCE).map(|_| scope.spawn(one_after_another)).collect();
        let ended: Vec<_> = starters.into_iter().map(thread::ScopedJoinHandle::join).collect();
        ended.into_iter().map(|sent| sent.ok().context("a thread panicked")?).sum::<Result<u64>>()
    })?;
    progress(&format!("{sandboxes} sandboxes have answered {sent} requests"));
    // Both ends of their lives: what was counted last is sent while they end.
    for Serving { container, .. } in serving.into_inner().unwrap_or_else(PoisonError::into_inner) {
        container.remove()?;
    }
    settle(environment, service, sent, false)
}

/// Starts a sandbox and sends its requests; how many it has answered.
fn serve(environment: &Environment, service: &str, number: u8, requests: u32) -> Result<(Serving, u64)> {
    let endpoint = environment.endpoint(&format!("loop-{number}"), FIRST_HOST + number)?;
    let id = format!("{service}-{number}");
    let annotations = [("io.porthole.service", service)];
    let launch = Launch::new(NAMESPACE, &id, PORTHOLE, BLOG.command).on(&endpoint).annotated(&annotations);
    let address = endpoint.at(BLOG.port);
    // The client is there before the server.
    let (container, answered) = thread::scope(|scope| -> Result<(Container, u64)> {
        let client = scope.spawn(|| environment.from_hub(|| send(address, requests)));
        let container = launch.start(&environment.containerd)?;
        Ok((container, client.join().ok().context("the client panicked")??))
    })?;
    Ok((Serving { container, _endpoint: endpoint }, answered))
}

/// Sends requests, some on each connection; how many were answered.
fn send(address: SocketAddr, requests: u32) -> Result<u64> {
    let mut answered = 0;
    while answered < requests.into() {
        let mut connection = Connection::open_once_listening(address)?;
        for _ in 0..PER_CONNECTION {
            let response = connection.request("GET", "/")?;
            ensure!(response.status == 200, "{address} answered {}", response.status);
            answered += 1;
        }
    }
    Ok(answered)
}
