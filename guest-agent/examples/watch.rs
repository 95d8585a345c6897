//! Prints what an agent reports: `cargo run -p porthole-agent --example watch -- unix:///run/agent.sock [SECONDS]`.

use std::time::Duration;

use porthole_agent_api::{
    agent::HelloRequest, agent::StatsRequest, agent::WatchRequest, agent_ttrpc::AgentClient,
};
use ttrpc::context::with_duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("which agent? unix:///PATH or vsock://CID:PORT")?;
    let seconds: u64 = arguments.next().map_or(Ok(u64::MAX / 4), |text| text.parse())?;
    let client = AgentClient::new(ttrpc::r#async::Client::connect(&address).await?);
    let deadline = || with_duration(Duration::from_secs(5));
    let hello = HelloRequest { version_min: 1, version_max: 1, ..HelloRequest::default() };
    println!("{}", client.hello(deadline(), &hello).await?);
    let mut batches = client.watch(ttrpc::context::Context::default(), &WatchRequest::default()).await?;
    let until = tokio::time::sleep(Duration::from_secs(seconds));
    tokio::pin!(until);
    loop {
        tokio::select! {
            batch = batches.recv() => {
                let Some(batch) = batch? else { break };
                println!("#{} exited={:?} {}", batch.sequence, batch.exited_container_id, *batch.counters);
                for series in &batch.series {
                    println!("  {} count={} bytes={}/{}", *series.key, series.duration.count,
                        series.request_bytes, series.response_bytes);
                }
            }
            () = &mut until => break,
        }
    }
    println!("{}", client.stats(deadline(), &StatsRequest::default()).await?);
    Ok(())
}
