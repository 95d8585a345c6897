//! Nothing is lost silently.

use porthole_agent_api::agent::Side;

use porthole_trials::{CannotRun, Outcome, Trial, trials};

use crate::{harness::Agent, http::Server};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        what_the_ring_buffer_has_no_room_for_is_reported,
        after_a_loss_counting_goes_on,
        at_full_speed_nothing_is_missing,
    ]
}

/// An agent with a ring buffer of 4 KiB, and a server that got more requests than fit there while the agent was
/// stopped.
fn overflown() -> Result<(Agent, Server), CannotRun> {
    let agent = Agent::start(&["--ring-kib", "4", "--no-offload"])?;
    let server = Server::start();
    agent.stop();
    server.get("/overflowing", 3_000);
    agent.resume();
    Ok((agent, server))
}

fn what_the_ring_buffer_has_no_room_for_is_reported() -> Outcome {
    let (mut agent, _server) = overflown()?;
    let lost = agent
        .until("the loss is reported", |agent| Some(agent.counters.events_lost).filter(|&lost| lost > 0));
    // Request and response at each end.
    let counted =
        agent.count(Side::SIDE_SERVER, "/overflowing") + agent.count(Side::SIDE_CLIENT, "/overflowing");
    assert!(counted <= 6_000, "nothing is counted twice: {counted}, {lost} lost");
    Ok(())
}

fn after_a_loss_counting_goes_on() -> Outcome {
    let (mut agent, _server) = overflown()?;
    agent.until("the loss is reported", |agent| (agent.counters.events_lost > 0).then_some(()));
    // So slowly that everything fits, but for other traffic on this machine at the same time.
    for _ in 0..5 {
        agent.catch_up();
    }
    let counted = [Side::SIDE_SERVER, Side::SIDE_CLIENT].map(|side| agent.count(side, "/overflowing"));
    assert!(counted.iter().all(|&counted| counted <= 3_000), "nothing is counted twice: {counted:?}");
    Ok(())
}

fn at_full_speed_nothing_is_missing() -> Outcome {
    let mut agent = Agent::start(&[])?;
    let server = Server::start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| server.get("/fast", 10_000));
        }
    });
    agent.catch_up();
    let counted = (agent.count(Side::SIDE_SERVER, "/fast"), agent.count(Side::SIDE_CLIENT, "/fast"));
    assert_eq!((counted, agent.counters.events_lost), ((40_000, 40_000), 0), "{:?}", agent.counters);
    Ok(())
}
