//! One socket with several other ends, and questions that are sent more than once.

use std::net::SocketAddr;

use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// After so long, with this peer, this way.
type Datagram = (u64, Option<SocketAddr>, Direction, Vec<u8>);

#[allow(clippy::unnecessary_wraps)] // As datagrams have it.
fn peer(number: u8) -> Option<SocketAddr> {
    Some(SocketAddr::from(([10, 0, 0, number], 53)))
}

/// Plays datagrams, then 20 s of silence.
fn play_peers(datagrams: &[Datagram]) -> Replay {
    let mut replay = Replay::new(socket());
    for (after, peer, direction, bytes) in datagrams {
        replay.wait(*after);
        replay.datagram(*peer, *direction, bytes, bytes.len() as u64);
    }
    replay.wait(20 * SECOND);
    replay.close();
    replay
}

/// Asserts the exchanges: the peer's last byte, status or error, milliseconds.
fn assert_outcomes(replay: &Replay, expected: &[(u8, &str, u64)]) {
    let last = |peer: Option<SocketAddr>| match peer {
        Some(SocketAddr::V4(address)) => address.ip().octets()[3],
        _ => 0,
    };
    let lines = replay.lines();
    let outcome = |line: &'_ str| {
        let words: Vec<&str> = line.split(' ').collect();
        if words[3] == "-" { words[4].to_owned() } else { words[3].to_owned() }
    };
    let found: Vec<_> = replay
        .exchanges
        .iter()
        .zip(&lines)
        .map(|(exchange, line)| (last(exchange.peer), outcome(line), exchange.duration_ns() / MS))
        .collect();
    let expected: Vec<_> =
        expected.iter().map(|(peer, outcome, ms)| (*peer, (*outcome).to_owned(), *ms)).collect();
    assert_eq!(found, expected);
}

#[test]
fn questions_to_a_group_of_hosts_are_no_exchanges() {
    let reverse = message(7, 0, "1.122.168.192.in-addr.arpa", 12, [0; 3], &[]);
    let groups = ["224.0.0.252:5355", "[ff02::1:3]:5355", "[::ffff:224.0.0.251]:5353"];
    for group in groups.map(|group| group.parse().ok()) {
        assert!(group.is_some());
        let replay = play_peers(&[(0, group, C, reverse.clone()), (100 * MS, group, C, reverse.clone())]);
        assert!(replay.exchanges.is_empty() && replay.context.tally().messages_seen == 0);
    }
    let replay = play_peers(&[(0, peer(1), C, reverse)]);
    assert_outcomes(&replay, &[(1, "NoResponse", 15_000)]);
}

#[test]
fn a_question_to_several_servers_at_once_is_one_to_each() {
    let ask = query(7, "svc.example", 1);
    let replay = play_peers(&[
        (0, peer(1), C, ask.clone()),
        (0, peer(2), C, ask.clone()),
        (0, peer(3), C, ask),
        (5 * MS, peer(2), S, answer(7, "svc.example", 1)),
        (5 * MS, peer(3), S, nothing(7, "svc.example", 1, 2)),
        (5 * MS, peer(1), S, answer(7, "svc.example", 1)),
    ]);
    assert_outcomes(&replay, &[(2, "NOERROR", 5), (3, "SERVFAIL", 10), (1, "NOERROR", 15)]);
    assert_eq!(replay.context.tally().unparsed, 0);
}

#[test]
fn a_client_that_has_one_answer_does_not_wait_for_the_other_servers() {
    let ask = query(7, "svc.example", 1);
    let replay = play_peers(&[
        (0, peer(1), C, ask.clone()),
        (0, peer(2), C, ask),
        (5 * MS, peer(2), S, answer(7, "svc.example", 1)),
        // This one has no answer.
        (SECOND, peer(1), C, query(8, "dead.example", 1)),
        (0, peer(2), C, query(8, "dead.example", 1)),
    ]);
    assert_outcomes(&replay, &[(2, "NOERROR", 5), (1, "NoResponse", 15_000), (2, "NoResponse", 15_000)]);
    assert_eq!(replay.context.tally().messages_seen, 3);
}

#[test]
fn clients_of_one_server_may_ask_the_same_with_the_same_id() {
    let ask = query(7, "a.example", 1);
    let replay = play_peers(&[
        (0, peer(1), S, ask.clone()),
        (5 * MS, peer(2), S, ask),
        (5 * MS, peer(2), C, answer(7, "a.example", 1)),
        (5 * MS, peer(1), C, nothing(7, "a.example", 1, 5)),
    ]);
    assert_outcomes(&replay, &[(2, "NOERROR", 5), (1, "REFUSED", 15)]);
}

#[test]
fn an_answer_to_a_retry_leaves_the_question_before_it_without_one() {
    let ask = query(5, "slow.example", 1);
    let replay = play_peers(&[
        (0, peer(1), C, ask.clone()),
        (5 * SECOND, peer(1), C, ask),
        (10 * MS, peer(1), S, answer(5, "slow.example", 1)),
    ]);
    assert_outcomes(&replay, &[(1, "NOERROR", 10), (1, "NoResponse", 5_000)]);
}

#[test]
fn a_late_answer_belongs_to_the_question_before_the_retry() {
    let (ask, response) = (query(5, "slow.example", 1), answer(5, "slow.example", 1));
    let replay = play_peers(&[
        (0, None, C, ask.clone()),
        (5 * SECOND, None, C, ask),
        (10 * MS, None, S, response.clone()),
        (10 * MS, None, S, response.clone()),
        // A third one answers nothing.
        (10 * MS, None, S, response),
    ]);
    assert_outcomes(&replay, &[(0, "NOERROR", 10), (0, "NOERROR", 5_020)]);
    assert_eq!(replay.context.tally().unparsed, 1);
}

#[test]
fn duplicates_are_answered_in_their_order() {
    let (ask, response) = (query(5, "twice.example", 1), answer(5, "twice.example", 1));
    let replay = play_peers(&[
        (0, peer(1), C, ask.clone()),
        (MS, peer(1), C, ask),
        (9 * MS, peer(1), S, response.clone()),
        (9 * MS, peer(1), S, response),
    ]);
    assert_outcomes(&replay, &[(1, "NOERROR", 10), (1, "NOERROR", 18)]);
}

#[test]
fn questions_that_are_sent_again_and_again_stay_bounded() {
    let mut datagrams = vec![(0, peer(1), C, query(5, "again.example", 1)); 50];
    datagrams.push((0, peer(1), S, answer(5, "again.example", 1)));
    let replay = play_peers(&datagrams);
    assert_eq!(replay.lines().iter().filter(|line| line.contains("NOERROR")).count(), 1);
    assert_eq!(replay.exchanges.len(), 50);
}

#[test]
fn datagrams_whose_peer_is_not_known_are_paired_by_id_and_question() {
    let (ask, response) = (query(7, "a.example", 1), answer(7, "a.example", 1));
    // The peers of what is received are not known.
    let client = play_peers(&[
        (0, peer(1), C, ask.clone()),
        (MS, peer(2), C, ask.clone()),
        (4 * MS, None, S, response.clone()),
        (5 * MS, None, S, response.clone()),
    ]);
    assert_outcomes(&client, &[(1, "NOERROR", 5), (2, "NOERROR", 9)]);
    let server = play_peers(&[
        (0, None, S, ask.clone()),
        (MS, None, S, ask),
        (4 * MS, peer(1), C, response.clone()),
        (5 * MS, peer(2), C, response),
    ]);
    assert_outcomes(&server, &[(1, "NOERROR", 5), (2, "NOERROR", 9)]);
}

#[test]
fn another_servers_answer_is_not_taken() {
    let replay =
        play_peers(&[(0, peer(1), C, query(7, "a.example", 1)), (MS, peer(9), S, answer(7, "a.example", 1))]);
    assert_outcomes(&replay, &[(1, "NoResponse", 15_000)]);
    assert_eq!(replay.context.tally().unparsed, 1);
}
