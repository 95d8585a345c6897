//! Contents that are not captured, of a length that is known: the contract with the capture, which copies the head of each
//! message and leaves out the rest. Whether what was left out is stated with the bytes before it or shows as a gap
//! before the next ones, the exchanges are the same.

use std::ops::Range;

use crate::{
    Connection, Direction, Protocol, ScopeId, Transport,
    testing::{Replay, Step},
    values::{Conversation, conversations},
};

/// How bytes that are left out are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// With the bytes before them: a chunk has more bytes than were captured.
    Truncated,
    /// By the offset of what comes next; at the end of a call with the bytes before them.
    Gap,
}

/// A message that begins at the start of `bytes`, as the capture sees it: its length, and how many bytes of it are wanted.
fn message(protocol: Protocol, client: bool, bytes: &[u8]) -> (usize, usize) {
    let number = |at: usize, width: usize| {
        bytes[at..at + width].iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let little = |at: usize, width: usize| {
        bytes[at..at + width].iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    match protocol {
        Protocol::Http2 if bytes.starts_with(b"PRI * HTTP/2.0") => (24, 24),
        Protocol::Http2 => {
            let length = 9 + number(0, 3);
            // Of DATA the prefix of a gRPC message.
            (length, if bytes[3] == 0 { 9 + 5 } else { length })
        }
        Protocol::Amqp if bytes.starts_with(b"AMQP") => (8, 8),
        Protocol::Amqp => {
            let length = 8 + number(3, 4);
            (length, [1024, 7 + 12, 7][usize::from(bytes[0] - 1).min(2)])
        }
        Protocol::Kafka => (4 + number(0, 4), 4 + if client { 1024 } else { 4096 }),
        Protocol::Mongodb => (little(0, 4), 1024),
        Protocol::Dns => (2 + number(0, 2), 2 + 512),
        Protocol::Mysql => (4 + little(0, 3), if client { 4096 } else { 4 + 24 }),
        Protocol::Postgresql if client && bytes[0] == 0 => (number(0, 4), number(0, 4)),
        Protocol::Postgresql => {
            let wanted = match bytes[0] {
                b'D' | b'd' | b'T' if !client || bytes[0] == b'd' => 5,
                _ => 4096,
            };
            (1 + number(1, 4), wanted)
        }
        // Of the binary protocol: header and key.
        Protocol::Memcached => (24 + number(8, 4), 24 + usize::from(bytes[4]) + number(2, 2)),
        _ => (bytes.len(), bytes.len()),
    }
}

/// What of one direction's bytes the capture may leave out.
fn omitted(protocol: Protocol, client: bool, bytes: &[u8], body: &[u8]) -> Vec<Range<usize>> {
    let text = match protocol {
        Protocol::Http1 | Protocol::Nats => Some(0),
        // The first arguments may be words that matter.
        Protocol::Redis => Some(32),
        Protocol::Memcached if bytes[0] & 0x80 == 0 => Some(0),
        _ => None,
    };
    if let Some(kept) = text {
        // Their contents are those that the conversation has.
        let found = memchr::memmem::find_iter(bytes, body);
        return found.map(|at| at + kept..at + body.len()).collect();
    }
    let mut at = 0;
    let mut ranges = Vec::new();
    while at < bytes.len() {
        let (length, wanted) = message(protocol, client, &bytes[at..]);
        assert!(at + length <= bytes.len(), "{protocol:?}: a message of {length} bytes at {at}");
        if wanted < length {
            ranges.push(at + wanted..at + length);
        }
        at += length;
    }
    ranges
}

/// Plays the steps without what is left out.
fn play(
    steps: &[Step],
    transport: Transport,
    ranges: &[Vec<Range<usize>>; 2],
    form: Option<Form>,
) -> Vec<String> {
    let mut replay = Replay::new(match transport {
        Transport::Stream => Connection::new(ScopeId(1)),
        Transport::Datagram => Connection::datagram(ScopeId(1)),
    });
    let mut offsets = [0; 2];
    for (direction, bytes) in steps {
        let from = offsets[*direction as usize];
        let end = from + bytes.len();
        offsets[*direction as usize] = end;
        // Runs of captured bytes, each with what is left out behind it.
        let mut runs: Vec<(Range<usize>, usize)> = Vec::new();
        let mut at = from;
        for range in ranges[*direction as usize].iter().filter(|_| form.is_some()) {
            let (start, stop) = (range.start.clamp(from, end), range.end.clamp(from, end));
            if start < stop {
                runs.push((at..start, stop - start));
                at = stop;
            }
        }
        runs.push((at..end, 0));
        let last = runs.iter().rposition(|(run, left_out)| !run.is_empty() || *left_out > 0).unwrap_or(0);
        for (number, (run, left_out)) in runs.into_iter().enumerate() {
            let captured = &bytes[run.start - from..run.end - from];
            if form == Some(Form::Truncated) || number == last {
                if !captured.is_empty() || left_out > 0 {
                    replay.part(*direction, captured, (captured.len() + left_out) as u64);
                }
            } else {
                if !captured.is_empty() {
                    replay.part(*direction, captured, captured.len() as u64);
                }
                replay.lose(*direction, left_out as u64);
            }
        }
    }
    replay.close();
    let tally = replay.context.tally();
    assert_eq!((tally.gaps, tally.unparsed, tally.incomplete), (0, 0, 0), "{form:?} {:#?}", replay.lines());
    assert_eq!(replay.context.unaccounted().sum(), 0, "{form:?}");
    replay.lines()
}

/// The steps with every `calls` of them that go the same way as one, or cut into calls of so many bytes.
fn cut(steps: &[Step], bytes: usize) -> Vec<Step> {
    steps.iter().flat_map(|(way, all)| all.chunks(bytes).map(|part| (*way, part.to_vec()))).collect()
}

#[test]
fn contents_of_a_known_length_need_not_be_captured() {
    let body: Vec<u8> = (0..20_000_u32).map(|at| b'a' + u8::try_from(at / 7 % 26).expect("small")).collect();
    for Conversation { protocol, transport, steps } in conversations("swordfish", &body) {
        if transport == Transport::Datagram || protocol == Protocol::Tls {
            continue;
        }
        let whole = play(&steps, transport, &[const { Vec::new() }; 2], None);
        let of = |direction| {
            let bytes: Vec<u8> = steps
                .iter()
                .filter(|(way, _)| *way == direction)
                .flat_map(|(_, bytes)| bytes.clone())
                .collect();
            omitted(protocol, direction == Direction::Ingress, &bytes, &body)
        };
        let ranges = [of(Direction::Ingress), of(Direction::Egress)];
        let left_out: usize = ranges.iter().flatten().map(Range::len).sum();
        assert!(left_out > 5_000, "{protocol:?}: {left_out}");
        for form in [Form::Truncated, Form::Gap] {
            assert_eq!(play(&steps, transport, &ranges, Some(form)), whole, "{protocol:?} {form:?}");
            for bytes in [1000, 4096, 30_000] {
                let cut = cut(&steps, bytes);
                assert_eq!(
                    play(&cut, transport, &ranges, Some(form)),
                    whole,
                    "{protocol:?} {form:?} {bytes}"
                );
            }
        }
    }
}
