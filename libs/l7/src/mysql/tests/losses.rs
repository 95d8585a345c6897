//! Bytes that were not captured, or lost.

use super::*;

#[test]
fn joined_in_the_middle() {
    let rows = s(&[b"\x01", DEFINITION, EOF, b"\x017", EOF]);
    expect(
        &[
            (S, packets(9, &[b"\x0254", b"\x0255", EOF])),
            query("SELECT a FROM t"),
            rows.clone(),
            query("/* hint */ update t set a = 1"),
            s(&[OK]),
        ],
        &["Server SELECT t - None 20/73", "Server UPDATE t - None 34/11"],
    );
    // By a statement that was prepared before.
    expect(
        &[execute(5), s(&[OK]), query("COMMIT"), s(&[OK])],
        &["Server EXECUTE  - None 14/11", "Server COMMIT  - None 11/11"],
    );
    // By a ping and its answer.
    expect(&[c(b"\x0e"), s(&[OK])], &["Server PING  - None 5/11"]);
    // On the client's side.
    let turned: Vec<Step> =
        [query("SELECT a FROM t"), rows].map(|(way, bytes)| (way.reverse(), bytes)).to_vec();
    expect(&turned, &["Client SELECT t - None 20/73"]);
    // By the handshake response.
    expect(&[hello(0), (S, packets(2, &[OK])), query("COMMIT"), s(&[OK])], &["Server COMMIT  - None 11/11"]);
}

/// A result of which the capture shows only the head.
#[test]
fn a_long_result_ends_before_the_next_command() {
    let mut replay = Replay::new(connection());
    for (way, bytes) in login(0) {
        replay.part(way, &bytes, bytes.len() as u64);
    }
    replay.ingress(&query("SELECT a FROM t").1);
    let head = packets(1, &[b"\x01", DEFINITION, EOF, b"\x017", b"\x018"]);
    replay.part(S, &head[..head.len() - 3], 16_384);
    replay.part(S, b"\x01\0\0\x01\0 looks like a start", 16_384);
    replay.part(S, b"", 100);
    let end = replay.now;
    replay.ingress(&query("COMMIT").1);
    replay.egress(&s(&[OK]).1);
    replay.ingress(&query("SELECT b FROM t").1);
    replay.part(S, &head, 16_384);
    replay.close();
    assert_eq!(
        replay.lines(),
        [
            "Server SELECT other other None 20/32868",
            "Server COMMIT  - None 11/11",
            "Server SELECT other other None 20/16384"
        ]
    );
    assert_eq!(replay.exchanges[0].end.0, end);
    assert_eq!(replay.context.tally().gaps, 2);
}

#[test]
fn a_long_result_ends_by_its_tail() {
    for (capabilities, tail, expected) in [
        (0, packets(200, &[EOF]), "Server SELECT t - None 20/16404"),
        (DEPRECATE_EOF, packets(200, &[ROWS_OK]), "Server SELECT t - None 20/16406"),
        (0, packets(200, &[SYNTAX]), "Server SELECT other 1064 Client 20/16444"),
    ] {
        let mut replay = Replay::new(connection());
        for (way, bytes) in login(capabilities) {
            replay.part(way, &bytes, bytes.len() as u64);
        }
        replay.ingress(&query("SELECT a FROM t").1);
        let eof: &[&[u8]] = if capabilities == 0 { &[EOF] } else { &[] };
        let head = [&[b"\x01", DEFINITION][..], eof, &[b"\x017"]].concat();
        replay.part(S, &packets(1, &head), 16_384);
        replay.egress(b"not the end");
        assert!(replay.exchanges.is_empty());
        replay.egress(&tail);
        assert_eq!(replay.lines(), [expected]);
        replay.close();
    }
}

#[test]
fn a_file_that_was_not_captured_ends() {
    let mut replay = Replay::new(connection());
    for (way, bytes) in login(0) {
        replay.part(way, &bytes, bytes.len() as u64);
    }
    replay.ingress(&query("LOAD DATA LOCAL INFILE 'f' INTO TABLE t").1);
    replay.egress(&s(&[b"\xfbf"]).1);
    for _ in 0..3 {
        replay.part(C, &packets(2, &[b"1,a\n2,b\n"]), 16_384);
    }
    replay.egress(&packets(77, &[OK]));
    replay.ingress(&query("COMMIT").1);
    replay.egress(&s(&[OK]).1);
    replay.close();
    assert_eq!(replay.lines(), ["Server LOAD t - None 56/17", "Server COMMIT  - None 11/11"]);
}

#[test]
fn nothing_is_paired_across_a_loss() {
    let mut replay = Replay::new(connection());
    for (way, bytes) in login(0) {
        replay.part(way, &bytes, bytes.len() as u64);
    }
    replay.ingress(&query("SELECT a FROM t").1);
    replay.lose(S, 11);
    replay.ingress(&query("COMMIT").1);
    replay.egress(&s(&[OK]).1);
    replay.ingress(&query("SELECT b FROM u").1);
    replay.lose(C, 40);
    replay.egress(&s(&[OK]).1);
    replay.ingress(&query("INSERT INTO u VALUES (1)").1);
    replay.egress(&s(&[OK]).1);
    replay.egress(&s(&[OK]).1);
    replay.ingress(&query("DELETE FROM u").1);
    replay.egress(&s(&[OK]).1);
    replay.close();
    let lines = replay.lines();
    assert!(!lines.iter().any(|line| line.contains("SELECT a")), "{lines:?}");
    assert_eq!(lines.last().unwrap(), "Server DELETE u - None 18/11", "{lines:?}");
}
