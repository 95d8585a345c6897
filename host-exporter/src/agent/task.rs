//! The life of one agent's link: dial, run the connection, wait, again; until the sandbox has ended.

use std::{sync::Arc, time::Duration};

use porthole_agent_api::limits::CALL_DEADLINE;
use porthole_registry::channel::Channel;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

use super::{backoff::Backoff, dial, session};
use crate::{
    fleet::{Fleet, link::LinkState, sandbox::Sandbox},
    intake,
};

/// How long an agent that does not keep to the contract is left alone, the first time; twice as long each further time.
const QUARANTINE: Duration = Duration::from_secs(10);

/// The longest that an agent is left alone.
const QUARANTINE_MAX: Duration = Duration::from_mins(10);

/// A connection that lasted this long was a good one: the next attempt comes soon.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// What all links share.
#[derive(Clone, Debug)]
pub struct Links {
    /// Where values go.
    pub fleet: Arc<Fleet>,
    /// Bounds the connections to agents.
    pub connections: Arc<Semaphore>,
    /// Silence after which an agent is asked whether it lives.
    pub idle: Duration,
    /// First and longest wait between attempts.
    pub backoff: Backoff,
}

/// Keeps the link to one agent until `ended` says that the sandbox has ended and what it sent was read. Once `orphaned`
/// says that nobody vouches for the channel any more, the connection that there is goes on and no other is made.
pub async fn keep(
    links: Links,
    sandbox: Arc<Sandbox>,
    channel: Channel,
    mut ended: watch::Receiver<bool>,
    mut orphaned: watch::Receiver<bool>,
) {
    let mut backoff = links.backoff.clone();
    let mut quarantine = QUARANTINE;
    let set_state = |state| sandbox.link.lock().state = state;
    loop {
        set_state(LinkState::Queued);
        // The semaphore is never closed; were it, no connection could be had.
        let Ok(permit) = links.connections.acquire().await else { break };
        set_state(LinkState::Connecting);
        let began = Instant::now();
        let result = attempt(&links, &sandbox, &channel, &ended).await;
        drop(permit);
        if *ended.borrow() || *orphaned.borrow() {
            break;
        }
        if began.elapsed() >= GOOD_CONNECTION {
            backoff.reset();
        }
        let misbehaves = sandbox.misbehaves();
        let wait = if misbehaves {
            links.fleet.own.quarantines.inc();
            let wait = quarantine;
            quarantine = (2 * quarantine).min(QUARANTINE_MAX);
            wait
        } else {
            backoff.next_wait()
        };
        let error = result.err().map(|error| intake::about_text(&format!("{error:#}")));
        let reason = error.as_deref().unwrap_or("the agent closed the connection");
        tracing::debug!(sandbox = %sandbox.identity.sandbox_id, %channel, reason, ?wait, "agent's link ended");
        links.fleet.own.link_failures.inc();
        {
            let mut link = sandbox.link.lock();
            link.state = if misbehaves { LinkState::Quarantined } else { LinkState::Waiting };
            link.last_error = Some(reason.to_owned());
        }
        let over = async {
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => {}
                _ = orphaned.wait_for(|orphaned| *orphaned) => {}
            }
        };
        if timeout(wait, over).await.is_ok() {
            break;
        }
    }
    set_state(LinkState::Closed);
}

async fn attempt(
    links: &Links,
    sandbox: &Arc<Sandbox>,
    channel: &Channel,
    ended: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let stream = timeout(CALL_DEADLINE, dial::dial(channel))
        .await
        .map_err(|_| anyhow::anyhow!("{channel} did not answer within {CALL_DEADLINE:?}"))?
        .map_err(|error| anyhow::anyhow!("{channel}: {error}"))?;
    let before = sandbox.link.lock().connections;
    let result = session::run(&links.fleet, sandbox, stream, links.idle, ended.clone()).await;
    if before > 0 && sandbox.link.lock().connections > before {
        links.fleet.own.reconnects.inc();
    }
    Ok(result?)
}
