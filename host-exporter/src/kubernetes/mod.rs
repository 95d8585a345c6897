//! Names of the addresses of a cluster's Services and Pods, by list and watch of Kubernetes' API where one is configured.
//!
//! ```text
//! API server ──► client: pages of a list, then events ──► objects: what of them is kept ──► table: names by address
//!                                                                                             │
//!                                                                          topology ◄─────────┘
//! ```
//!
//! Invariants:
//! - memory is bounded: pages, events and the number of objects; what has no place is left out and logged;
//! - a name of one tenant's namespace is shown to no other ([`crate::topology::addresses`]);
//! - names that could not be renewed for [`STALE`] are dropped: their addresses may be others' by then.

pub mod client;
pub mod objects;
pub mod table;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use self::{
    client::{Change, ClientError, Server},
    objects::Kind,
    table::Cluster,
};
use crate::{agent::backoff::Backoff, config::kubernetes::Kubernetes, fleet::Fleet};

/// How long names are kept that cannot be renewed.
const STALE: Duration = Duration::from_mins(10);

/// A watch that has ended sooner is followed by the next one after a while only.
const SHORT_WATCH: Duration = Duration::from_secs(10);

/// A watch that has lasted so long had its answer, and reported changes until it broke.
const LONG_WATCH: Duration = Duration::from_mins(1);

/// Waits between attempts.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(2)];

/// Follows the cluster's objects until stopped.
pub fn start(config: &Kubernetes, fleet: &Arc<Fleet>, stop: &watch::Receiver<bool>) -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::new(config));
    let lists = Arc::new(Semaphore::new(1));
    for kind in Kind::ALL {
        let server = Server::new(config, Arc::clone(&lists));
        let (fleet, cluster) = (Arc::clone(fleet), Arc::clone(&cluster));
        let mut stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = follow(kind, &server, &fleet, &cluster, BACKOFF) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }
    cluster
}

/// Lists objects and watches them, again and again.
async fn follow(kind: Kind, server: &Server, fleet: &Fleet, cluster: &Cluster, [first, cap]: [Duration; 2]) {
    let mut backoff = Backoff::new(first, cap);
    let mut renewed = Instant::now();
    loop {
        let round = round(kind, server, cluster, &mut renewed, &mut backoff);
        if let Err(error) = Box::pin(round).await {
            fleet.own.kubernetes_failures.inc();
            tracing::warn!(kind = kind.plural(), %error, "the cluster's API cannot be followed");
        }
        if renewed.elapsed() >= STALE {
            cluster.replace(kind, []);
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// Lists objects once, and watches them until the server has forgotten what was seen last.
async fn round(
    kind: Kind,
    server: &Server,
    cluster: &Cluster,
    renewed: &mut Instant,
    backoff: &mut Backoff,
) -> Result<(), ClientError> {
    let (objects, mut version) = server.list(kind).await?;
    let left_out = cluster.replace(kind, objects);
    if left_out > 0 {
        tracing::warn!(kind = kind.plural(), left_out, "the cluster has more objects than are named");
    }
    *renewed = Instant::now();
    loop {
        let began = Instant::now();
        let watched = server
            .watch(kind, &mut version, |change| match change {
                Change::Is(object) => cluster.put(kind, object),
                Change::Gone(key) => cluster.remove(kind, &key),
            })
            .await;
        match watched {
            // The server ends a watch after a while.
            Ok(()) => {
                *renewed = Instant::now();
                if began.elapsed() >= SHORT_WATCH {
                    backoff.reset();
                } else {
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
            Err(ClientError::Expired) => return Ok(()),
            Err(error) if goes_on(&error, began.elapsed()) => {
                tracing::info!(kind = kind.plural(), %error, "a watch of the cluster's API broke, and goes on");
                *renewed = Instant::now();
                backoff.reset();
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the next watch may begin where one has ended: it broke off, as by a proxy that ends connections, and not at its beginning.
fn goes_on(error: &ClientError, lasted: Duration) -> bool {
    matches!(error, ClientError::Exchange(_)) && lasted >= LONG_WATCH
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::OutboundError;

    #[test]
    fn a_watch_that_breaks_after_a_while_goes_on_from_what_it_reported_last() {
        let broken =
            || ClientError::Exchange(OutboundError::Connect(std::io::ErrorKind::ConnectionReset.into()));
        assert!(goes_on(&broken(), LONG_WATCH));
        assert!(!goes_on(&broken(), client::ANSWER_TIMEOUT), "it may never have begun");
        assert!(!goes_on(&ClientError::Deadline, LONG_WATCH), "nothing was heard of it");
        assert!(!goes_on(&ClientError::Malformed(String::new()), LONG_WATCH), "it would come again");
    }
}
