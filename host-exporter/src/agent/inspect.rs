//! Checks a frame's bytes before anything decodes them, by the shapes of the contract's messages.

use porthole_agent_api::{
    agent,
    limits::{BATCH_DEPENDENCIES_MAX, BATCH_RESOURCES_MAX, BATCH_SERIES_MAX, BATCH_SPANS_MAX},
};
use porthole_inspection::{
    fields::{
        self, Bounds, Census,
        Kind::{Bytes, Fixed64, Message, Text, Varint},
        Refusal, Shape,
    },
    responses::{DETAIL_COUNT, DETAILS_MAX, STATUS},
};
use ttrpc::proto::{MESSAGE_TYPE_DATA as DATA, MESSAGE_TYPE_RESPONSE as RESPONSE};

use crate::rejection::Rejection;

/// Largest answer to a unary call, bytes: versions, capabilities, limitations.
pub const RESPONSE_BYTES_MAX: usize = 32 << 10;

/// Most fields in one batch that the contract does not have. A later agent may send some.
const UNKNOWN_FIELDS_MAX: usize = BATCH_SERIES_MAX;

/// Which count a message adds to.
const SERIES_COUNT: usize = 0;
const SPAN_COUNT: usize = 1;
const RESOURCES_COUNT: usize = 2;
const DEPENDENCY_COUNT: usize = 3;

const BOUNDS: Bounds<4> = Bounds {
    counted: [BATCH_SERIES_MAX, BATCH_SPANS_MAX, BATCH_RESOURCES_MAX, BATCH_DEPENDENCIES_MAX],
    unknown: UNKNOWN_FIELDS_MAX,
};

static BATCH: Shape = Shape {
    fields: &[
        (1, Fixed64),
        (2, Varint),
        (3, Message(&SERIES)),
        (4, Message(&COUNTERS)),
        (5, Bytes),
        (6, Message(&SPAN)),
        (7, Message(&RESOURCES)),
        (8, Message(&DEPENDENCY)),
        (9, Message(&MILESTONES)),
    ],
    counted: None,
};

static MILESTONES: Shape =
    Shape { fields: &[(1, Fixed64), (2, Fixed64), (3, Fixed64), (4, Fixed64)], counted: None };

static SERIES: Shape = Shape {
    fields: &[
        (1, Varint),
        (2, Message(&KEY)),
        (3, Message(&HISTOGRAM)),
        (4, Varint),
        (5, Varint),
        (6, Fixed64),
    ],
    counted: Some(SERIES_COUNT),
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
    counted: None,
};

static HISTOGRAM: Shape =
    Shape { fields: &[(1, Varint), (2, Varint), (3, Bytes), (4, Bytes)], counted: None };

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
        (11, Varint),
        (12, Varint),
        (13, Varint),
        (14, Varint),
        (15, Bytes),
    ],
    counted: None,
};

static DEPENDENCY: Shape = Shape {
    fields: &[
        (1, Bytes),
        (2, Bytes),
        (3, Message(&HISTOGRAM)),
        (4, Bytes),
        (5, Bytes),
        (6, Varint),
        (7, Varint),
        (8, Varint),
        (9, Bytes),
    ],
    counted: Some(DEPENDENCY_COUNT),
};

static RESOURCES: Shape =
    Shape { fields: &[(1, Bytes), (2, Fixed64), (3, Bytes)], counted: Some(RESOURCES_COUNT) };

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
        (11, Bytes),
        (12, Bytes),
        (13, Varint),
        (14, Varint),
        (15, Varint),
        (16, Varint),
    ],
    counted: Some(SPAN_COUNT),
};

/// Most texts in one answer; intake keeps fewer.
const TEXTS_MAX: usize = 256;

/// Most fields of one answer that the contract does not have.
const UNKNOWN_ANSWER_FIELDS_MAX: usize = 64;

/// Which count a text of an answer adds to; an error's details have the other.
const TEXT_COUNT: usize = 1;

const ANSWER_BOUNDS: Bounds<2> = {
    let mut counted = [TEXTS_MAX; 2];
    counted[DETAIL_COUNT] = DETAILS_MAX;
    Bounds { counted, unknown: UNKNOWN_ANSWER_FIELDS_MAX }
};

static HELLO: Shape = Shape {
    fields: &[
        (1, Varint),
        (2, Bytes),
        (3, Bytes),
        (4, Varint),
        (5, Text(TEXT_COUNT)),
        (6, Fixed64),
        (7, Fixed64),
        (8, Bytes),
        (9, Bytes),
        (10, Varint),
    ],
    counted: None,
};

static STATS: Shape = Shape {
    fields: &[
        (1, Message(&COUNTERS)),
        (2, Varint),
        (3, Varint),
        (4, Varint),
        (5, Varint),
        (6, Text(TEXT_COUNT)),
        (7, Varint),
        (8, Fixed64),
    ],
    counted: None,
};

/// ttrpc's `Response` with each of the messages within.
static HELLO_RESPONSE: Shape =
    Shape { fields: &[(1, Message(&STATUS)), (2, Message(&HELLO))], counted: None };
static STATS_RESPONSE: Shape =
    Shape { fields: &[(1, Message(&STATUS)), (2, Message(&STATS))], counted: None };
/// What ends a stream of batches before its time has a status only.
static WATCH_RESPONSE: Shape =
    Shape { fields: &[(1, Message(&STATUS)), (2, Message(&NOTHING))], counted: None };

static NOTHING: Shape = Shape { fields: &[], counted: None };

/// A message that answers a call.
pub trait Answer: protobuf::Message {
    /// The response that it is in.
    const RESPONSE: &'static Shape;
}

impl Answer for agent::HelloResponse {
    const RESPONSE: &'static Shape = &HELLO_RESPONSE;
}

impl Answer for agent::StatsResponse {
    const RESPONSE: &'static Shape = &STATS_RESPONSE;
}

impl Answer for agent::Batch {
    const RESPONSE: &'static Shape = &WATCH_RESPONSE;
}

/// Checks the bytes of the response with this answer, whose length [`frame`] has checked.
pub fn answer<A: Answer>(body: &[u8]) -> Result<(), Refusal> {
    fields::check(body, A::RESPONSE, &ANSWER_BOUNDS).map(drop)
}

/// Checks a frame of ttrpc: its type and its body. What an answer has within is checked once it is known which call it is of
/// ([`answer`]).
pub fn frame(kind: u8, body: &[u8]) -> Result<(), Rejection> {
    match kind {
        DATA => batch(body),
        RESPONSE if body.len() > RESPONSE_BYTES_MAX => Err(Rejection::ResponseTooLarge),
        RESPONSE => Ok(()),
        _ => Err(Rejection::FrameUnknown),
    }
}

/// Checks the bytes of a batch.
pub fn batch(body: &[u8]) -> Result<(), Rejection> {
    census(body).map(drop)
}

fn census(body: &[u8]) -> Result<Census<4>, Rejection> {
    fields::check(body, &BATCH, &BOUNDS).map_err(|refusal| match refusal {
        Refusal::TooMany | Refusal::TooLong => Rejection::BatchTooLarge,
        Refusal::Malformed | Refusal::UnknownFrame => Rejection::BatchMalformed,
    })
}

#[cfg(test)]
mod tests {
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
            trace_id: vec![1; 16],
            parent_span_id: vec![1; 8],
            trace_sampled: true,
            parent: 1,
            number: 2,
            certainty: agent::ParentCertainty::PARENT_CERTAINTY_THREAD.into(),
            ..Default::default()
        };
        let counters = agent::Counters {
            events_captured: 1,
            events_lost: 1,
            messages_seen: 1,
            exchanges: 1,
            unparsed: 1,
            overflowed: 1,
            connections_seen: 1,
            connections_ignored: 1,
            bytes_copied: 1,
            spans_dropped: 1,
            ..Default::default()
        };
        let mut measured = porthole_agent_api::resources::Measured::default();
        for &resource in porthole_agent_api::resources::Resource::ALL {
            measured.set(resource, 1);
        }
        let resources = measured.to_wire("c".into());
        let dependency = agent::Dependency {
            container_id: "c".into(),
            peer: "10.0.0.1:80".into(),
            name: "db.example".into(),
            made: series.duration.clone(),
            failed: vec![1],
            broken: vec![1],
            retransmitted_segments: 1,
            round_trip_us: 1,
            ..Default::default()
        };
        let milestones = agent::Milestones {
            booted_unix_ns: 1,
            first_process_unix_ns: 1,
            first_listen_unix_ns: 1,
            unix_ns: 1,
            ..Default::default()
        };
        agent::Batch {
            epoch: 1,
            sequence: 1,
            series: vec![series; BATCH_SERIES_MAX],
            counters: Some(counters).into(),
            exited_container_id: "c".into(),
            spans: vec![span; BATCH_SPANS_MAX],
            resources: vec![resources; BATCH_RESOURCES_MAX],
            dependencies: vec![dependency; BATCH_DEPENDENCIES_MAX],
            milestones: Some(milestones).into(),
            ..Default::default()
        }
    }

    #[test]
    fn every_field_of_the_contract_is_known_here() {
        let body = full_batch().write_to_bytes().expect("encoded");
        let census = census(&body).expect("a batch at its bounds");
        assert_eq!(
            census.counted,
            [BATCH_SERIES_MAX, BATCH_SPANS_MAX, BATCH_RESOURCES_MAX, BATCH_DEPENDENCIES_MAX]
        );
        assert_eq!(census.unknown, 0, "a field was added to agent.proto and not here");
    }

    fn response(payload: Vec<u8>) -> Vec<u8> {
        ttrpc::Response { payload, ..Default::default() }.write_to_bytes().expect("encoded")
    }

    fn full_hello() -> agent::HelloResponse {
        agent::HelloResponse {
            version: 1,
            agent_version: "0.1.0".into(),
            kernel_release: "6.1".into(),
            capture_mode: agent::CaptureMode::CAPTURE_MODE_SOCKET.into(),
            capabilities: vec!["io_uring".into(); TEXTS_MAX],
            epoch: 1,
            start_unix_ns: 1,
            agent_nonce: vec![1; 32],
            proof: vec![1; 32],
            placement: agent::Placement::PLACEMENT_BUILT_IN.into(),
            ..Default::default()
        }
    }

    fn full_stats() -> agent::StatsResponse {
        agent::StatsResponse {
            counters: full_batch().counters,
            resident_bytes: 1,
            cpu_ns: 1,
            connections: 1,
            series: 1,
            limitations: vec!["no tracing".into(); TEXTS_MAX],
            load_ns: 1,
            unix_ns: 1,
            ..Default::default()
        }
    }

    #[test]
    fn every_field_of_the_answers_is_known_here() {
        let unknown = |bytes: &[u8], shape| {
            fields::check(bytes, shape, &ANSWER_BOUNDS).expect("an answer at its bounds").unknown
        };
        let hello = response(full_hello().write_to_bytes().expect("encoded"));
        assert_eq!(unknown(&hello, &HELLO_RESPONSE), 0, "a field was added to agent.proto and not here");
        let stats = response(full_stats().write_to_bytes().expect("encoded"));
        assert_eq!(unknown(&stats, &STATS_RESPONSE), 0, "a field was added to agent.proto and not here");
    }

    #[test]
    fn answers_that_would_grow_in_memory_are_refused_by_their_bytes() {
        // Fields 5 of Hello and 6 of Stats, of no length.
        let hello = |payload| answer::<agent::HelloResponse>(&response(payload));
        let stats = |payload| answer::<agent::StatsResponse>(&response(payload));
        assert_eq!(hello([0x2a, 0].repeat(TEXTS_MAX)), Ok(()));
        assert_eq!(hello([0x2a, 0].repeat(TEXTS_MAX + 1)), Err(Refusal::TooMany));
        assert_eq!(stats([0x32, 0].repeat(TEXTS_MAX)), Ok(()));
        assert_eq!(stats([0x32, 0].repeat(TEXTS_MAX + 1)), Err(Refusal::TooMany));
        // Field 31, which no answer has: at the top, within the counters, and beside the answer.
        let unknown = [0xf8, 1, 1];
        assert_eq!(stats(unknown.repeat(UNKNOWN_ANSWER_FIELDS_MAX)), Ok(()), "a later agent may send some");
        assert_eq!(stats(unknown.repeat(UNKNOWN_ANSWER_FIELDS_MAX + 1)), Err(Refusal::TooMany));
        let within = [&[0x0a, 120][..], &unknown.repeat(40)].concat();
        assert_eq!(stats(within.repeat(2)), Err(Refusal::TooMany));
        let beside = unknown.repeat(UNKNOWN_ANSWER_FIELDS_MAX + 1);
        assert_eq!(answer::<agent::HelloResponse>(&beside), Err(Refusal::TooMany));
        // The details of an error.
        let details = [&[0x0a, 40][..], &[0x1a, 0].repeat(20)].concat();
        assert_eq!(answer::<agent::HelloResponse>(&details), Err(Refusal::TooMany));
        // Series where a batch would answer the call itself.
        assert_eq!(answer::<agent::Batch>(&response([0x1a, 0].repeat(100))), Err(Refusal::TooMany));
        // Groups, which decoders follow by recursion.
        assert_eq!(hello(vec![0x0b; 1_000]), Err(Refusal::Malformed));
    }

    #[test]
    fn whatever_passes_for_an_answer_decodes_to_a_bounded_number_of_parts() {
        let mut random = fastrand::Rng::with_seed(7);
        let good = response(full_hello().write_to_bytes().expect("encoded"));
        for bytes in mutants(&good, &mut random) {
            if answer::<agent::HelloResponse>(&bytes).is_ok()
                && let Ok(response) = ttrpc::Response::parse_from_bytes(&bytes)
                && let Ok(hello) = agent::HelloResponse::parse_from_bytes(&response.payload)
            {
                let unknown = hello.special_fields.unknown_fields().iter().count();
                assert!(hello.capabilities.len() <= TEXTS_MAX && unknown <= UNKNOWN_ANSWER_FIELDS_MAX);
            }
        }
    }

    #[test]
    fn what_would_grow_in_memory_is_refused_by_its_bytes() {
        // Field 3 of a batch, of no length.
        assert_eq!(frame(DATA, &[0x1a, 0].repeat(BATCH_SERIES_MAX)), Ok(()));
        assert_eq!(frame(DATA, &[0x1a, 0].repeat(BATCH_SERIES_MAX + 1)), Err(Rejection::BatchTooLarge));
        assert_eq!(frame(DATA, &[0x32, 0].repeat(BATCH_SPANS_MAX + 1)), Err(Rejection::BatchTooLarge));
        let dependencies = [0x42, 0].repeat(BATCH_DEPENDENCIES_MAX + 1);
        assert_eq!(frame(DATA, &dependencies), Err(Rejection::BatchTooLarge));
        assert_eq!(frame(DATA, &[0x3a, 0].repeat(BATCH_RESOURCES_MAX + 1)), Err(Rejection::BatchTooLarge));
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

    /// Beginnings of these bytes with some of them changed.
    fn mutants(good: &[u8], random: &mut fastrand::Rng) -> impl Iterator<Item = Vec<u8>> {
        (0..300).map(|_| {
            let mut bytes = good[..random.usize(..good.len())].to_vec();
            for _ in 0..random.usize(..6) {
                let at = random.usize(..=bytes.len().saturating_sub(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.u8(..);
                }
            }
            bytes
        })
    }

    #[test]
    fn whatever_passes_decodes_to_a_bounded_number_of_parts() {
        let mut random = fastrand::Rng::with_seed(11);
        let good = full_batch().write_to_bytes().expect("encoded");
        for bytes in mutants(&good, &mut random) {
            if frame(DATA, &bytes).is_ok()
                && let Ok(batch) = agent::Batch::parse_from_bytes(&bytes)
            {
                assert!(batch.series.len() <= BATCH_SERIES_MAX && batch.spans.len() <= BATCH_SPANS_MAX);
            }
        }
    }
}
