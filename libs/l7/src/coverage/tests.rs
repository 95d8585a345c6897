//! What is wrong shows in the measure, and what is right does not.

use crate::{
    Connection, Direction, Protocol, ScopeId,
    partial::{Fate, play},
    testing::Replay,
    values::{Conversation, Step, conversations},
};

fn all() -> Vec<Conversation> {
    conversations("swordfish", "contents ".repeat(300).as_bytes())
}

#[test]
fn what_was_seen_whole_is_accounted_for() {
    for conversation in all() {
        let found = play(&conversation, |_| Fate::Whole);
        let shows = found.falls || found.unanswered() > 0;
        assert!(!shows && !found.lines.is_empty(), "{:?}: {found:#?}", conversation.protocol);
    }
}

/// Steps after which more comes the same way: nothing shows that the last bytes of one way are no message.
fn inner(steps: &[Step]) -> impl Iterator<Item = usize> {
    let last = |direction| steps.iter().rposition(|(way, _)| *way == direction).unwrap_or(0);
    let end = last(Direction::Ingress).min(last(Direction::Egress));
    1..end
}

#[test]
fn bytes_that_are_no_messages_are_not_accounted_for() {
    for conversation in all() {
        let whole = play(&conversation, |_| Fate::Whole).lines;
        for missing in inner(&conversation.steps) {
            for seed in 0..20 {
                let part =
                    play(
                        &conversation,
                        |number| {
                            if number == missing { Fate::Malformed(seed) } else { Fate::Whole }
                        },
                    );
                assert!(
                    part.lines.len() == whole.len() || part.falls || part.unanswered() > 0 || !part.known,
                    "{:?}, malformed at {missing}: {:#?} of {whole:#?}",
                    conversation.protocol,
                    part.lines
                );
            }
        }
    }
}

#[test]
fn a_loss_weighs_as_much_as_was_lost() {
    let request = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let mut replay = Replay::new(Connection::new(ScopeId(1)));
    let both = |replay: &mut Replay| {
        replay.ingress(request);
        replay.egress(response);
    };
    both(&mut replay);
    replay.lose(Direction::Ingress, 10_000);
    replay.lose(Direction::Egress, 20_000);
    both(&mut replay);
    // Of a call that carries more than its head, what is behind it.
    replay.part(Direction::Ingress, request, request.len() as u64 + 5_000);
    let unaccounted: Vec<_> = replay.context.unaccounted().iter().collect();
    let [(Protocol::Http1, bytes)] = unaccounted[..] else { panic!("{unaccounted:?}") };
    assert!((35_000..36_000).contains(&bytes), "{bytes}");
}

#[test]
fn what_moved_before_a_connection_was_seen_is_no_loss() {
    let mut replay = Replay::new(Connection::new(ScopeId(1)));
    replay.lose(Direction::Ingress, 1_000_000);
    replay.lose(Direction::Egress, 1_000_000);
    for _ in 0..100 {
        replay.wait(1_000_000_000);
        replay.ingress(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        replay.egress(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    assert_eq!(replay.context.unaccounted().sum(), 0);
    assert!(replay.exchanges.len() > 90);
}

/// Bytes that `io_uring` moves come by their number.
#[test]
fn bytes_of_which_none_is_captured_are_unaccounted_if_they_move_both_ways() {
    for rounds in [1, 3, 40] {
        for (answers, falls) in [(true, true), (false, false)] {
            let mut replay = Replay::new(Connection::new(ScopeId(1)));
            for _ in 0..rounds {
                replay.part(Direction::Egress, &[], 100);
                if answers {
                    replay.part(Direction::Ingress, &[], 200);
                }
            }
            replay.close();
            let unaccounted = replay.context.unaccounted();
            let moved = if falls { 300 * rounds } else { 0 };
            assert_eq!((unaccounted.uncaptured(), unaccounted.sum()), (moved, moved), "{rounds} {answers}");
        }
    }
    // Noise is of no protocol, and its bytes belong to none.
    let mut replay = Replay::new(Connection::new(ScopeId(1)));
    for _ in 0..40 {
        replay.part(Direction::Egress, &[0xfe; 10], 100);
        replay.part(Direction::Ingress, &[], 200);
    }
    replay.close();
    assert_eq!(replay.context.unaccounted().sum(), 0);
}
