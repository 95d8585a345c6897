//! The life of one agent's link: dial, run the connection, wait, again; until the sandbox has ended.

use std::{sync::Arc, time::Duration};

use porthole_agent_api::limits::CALL_DEADLINE;
use porthole_registry::{channel::Channel, dial};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

use super::{backoff::Backoff, outlook::Outlook, session};
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
    /// Silence after which an agent is probed.
    pub idle: Duration,
    /// First and longest wait between attempts.
    pub backoff: Backoff,
}

/// Keeps the link to one agent as long as it is to be kept.
pub async fn keep(
    links: Links,
    sandbox: Arc<Sandbox>,
    channel: Channel,
    mut outlook: watch::Receiver<Outlook>,
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
        let result = attempt(&links, &sandbox, &channel, &outlook).await;
        drop(permit);
        if *outlook.borrow() != Outlook::Open {
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
        sandbox.texts_changed();
        if timeout(wait, outlook.wait_for(|outlook| *outlook != Outlook::Open)).await.is_ok() {
            break;
        }
    }
    set_state(LinkState::Closed);
}

async fn attempt(
    links: &Links,
    sandbox: &Arc<Sandbox>,
    channel: &Channel,
    outlook: &watch::Receiver<Outlook>,
) -> anyhow::Result<()> {
    let stream = timeout(CALL_DEADLINE, dial::dial(channel))
        .await
        .map_err(|_| anyhow::anyhow!("{channel} did not answer within {CALL_DEADLINE:?}"))?
        .map_err(|error| anyhow::anyhow!("{channel}: {error}"))?;
    let before = sandbox.link.lock().connections;
    let result = session::run(&links.fleet, sandbox, stream, links.idle, outlook.clone()).await;
    if before > 0 && sandbox.link.lock().connections > before {
        links.fleet.own.reconnects.inc();
    }
    Ok(result?)
}
