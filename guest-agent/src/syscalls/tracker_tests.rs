//! Records in, exchanges and commands out.

use std::mem::offset_of;

use porthole_bpf_types::{
    connection::direction,
    record::{Close, kind},
    thread::serving,
};
use porthole_protocol::Offload;

use super::super::connections::CONNECTIONS_MAX;
use super::*;
use crate::recorder::{SpanPolicy, peer::tests::open};

fn tracker() -> Tracker {
    Tracker::new(ParserContext::new(porthole_l7::Limits::default()))
}

fn bytes_of<T: record::Plain>(value: &T) -> Vec<u8> {
    // SAFETY: the value is borrowed for its whole length, and types of the trait have no padding.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) }.to_vec()
}

/// A connection as its records come from the kernel.
struct Wire {
    connection: u64,
    sequence: u64,
    offset: [u64; 2],
    now: u64,
}

impl Wire {
    fn new(connection: u64) -> Self {
        Self { connection, sequence: 0, offset: [0; 2], now: 1_000_000 }
    }

    fn number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence - 1
    }

    fn open(&mut self) -> Vec<u8> {
        let sequence = self.number();
        bytes_of(&Open { sequence, ..open(self.connection) })
    }

    fn chunk(&mut self, direction: u8, text: &[u8]) -> Vec<u8> {
        self.now += 1_000_000;
        let offset = self.offset[usize::from(direction)];
        self.offset[usize::from(direction)] += text.len() as u64;
        let mut bytes = bytes_of(&record::Chunk {
            kind: kind::CHUNK,
            head: text.len() as u32,
            connection: self.connection,
            sequence: self.number(),
            offset,
            total: text.len() as u64,
            timestamp: self.now,
            direction,
            ..record::Chunk::default()
        });
        bytes.extend_from_slice(text);
        bytes
    }

    fn request(&mut self) -> Vec<u8> {
        self.chunk(direction::INGRESS, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
    }

    fn response(&mut self) -> Vec<u8> {
        self.chunk(direction::EGRESS, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    }

    fn close(&mut self) -> Vec<u8> {
        bytes_of(&Close {
            kind: kind::CLOSE,
            connection: self.connection,
            sequence: self.number(),
            timestamp: self.now + 1,
            moved: self.offset,
            ..Close::default()
        })
    }
}

fn count(recorder: &Recorder) -> u64 {
    recorder.series.all().iter().map(|series| series.duration.count).sum()
}

#[test]
fn a_conversation_becomes_a_series_and_commands() {
    let (mut tracker, mut recorder, mut wire) = (tracker(), Recorder::default(), Wire::new(5));
    for bytes in [wire.open(), wire.request(), wire.response(), wire.close()] {
        assert_eq!(tracker.record(&bytes, &mut recorder), Event::None);
    }
    assert_eq!(count(&recorder), 1);
    assert_eq!(
        tracker.take_commands(),
        [Command::Follow { connection: 5, framing: Framing::Text }, Command::Forget(5)]
    );
    assert_eq!(tracker.connections(), 0);
}

#[test]
fn records_in_any_order_give_the_same() {
    let mut wire = Wire::new(5);
    let mut records = vec![wire.open()];
    for _ in 0..8 {
        records.extend([wire.request(), wire.response()]);
    }
    records.push(wire.close());
    // Every record swapped with its neighbour, and the last one far ahead.
    for (i, j) in [(1, 2), (3, 4), (5, 9), (17, 10)] {
        let mut shuffled = records.clone();
        shuffled.swap(i, j);
        let (mut tracker, mut recorder) = (tracker(), Recorder::default());
        for bytes in &shuffled {
            tracker.record(bytes, &mut recorder);
        }
        assert_eq!(count(&recorder), 8, "{i} and {j} swapped");
        assert_eq!(tracker.counts().missing, 0);
    }
}

#[test]
fn a_lost_record_is_given_up_after_a_while_and_counted() {
    let (mut tracker, mut recorder, mut wire) = (tracker(), Recorder::default(), Wire::new(5));
    for bytes in [wire.open(), wire.request(), wire.response()] {
        tracker.record(&bytes, &mut recorder);
    }
    let _lost = [wire.request(), wire.response()];
    for bytes in [wire.request(), wire.response()] {
        tracker.record(&bytes, &mut recorder);
    }
    assert_eq!(tracker.context().tally().gaps, 0, "what comes after the gap waits");
    tracker.skip_missing(wire.now, &mut recorder);
    assert_eq!((tracker.context().tally().gaps, tracker.counts().missing), (0, 0), "not long enough");
    tracker.skip_missing(wire.now + 2 * EARLY_WAIT_NS, &mut recorder);
    assert_eq!(tracker.counts().missing, 2);
    assert!(tracker.context().tally().gaps > 0);
    // So long after an answer that nothing can be under way any more.
    wire.now += 200_000_000;
    let before = count(&recorder);
    for bytes in [wire.request(), wire.response()] {
        tracker.record(&bytes, &mut recorder);
    }
    assert_eq!(count(&recorder), before + 1, "counting goes on");
}

#[test]
fn what_was_lost_at_the_very_end_is_not_accounted_for() {
    let (mut tracker, mut recorder, mut wire) = (tracker(), Recorder::default(), Wire::new(5));
    for bytes in [wire.open(), wire.request(), wire.response()] {
        tracker.record(&bytes, &mut recorder);
    }
    let before = wire.offset;
    let _lost = [wire.request(), wire.response()];
    let missing: u64 = wire.offset.iter().zip(before).map(|(after, before)| after - before).sum();
    tracker.record(&wire.close(), &mut recorder);
    tracker.skip_missing(wire.now + 2 * EARLY_WAIT_NS, &mut recorder);
    assert_eq!(tracker.connections(), 0);
    assert_eq!((tracker.context().unaccounted().sum(), count(&recorder)), (missing, 1));
}

#[test]
fn noise_is_ignored_and_forgotten() {
    let (mut tracker, mut recorder, mut wire) = (tracker(), Recorder::default(), Wire::new(5));
    tracker.record(&wire.open(), &mut recorder);
    for _ in 0..64 {
        let noise = wire.chunk(direction::INGRESS, &[0xfe; 300]);
        tracker.record(&noise, &mut recorder);
    }
    assert_eq!(tracker.take_commands(), [Command::Ignore(5)]);
    assert_eq!((tracker.connections(), count(&recorder)), (0, 0));
    assert_eq!(tracker.counts().ignored, 1);
}

#[test]
fn the_table_is_bounded_and_the_oldest_go() {
    let (mut tracker, mut recorder) = (tracker(), Recorder::default());
    for connection in 0..=CONNECTIONS_MAX as u64 {
        let bytes = bytes_of(&Open { timestamp: connection, ..open(connection) });
        tracker.record(&bytes, &mut recorder);
    }
    assert!(tracker.connections() <= CONNECTIONS_MAX);
    let commands = tracker.take_commands();
    assert!(commands.contains(&Command::Evict { socket: 0x1000, connection: 0 }), "the oldest");
    assert_eq!(tracker.counts().evicted, commands.len() as u64);
}

#[test]
fn offloaded_connections_make_room_last() {
    let (mut tracker, mut recorder) = (tracker(), Recorder::default());
    for connection in 0..=CONNECTIONS_MAX as u64 {
        // The programs follow the older half.
        let role = if connection < CONNECTIONS_MAX as u64 / 2 { role::OFFLOADED } else { role::ACCEPTED };
        let bytes = bytes_of(&Open { timestamp: connection, role, ..open(connection) });
        tracker.record(&bytes, &mut recorder);
    }
    let evicted: Vec<u64> = tracker
        .take_commands()
        .into_iter()
        .map(|command| match command {
            Command::Evict { connection, .. } => connection,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(!evicted.is_empty());
    assert!(evicted.iter().all(|&connection| connection >= CONNECTIONS_MAX as u64 / 2), "{evicted:?}");
}

#[test]
fn a_connection_that_was_open_before_may_begin_within_a_message() {
    for (role, expected) in [(role::ACCEPTED, 1), (role::UNKNOWN, 0)] {
        let (mut tracker, mut recorder, mut wire) = (tracker(), Recorder::default(), Wire::new(5));
        let opened = bytes_of(&Open { sequence: wire.number(), role, ..open(5) });
        // An unknown method, or the end of a body and the next request.
        let request = wire.chunk(direction::INGRESS, b"helloGET /a HTTP/1.1\r\n\r\n");
        for bytes in [opened, request, wire.response(), wire.close()] {
            tracker.record(&bytes, &mut recorder);
        }
        assert_eq!(count(&recorder), expected, "{role}");
    }
}

#[test]
fn garbage_is_counted_and_harmless() {
    let (mut tracker, mut recorder, mut wire) = (tracker(), Recorder::default(), Wire::new(5));
    let good = wire.request();
    for len in 0..good.len() {
        tracker.record(&good[..len], &mut recorder);
    }
    assert!(tracker.counts().malformed > 0);
    assert!(recorder.series.is_empty());
}

/// Of a call that a client of the agent sends piece by piece, and of the request that its thread serves meanwhile, which the programs
/// paired: thread, number and parent of their spans. Each piece has what the thread serves then.
fn spans_of_call(pieces: &[(&[u8], u8)]) -> Vec<(u32, u64, u64)> {
    let (mut tracker, mut recorder) = (tracker(), Recorder::default());
    recorder.spans.set_policy(SpanPolicy::default());
    let mut call = Wire::new(5);
    let by_thread = |mut bytes: Vec<u8>, tid: u32, serving: u8| {
        bytes[offset_of!(record::Chunk, tid)..][..4].copy_from_slice(&tid.to_ne_bytes());
        bytes[offset_of!(record::Chunk, serving)] = serving;
        bytes
    };
    let sequence = call.number();
    let opened = bytes_of(&Open { sequence, role: role::CONNECTED, ..open(5) });
    let sent_ns = call.now + 1;
    let sent: Vec<_> = pieces
        .iter()
        .map(|(bytes, serving)| by_thread(call.chunk(direction::EGRESS, bytes), 8, *serving))
        .collect();
    let received = call.chunk(direction::INGRESS, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    // Another thread reads the response: the one that sent the request counts.
    for bytes in [opened].into_iter().chain(sent).chain([by_thread(received, 9, 0)]) {
        tracker.record(&bytes, &mut recorder);
    }
    assert!(recorder.spans.take_from(0).0.is_empty(), "its request is served");
    let served = open(6);
    let role = role::OFFLOADED | role::ACCEPTED;
    tracker.record(&bytes_of(&Open { role, sequence: 0, ..served }), &mut recorder);
    let completed = Completed {
        kind: kind::SAMPLED,
        connection: 6,
        sequence: 1,
        start: sent_ns - 1,
        end: call.now + 1,
        tid: 8,
        serving: (serving::ALONE | serving::REPORTED).into(),
        key: RequestKey { protocol: Offload::Redis.number().into(), ..RequestKey::default() },
        ..Completed::default()
    };
    tracker.record(&bytes_of(&completed), &mut recorder);
    let (spans, _) = recorder.spans.take_from(0);
    spans.iter().map(|span| (span.thread_id, span.number, span.parent)).collect()
}

const REPORTED: u8 = serving::ALONE | serving::REPORTED;

#[test]
fn a_call_that_the_agent_follows_is_below_the_request_that_the_programs_paired() {
    let request = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(spans_of_call(&[(request, REPORTED)]), [(8, 1, 2), (8, 2, 0)]);
}

#[test]
fn a_call_is_below_its_request_however_many_times_its_thread_sent() {
    let mut pieces = vec![(&b"POST /a HTTP/1.1\r\nContent-Length: 6400\r\n\r\n"[..], REPORTED)];
    // By then no more calls are sampled.
    pieces
        .extend((0..64).map(|index| (&[b'x'; 100][..], if index < 62 { REPORTED } else { serving::ALONE })));
    assert_eq!(spans_of_call(&pieces), [(8, 1, 2), (8, 2, 0)]);
}

#[test]
fn the_exit_of_a_containers_process_has_when_that_was_made() {
    let mut tracker = tracker();
    let mut recorder = Recorder::default();
    let mut names = [[0; record::CGROUP_NAME_MAX]; record::CGROUP_DEPTH_MAX];
    names[0][..6].copy_from_slice(b"shop-1");
    let cgroup = record::Cgroup { kind: kind::CGROUP, reserved: 0, cgroup: 7, names };
    assert_eq!(tracker.record(&bytes_of(&cgroup), &mut recorder), Event::None);
    let exit =
        |init, cgroup| record::Exit { kind: kind::EXIT, cgroup, init, made: 5_000, ..Default::default() };
    for (made, expected) in [(5_000, Some(Duration::from_micros(5))), (0, None)] {
        let exited = tracker.record(&bytes_of(&record::Exit { made, ..exit(1, 7) }), &mut recorder);
        assert_eq!(exited, Event::ContainerExit("shop-1".to_owned(), expected));
    }
    assert_eq!(tracker.record(&bytes_of(&exit(0, 7)), &mut recorder), Event::None, "others of it run");
    assert_eq!(tracker.record(&bytes_of(&exit(1, 8)), &mut recorder), Event::None, "not a container's");
}
