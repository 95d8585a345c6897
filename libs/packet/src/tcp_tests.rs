//! One direction of a connection, as segments come.

use super::*;

/// Feeds segments and gives what came out: bytes, and `_` for what was lost or not captured.
fn order(base: u32, segments: &[(u32, &str)]) -> (String, Direction) {
    let mut direction = Direction::default();
    direction.begin(base);
    let mut out = String::new();
    let mut deliver = |Piece { offset, bytes, length, .. }: Piece<'_>| {
        while (out.len() as u64) < offset {
            out.push('_');
        }
        out.push_str(std::str::from_utf8(bytes).expect("text"));
        while (out.len() as u64) < offset + length {
            out.push('_');
        }
    };
    for (sequence, text) in segments {
        direction.segment(base.wrapping_add(*sequence), text.as_bytes(), text.len() as u64, 0, &mut deliver);
    }
    direction.flush(&mut deliver);
    (out, direction)
}

#[test]
fn segments_come_out_in_order_once_also_over_the_wrap() {
    for base in [0, 7, u32::MAX - 3, 0x7fff_fffe] {
        let (out, direction) = order(
            base,
            &[(0, "ab"), (6, "ghi"), (2, "cd"), (2, "cd"), (4, "ef"), (3, "defgh"), (9, "jk"), (0, "ab")],
        );
        assert_eq!(out, "abcdefghijk");
        assert_eq!((direction.lost_bytes, direction.repeated_bytes), (0, 2 + 5 + 2), "from {base}");
    }
}

#[test]
fn overlaps_in_the_waiting_segments_are_delivered_once() {
    let (out, _) = order(5, &[(4, "efgh"), (2, "cdef"), (6, "ghij"), (0, "abc")]);
    assert_eq!(out, "abcdefghij");
}

#[test]
fn what_never_comes_is_a_gap() {
    let (out, direction) = order(0, &[(0, "ab"), (5, "fg")]);
    assert_eq!(out, "ab___fg");
    assert_eq!(direction.lost_bytes, 3);
}

#[test]
fn what_was_acknowledged_and_not_seen_is_given_up_after_a_while() {
    let mut direction = Direction::default();
    direction.begin(0);
    let mut out = Vec::new();
    let mut deliver = |piece: Piece<'_>| out.push((piece.offset, piece.bytes.to_vec()));
    direction.segment(10, b"later", 5, 0, &mut deliver);
    for _ in 0..1000 {
        direction.tick(&mut deliver);
    }
    direction.acknowledge(15);
    for _ in 0..REORDERING_PACKETS_MAX {
        direction.tick(&mut deliver);
    }
    direction.segment(0, b"0123456789", 10, 0, &mut deliver);
    direction.segment(25, b"!", 1, 0, &mut deliver);
    direction.acknowledge(26);
    for _ in 0..=REORDERING_PACKETS_MAX {
        direction.tick(&mut deliver);
    }
    assert_eq!(out, [(0, b"0123456789".to_vec()), (10, b"later".to_vec()), (25, b"!".to_vec())]);
}

#[test]
fn what_is_missing_at_the_end_was_sent_all_the_same() {
    let mut direction = Direction::default();
    direction.segment(1_000, b"abc", 3, 0, &mut |_| {});
    assert_eq!((direction.missing_at_end(), direction.moved()), (0, 3));
    direction.acknowledge(1_004);
    assert_eq!(direction.missing_at_end(), 0, "the end of the stream has a number, too");
    direction.acknowledge(1_011);
    assert_eq!((direction.missing_at_end(), direction.moved()), (7, 10));
    direction.finish(1_010);
    assert_eq!(direction.moved(), 10);
}

#[test]
fn an_end_that_was_announced_and_is_none_is_forgotten() {
    for announced in [40, 1_003, 1_500, 900_000] {
        let mut direction = Direction::default();
        let send = |direction: &mut Direction, sequence| {
            direction.segment(sequence, b"abcd", 4, 0, &mut |_| {});
        };
        direction.begin(1_000);
        send(&mut direction, 1_000);
        direction.finish(announced);
        assert!(!direction.is_finished(), "{announced}");
        send(&mut direction, 1_004);
        direction.acknowledge(1_008);
        assert!(direction.missing_at_end() <= NEAR_BYTES, "{announced}");
        for sequence in (1_008..2_000).step_by(4) {
            send(&mut direction, sequence);
        }
        direction.finish(2_000);
        assert_eq!((direction.is_finished(), direction.moved()), (true, 1_000), "{announced}");
        direction.acknowledge(2_001);
        direction.finish(2_500);
        assert_eq!((direction.is_finished(), direction.moved()), (true, 1_000), "{announced}");
    }
}

#[test]
fn a_flood_of_early_segments_is_bounded() {
    let mut direction = Direction::default();
    direction.begin(0);
    let mut delivered = 0;
    for number in 0..100_000_u32 {
        direction.segment(1 + number * 2, b"x", 1, 0, &mut |_| delivered += 1);
        assert!(direction.waiting.len() <= WAITING_SEGMENTS_MAX);
    }
    assert!(delivered > 99_000);
}

#[test]
fn only_heads_of_segments_keep_their_place() {
    let mut direction = Direction::default();
    let mut out = Vec::new();
    let mut deliver = |piece: Piece<'_>| out.push((piece.offset, piece.bytes.len(), piece.length));
    direction.segment(100, b"head", 1000, 0, &mut deliver);
    direction.segment(1100, b"next", 4, 0, &mut deliver);
    assert_eq!(out, [(0, 4, 1000), (1000, 4, 4)]);
}

/// Feeds `(sequence, length, time)` and gives position and time of what came out.
fn times(segments: &[(u32, u64, u64)]) -> Vec<(u64, u64)> {
    let mut direction = Direction::default();
    direction.begin(0);
    let mut out = Vec::new();
    let mut deliver = |piece: Piece<'_>| out.push((piece.offset, piece.time_ns));
    for &(sequence, length, time) in segments {
        direction.segment(sequence, &[], length, time, &mut deliver);
    }
    direction.flush(&mut deliver);
    out
}

#[test]
fn bytes_behind_a_gap_have_the_time_at_which_they_were_captured() {
    assert_eq!(times(&[(0, 10, 1), (20, 10, 2), (30, 10, 3)]), [(0, 1), (20, 2), (30, 3)]);
}

#[test]
fn bytes_behind_others_that_came_late_have_the_time_of_these() {
    assert_eq!(
        times(&[(0, 10, 1), (20, 10, 2), (30, 10, 9), (10, 10, 7)]),
        [(0, 1), (10, 7), (20, 7), (30, 9)]
    );
}

#[test]
fn what_is_far_from_the_stream_is_not_of_it() {
    let mut direction = Direction::default();
    assert!(direction.is_near(7) && direction.has_sent(7), "nothing is known");
    direction.segment(u32::MAX - 4, b"0123456789", 10, 0, &mut |_| ());
    for (sequence, near, sent) in
        [(5, true, true), (u32::MAX - 4, true, true), (900, true, false), (1 << 20, false, false)]
    {
        assert_eq!((direction.is_near(sequence), direction.has_sent(sequence)), (near, sent), "{sequence}");
    }
}
