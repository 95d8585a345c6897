//! Whatever part of a conversation is seen, its exchanges are those of the whole, or something shows that they are not.
//!
//! All made conversations and all recordings of real servers are played with one call lost or cut, with all bytes lost from some
//! point on, and with the connection at its end after each call and within it.

use std::collections::BTreeMap;

use crate::{
    Connection, Direction, ScopeId, Transport, captured,
    parser::Sender,
    testing::{Random, Replay},
    values::{Conversation, conversations},
};

/// Every conversation that there is, of one connection each, with its name.
fn all() -> Vec<(String, Conversation)> {
    let made = conversations("swordfish", "contents ".repeat(300).as_bytes()).into_iter();
    let mut all: Vec<_> = made.map(|made| (format!("made, {:?}", made.protocol), made)).collect();
    for (protocol, name, text) in captured::RECORDINGS {
        let mut connections: BTreeMap<u32, Conversation> = BTreeMap::new();
        for piece in captured::read(text) {
            let of = Conversation { protocol: *protocol, transport: piece.transport, steps: Vec::new() };
            let direction = match piece.sender {
                Sender::Client => Direction::Ingress,
                Sender::Server => Direction::Egress,
            };
            connections.entry(piece.connection).or_insert(of).steps.push((direction, piece.bytes));
        }
        all.extend(connections.into_iter().map(|(number, of)| (format!("{name}, {number}"), of)));
    }
    all
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Whole,
    /// Its bytes moved and nothing is known of them.
    Lost,
    /// So many of its bytes are captured, and all of them moved.
    Cut(usize),
    /// So many of its bytes moved, before the connection ended.
    Last(usize),
    /// The connection has ended before.
    Never,
    /// Its bytes are others, and no text, which commands of one line might be.
    Malformed(u64),
}

/// What was found of a conversation.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) lines: Vec<String>,
    /// A counter of what is missing is above zero.
    pub(crate) falls: bool,
    pub(crate) known: bool,
}

impl Found {
    pub(crate) fn unanswered(&self) -> usize {
        self.lines.iter().filter(|line| line.contains("NoResponse")).count()
    }
}

pub(crate) fn play(conversation: &Conversation, fate: impl Fn(usize) -> Fate) -> Found {
    let mut replay = Replay::new(match conversation.transport {
        Transport::Stream => Connection::new(ScopeId(1)),
        Transport::Datagram => Connection::datagram(ScopeId(1)),
    });
    for (number, (direction, bytes)) in conversation.steps.iter().enumerate() {
        let total = bytes.len() as u64;
        match fate(number) {
            Fate::Whole => replay.part(*direction, bytes, total),
            Fate::Lost => replay.lose(*direction, total),
            Fate::Cut(captured) => replay.part(*direction, &bytes[..captured], total),
            Fate::Last(moved) => replay.part(*direction, &bytes[..moved], moved as u64),
            Fate::Never => {}
            Fate::Malformed(seed) => {
                let malformed = Random(seed).bytes(bytes.len()).into_iter().map(|byte| byte | 0x80);
                replay.part(*direction, &malformed.collect::<Vec<u8>>(), total);
            }
        }
    }
    let known = replay.connection.side().is_some();
    replay.close();
    let tally = replay.context.tally();
    let unaccounted = replay.context.unaccounted().sum();
    Found {
        falls: unaccounted > 0 || tally.incomplete > 0 || tally.unparsed > 0,
        // Without the side.
        lines: replay
            .lines()
            .iter()
            .map(|line| line.split_once(' ').expect("several words").1.to_owned())
            .collect(),
        known,
    }
}

/// What is wrong with what was found in a part.
fn fault(part: &Found, whole: &Found) -> Option<String> {
    if let Some((line, left)) = captured::invented(&part.lines, &whole.lines) {
        return Some(format!("{line:?} is none of {:?}", left.get(..2).unwrap_or(&left)));
    }
    let shows = part.falls || part.unanswered() > whole.unanswered() || !part.known;
    (part.lines != whole.lines && !shows).then(|| {
        let same = part.lines.iter().zip(&whole.lines).take_while(|(part, whole)| part == whole).count();
        format!("{:?} instead of {:?}", part.lines.get(same), whole.lines.get(same))
    })
}

/// Points at which a call of so many bytes is cut: near both ends and between them.
fn points(bytes: usize) -> Vec<usize> {
    let mut points: Vec<usize> = (1..8).chain([12, 16, 20, 24, 32, 48, 64]).collect();
    points.extend((1..16).map(|part| bytes * part / 16));
    points.extend((1..6).map(|back| bytes.saturating_sub(back)));
    points.retain(|point| (1..bytes).contains(point));
    points.sort_unstable();
    points.dedup();
    points
}

#[test]
fn a_call_that_is_lost_or_cut_changes_nothing_or_shows() {
    let mut wrong = Vec::new();
    for (name, conversation) in all() {
        println!("{name}");
        let whole = play(&conversation, |_| Fate::Whole);
        assert!(!whole.falls, "{name}");
        for (missing, (_, bytes)) in conversation.steps.iter().enumerate() {
            let cuts = points(bytes.len()).into_iter().map(Fate::Cut);
            for fate in [Fate::Lost, Fate::Cut(0)].into_iter().chain(cuts) {
                let part = play(&conversation, |number| if number == missing { fate } else { Fate::Whole });
                if let Some(fault) = fault(&part, &whole) {
                    wrong.push(format!("{name}, {missing} {fate:?} of {}: {fault}", bytes.len()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}: {:#?}", wrong.len(), wrong);
}

#[test]
fn a_connection_that_ends_at_any_point_leaves_no_bytes_unaccounted_for() {
    let mut wrong = Vec::new();
    for (name, conversation) in all() {
        println!("{name}");
        if conversation.transport == Transport::Datagram {
            continue;
        }
        for (last, (_, bytes)) in conversation.steps.iter().enumerate() {
            let until = |moved| {
                play(&conversation, |number| match number.cmp(&last) {
                    std::cmp::Ordering::Less => Fate::Whole,
                    std::cmp::Ordering::Equal => Fate::Last(moved),
                    std::cmp::Ordering::Greater => Fate::Never,
                })
            };
            let [before, whole] = [0, bytes.len()].map(until);
            // What has moved of the call is of an exchange, of one without a response, or shows.
            let is_silent = |moved| {
                let part = until(moved);
                let shows = part.falls || part.unanswered() > 0 || !part.known;
                !shows && part.lines == before.lines
            };
            if before.lines == whole.lines {
                continue;
            }
            for moved in points(bytes.len()) {
                // Between two messages of the call there is nothing to show.
                if is_silent(moved) && (moved == 1 || is_silent(moved - 1)) {
                    wrong.push(format!("{name}, {moved} of {} in {last}", bytes.len()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}: {:#?}", wrong.len(), wrong);
}

#[test]
fn what_is_lost_at_a_connections_end_shows() {
    let mut wrong = Vec::new();
    for (name, conversation) in all() {
        println!("{name}");
        if conversation.transport == Transport::Datagram {
            continue;
        }
        let whole = play(&conversation, |_| Fate::Whole);
        for (last, (_, bytes)) in conversation.steps.iter().enumerate() {
            for captured in [bytes.len()].into_iter().chain(points(bytes.len())) {
                let part = play(&conversation, |number| match number.cmp(&last) {
                    std::cmp::Ordering::Less => Fate::Whole,
                    std::cmp::Ordering::Equal => Fate::Cut(captured),
                    std::cmp::Ordering::Greater => Fate::Lost,
                });
                if let Some(fault) = fault(&part, &whole) {
                    wrong.push(format!("{name}, {captured} of {} in {last}: {fault}", bytes.len()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}: {:#?}", wrong.len(), wrong);
}

#[test]
fn a_request_that_is_answered_by_what_cannot_be_read_has_a_response() {
    let mut wrong = Vec::new();
    for (name, conversation) in all() {
        println!("{name}");
        let whole = play(&conversation, |_| Fate::Whole);
        for from in [0, conversation.steps.len() / 2] {
            for direction in [Direction::Ingress, Direction::Egress] {
                let is_unread = |number: usize| number >= from && conversation.steps[number].0 == direction;
                let part =
                    play(&conversation, |number| if is_unread(number) { Fate::Cut(0) } else { Fate::Whole });
                let fault = fault(&part, &whole).or_else(|| {
                    (part.unanswered() > whole.unanswered()).then(|| format!("{:?}", part.lines))
                });
                wrong.extend(fault.map(|fault| format!("{name}, {direction:?} from {from}: {fault}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}: {:#?}", wrong.len(), wrong);
}
