//! Conversations as clients and brokers have them, whole, cut and mutated, and bytes that are none.

mod login;

use crate::{
    Connection, Direction, Limits, Protocol, ScopeId, Transport, Verdict,
    captured::assert_counts,
    kafka::{
        header::{self, MessageMatch},
        records,
    },
    parser::{Detection, Sender},
    testing::{Random, Replay, Step, assert_no_harm, assert_same_at_every_cut, first_bytes, play},
};

const C: Direction = Direction::Egress;
const S: Direction = Direction::Ingress;

fn connection() -> Connection {
    Connection::new(ScopeId(0))
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat()
}

/// A request with a header of version 1, from the client `app`.
fn request(key: u16, version: u16, correlation: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [key, version].map(u16::to_be_bytes).concat();
    bytes.extend(correlation.to_be_bytes());
    bytes.extend(b"\0\x03app");
    bytes.extend(body);
    framed(&bytes)
}

fn response(correlation: u32, body: &[u8]) -> Vec<u8> {
    framed(&[&correlation.to_be_bytes(), body].concat())
}

fn string(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).expect("short").to_be_bytes(), text.as_bytes()].concat()
}

/// Version 2: acks, time-out, one topic with one partition.
fn produce(correlation: u32, acks: u16, topic: &str, records: usize) -> Vec<u8> {
    produce_batches(correlation, acks, topic, &[&vec![b'r'; records]])
}

/// The same with a partition for each batch.
fn produce_batches(correlation: u32, acks: u16, topic: &str, batches: &[&[u8]]) -> Vec<u8> {
    let number = |length: usize| u32::try_from(length).expect("small").to_be_bytes();
    let mut body = acks.to_be_bytes().to_vec();
    body.extend([0, 0, 0x75, 0x30, 0, 0, 0, 1]);
    body.extend(string(topic));
    body.extend(number(batches.len()));
    for (partition, batch) in batches.iter().enumerate() {
        body.extend([number(partition), number(batch.len())].as_flattened());
        body.extend(*batch);
    }
    request(0, 2, correlation, &body)
}

fn produced(correlation: u32, topic: &str, error: u16) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 1];
    body.extend(string(topic));
    body.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    body.extend(error.to_be_bytes());
    body.extend([0; 16]);
    body.extend([0; 4]);
    response(correlation, &body)
}

/// Version 4: replica -1, longest wait, least bytes, most bytes, isolation, one topic.
fn fetch(correlation: u32, wait_ms: u32, topic: &str) -> Vec<u8> {
    let mut body = vec![0xff; 4];
    body.extend(wait_ms.to_be_bytes());
    body.extend([0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 1]);
    body.extend(string(topic));
    body.extend([0, 0, 0, 1]);
    body.extend([0; 16]);
    request(1, 4, correlation, &body)
}

fn fetched(correlation: u32, topic: &str) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0, 0, 0, 0, 1];
    body.extend(string(topic));
    body.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    body.extend([0; 16]);
    body.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    response(correlation, &body)
}

/// Version 0 for some topics.
fn metadata(correlation: u32, topics: &[&str]) -> Vec<u8> {
    let mut body = u32::try_from(topics.len()).expect("few").to_be_bytes().to_vec();
    body.extend(topics.iter().flat_map(|topic| string(topic)));
    request(3, 0, correlation, &body)
}

fn conversation() -> (Vec<Step>, Vec<String>) {
    let steps = vec![
        (C, [metadata(1, &["orders"]), metadata(2, &["orders", "payments"])].concat()),
        (S, response(1, &[0; 8])),
        (S, response(2, &[0; 8])),
        // Answered by correlation id, and one that is not answered at all.
        (C, [produce(3, 1, "orders", 2000), produce(4, 0, "orders", 10), produce(5, 1, "gone", 10)].concat()),
        (S, produced(5, "gone", 3)),
        (S, produced(3, "orders", 0)),
        (C, fetch(6, 500, "orders")),
        (S, fetched(6, "orders")),
        (C, fetch(7, 0, "orders")),
        (S, fetched(7, "orders")),
        (C, request(90, 0, 8, b"\0whatever")),
        (C, metadata(9, &[])),
    ];
    let expected = [
        "Client Metadata orders - None 29/16",
        "Client Metadata  - None 39/16",
        "Client Produce orders - None 2047/50",
        "Client Produce orders - None 57/0",
        "Client Produce other UNKNOWN_TOPIC_OR_PARTITION Client 55/48",
        "Client Fetch (long poll) orders - None 66/58",
        "Client Fetch orders - None 66/58",
        "Client API90  - NoResponse 26/0",
        "Client Metadata  - NoResponse 21/0",
    ];
    (steps, expected.map(String::from).to_vec())
}

#[test]
fn requests_are_paired_by_their_correlation_id() {
    let (steps, expected) = conversation();
    let mut found = play(connection(), &steps);
    found.sort();
    let mut sorted = expected;
    sorted.sort();
    assert_eq!(found, sorted);
    let found = play(connection(), &steps);
    assert_same_at_every_cut(connection, &steps, &found);
}

#[test]
fn a_fetch_that_waits_longer_than_it_may_is_slow() {
    let cases = [(300, false, "Fetch (long poll)"), (700, false, "Fetch"), (300, true, "Fetch (long poll)")];
    for (milliseconds, leaves, operation) in cases {
        let mut replay = Replay::new(connection());
        replay.egress(&fetch(1, 500, "orders"));
        replay.now += milliseconds * 1_000_000;
        if !leaves {
            replay.ingress(&fetched(1, "orders"));
        }
        replay.close();
        let bytes = if leaves { 0 } else { 58 };
        let topic = if leaves { "other" } else { "orders" };
        assert_eq!(replay.lines(), [format!("Client {operation} {topic} - None 66/{bytes}")]);
    }
}

#[test]
fn a_request_without_a_response_ends_and_the_response_that_comes_after_all_is_dropped() {
    const MINUTE: u64 = 60_000_000_000;
    let mut replay = Replay::new(connection());
    let join = request(11, 0, 1, &[0; 20]);
    replay.egress(&metadata(4, &[]));
    replay.ingress(&response(4, &[0; 8]));
    replay.egress(&[join, metadata(2, &["orders"]), fetch(3, 500, "orders")].concat());
    replay.wait(MINUTE);
    assert_eq!(replay.exchanges.len(), 1);
    replay.wait(2 * MINUTE);
    let found: Vec<String> = replay.lines()[1..].to_vec();
    assert_eq!(found, ["Client Metadata other - NoResponse 29/0", "Client Fetch other - NoResponse 66/0"]);
    assert_eq!(replay.exchanges[1].duration_ns(), 2 * MINUTE);
    replay.ingress(&[response(2, &[0; 8]), response(1, &[0; 8])].concat());
    assert!(replay.lines()[3].starts_with("Client JoinGroup  - None"), "{:?}", replay.lines());
    replay.egress(&request(11, 0, 5, &[0; 20]));
    replay.wait(14 * MINUTE);
    assert_eq!(replay.exchanges.len(), 4);
    replay.wait(MINUTE);
    assert!(replay.lines()[4].starts_with("Client JoinGroup  - NoResponse"), "{:?}", replay.lines());
    replay.close();
    assert_eq!(replay.context.tally().unparsed, 0);
}

#[test]
fn topics_called_by_their_id_get_their_name_from_another_connection() {
    let id = [7; 16];
    // Version 12, flexible: no throttling, no brokers, no cluster, controller 1, one topic.
    let mut listing = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 0, 0, 7];
    listing.extend(b"orders");
    listing.extend(id);
    listing.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    // Version 13, flexible: wait, least, most, isolation, session, epoch, one topic with no partitions.
    let mut asking = vec![0, 0, 0, 0, 0, 0, 0, 1, 0xf4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0];
    asking.extend([0, 0, 0, 0, 2]);
    asking.extend(id);
    asking.extend([1, 0, 1, 1, 0]);
    let mut fetching = Replay::new(connection());
    for named in [false, true] {
        if named {
            let mut other = Connection::new(ScopeId(0));
            let asks = request(3, 12, 1, &[0, 0, 0, 0, 0]);
            let answers = response(1, &listing);
            for (direction, bytes) in [(C, &asks), (S, &answers)] {
                let total = bytes.len() as u64;
                let chunk =
                    crate::Chunk { direction, timestamp: crate::Timestamp(1), offset: 0, bytes, total };
                other.chunk(&chunk, &mut fetching.context, &mut |_| ());
            }
        }
        fetching.egress(&request(1, 13, 5, &asking));
        fetching.ingress(&response(5, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]));
    }
    assert_eq!(
        fetching.lines(),
        ["Client Fetch (long poll)  - None 65/21", "Client Fetch (long poll) orders - None 65/21"]
    );
}

#[test]
fn a_large_request_may_be_captured_in_part() {
    let large = produce(1, 1, "orders", 100_000);
    let mut replay = Replay::new(connection());
    replay.part(C, &large[..100], large.len() as u64);
    replay.ingress(&produced(1, "orders", 0));
    replay.egress(&produce(2, 1, "orders", 10));
    replay.ingress(&produced(2, "orders", 6));
    replay.close();
    assert_eq!(
        replay.lines(),
        [
            "Client Produce orders - None 100047/50",
            "Client Produce orders NOT_LEADER_OR_FOLLOWER Server 57/50"
        ]
    );
}

/// Version 4: one topic with one partition and so many bytes of records.
fn fetched_records(correlation: u32, topic: &str, error: u16, records: usize) -> Vec<u8> {
    let mut whole = fetched(correlation, topic);
    let length = whole.len();
    whole.truncate(length - 4);
    // Behind the topic's name: number of partitions, partition, error.
    let at = 4 + 4 + 8 + 2 + topic.len() + 8;
    whole[at..at + 2].copy_from_slice(&error.to_be_bytes());
    whole.extend(u32::try_from(records).expect("small").to_be_bytes());
    whole.extend(vec![b'r'; records]);
    framed(&whole[4..])
}

#[test]
fn records_that_a_broker_does_not_write_but_sends_from_a_file_need_not_be_seen() {
    const HEAD: usize = 58;
    // Fewer than what is looked at of a response, and more; stated with nothing captured, or shown by what comes next.
    for (records, error, by_gap) in
        [(10, 0, false), (1_000, 0, false), (1_000, 0, true), (5_000_000, 6, false), (5_000_000, 0, true)]
    {
        let mut replay = Replay::new(connection());
        let whole = fetched_records(1, "orders", error, records);
        for correlation in 1..4 {
            replay.egress(&fetch(correlation, 0, "orders"));
            let whole = fetched_records(correlation, "orders", error, records);
            replay.ingress(&whole[..HEAD]);
            replay.now += 1_000_000;
            if by_gap {
                replay.lose(S, records as u64);
            } else {
                replay.part(S, &[], records as u64);
            }
            replay.now += 1_000_000_000;
        }
        replay.close();
        let status = if error == 6 { "NOT_LEADER_OR_FOLLOWER Server" } else { "- None" };
        let line = format!("Client Fetch orders {status} 66/{}", whole.len());
        assert_eq!(replay.lines(), vec![line; 3], "{records} {by_gap}");
        // What is missing moved soon after what was seen, not when the next bytes were.
        assert!(replay.exchanges.iter().all(|exchange| exchange.duration_ns() < 100_000_000));
        let tally = replay.context.tally();
        assert_eq!((tally.gaps, tally.unparsed, tally.incomplete), (0, 0, 0));
    }
}

#[test]
fn a_response_of_which_the_error_is_missing_is_said_to_be_incomplete() {
    let mut replay = Replay::new(connection());
    let whole = fetched_records(1, "orders", 0, 1_000);
    replay.egress(&fetch(1, 0, "orders"));
    replay.part(S, &whole[..20], whole.len() as u64);
    replay.close();
    assert_eq!(replay.lines(), [format!("Client Fetch other other None 66/{}", whole.len())]);
    assert_eq!(replay.context.tally().incomplete, 1);
}

#[test]
fn after_a_loss_nothing_is_paired_that_is_not_sure() {
    let mut replay = Replay::new(connection());
    for correlation in 1..=4 {
        replay.egress(&metadata(correlation, &["orders"]));
    }
    replay.ingress(&response(1, &[0; 8]));
    replay.lose(S, 16);
    replay.ingress(b"the rest of something else");
    replay.ingress(&response(3, &[0; 8]));
    replay.ingress(&response(4, &[0; 8]));
    replay.lose(C, 1000);
    replay.egress(b"\0\0\0\x10 the middle of records");
    replay.egress(&metadata(77, &["orders"]));
    replay.ingress(&response(77, &[0; 8]));
    replay.close();
    assert_eq!(replay.lines(), vec!["Client Metadata orders - None 29/16"; 4]);
    assert_eq!(replay.context.tally().unparsed, 1);
}

#[test]
fn what_waits_is_bounded() {
    let mut replay = Replay::new(connection());
    for correlation in 0..5_000 {
        replay.egress(&metadata(correlation, &[&format!("topic-{correlation}")]));
    }
    replay.close();
    let limits = Limits::default();
    assert_eq!(replay.exchanges.len(), limits.pending_per_connection);
    let tally = replay.context.tally();
    assert_eq!(tally.unparsed, 5_000 - limits.pending_per_connection as u64);
    // No topic was confirmed; of some, others took the place before the end.
    assert!((1..limits.pending_per_connection as u64).contains(&tally.overflowed_names));
    assert!(replay.exchanges.iter().all(|exchange| exchange.resource == crate::Symbol::OTHER));
}

fn detect(bytes: &[u8], peer: &[u8]) -> Detection {
    header::detect(&first_bytes(Transport::Stream, bytes, peer))
}

#[test]
fn requests_are_recognised_and_answers_by_their_request() {
    for bytes in [metadata(1, &["orders"]), produce(2, 1, "orders", 50), fetch(3, 1, "orders")] {
        for cut in 1..bytes.len() {
            assert_eq!(detect(&bytes[..cut], &[]), Detection::More, "{cut}");
        }
        assert_eq!(detect(&bytes, &[]), Detection::Yes(Sender::Client));
        // A body that is none, a key and a version that do not exist, a length that does not fit.
        for (at, byte) in [(5, 95), (7, 60), (3, bytes[3] - 1), (4, 1), (8, 0x80)] {
            let mut bad = bytes.clone();
            bad[at] = byte;
            assert_eq!(detect(&bad, &[]), Detection::No, "{at}");
        }
    }
    // Without a client's name: only with the answer.
    let nameless = framed(&[&[0, 3, 0, 0, 0, 0, 0, 9, 0xff, 0xff][..], &[0, 0, 0, 0]].concat());
    assert_eq!(header::match_message(&nameless), MessageMatch::Perhaps(9));
    assert_eq!(detect(&nameless, &[]), Detection::More);
    assert_eq!(detect(&nameless, &response(8, &[0; 8])), Detection::No);
    assert_eq!(detect(&nameless, &response(9, &[0; 8])), Detection::Yes(Sender::Client));
    assert_eq!(detect(&response(9, &[0; 8]), &nameless), Detection::Yes(Sender::Server));
    let mut replay = Replay::new(connection());
    replay.egress(&nameless);
    replay.ingress(&response(9, &[0; 8]));
    replay.close();
    assert_eq!(replay.lines(), ["Client Metadata  - None 18/16"]);
}

#[test]
fn others_are_not_taken_for_it() {
    let mut zookeeper = vec![0, 0, 0, 0x2d];
    zookeeper.extend([0; 12]);
    zookeeper.extend([0, 0, 0x75, 0x30]);
    zookeeper.extend([0; 8]);
    zookeeper.extend([0, 0, 0, 0x10]);
    zookeeper.extend([0; 17]);
    let postgres = b"\0\0\0\x25\0\x03\0\0user\0shop\0database\0shop\0\0".as_slice();
    for bytes in [zookeeper.as_slice(), postgres, b"\0\0\0\x08\x04\xd2\x16\x2f", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut replay = Replay::new(connection());
        for _ in 0..4 {
            replay.egress(bytes);
            replay.ingress(&[&[0, 0, 0, 0x25, 0, 0, 0, 0][..], &[0; 33]].concat());
        }
        assert!(!matches!(replay.connection.verdict(), Verdict::Known(Protocol::Kafka)), "{bytes:?}");
    }
    // Tables in programs' files, where most bytes are 0: both ends of a transfer between two processes.
    for table in [[0, 0, 0, 0x10, 0, 0, 0, 0], [0, 0, 0, 0x0e, 0, 0, 0, 0x0e], [0, 0, 0, 0x10, 0, 0x12, 0, 1]]
    {
        let mut replay = Replay::new(connection());
        for rows in 1..6 {
            replay.egress(&table.repeat(rows));
            replay.ingress(&[&table[..], &[0; 16]].concat().repeat(rows));
        }
        assert!(!matches!(replay.connection.verdict(), Verdict::Known(Protocol::Kafka)), "{table:?}");
    }
    let mut random = Random(5);
    for round in 0..300_000_u32 {
        let length = 1 + random.below(100);
        let mut bytes = random.bytes(length);
        if round % 2 == 0 && length > 8 {
            bytes[..4].copy_from_slice(&u32::try_from(length - 4).expect("small").to_be_bytes());
            bytes[4] = 0;
            bytes[6] = 0;
        }
        assert!(!matches!(detect(&bytes, &[]), Detection::Yes(_)), "{bytes:?}");
    }
}

#[test]
fn mutations_and_losses_do_no_harm() {
    assert_no_harm(Protocol::Kafka, Transport::Stream, &conversation().0);
}

#[test]
fn what_javas_own_tools_say_is_understood() {
    let expected = [
        "11 ApiVersions  - None",
        "2 Metadata  - None",
        "1 CreateTopics orders - None",
        "1 CreateTopics payments.v1 - None",
        "4 Metadata orders - None",
        "1 InitProducerId  COORDINATOR_LOAD_IN_PROGRESS Server",
        "1 InitProducerId  - None",
        "2 Produce orders - None",
        "1 FindCoordinator  COORDINATOR_NOT_AVAILABLE Server",
        "1 FindCoordinator  - None",
        "1 JoinGroup  MEMBER_ID_REQUIRED None",
        "1 JoinGroup  - None",
        "1 SyncGroup  - None",
        "1 OffsetFetch orders - None",
        "1 ListOffsets orders - None",
        "14 Fetch (long poll) orders - None",
        "2 Heartbeat  - None",
        "2 OffsetCommit orders - None",
        "1 LeaveGroup  - None",
    ];
    assert_counts("kafka-3.9.1-java", &expected);
    assert_counts("kafka-4.0.0-java", &expected);
}

#[test]
fn what_librdkafka_says_is_understood() {
    assert_counts(
        "kafka-3.9.1-librdkafka",
        &[
            "6 ApiVersions  - None",
            "7 Metadata payments.v1 - None",
            "2 Produce payments.v1 - None",
            "3 ListOffsets payments.v1 - None",
            "3 Fetch (long poll) payments.v1 - None",
            "2 Metadata other UNKNOWN_TOPIC_OR_PARTITION Client",
        ],
    );
    assert_counts(
        "kafka-4.0.0-librdkafka",
        &[
            "6 ApiVersions  - None",
            "7 Metadata payments.v1 - None",
            "2 Produce payments.v1 - None",
            "3 ListOffsets payments.v1 - None",
            "4 Fetch (long poll) payments.v1 - None",
            "2 Metadata other UNKNOWN_TOPIC_OR_PARTITION Client",
            "1 Metadata other - NoResponse",
        ],
    );
}

#[test]
fn what_kafka_python_says_is_understood() {
    let expected = [
        "5 ApiVersions  - None",
        "2 Metadata  - None",
        "1 InitProducerId  - None",
        "3 Metadata orders - None",
        "3 Produce orders - None",
        "1 FindCoordinator  - None",
        "1 JoinGroup  MEMBER_ID_REQUIRED None",
        "2 JoinGroup  - None",
        "2 SyncGroup  - None",
        "1 OffsetFetch orders - None",
        "1 ListOffsets orders - None",
        "5 Fetch (long poll) orders - None",
        "2 OffsetCommit orders - None",
        "1 LeaveGroup  - None",
    ];
    assert_counts("kafka-3.9.1-python", &expected);
    assert_counts("kafka-4.0.0-python", &expected);
}

#[test]
fn transactions_logins_compressions_and_rebalances_are_understood() {
    // By connection and API the numbers are those of the recording's length-prefixed requests.
    let expected = [
        "25 ApiVersions  - None",
        "25 SaslHandshake  - None",
        "43 SaslAuthenticate  - None",
        "5 SaslAuthenticate  SASL_AUTHENTICATION_FAILED Client",
        "9 Metadata orders - None",
        "9 Produce orders - None",
        "11 Metadata  - None",
        "1 FindCoordinator  COORDINATOR_NOT_AVAILABLE Server",
        "7 FindCoordinator  - None",
        "1 InitProducerId  NOT_COORDINATOR Server",
        "2 InitProducerId  - None",
        "1 Metadata payments.v1 - None",
        "2 AddPartitionsToTxn payments.v1 - None",
        "2 Produce payments.v1 - None",
        "2 EndTxn  - None",
        "1 AddPartitionsToTxn payments.v1 CONCURRENT_TRANSACTIONS Server",
        "2 JoinGroup  MEMBER_ID_REQUIRED None",
        "3 JoinGroup  - None",
        "3 SyncGroup  - None",
        "2 Heartbeat  - None",
        "3 OffsetFetch orders - None",
        "3 ListOffsets orders - None",
        "7 Fetch (long poll) orders - None",
        "1 Heartbeat  REBALANCE_IN_PROGRESS None",
        "4 OffsetCommit orders - None",
        "2 LeaveGroup  - None",
        "2 FindCoordinator  - NoResponse",
        "1 Metadata orders - NoResponse",
    ];
    assert_counts("kafka-4.0.0-transactions", &expected);
}

#[test]
fn a_produced_record_names_its_trace_in_its_headers() {
    let batch = records::tests::batch(0, 1, &[("traceparent", records::tests::PARENT)]);
    let requests: [&[&[u8]]; 3] = [&[&batch], &[&batch, &batch], &[&batch, &[b'r'; 2000]]];
    let mut replay = Replay::new(connection());
    // Before them, what nothing else looks like.
    replay.egress(&metadata(1, &["orders"]));
    replay.ingress(&response(1, &[0; 8]));
    for (correlation, batches) in (2..).zip(requests) {
        replay.egress(&produce_batches(correlation, 1, "orders", batches));
        replay.ingress(&produced(correlation, "orders", 0));
    }
    let parents: Vec<_> =
        replay.exchanges.iter().map(|exchange| exchange.trace.map(|trace| trace.parent_span_id[0])).collect();
    assert_eq!(parents, [None, Some(0x11), None, None]);
}
