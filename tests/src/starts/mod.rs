//! Sandboxes that live shortly, and what of them is counted: every request from the first one to the last one is to be in the
//! exporter's totals, whatever the exporter does meanwhile.
//!
//! - [`sequence`]: sandboxes one after another, each of which serves one request as soon as it runs and ends;
//! - [`loops`]: many sandboxes at one time, to which requests are sent from the first accepted connection on;
//! - [`pod`]: containers that start and end in a sandbox that runs;
//! - [`times`]: how long a start takes, with and without Porthole.

pub mod loops;
pub mod pod;
pub mod sequence;
pub mod times;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{environment::Environment, exposition, wait};

/// containerd's namespace of these sandboxes, which is their tenant.
pub const NAMESPACE: &str = "starts";

/// Serves one request, which this container sends itself, a few milliseconds after its first process was executed: the server
/// and the client are processes of their own, which end with the request.
///
/// A connection that is refused sends no byte, so that the client's attempts are no requests.
const SERVE_ONE: &str = "
    nc -l -p 8000 -e /bin/busybox httpd -i -h /srv &
    until wget -q -O /dev/null http://127.0.0.1:8000/five.py; do :; done
    wait";

/// Requests that were sent, and those that were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Requests that were sent and answered.
    pub sent: u64,
    /// Those in the numbers of the server's side.
    pub server: u64,
    /// Those in the numbers of the client's side, if the clients are in sandboxes, too.
    pub client: Option<u64>,
}

impl Counted {
    /// Whether every request was counted once at each end.
    pub fn is_exact(&self) -> bool {
        self.server == self.sent && self.client.is_none_or(|client| client == self.sent)
    }

    /// An error unless every request was counted once at each end.
    pub fn check(&self) -> Result<()> {
        ensure!(self.is_exact(), "not every request is counted once: {self:?}");
        Ok(())
    }
}

/// The total of an application's requests at one side.
pub fn total(environment: &Environment, service: &str, side: &str) -> Result<u64> {
    let samples = environment.exporter()?.samples()?;
    let labels = [("tenant", NAMESPACE), ("service_name", service), ("side", side)];
    Ok(whole(exposition::sum(&samples, "porthole_app_requests_total", &labels)))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count: whole and not negative"
)]
fn whole(value: Option<f64>) -> u64 {
    value.unwrap_or(0.0).round() as u64
}

/// What is counted of an application when all of it has arrived, or does not arrive. Looked at once more afterwards, so that what
/// is counted twice is seen, too.
fn settle(environment: &Environment, service: &str, sent: u64, has_clients: bool) -> Result<Counted> {
    let look = || -> Result<Counted> {
        let client = has_clients.then(|| total(environment, service, "client")).transpose()?;
        Ok(Counted { sent, server: total(environment, service, "server")?, client })
    };
    let arrived =
        wait::until("every request is counted", wait::SOON, || Ok(look()?.is_exact().then_some(())));
    crate::interrupt::check()?;
    if arrived.is_ok() {
        wait::hold(Duration::from_secs(2))?;
    }
    look()
}
