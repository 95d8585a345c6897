//! `porthole replay` on captures of real servers (`tests/recordings`), as they are and as other tools and other networks
//! would have written them.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

mod rewrite;

use rewrite::{Frame, Shape};

const NAMES: [&str; 10] =
    ["http1", "http2", "grpc", "redis", "memcached", "nats", "dns", "mysql", "postgresql", "tls"];

fn file(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/recordings").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs the program on these bytes.
fn replay(bytes: &[u8], arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_porthole"))
        .arg("replay")
        .args(arguments)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start porthole");
    let mut stdin = child.stdin.take().expect("standard input");
    // A program that refuses the beginning does not read the rest.
    let _ = stdin.write_all(bytes);
    drop(stdin);
    child.wait_with_output().expect("output")
}

fn report(bytes: &[u8]) -> Value {
    let output = replay(bytes, &["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The exchanges, a line each.
fn lines(report: &Value) -> Vec<String> {
    let exchanges = report["exchanges"].as_array().expect("exchanges");
    let line = |exchange: &Value| {
        let word = |name: &str| exchange[name].as_str().unwrap_or("-").to_owned();
        ["protocol", "operation", "resource", "status", "outcome"].map(word).join(" ")
    };
    exchanges.iter().map(line).collect()
}

fn expected(name: &str) -> Vec<String> {
    let text = String::from_utf8(file(&format!("{name}.expected"))).expect("text");
    text.lines().map(str::to_owned).collect()
}

fn frames(name: &str) -> Vec<Frame> {
    rewrite::read(&file(&format!("{name}.pcap")))
}

/// Asserts that a capture in another form gives the same.
fn assert_same(what: &str, shape: Shape, change: impl Fn(Vec<Frame>) -> Vec<Frame>) {
    for name in NAMES {
        let bytes = rewrite::write(&change(frames(name)), shape);
        assert_eq!(lines(&report(&bytes)), expected(name), "{name}, {what}");
    }
}

#[test]
fn real_captures_give_what_was_sent() {
    for name in NAMES {
        let report = report(&file(&format!("{name}.pcap")));
        assert_eq!(lines(&report), expected(name), "{name}");
        for exchange in report["exchanges"].as_array().expect("exchanges") {
            let server: std::net::SocketAddr =
                exchange["server"].as_str().expect("server").parse().expect("address");
            assert!(server.port() < 20_000, "the server's end: {server}");
            assert!(exchange["end_unix_us"].as_u64() >= exchange["start_unix_us"].as_u64());
        }
    }
}

/// Two pairs of hosts with the same addresses, each in a VXLAN of its own, one of which was captured inside and outside.
#[test]
fn a_real_capture_of_tunnels_gives_what_was_sent_once() {
    assert_eq!(lines(&report(&file("vxlan.pcap"))), expected("vxlan"));
}

#[test]
fn the_summary_adds_up() {
    let report = report(&file("http1.pcap"));
    let summary = &report["summary"][0];
    let of = |name: &str| summary[name].as_u64().expect("a count");
    assert_eq!(summary["protocol"], "http1");
    assert_eq!((of("requests"), of("responses"), of("client_errors"), of("server_errors")), (10, 10, 2, 1));
    let durations: Vec<f64> = report["exchanges"]
        .as_array()
        .expect("exchanges")
        .iter()
        .map(|exchange| exchange["duration_us"].as_f64().expect("a duration"))
        .collect();
    let close = |name: &str, value: f64| (summary[name].as_f64().expect("a number") - value).abs() < 0.001;
    assert!(close("duration_sum_us", durations.iter().sum()));
    assert!(close("duration_max_us", durations.iter().copied().fold(0.0, f64::max)));
}

#[test]
fn file_formats_and_link_types_make_no_difference() {
    for shape in Shape::ALL {
        assert_same(&format!("{shape:?}"), shape, |frames| frames);
    }
}

#[test]
fn retransmissions_reordering_and_fragments_make_no_difference() {
    let plain = Shape::default();
    assert_same("every segment twice", plain, |frames| {
        let twice = |frame: Frame| if frame.is_udp() { vec![frame] } else { vec![frame.clone(), frame] };
        // A datagram that comes twice was sent twice.
        frames.into_iter().flat_map(twice).collect()
    });
    assert_same("everything again much later", plain, |frames| {
        let again: Vec<_> = frames.iter().filter(|frame| !frame.is_udp()).cloned().collect();
        frames.into_iter().chain(again.into_iter().filter(|frame| !frame.opens())).collect()
    });
    assert_same("neighbours swapped", plain, rewrite::swap_neighbours);
    assert_same("IP fragments", plain, |frames| frames.iter().flat_map(rewrite::fragment).collect());
    assert_same("IP fragments in reverse", plain, |frames| {
        frames.iter().flat_map(|frame| rewrite::fragment(frame).into_iter().rev()).collect()
    });
}

/// Whether a line equals another one, or has `other` for a name that was lost (HPACK's table, for example).
fn says_no_more(line: &str, known: &str) -> bool {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (line, known) = (words(line), words(known));
    line.len() == known.len() && line.iter().zip(&known).all(|(word, known)| word == known || word == "other")
}

/// Asserts that a part of a capture has nothing that the whole one has not; returns how many answered requests it has.
fn assert_part(what: &str, name: &str, part: &[Frame]) -> usize {
    let mut left = expected(name);
    let report = report(&rewrite::write(part, Shape::default()));
    // Those without unknown fields choose first.
    let mut lines = lines(&report);
    lines.sort_by_key(|line| line.contains("other") || line.ends_with("no_response"));
    let answered = lines.iter().filter(|line| !line.ends_with("no_response")).count();
    for line in lines {
        let found = left.iter().position(|known| says_no_more(&line, known));
        match found {
            Some(found) => drop(left.swap_remove(found)),
            None => assert!(line.ends_with("no_response"), "{name}, {what}: {line}"),
        }
    }
    answered
}

#[test]
fn what_is_missing_is_not_invented() {
    for name in NAMES {
        let frames = frames(name);
        for missing in 0..frames.len() {
            let mut some = frames.clone();
            some.remove(missing);
            assert_part(&format!("without packet {missing}"), name, &some);
        }
    }
}

/// Requests that are found of a capture which begins at each packet but the first, all together: each whose first packet is
/// there, but inline commands of Redis where nothing comes before them.
const FOUND_WHEN_JOINED: [usize; NAMES.len()] = [284, 189, 86, 277, 27, 41, 15, 67, 67, 54];

#[test]
fn joined_anywhere_what_follows_is_found_and_nothing_is_invented() {
    for (name, expected) in NAMES.into_iter().zip(FOUND_WHEN_JOINED) {
        let frames = frames(name);
        let from = |from: usize| assert_part(&format!("from packet {from} on"), name, &frames[from..]);
        assert_eq!((1..frames.len()).map(from).sum::<usize>(), expected, "{name}");
    }
}

#[test]
fn random_bytes_give_no_exchange() {
    let bytes = rewrite::write(&rewrite::noise(400), Shape::default());
    let report = report(&bytes);
    assert_eq!(lines(&report), Vec::<String>::new());
    assert_eq!(report["summary"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_damaged_file_is_shown_as_far_as_it_goes_and_is_an_error() {
    let whole = file("http1.pcap");
    let output = replay(&whole[..whole.len() - 10], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("/items/{}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("cut off after 67 packets"), "{complaint}");
}

#[test]
fn what_is_no_capture_is_refused_by_name() {
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n, and more than twenty-four bytes of it"[..], b"", b"x"]
    {
        let output = replay(bytes, &[]);
        assert_eq!(output.status.code(), Some(1));
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.contains("no capture file"), "{complaint}");
    }
    let missing = Command::new(env!("CARGO_BIN_EXE_porthole")).args(["replay", "/nowhere.pcap"]).output();
    let missing = missing.expect("output");
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("open /nowhere.pcap"));
    let usage = Command::new(env!("CARGO_BIN_EXE_porthole")).args(["replay", "--jsn", "x"]).output();
    assert_eq!(usage.expect("output").status.code(), Some(2));
}
