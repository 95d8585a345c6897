//! An agent that the guest's image carries: it listens from the guest's boot on, and gets the sandbox's secret on the
//! companion's first connection, before any process of the workload runs where the guest waits for its agent.
//!
//! Whether there is one is found out by a connection to the channel. It listens before the delegate can reach the
//! guest; so an agent that does not listen once the sandbox is created is not there. The delegate itself is called only
//! for where the guest is, and how far the sandbox is.

use std::{cell::Cell, time::Duration};

use porthole_agent_api::{agent::EnrollRequest, agent_ttrpc::AgentClient};
use porthole_inspection::{responses, stream::InspectedStream};
use porthole_registry::{channel::Channel, dial};
use tokio::time::{Instant, sleep, timeout};
use ttrpc::r#async::{Client, transport::Socket};

use super::{
    channel::{self, ChannelError},
    context::Companion,
    inject::{CHANNEL_HELD_TIMEOUT, Stop, reach},
    proof,
    reason::{Failure, ReasonCode},
    sandbox::{Phase, Sandbox},
};

/// How long the guest may take to accept or refuse a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Debug)]
pub enum BuiltIn {
    /// There is an agent, and it has the sandbox's secret.
    Enrolled(Channel),
    /// The port is closed.
    Nobody,
    /// A process listens that cannot be the sandbox's agent.
    Failed(Failure),
    /// The sandbox was gone before an agent had answered.
    SandboxEnded,
}

/// Tries until there is an answer or the sandbox is made without one.
pub async fn ask(companion: &Companion<'_>, sandbox: &Sandbox<'_>) -> BuiltIn {
    let made = Cell::new(None);
    let follow = async {
        let is_made = |phase: &Phase| matches!(phase, Phase::Created | Phase::Running | Phase::Paused);
        if let Err(stop) = reach(sandbox, is_made).await {
            return stop;
        }
        made.set(Some(Instant::now()));
        sandbox.over().await;
        Stop::SandboxEnded
    };
    tokio::select! {
        found = ask_the_channel(companion, &made) => found,
        stop = follow => match stop {
            Stop::Failed(failure) => BuiltIn::Failed(failure),
            Stop::SandboxEnded => BuiltIn::SandboxEnded,
        },
    }
}

/// What one look at the channel gives.
enum Look {
    Found(BuiltIn),
    /// The port is closed.
    Refused,
    /// The delegate does not have the guest's address yet.
    Held,
}

async fn ask_the_channel(companion: &Companion<'_>, made: &Cell<Option<Instant>>) -> BuiltIn {
    let sockets = companion.settings.shim.monitor_sockets_of(&companion.assignment.sandbox);
    let begin = Instant::now();
    loop {
        // As of before the look: who starts to listen meanwhile is found by the next one.
        let was_made = made.get();
        let look = match channel::request(&sockets).await {
            Ok(channel) => try_channel(companion, channel).await,
            Err(ChannelError::Held { .. }) => Look::Held,
            Err(ChannelError::Nobody(_) | ChannelError::Unusable { .. }) => Look::Refused,
        };
        match (look, was_made) {
            (Look::Found(found), _) => return found,
            (Look::Refused, Some(_)) => return BuiltIn::Nobody,
            (Look::Held, Some(since)) if since.elapsed() >= CHANNEL_HELD_TIMEOUT => return BuiltIn::Nobody,
            (Look::Refused, None) | (Look::Held, _) => sleep(channel::look_interval(begin.elapsed())).await,
        }
    }
}

async fn try_channel(companion: &Companion<'_>, channel: Channel) -> Look {
    let stream = match timeout(DIAL_TIMEOUT, dial::dial(&channel)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(id = %companion.assignment.sandbox, %channel, %error, "the agent's port is closed");
            return Look::Refused;
        }
        Err(_) => return Look::Refused,
    };
    let client =
        AgentClient::new(Client::new(Socket::new(InspectedStream::new(stream, responses::INSPECTION))));
    let limit = companion.settings.shim.call_deadline();
    let request = EnrollRequest { secret: companion.secret.bytes().to_vec(), ..Default::default() };
    // ttrpc's own deadline comes later: it looks like any other failure.
    let answer = timeout(limit, client.enroll(ttrpc::context::with_duration(2 * limit), &request)).await;
    let refusal = match answer {
        Ok(Ok(_)) => None,
        Ok(Err(error @ ttrpc::Error::RpcStatus(_))) => Some(error.to_string()),
        // The guest went, or its agent did and another one comes: tried again.
        Ok(Err(error)) => {
            tracing::debug!(id = %companion.assignment.sandbox, %channel, %error, "no answer");
            return Look::Held;
        }
        Err(_) => {
            let message = format!("{channel}: no answer to Enroll within {limit:?}");
            return Look::Found(BuiltIn::Failed(Failure::new(ReasonCode::EnrolmentTimeout, message)));
        }
    };
    // Also when it was enrolled before: an answer to an earlier try may have been lost.
    Look::Found(match (proof::is_ours(&client, &companion.secret).await, refusal) {
        (Ok(true), _) => BuiltIn::Enrolled(channel),
        (Ok(false), None) => failed(&channel, "it does not prove that it has the secret"),
        (Err(error), None) => failed(&channel, &error.to_string()),
        (_, Some(refusal)) => failed(&channel, &refusal),
    })
}

fn failed(channel: &Channel, message: &str) -> BuiltIn {
    BuiltIn::Failed(Failure::new(ReasonCode::EnrolmentRefused, format!("{channel}: {message}")))
}
