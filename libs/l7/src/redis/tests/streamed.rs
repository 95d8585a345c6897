//! Streamed strings and aggregates of RESP3 (redis-specifications: protocol/RESP3.md).

use super::*;

#[test]
fn streamed_values_are_one_each() {
    expect(
        &[
            C(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n*2\r\n$7\r\nHGETALL\r\n$1\r\nh\r\n"),
            S(b"$?\r\n;4\r\nHell\r\n;5\r\no\r\n.\n\r\n;0\r\n*?\r\n:1\r\n*2\r\n$1\r\n.\r\n*?\r\n.\r\n~?\r\n+a\r\n.\r\n$?\r\n;0\r\n.\r\n"),
            S(b"%?\r\n+a\r\n:1\r\n+b\r\n*1\r\n%?\r\n.\r\n.\r\n"),
            C(b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nMGET\r\n$1\r\na\r\n"),
            S(b"+PONG\r\n|1\r\n+ttl\r\n:5\r\n*?\r\n-ERR inside\r\n.\r\n"),
        ],
        &["GET", "KEYS", "HGETALL", "PING", "MGET"],
    );
}

#[test]
fn a_stream_that_is_none_is_looked_over() {
    for broken in ["*?\r\n;1\r\n", "$?\r\n+a\r\n", ".\r\n", ";0\r\n", "$?\r\n;x\r\n", "*?\r\n.x\r\n"] {
        let mut replay = Replay::new(Connection::new(ScopeId(1)));
        for _ in 0..2 {
            replay.ingress(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
            replay.egress(b"$-1\r\n");
        }
        replay.ingress(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
        replay.egress(broken.as_bytes());
        replay.close();
        let answered = replay.lines().iter().filter(|line| !line.contains("NoResponse")).count();
        assert_eq!((answered, replay.context.tally().gaps), (2, 1), "{broken:?}");
    }
}
