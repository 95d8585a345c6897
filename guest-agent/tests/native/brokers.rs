//! Kafka: real brokers of two major releases with their usual clients, in every way to capture.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    os::fd::AsRawFd,
    path::Path,
    process::Command,
};

use porthole_agent_api::agent::{ErrorClass, Protocol, Side};
use porthole_trials::{Outcome, Trial, needs, trials};

use crate::{
    drivers::{PYTHON, pip, source},
    harness::{Agent, EVERY_CAPTURE},
    lengths::connected,
    running,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        a_response_of_which_the_records_come_from_a_file_is_counted,
        what_clients_of_kafka_send_is_counted_at_both_ends_in_every_way,
    ]
}

/// A message of Kafka: its length before it.
fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let bytes = parts.concat();
    [&u32::try_from(bytes.len()).expect("short").to_be_bytes()[..], &bytes].concat()
}

/// A `Fetch` of version 4 by the client `live`, of partition 0 of the topic `live.records`, that may not wait.
fn fetch(correlation: u32) -> Vec<u8> {
    framed(&[
        b"\0\x01\0\x04",
        &correlation.to_be_bytes(),
        b"\0\x04live",
        // The replica, the longest wait, the least and the most bytes, the isolation level; one topic.
        b"\xff\xff\xff\xff\0\0\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0\0\0\x01\0\x0clive.records",
        // One partition: its number, the offset, the most bytes.
        b"\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\x7f\xff\xff\xff",
    ])
}

/// Its response without the records, which are so many bytes.
fn fetched(correlation: u32, records: usize) -> Vec<u8> {
    let count = u32::try_from(records).expect("short").to_be_bytes();
    let head = [
        &correlation.to_be_bytes()[..],
        // The throttling; one topic.
        b"\0\0\0\0\0\0\0\x01\0\x0clive.records",
        // One partition: its number, no error, two offsets, no aborted transactions.
        b"\0\0\0\x01\0\0\0\0\0\0",
        &[0; 16],
        b"\xff\xff\xff\xff",
        &count,
    ]
    .concat();
    let length = u32::try_from(head.len() + records).expect("short");
    [&length.to_be_bytes()[..], &head].concat()
}

/// A broker writes a response's head, and lets the kernel send the records from the file that they are in.
fn a_response_of_which_the_records_come_from_a_file_is_counted() -> Outcome {
    const LARGEST: usize = 3_000_000;
    for arguments in EVERY_CAPTURE {
        // Packets carry all records through the ring buffer.
        let roomy = ["--cpu-share", "0", "--ring-kib", "16384"];
        let mut agent = Agent::start(&[arguments, &roomy].concat())?;
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("records");
        std::fs::write(&path, vec![b'r'; LARGEST]).expect("written");
        let file = File::open(&path).expect("opened");
        let (mut client, mut server) = connected();
        let sizes = [40, 1_000, 5_000, 100_000, LARGEST];
        for (correlation, records) in (1..).zip(sizes.repeat(4)) {
            let (request, head) = (fetch(correlation), fetched(correlation, records));
            client.write_all(&request).expect("sent");
            server.read_exact(&mut vec![0; request.len()]).expect("received");
            std::thread::scope(|scope| {
                scope.spawn(|| client.read_exact(&mut vec![0; head.len() + records]).expect("received"));
                server.write_all(&head).expect("sent");
                let mut offset = 0;
                while usize::try_from(offset).expect("positive") < records {
                    let left = records - usize::try_from(offset).expect("positive");
                    let (to, from) = (server.as_raw_fd(), file.as_raw_fd());
                    // SAFETY: two open descriptors, and a number that lives until after the call.
                    let moved = unsafe { libc::sendfile(to, from, &raw mut offset, left) };
                    assert!(moved > 0, "{}", std::io::Error::last_os_error());
                }
            });
        }
        drop((client, server));
        agent.catch_up();
        let all = 4 * sizes.len() as u64;
        for side in [Side::SIDE_CLIENT, Side::SIDE_SERVER] {
            let found = &agent.series(side, "live.records");
            let counted: Vec<_> = found
                .iter()
                .map(|series| {
                    let key = &series.key;
                    (
                        key.operation.as_str(),
                        key.status.as_str(),
                        key.error.enum_value(),
                        series.duration.count,
                    )
                })
                .collect();
            assert_eq!(
                counted,
                [("Fetch", "", Ok(ErrorClass::ERROR_CLASS_NONE), all)],
                "{side:?}, {arguments:?}, {:?}",
                agent.counters
            );
        }
        let number = usize::try_from(Protocol::PROTOCOL_KAFKA as i32).expect("small");
        let unaccounted = agent.counters.bytes_unaccounted.get(number).copied().unwrap_or(0);
        assert_eq!(unaccounted, 0, "{arguments:?}, {:?}", agent.counters);
    }
    Ok(())
}

/// Operations of which no client leaves before the response has come.
const AWAITED: [&str; 11] = [
    "AddPartitionsToTxn",
    "CreateTopics",
    "EndTxn",
    "InitProducerId",
    "JoinGroup",
    "LeaveGroup",
    "OffsetCommit",
    "Produce",
    "SaslAuthenticate",
    "SaslHandshake",
    "SyncGroup",
];

/// Exchanges of Kafka at one end, by operation, topic and status.
fn counted(agent: &Agent, side: Side) -> BTreeMap<(String, String, String), u64> {
    let mut counted = BTreeMap::new();
    for series in agent.all(side) {
        let key = &series.key;
        if key.protocol.enum_value() == Ok(Protocol::PROTOCOL_KAFKA) {
            let key = (key.operation.clone(), key.resource.clone(), key.status.clone());
            *counted.entry(key).or_default() += series.duration.count;
        }
    }
    counted
}

/// Runs a client under an agent, and compares what is counted at both ends with what the client counts that it sent.
fn assert_counted(
    broker: &running::Kafka,
    mut client: Command,
    mark: &str,
    arguments: &[&str],
    has_wrong_password: bool,
) -> Outcome {
    let mut agent = Agent::start(&[arguments, &["--cpu-share", "0", "--ring-kib", "16384"]].concat())?;
    let (port, login_port) = (broker.server.port.to_string(), broker.login_port.to_string());
    let output = client.args([&port, &login_port, mark]).output().expect("a client");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{client:?}: {said}");
    agent.catch_up();
    let sides = [Side::SIDE_CLIENT, Side::SIDE_SERVER].map(|side| counted(&agent, side));
    let mut wrong = Vec::new();
    for line in String::from_utf8(output.stdout).expect("text").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [operation, topic, count] = fields[..] else { panic!("{line}") };
        let topic = topic.trim_start_matches('-');
        let key = (operation.to_owned(), topic.to_owned(), String::new());
        let found = sides.each_ref().map(|side| side.get(&key).copied().unwrap_or(0));
        if found != [count.parse::<u64>().expect("a number"); 2] {
            wrong.push(format!("{line}: {found:?}"));
        }
    }
    let of = |side: &BTreeMap<(String, String, String), u64>| {
        let mut awaited = side.clone();
        awaited.retain(|(operation, _, _), _| AWAITED.contains(&operation.as_str()));
        awaited
    };
    let [client_side, server_side] = sides.each_ref().map(of);
    if client_side != server_side {
        wrong.push(format!("the client's {client_side:#?} and the server's {server_side:#?}"));
    }
    if has_wrong_password {
        let refused = ("SaslAuthenticate".to_owned(), String::new(), "SASL_AUTHENTICATION_FAILED".to_owned());
        if !server_side.contains_key(&refused) {
            wrong.push(format!("no {refused:?}"));
        }
    }
    // Megabytes that the broker sent from a file.
    let large = (ErrorClass::ERROR_CLASS_NONE, format!("{mark}.large"));
    for side in [Side::SIDE_CLIENT, Side::SIDE_SERVER] {
        let series = agent.series(side, &large.1);
        let mut fetches = series.iter().filter(|series| series.key.operation.starts_with("Fetch")).peekable();
        if fetches.peek().is_none() || fetches.any(|series| series.key.error.enum_value() != Ok(large.0)) {
            wrong.push(format!("fetches of {}, {side:?}: {series:#?}", large.1));
        }
    }
    assert!(wrong.is_empty(), "{mark}, {arguments:?}, {:?}: {wrong:#?}", agent.counters);
    Ok(())
}

/// Logins of both kinds and one that is refused, every compression, transactions, a group whose members change, and records
/// of megabytes, by librdkafka, kafka-python and Kafka's own client.
fn what_clients_of_kafka_send_is_counted_at_both_ends_in_every_way() -> Outcome {
    let releases = running::kafka_releases()?;
    needs::root()?;
    needs::program("java")?;
    let drivers = pip("kafka", &["confluent-kafka", "kafka-python"])?;
    for (release, jars) in releases.iter().enumerate() {
        let broker = running::kafka_with_logins(jars)?;
        for (way, arguments) in EVERY_CAPTURE.into_iter().enumerate() {
            let mut python = Command::new(PYTHON);
            python.env("PYTHONPATH", &drivers).arg(source("shop.py"));
            assert_counted(&broker, python, &format!("py-{release}-{way}"), arguments, true)?;
            let mut java = Command::new("java");
            java.arg("-cp").arg(classes(jars)).arg(source("Shop.java"));
            assert_counted(&broker, java, &format!("java-{release}-{way}"), arguments, false)?;
        }
    }
    Ok(())
}

/// A class path of all jars of a folder.
fn classes(jars: &Path) -> std::path::PathBuf {
    jars.join("*")
}
