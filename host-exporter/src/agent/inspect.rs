//! Checks a frame's bytes before anything decodes them. Decoding multiplies: an empty series is two bytes on the wire
//! and hundreds in memory, and a field that the contract does not have is kept too. So messages are counted here, on the
//! encoded form (Protocol Buffers, "Encoding"), and a frame that would grow beyond its bounds is never decoded.

use porthole_agent_api::limits::{BATCH_SERIES_MAX, BATCH_SPANS_MAX};

use crate::rejection::Rejection;

/// Largest answer to a unary call, bytes: versions, capabilities, limitations.
pub const RESPONSE_BYTES_MAX: usize = 32 << 10;

/// Most fields in one batch that the contract does not have. A later agent may send some.
const UNKNOWN_FIELDS_MAX: usize = BATCH_SERIES_MAX;

/// Types of ttrpc's frames (ttrpc PROTOCOL.md).
const RESPONSE: u8 = 2;
const DATA: u8 = 3;

/// What a field of a message is.
#[derive(Clone, Copy)]
enum Kind {
    Varint,
    Fixed64,
    /// Text, or packed numbers.
    Bytes,
    Message(&'static Shape),
}

/// The fields of a message of the contract (`agent.proto`) by number.
struct Shape {
    fields: &'static [(u64, Kind)],
    counted: Counted,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    No,
    Series,
    Span,
}

use Kind::{Bytes, Fixed64, Message, Varint};

static BATCH: Shape = Shape {
    fields: &[
        (1, Fixed64),
        (2, Varint),
        (3, Message(&SERIES)),
        (4, Message(&COUNTERS)),
        (5, Bytes),
        (6, Message(&SPAN)),
    ],
    counted: Counted::No,
};

static SERIES: Shape = Shape {
    fields: &[
        (1, Varint),
        (2, Message(&KEY)),
        (3, Message(&HISTOGRAM)),
        (4, Varint),
        (5, Varint),
        (6, Fixed64),
    ],
    counted: Counted::Series,
};

static KEY: Shape = Shape {
    fields: &[
        (1, Bytes),
        (2, Varint),
        (3, Varint),
        (4, Bytes),
        (5, Bytes),
        (6, Bytes),
        (7, Varint),
        (8, Bytes),
    ],
    counted: Counted::No,
};

static HISTOGRAM: Shape =
    Shape { fields: &[(1, Varint), (2, Varint), (3, Bytes), (4, Bytes)], counted: Counted::No };

static COUNTERS: Shape = Shape {
    fields: &[
        (1, Varint),
        (2, Varint),
        (3, Varint),
        (4, Varint),
        (5, Varint),
        (6, Varint),
        (7, Varint),
        (8, Varint),
        (9, Varint),
        (10, Varint),
    ],
    counted: Counted::No,
};

static SPAN: Shape = Shape {
    fields: &[
        (1, Varint),
        (2, Fixed64),
        (3, Varint),
        (4, Varint),
        (5, Varint),
        (6, Varint),
        (7, Varint),
        (8, Varint),
        (9, Bytes),
        (10, Bytes),
    ],
    counted: Counted::Span,
};

/// What was counted in one batch.
#[derive(Default)]
struct Census {
    series: usize,
    spans: usize,
    unknown: usize,
}

/// Checks a frame of ttrpc: its type and its body.
pub fn frame(kind: u8, body: &[u8]) -> Result<(), Rejection> {
    match kind {
        DATA => batch(body),
        RESPONSE if body.len() > RESPONSE_BYTES_MAX => Err(Rejection::ResponseTooLarge),
        RESPONSE => Ok(()),
        _ => Err(Rejection::FrameUnknown),
    }
}

fn batch(body: &[u8]) -> Result<(), Rejection> {
    let mut census = Census::default();
    message(body, &BATCH, &mut census)
}

fn message(mut bytes: &[u8], shape: &Shape, census: &mut Census) -> Result<(), Rejection> {
    match shape.counted {
        Counted::No => {}
        Counted::Series => census.series += 1,
        Counted::Span => census.spans += 1,
    }
    if census.series > BATCH_SERIES_MAX || census.spans > BATCH_SPANS_MAX {
        return Err(Rejection::BatchTooLarge);
    }
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let known = shape.fields.iter().find(|(number, _)| *number == tag >> 3).map(|(_, kind)| *kind);
        let matches = match (tag & 7, known) {
            (0, Some(Varint)) => {
                varint(&mut bytes)?;
                true
            }
            // A repeated number may come packed or one by one: each costs one field.
            (0, _) => {
                varint(&mut bytes)?;
                false
            }
            (1, known) => {
                take(&mut bytes, 8)?;
                matches!(known, Some(Fixed64))
            }
            (2, known) => {
                let length = varint(&mut bytes)?;
                let content =
                    take(&mut bytes, usize::try_from(length).map_err(|_| Rejection::BatchMalformed)?)?;
                match known {
                    Some(Message(inner)) => {
                        message(content, inner, census)?;
                        true
                    }
                    Some(Bytes) => true,
                    _ => false,
                }
            }
            (5, _) => {
                take(&mut bytes, 4)?;
                false
            }
            // Groups, which the contract does not have, and types that do not exist.
            _ => return Err(Rejection::BatchMalformed),
        };
        if !matches {
            census.unknown += 1;
            if census.unknown > UNKNOWN_FIELDS_MAX {
                return Err(Rejection::BatchTooLarge);
            }
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Rejection> {
    let mut value = 0_u64;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Ok(value);
        }
    }
    Err(Rejection::BatchMalformed)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Rejection> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Rejection::BatchMalformed)?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use porthole_agent_api::agent;
    use protobuf::Message as _;

    use super::*;

    fn full_batch() -> agent::Batch {
        let key = agent::SeriesKey {
            container_id: "c".into(),
            operation: "GET".into(),
            resource: "/".into(),
            status: "200".into(),
            peer: "10.0.0.1:80".into(),
            protocol: agent::Protocol::PROTOCOL_HTTP1.into(),
            side: agent::Side::SIDE_CLIENT.into(),
            error: agent::ErrorClass::ERROR_CLASS_SERVER.into(),
            ..Default::default()
        };
        let mut durations = porthole_histogram::Histogram::default();
        durations.record(5_000_000);
        durations.record(9_000_000);
        let series = agent::Series {
            id: 1,
            key: Some(key).into(),
            duration: Some(agent::Histogram::from(&durations)).into(),
            request_bytes: 1,
            response_bytes: 2,
            start_unix_ns: 3,
            ..Default::default()
        };
        let span = agent::Span {
            series_id: 1,
            start_unix_ns: 1,
            duration_ns: 1,
            request_bytes: 1,
            response_bytes: 1,
            reason: agent::SpanReason::SPAN_REASON_SLOW.into(),
            process_id: 1,
            thread_id: 1,
            local: "a".into(),
            remote: "b".into(),
            ..Default::default()
        };
        let counters = agent::Counters {
            events_captured: 1,
            events_lost: 1,
            messages_seen: 1,
            exchanges: 1,
            not_understood: 1,
            folded: 1,
            connections_seen: 1,
            connections_ignored: 1,
            bytes_copied: 1,
            spans_dropped: 1,
            ..Default::default()
        };
        agent::Batch {
            epoch: 1,
            sequence: 1,
            series: vec![series; BATCH_SERIES_MAX],
            counters: Some(counters).into(),
            exited_container_id: "c".into(),
            spans: vec![span; BATCH_SPANS_MAX],
            ..Default::default()
        }
    }

    #[test]
    fn every_field_of_the_contract_is_known_here() {
        let mut census = Census::default();
        let body = full_batch().write_to_bytes().expect("encoded");
        message(&body, &BATCH, &mut census).expect("a batch at its bounds");
        assert_eq!((census.series, census.spans), (BATCH_SERIES_MAX, BATCH_SPANS_MAX));
        assert_eq!(census.unknown, 0, "a field was added to agent.proto and not here");
    }

    #[test]
    fn what_would_grow_in_memory_is_refused_by_its_bytes() {
        // Field 3 of a batch, of no length.
        assert_eq!(frame(DATA, &[0x1a, 0].repeat(BATCH_SERIES_MAX)), Ok(()));
        assert_eq!(frame(DATA, &[0x1a, 0].repeat(BATCH_SERIES_MAX + 1)), Err(Rejection::BatchTooLarge));
        assert_eq!(frame(DATA, &[0x32, 0].repeat(BATCH_SPANS_MAX + 1)), Err(Rejection::BatchTooLarge));
        // Field 15, which the contract does not have, at the top and within a series.
        let unknown = [0x78, 1].repeat(UNKNOWN_FIELDS_MAX + 1);
        assert_eq!(frame(DATA, &unknown), Err(Rejection::BatchTooLarge));
        let mut nested = vec![0x1a, 0];
        nested[1] = 100;
        nested.extend([0x78, 1].repeat(50));
        assert_eq!(frame(DATA, &nested.repeat(11)), Err(Rejection::BatchTooLarge));
        assert_eq!(frame(DATA, &nested.repeat(2)), Ok(()), "a later agent may send a few");
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for bytes in [&[0x1a][..], &[0x1a, 5, 0], &[0xff; 20], &[0x0b], &[0x09, 1], &[0x1a, 2, 0x12, 9]] {
            assert_eq!(frame(DATA, bytes), Err(Rejection::BatchMalformed), "{bytes:?}");
        }
        assert_eq!(frame(1, &[]), Err(Rejection::FrameUnknown), "a request");
        assert_eq!(frame(RESPONSE, &vec![0; RESPONSE_BYTES_MAX + 1]), Err(Rejection::ResponseTooLarge));
    }

    #[test]
    fn whatever_passes_decodes_to_a_bounded_number_of_parts() {
        let mut random = fastrand::Rng::with_seed(11);
        let good = full_batch().write_to_bytes().expect("encoded");
        for _ in 0..300 {
            let mut bytes = good[..random.usize(..good.len())].to_vec();
            for _ in 0..random.usize(..6) {
                let at = random.usize(..=bytes.len().saturating_sub(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.u8(..);
                }
            }
            if frame(DATA, &bytes).is_ok()
                && let Ok(batch) = agent::Batch::parse_from_bytes(&bytes)
            {
                assert!(batch.series.len() <= BATCH_SERIES_MAX && batch.spans.len() <= BATCH_SPANS_MAX);
            }
        }
    }
}
