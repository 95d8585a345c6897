//! Protocols that look like one of the table: their conversations give no exchange, wherever a connection is joined.

use crate::{
    Connection, Direction, ScopeId,
    testing::{Replay, Step},
};
use Direction::{Egress as S, Ingress as C};

/// A conversation by name.
type Conversation = (&'static str, &'static [(Direction, &'static [u8])]);

const STREAMS: &[Conversation] = &[
    (
        "POP3 (RFC 1939, RFC 5034)",
        &[
            (S, b"+OK POP3 ready\r\n"),
            (C, b"AUTH PLAIN\r\n"),
            (S, b"+ \r\n"),
            (C, b"AGJvYgBzM2NyZXQ=\r\n"),
            (S, b"+OK\r\n"),
            (C, b"STAT\r\n"),
            (S, b"+OK 2 320\r\n"),
            (C, b"TYPE x\r\n"),
            (S, b"-ERR unknown\r\n"),
            (C, b"AUTH x\r\n"),
            (S, b"+OK\r\n"),
            (C, b"QUIT\r\n"),
            (S, b"+OK\r\n"),
        ],
    ),
    (
        "IMAP (RFC 9051)",
        &[
            (S, b"* OK IMAP4rev2 ready\r\n"),
            (C, b"a1 LOGIN bob s3cret\r\n"),
            (S, b"a1 OK done\r\n"),
            (C, b"a2 SELECT inbox\r\n"),
            (S, b"* 3 EXISTS\r\na2 OK [READ-WRITE] done\r\n"),
            (C, b"a3 COPY 1 x\r\n"),
            (S, b"a3 OK done\r\n"),
        ],
    ),
    (
        "SMTP (RFC 5321)",
        &[
            (S, b"220 mail.example ESMTP\r\n"),
            (C, b"EHLO a.example\r\n"),
            (S, b"250-mail.example\r\n250 HELP\r\n"),
            (C, b"HELP\r\n"),
            (S, b"214 no\r\n"),
            (C, b"QUIT\r\n"),
            (S, b"221 bye\r\n"),
        ],
    ),
    (
        "FTP (RFC 959)",
        &[
            (S, b"220 ready\r\n"),
            (C, b"USER bob\r\n"),
            (S, b"331 password\r\n"),
            (C, b"TYPE I\r\n"),
            (S, b"200 ok\r\n"),
            (C, b"QUIT\r\n"),
            (S, b"221 bye\r\n"),
        ],
    ),
    (
        "Beanstalkd (protocol.txt)",
        &[
            (C, b"put 0 0 60 5\r\nhello\r\n"),
            (S, b"INSERTED 1\r\n"),
            (C, b"reserve\r\n"),
            (S, b"RESERVED 1 5\r\nhello\r\n"),
            (C, b"touch 1\r\n"),
            (S, b"TOUCHED\r\n"),
            (C, b"delete 1\r\n"),
            (S, b"DELETED\r\n"),
            (C, b"delete 7\r\n"),
            (S, b"NOT_FOUND\r\n"),
            (C, b"stats\r\n"),
            (S, b"OK 10\r\n---\nx: 1\n\r\n"),
        ],
    ),
    (
        "MQTT",
        &[
            (C, b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04abcd"),
            (S, b"\x20\x02\x00\x00"),
            (C, b"\x30\x07\x00\x03a/bhi"),
            (C, b"\xc0\x00"),
            (S, b"\xd0\x00"),
        ],
    ),
    (
        "STOMP",
        &[
            (C, b"CONNECT\naccept-version:1.2\nhost:x\n\n\0"),
            (S, b"CONNECTED\nversion:1.2\n\n\0"),
            (C, b"SEND\ndestination:/queue/a\n\nhello\0"),
            (C, b"SUBSCRIBE\nid:0\ndestination:/queue/a\n\n\0"),
        ],
    ),
    (
        "ZooKeeper",
        &[
            (
                C,
                &[
                    0, 0, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x75, 0x30, 0, 0, 0, 0, 0, 0, 0,
                    0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                ],
            ),
            (
                S,
                &[
                    0, 0, 0, 37, 0, 0, 0, 0, 0, 0, 0x75, 0x30, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 16, 1, 2, 3,
                    4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0,
                ],
            ),
            (C, &[0, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1, b'/', 0]),
        ],
    ),
    (
        "Cassandra",
        &[
            (C, b"\x04\x00\x00\x00\x05\x00\x00\x00\x00"),
            (S, b"\x84\x00\x00\x00\x06\x00\x00\x00\x02\x00\x00"),
            (C, b"\x04\x00\x00\x01\x07\x00\x00\x00\x13\x00\x00\x00\x0cSELECT a b c\x00\x01\x00"),
            (S, b"\x84\x00\x00\x01\x08\x00\x00\x00\x04\x00\x00\x00\x01"),
        ],
    ),
    (
        "Thrift",
        &[
            (C, b"\x00\x00\x00\x15\x80\x01\x00\x01\x00\x00\x00\x04ping\x00\x00\x00\x01\x00"),
            (S, b"\x00\x00\x00\x15\x80\x01\x00\x02\x00\x00\x00\x04ping\x00\x00\x00\x01\x00"),
        ],
    ),
    (
        "SIP (RFC 3261)",
        &[
            (C, b"REGISTER sip:a.example SIP/2.0\r\nCSeq: 1 REGISTER\r\nContent-Length: 0\r\n\r\n"),
            (S, b"SIP/2.0 200 OK\r\nCSeq: 1 REGISTER\r\nContent-Length: 0\r\n\r\n"),
        ],
    ),
    (
        "RTSP (RFC 7826)",
        &[
            (C, b"OPTIONS rtsp://a.example/x RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
            (S, b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"),
            (C, b"DESCRIBE rtsp://a.example/x RTSP/2.0\r\nCSeq: 2\r\n\r\n"),
            (S, b"RTSP/2.0 200 OK\r\nCSeq: 2\r\n\r\n"),
        ],
    ),
    (
        "LDAP (RFC 4511)",
        &[
            (C, b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00"),
            (S, b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00"),
        ],
    ),
    ("SSH (RFC 4253)", &[(S, b"SSH-2.0-OpenSSH_9.7\r\n"), (C, b"SSH-2.0-OpenSSH_9.7\r\n")]),
    (
        "IRC (RFC 2812)",
        &[
            (C, b"NICK bob\r\nUSER bob 0 * :Bob\r\n"),
            (S, b":a.example 001 bob :Welcome\r\n"),
            (S, b"PING :a.example\r\n"),
            (C, b"PONG :a.example\r\n"),
            (C, b"INFO\r\n"),
            (S, b":a.example 371 bob :x\r\n"),
        ],
    ),
    ("finger (RFC 1288)", &[(C, b"bob\r\n"), (S, b"Login: bob\r\n")]),
];

#[test]
fn lookalike_protocols_give_no_exchange() {
    for (name, conversation) in STREAMS {
        let steps: Vec<Step> = conversation.iter().map(|(way, bytes)| (*way, bytes.to_vec())).collect();
        for joined in 0..steps.len() {
            for reversed in [false, true] {
                let mut replay = Replay::new(Connection::new(ScopeId(1)));
                for (direction, bytes) in &steps[joined..] {
                    let direction = if reversed { direction.reverse() } else { *direction };
                    replay.part(direction, bytes, bytes.len() as u64);
                }
                replay.close();
                let lines: Vec<String> = replay.lines();
                assert!(lines.is_empty(), "{name} joined at {joined}: {lines:?}");
            }
        }
    }
}
