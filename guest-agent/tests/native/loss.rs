//! Nothing is lost silently.

use porthole_agent_api::agent::Side;

use crate::{harness::Agent, http::Server};

/// An agent with a ring buffer of 4 KiB, and a server that was asked more than that tells of while the agent was held up.
fn overflown() -> Option<(Agent, Server)> {
    let agent = Agent::start(&["--ring-kib", "4", "--no-kernel-counts"])?;
    let server = Server::start();
    agent.stop();
    server.get("/overflowing", 3_000);
    agent.go_on();
    Some((agent, server))
}

#[test]
fn what_the_ring_buffer_has_no_room_for_is_reported() {
    let Some((mut agent, _server)) = overflown() else { return };
    let lost = agent
        .until("the loss is reported", |agent| Some(agent.counters.events_lost).filter(|&lost| lost > 0));
    // Request and response at each end.
    let counted =
        agent.count(Side::SIDE_SERVER, "/overflowing") + agent.count(Side::SIDE_CLIENT, "/overflowing");
    assert!(counted <= 6_000, "nothing is counted twice: {counted}, {lost} lost");
}

#[test]
fn after_a_loss_counting_goes_on() {
    let Some((mut agent, _server)) = overflown() else { return };
    agent.until("the loss is reported", |agent| (agent.counters.events_lost > 0).then_some(()));
    // So slowly that everything fits, but for what others on this machine may say at the same time.
    for _ in 0..5 {
        agent.catch_up();
    }
    let counted = [Side::SIDE_SERVER, Side::SIDE_CLIENT].map(|side| agent.count(side, "/overflowing"));
    assert!(counted.iter().all(|&counted| counted <= 3_000), "nothing is counted twice: {counted:?}");
}

#[test]
fn at_full_speed_nothing_is_missing() {
    let Some(mut agent) = Agent::start(&[]) else { return };
    let server = Server::start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| server.get("/fast", 10_000));
        }
    });
    agent.catch_up();
    let counted = (agent.count(Side::SIDE_SERVER, "/fast"), agent.count(Side::SIDE_CLIENT, "/fast"));
    let counters = &agent.counters;
    assert!(counted.0 <= 40_000 && counted.1 <= 40_000, "{counted:?}, {counters:?}");
    // A lost record takes its exchange with it; what else cannot be paired is not understood.
    let missing = 80_000 - counted.0 - counted.1;
    assert!(missing <= counters.events_lost + counters.not_understood, "{missing} missing, {counters:?}");
}
