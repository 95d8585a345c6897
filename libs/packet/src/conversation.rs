//! Both directions of a TCP connection, in the order in which its ends saw them.
//!
//! Requests and responses are paired by their order, so bytes that answer other bytes must come after them. A segment
//! acknowledges what its sender had when it sent it: while a part of that is missing here, because the capture is out of
//! order, the segment is held back; when the part does not come soon, it is lost, and what follows goes on.
//!
//! Packets of an older connection between the same ends can come in between: they are recognised by their numbers
//! (RFC 9293 section 3.10.7.3).

mod belonging;

use std::collections::VecDeque;

pub use self::belonging::Belongs;
pub use crate::segment::Segment;
use crate::{
    segment::Held,
    successor::Successor,
    tcp::{self, Direction},
};

/// Packets of the connection for which a segment is held back. Captures of machines with several cores are out of order
/// by a few packets.
const REORDERING_PACKETS_MAX: u32 = 16;

/// How long bytes may be missing that the other end has, nanoseconds.
const REORDERING_NS_MAX: u64 = 1_000_000_000;

/// What is held back of one connection at most.
const HELD_SEGMENTS_MAX: usize = 64;
const HELD_BYTES_MAX: usize = 1 << 20;

/// Bytes of a direction, in order.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Index of the direction.
    pub from: usize,
    /// Its bytes.
    pub stream: tcp::Piece<'a>,
}

/// Takes bytes in order.
pub type Deliver<'a> = &'a mut dyn FnMut(Piece<'_>);

/// A connection.
#[derive(Debug, Default)]
pub struct Conversation {
    directions: [Direction; 2],
    /// The direction whose SYN has come, while nothing has come from the other.
    opening: Option<usize>,
    /// Directions that a segment has come from.
    heard: [bool; 2],
    reset: bool,
    /// When a reset came whose number is not the next one, and nothing has followed, nanoseconds.
    doubtful_reset_ns: Option<u64>,
    /// What may take the connection's place.
    successor: Option<Box<Successor>>,
    held: VecDeque<Held>,
    held_bytes: usize,
    packets_since_gap: u32,
}

impl Conversation {
    /// Keeps a segment of a connection that is not proved.
    pub fn keep_unproved(&mut self, segment: &Segment<'_>) {
        match &mut self.successor {
            Some(successor) if successor.has(segment) => successor.keep(segment),
            _ if segment.syn => self.successor = Some(Box::new(Successor::new(segment))),
            _ => {}
        }
    }

    /// The connection that takes this one's place, with what was kept of it, if this segment proves it.
    pub(crate) fn take_successor(&mut self, segment: &Segment<'_>) -> Option<Box<Successor>> {
        let begins = segment.syn && segment.acknowledged.is_none();
        self.successor.take_if(|successor| !begins && successor.has(segment))
    }

    /// When it ended, where a reset ended it and nothing has followed, nanoseconds.
    pub fn reset_ns(&self) -> Option<u64> {
        self.doubtful_reset_ns
    }

    /// Whether neither end has sent a byte.
    pub fn is_empty(&self) -> bool {
        self.directions.iter().all(Direction::is_empty)
    }

    /// Whether nothing more comes.
    pub fn is_over(&self) -> bool {
        self.reset || self.directions.iter().all(Direction::is_finished)
    }

    /// Bytes that were never captured, and bytes that were captured again.
    pub fn lost_and_repeated(&self) -> (u64, u64) {
        self.directions.iter().fold((0, 0), |(lost, repeated), direction| {
            (lost + direction.lost_bytes + direction.missing_at_end(), repeated + direction.repeated_bytes)
        })
    }

    /// Bytes that each end has sent, as far as is known. Call it behind [`Self::flush`].
    pub fn moved(&self) -> [u64; 2] {
        [self.directions[0].moved(), self.directions[1].moved()]
    }

    /// Segments of the end that nothing came from will come now; what the other one has acknowledged before will not.
    pub fn join_other_half(&mut self) {
        for (direction, heard) in self.directions.iter_mut().zip(self.heard) {
            if !heard {
                *direction = Direction::default();
            }
        }
    }

    /// Takes a segment that [belongs](Self::belongs) here.
    pub fn segment(&mut self, segment: &Segment<'_>, deliver: Deliver<'_>) {
        let other = 1 - segment.from;
        self.heard[segment.from] = true;
        if segment.rst {
            let own = &self.directions[segment.from];
            // An end takes no reset whose number is not the one that it expects (RFC 5961 section 3). What was lost in the
            // capture may be why it is another, and then nothing follows.
            if own.is_new() || own.may_end_at(segment.sequence) {
                self.reset = true;
            } else {
                self.doubtful_reset_ns.get_or_insert(segment.time_ns);
                return;
            }
        } else if segment.length > 0 || segment.fin {
            self.doubtful_reset_ns = None;
        }
        if segment.syn && self.directions[segment.from].begins_elsewhere(segment.sequence) {
            // What came before it was an older connection's.
            self.directions[segment.from].begin_again(segment.sequence);
            self.directions[other].forget_acknowledged();
            self.held.clear();
            self.held_bytes = 0;
        }
        if self.directions[other].is_new() && segment.syn && segment.acknowledged.is_none() {
            self.opening = Some(segment.from);
        } else if self.opening == Some(other) {
            self.opening = None;
        }
        self.directions[segment.from].begin(segment.sequence);
        if let Some(acknowledged) = segment.acknowledged {
            self.directions[other].begin(acknowledged);
        }
        if segment.length > 0 && self.lacks(segment) {
            self.held_bytes += segment.bytes.len();
            self.held.push_back(Held::of(segment));
        } else {
            self.apply(segment, deliver);
        }
        self.release(deliver);
        if !self.held.is_empty() {
            self.packets_since_gap += 1;
            while self.packets_since_gap > REORDERING_PACKETS_MAX
                || self.held.len() > HELD_SEGMENTS_MAX
                || self.held_bytes > HELD_BYTES_MAX
            {
                self.skip_gap(deliver);
            }
        }
        for (from, direction) in self.directions.iter_mut().enumerate() {
            direction.tick(&mut |stream| deliver(Piece { from, stream }));
        }
        self.release(deliver);
    }

    /// Goes on without what one end has had for a while and the capture has not.
    pub fn idle(&mut self, now_ns: u64, deliver: Deliver<'_>) {
        let is_late = |since: u64| now_ns.saturating_sub(since) > REORDERING_NS_MAX;
        self.reset |= self.doubtful_reset_ns.is_some_and(is_late);
        let waits = self.directions.iter().filter_map(Direction::waits_since);
        let oldest = waits.chain(self.held.iter().map(|held| held.segment().time_ns)).min();
        if oldest.is_some_and(is_late) {
            self.flush(deliver);
        }
    }

    /// No further segment comes, as far as is known.
    pub fn flush(&mut self, deliver: Deliver<'_>) {
        while !self.held.is_empty() {
            self.skip_gap(deliver);
        }
        for (from, direction) in self.directions.iter_mut().enumerate() {
            direction.flush(&mut |stream| deliver(Piece { from, stream }));
        }
    }

    /// Whether something has not come that a segment's sender had.
    fn lacks(&self, segment: &Segment<'_>) -> bool {
        segment.acknowledged.is_some_and(|acknowledged| self.directions[1 - segment.from].lacks(acknowledged))
    }

    /// Takes what was held back for bytes that have come.
    fn release(&mut self, deliver: Deliver<'_>) {
        let ready = |conversation: &Self| {
            conversation.held.iter().position(|held| !conversation.lacks(&held.segment()))
        };
        while let Some(held) = ready(self).and_then(|at| self.held.remove(at)) {
            let segment = held.segment();
            self.held_bytes -= segment.bytes.len();
            self.packets_since_gap = 0;
            self.apply(&segment, deliver);
        }
    }

    /// Goes on without what the segment that was held back longest waits for.
    fn skip_gap(&mut self, deliver: Deliver<'_>) {
        self.packets_since_gap = 0;
        let Some(held) = self.held.pop_front() else { return };
        let segment = held.segment();
        self.held_bytes -= segment.bytes.len();
        let other = 1 - segment.from;
        if let Some(acknowledged) = segment.acknowledged {
            self.directions[other]
                .skip_until(acknowledged, &mut |stream| deliver(Piece { from: other, stream }));
        }
        self.apply(&segment, deliver);
        self.release(deliver);
    }

    fn apply(&mut self, segment: &Segment<'_>, deliver: Deliver<'_>) {
        let from = segment.from;
        if let Some(acknowledged) = segment.acknowledged {
            self.directions[1 - from].acknowledge(acknowledged);
        }
        let direction = &mut self.directions[from];
        if segment.length > 0 {
            let Segment { sequence, bytes, length, time_ns, .. } = *segment;
            direction
                .segment(sequence, bytes, length, time_ns, &mut |stream| deliver(Piece { from, stream }));
        }
        if segment.fin {
            #[expect(clippy::cast_possible_truncation, reason = "sequence numbers are modulo 2^32")]
            direction.finish(segment.sequence.wrapping_add(segment.length as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(from: usize) -> Segment<'static> {
        Segment {
            from,
            sequence: 0,
            acknowledged: None,
            bytes: &[],
            length: 0,
            syn: false,
            fin: false,
            rst: false,
            time_ns: 0,
        }
    }

    /// Feeds `(from, sequence, acknowledged, text)` and gives what came out, in order.
    fn order(segments: &[(usize, u32, u32, &str)]) -> Vec<String> {
        let mut conversation = Conversation::default();
        let mut out = Vec::new();
        let mut deliver = |Piece { from, stream }: Piece<'_>| {
            out.push(format!("{from}@{} {}", stream.offset, String::from_utf8_lossy(stream.bytes)));
        };
        for (time, (from, sequence, acknowledged, text)) in segments.iter().enumerate() {
            let segment = Segment {
                sequence: *sequence,
                acknowledged: Some(*acknowledged),
                bytes: text.as_bytes(),
                length: text.len() as u64,
                time_ns: time as u64,
                ..segment(*from)
            };
            conversation.segment(&segment, &mut deliver);
        }
        conversation.flush(&mut deliver);
        out
    }

    #[test]
    fn a_request_that_was_captured_before_the_response_that_it_follows_waits_for_it() {
        let right = ["0@0 one", "1@0 ONE", "0@3 two", "1@3 TWO"];
        assert_eq!(order(&[(0, 0, 0, "one"), (1, 0, 3, "ONE"), (0, 3, 3, "two"), (1, 3, 6, "TWO")]), right);
        assert_eq!(order(&[(0, 0, 0, "one"), (0, 3, 3, "two"), (1, 0, 3, "ONE"), (1, 3, 6, "TWO")]), right);
        assert_eq!(order(&[(0, 0, 0, "one"), (0, 3, 3, "two"), (1, 3, 6, "TWO"), (1, 0, 3, "ONE")]), right);
    }

    #[test]
    fn a_response_that_never_comes_is_lost_before_the_request_that_follows_it() {
        let out = order(&[(0, 0, 0, "one"), (0, 3, 3, "two"), (1, 3, 6, "TWO"), (0, 6, 6, "three")]);
        assert_eq!(out, ["0@0 one", "0@3 two", "1@3 TWO", "0@6 three"]);
    }

    #[test]
    fn two_that_wait_for_each_other_do_not_wait_for_ever() {
        let mut segments = vec![(0, 0, 0, "a"), (0, 5, 9, "b"), (1, 9, 6, "c")];
        segments.extend((0..100).map(|_| (0, 6, 9, "")));
        let out = order(&segments);
        assert_eq!(out.len(), 3, "{out:?}");
    }

    const CLIENT: usize = 0;
    const SERVER: usize = 1;

    fn syn(number: u32) -> Segment<'static> {
        Segment { sequence: number + 1, syn: true, ..segment(CLIENT) }
    }

    fn syn_ack(number: u32, client: u32) -> Segment<'static> {
        Segment { sequence: number + 1, acknowledged: Some(client + 1), syn: true, ..segment(SERVER) }
    }

    fn data(from: usize, sequence: u32, acknowledged: u32) -> Segment<'static> {
        Segment { sequence, acknowledged: Some(acknowledged), bytes: b"data", length: 4, ..segment(from) }
    }

    /// What the last segment is to the connection of those before it, all of which must belong to it or to an older one.
    fn belongs(segments: &[Segment<'static>]) -> Belongs {
        let mut conversation = Conversation::default();
        let (last, before) = segments.split_last().expect("segments");
        for segment in before {
            match conversation.belongs(segment) {
                Belongs::Here => conversation.segment(segment, &mut |_| ()),
                Belongs::ToUnproved => conversation.keep_unproved(segment),
                Belongs::ToOlder => {}
                Belongs::ToNext => panic!("{segment:?}"),
            }
        }
        conversation.belongs(last)
    }

    #[test]
    fn a_repeated_syn_is_the_same_connections_unless_that_is_over() {
        let rst = Segment { sequence: 101, rst: true, ..segment(CLIENT) };
        let fins = [CLIENT, SERVER].map(|from| Segment {
            sequence: [101, 201][from],
            acknowledged: Some([201, 101][from]),
            fin: true,
            ..segment(from)
        });
        let (syn, syn_ack) = (syn(100), syn_ack(200, 100));
        assert_eq!(belongs(&[syn, syn]), Belongs::Here);
        assert_eq!(belongs(&[syn, syn_ack, syn]), Belongs::Here);
        assert_eq!(belongs(&[syn, self::syn(7)]), Belongs::ToUnproved);
        assert_eq!(belongs(&[syn, rst, syn]), Belongs::ToNext);
        assert_eq!(belongs(&[syn, syn_ack, fins[0], fins[1], syn]), Belongs::ToNext);
        assert_eq!(belongs(&[syn, syn_ack, fins[0], fins[1], syn_ack]), Belongs::Here, "repeated");
    }

    #[test]
    fn a_syn_begins_another_connection_when_the_other_end_agrees() {
        let open = [syn(100), syn_ack(200, 100), data(CLIENT, 101, 201), data(SERVER, 201, 105)];
        let then = |more: &[Segment<'static>]| belongs(&[&open[..], more].concat());
        let (again, answer) = (syn(9_000_000), syn_ack(7_000_000, 9_000_000));
        let challenge = Segment { length: 0, bytes: &[], ..data(SERVER, 205, 105) };
        assert_eq!(then(&[again]), Belongs::ToUnproved);
        assert_eq!(then(&[again, answer]), Belongs::ToNext);
        assert_eq!(then(&[again, challenge]), Belongs::Here);
        assert_eq!(then(&[again, challenge, data(CLIENT, 105, 205)]), Belongs::Here);
        // One end alone proves nothing.
        let alone = data(CLIENT, 9_000_001, 205);
        assert_eq!(then(&[again, alone]), Belongs::ToUnproved);
        assert_eq!(then(&[again, alone, alone, data(SERVER, 205, 105)]), Belongs::Here);
        assert_eq!(
            then(&[again, data(SERVER, 7_000_001, 9_000_005)]),
            Belongs::ToNext,
            "its answer is missing"
        );
        // Nor does a SYN-ACK to a SYN that was not captured.
        assert_eq!(then(&[answer]), Belongs::ToUnproved);
        assert_eq!(then(&[answer, data(SERVER, 205, 105)]), Belongs::Here);
        assert_eq!(then(&[answer, data(CLIENT, 9_000_001, 7_000_001)]), Belongs::ToNext);
        assert_eq!(then(&[syn_ack(7_000_000, 100)]), Belongs::ToUnproved);
        // Of two SYNs the answered one counts.
        assert_eq!(belongs(&[syn(100), syn(7), syn_ack(200, 100)]), Belongs::Here);
        assert_eq!(belongs(&[syn(100), syn(7), syn_ack(200, 7)]), Belongs::ToNext);
        // A SYN's bytes may be acknowledged with it, and may not.
        let with_bytes = Segment { bytes: b"data", length: 4, ..again };
        assert_eq!(then(&[with_bytes, syn_ack(7_000_000, 9_000_004)]), Belongs::ToNext);
        assert_eq!(then(&[with_bytes, answer]), Belongs::ToNext);
        assert_eq!(then(&[again, syn_ack(7_000_000, 9_000_004)]), Belongs::ToUnproved);
    }

    #[test]
    fn in_a_capture_of_one_direction_what_follows_a_syn_proves_it() {
        let bytes = |sequence| data(CLIENT, sequence, 0);
        for number in [9_000_000, 102, 90] {
            assert_eq!(belongs(&[syn(100), syn(number), bytes(number + 1)]), Belongs::ToNext, "{number}");
        }
        assert_eq!(belongs(&[syn(100), bytes(101), syn(9_000_000), bytes(105)]), Belongs::Here);
        assert_eq!(belongs(&[syn(100), bytes(101), syn(9_000_000), bytes(9_000_500)]), Belongs::ToNext);
    }

    #[test]
    fn a_reset_ends_a_connection_at_once_when_its_number_is_the_next() {
        let open = [syn(100), syn_ack(200, 100), data(CLIENT, 101, 201), data(SERVER, 201, 105)];
        let play = |number: u32, more: &[Segment<'static>], idle_ns: u64| {
            let rst = Segment { sequence: number, rst: true, ..segment(CLIENT) };
            let mut conversation = Conversation::default();
            for segment in open.iter().chain([&rst]).chain(more) {
                assert_eq!(conversation.belongs(segment), Belongs::Here);
                conversation.segment(segment, &mut |_| ());
            }
            conversation.idle(idle_ns, &mut |_| ());
            conversation.is_over()
        };
        let (more, soon, late) = ([data(SERVER, 205, 105)], 1, REORDERING_NS_MAX + 1);
        assert!(play(105, &[], soon));
        assert!(!play(700, &[], soon));
        assert!(play(700, &[], late), "the bytes before it were not captured");
        assert!(!play(700, &more, late), "it was not taken");
        assert!(!play(103, &more, late), "it was not taken");
    }

    #[test]
    fn what_an_older_connection_answers_a_syn_is_not_of_the_new_one() {
        let answer = Segment { sequence: 5_000, acknowledged: Some(777_000), ..segment(SERVER) };
        let reset = Segment { sequence: 777_000, rst: true, ..segment(CLIENT) };
        assert_eq!(belongs(&[syn(1_000), answer]), Belongs::ToOlder);
        assert_eq!(belongs(&[syn(1_000), answer, reset]), Belongs::ToOlder);
        assert_eq!(belongs(&[syn(1_000), answer, reset, syn(1_000)]), Belongs::Here);
        let refused = Segment { sequence: 0, acknowledged: Some(1_001), rst: true, ..segment(SERVER) };
        assert_eq!(belongs(&[syn(1_000), refused]), Belongs::Here);
        let blind = Segment { sequence: 1 << 30, rst: true, ..segment(SERVER) };
        assert_eq!(
            belongs(&[syn(1_000), syn_ack(9, 1_000), data(CLIENT, 1_001, 10), blind]),
            Belongs::ToOlder
        );
    }

    #[test]
    fn a_second_syn_ack_with_another_number_counts_until_its_sender_has_said_something() {
        let mut conversation = Conversation::default();
        let mut out = Vec::new();
        let mut deliver = |piece: Piece<'_>| out.push((piece.from, piece.stream.offset, piece.stream.length));
        let (first, second) = (syn_ack(40, 100), syn_ack(90_000_000, 100));
        for segment in [syn(100), first, second, data(CLIENT, 101, 90_000_001), data(SERVER, 90_000_001, 105)]
        {
            assert_eq!(conversation.belongs(&segment), Belongs::Here);
            conversation.segment(&segment, &mut deliver);
        }
        assert_eq!(conversation.belongs(&first), Belongs::ToUnproved);
        assert_eq!((out, conversation.lost_and_repeated()), (vec![(0, 0, 4), (1, 0, 4)], (0, 0)));
    }

    #[test]
    fn a_connection_that_comes_back_without_its_syn_is_another() {
        let rst = Segment { sequence: 105, rst: true, ..segment(CLIENT) };
        let open = [syn(100), syn_ack(200, 100), data(CLIENT, 101, 201), rst];
        let then = |last| belongs(&[&open[..], &[last]].concat());
        assert_eq!(then(data(CLIENT, 101, 201)), Belongs::Here, "repeated");
        assert_eq!(then(data(CLIENT, 900_000_000, 5)), Belongs::ToNext);
        assert_eq!(then(syn_ack(70_000, 8)), Belongs::ToNext);
    }

    #[test]
    fn what_is_missing_for_long_is_given_up_when_nothing_moves() {
        let mut conversation = Conversation::default();
        let mut lengths = Vec::new();
        let mut deliver = |piece: Piece<'_>| lengths.push((piece.from, piece.stream.length));
        for segment in [syn(100), syn_ack(200, 100), data(CLIENT, 111, 201), data(SERVER, 201, 115)] {
            conversation.segment(&segment, &mut deliver);
        }
        conversation.idle(REORDERING_NS_MAX, &mut deliver);
        conversation.idle(REORDERING_NS_MAX + 1, &mut deliver);
        assert_eq!(lengths, [(0, 4), (1, 4)]);
        assert_eq!(conversation.lost_and_repeated().0, 10);
    }
}
