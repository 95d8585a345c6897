//! Whether an agent is the sandbox's own: it proves in its answer to Hello that it holds the sandbox's secret.

use porthole_agent_api::{agent_ttrpc::AgentClient, limits::CALL_DEADLINE, proof::Challenge};
use porthole_registry::AgentSecret;
use tokio::time::timeout;

/// Whether the process that answers holds the secret.
pub async fn is_ours(client: &AgentClient, secret: &AgentSecret) -> Result<bool, ttrpc::Error> {
    let challenge =
        Challenge::new().map_err(|error| ttrpc::Error::Others(format!("random numbers: {error}")))?;
    let request = challenge.request(env!("CARGO_PKG_VERSION"));
    let answer = timeout(CALL_DEADLINE, client.hello(ttrpc::context::with_duration(CALL_DEADLINE), &request));
    let answer = answer.await.map_err(|_| ttrpc::Error::Others("no answer to Hello".to_owned()))??;
    Ok(challenge.is_met(secret.bytes(), &answer))
}
