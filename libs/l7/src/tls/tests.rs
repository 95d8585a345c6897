//! TLS handshakes and the exchanges they must give.

use crate::{Connection, ErrorClass, Protocol, Side, Status, Verdict, testing::Replay};

/// A `ClientHello` for this server name.
fn client_hello(name: &str) -> Vec<u8> {
    let number = |n: usize| u16::try_from(n).expect("short").to_be_bytes();
    let mut extensions = vec![0, 23, 0, 0];
    extensions.extend([0, 0]);
    extensions.extend(number(name.len() + 5));
    extensions.extend(number(name.len() + 3));
    extensions.push(0);
    extensions.extend(number(name.len()));
    extensions.extend(name.as_bytes());
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    body.extend(number(extensions.len()));
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(number(body.len()));
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(number(message.len()));
    record.extend(message);
    record
}

/// The same message in records of this length.
fn in_records(hello: &[u8], length: usize) -> Vec<u8> {
    let record = |piece: &[u8]| {
        let length = u16::try_from(piece.len()).expect("short").to_be_bytes();
        [&[22, 3, 1], &length[..], piece].concat()
    };
    hello[5..].chunks(length).flat_map(record).collect()
}

fn server_hello() -> Vec<u8> {
    let mut record = vec![22, 3, 3, 0, 44, 2, 0, 0, 40, 3, 3];
    record.extend([9; 38]);
    record
}

#[test]
fn a_handshake_is_one_exchange_with_the_server_name() {
    for cut in 1..client_hello("www.example.com").len() {
        let mut replay = Replay::new(Connection::new(crate::ScopeId(1)));
        let hello = client_hello("www.example.com");
        replay.egress(&hello[..cut]);
        replay.egress(&hello[cut..]);
        replay.ingress(&server_hello());
        replay.egress(b"\x17\x03\x03\x00\x05GET /");
        assert_eq!(replay.connection.verdict(), Verdict::Ignored);
        replay.close();
        let [exchange] = replay.exchanges[..] else { panic!("{:?}", replay.exchanges) };
        assert_eq!((exchange.protocol, exchange.side), (Protocol::Tls, Side::Client));
        assert_eq!(replay.context.name(exchange.resource), "example.com");
        assert_eq!(exchange.error, ErrorClass::None);
    }
}

#[test]
fn the_server_name_is_found_across_records() {
    let name = format!("{}.example.com", "w".repeat(60));
    let hello = client_hello(&name);
    for length in 40..hello.len() {
        let mut replay = Replay::new(Connection::new(crate::ScopeId(1)));
        replay.egress(&in_records(&hello, length));
        replay.ingress(&server_hello());
        let [exchange] = replay.exchanges[..] else { panic!("{length}: {:?}", replay.exchanges) };
        assert_eq!(replay.context.name(exchange.resource), "example.com", "records of {length}");
    }
}

#[test]
fn the_server_name_is_found_behind_long_extensions() {
    let hello = client_hello("www.example.com");
    let extensions_at = 5 + 4 + 2 + 32 + 1 + 4 + 2;
    let (head, rest) = hello.split_at(extensions_at + 2);
    // A key of X25519MLKEM768, a ticket and padding before the name.
    let long = [&[0, 51, 4, 196], &[3; 1220][..], &[0, 35, 4, 0], &[5; 1024][..]].concat();
    let mut hello = [head, &long, rest].concat();
    let mut grow = |at: usize| {
        let length =
            u16::from_be_bytes([hello[at], hello[at + 1]]) + u16::try_from(long.len()).expect("short");
        hello[at..at + 2].copy_from_slice(&length.to_be_bytes());
    };
    for at in [3, 7, extensions_at] {
        grow(at);
    }
    let mut replay = Replay::new(Connection::new(crate::ScopeId(1)));
    replay.egress(&hello);
    replay.ingress(&server_hello());
    let [exchange] = replay.exchanges[..] else { panic!("{:?}", replay.exchanges) };
    assert_eq!(replay.context.name(exchange.resource), "example.com");
}

#[test]
fn an_alert_is_a_failure() {
    let mut replay = Replay::new(Connection::new(crate::ScopeId(1)));
    replay.ingress(&client_hello("a.b"));
    replay.egress(&[21, 3, 3, 0, 2]);
    replay.egress(&[2, 40]);
    let [exchange] = replay.exchanges[..] else { panic!("{:?}", replay.exchanges) };
    assert_eq!((exchange.status, exchange.error), (Status::Code(40), ErrorClass::Server));
    assert_eq!(exchange.side, Side::Server);
}

#[test]
fn a_connection_joined_after_the_hello_is_ignored_without_an_exchange() {
    let mut replay = Replay::new(Connection::new(crate::ScopeId(1)));
    replay.egress(&server_hello());
    assert_eq!(replay.connection.verdict(), Verdict::Ignored);
    replay.close();
    assert!(replay.exchanges.is_empty());
}

/// What is sent in the clear before TLS begins: alternating, the client first unless the server greets.
const PLAIN: [(&str, bool, &[&[u8]]); 7] = [
    (
        "SOCKS5 (RFC 1928)",
        false,
        &[b"\x05\x01\0", b"\x05\0", b"\x05\x01\0\x03\x07a.b.com\x01\xbb", b"\x05\0\0\x01\0\0\0\0\0\0"],
    ),
    (
        "SOCKS5 with a password (RFC 1929)",
        false,
        &[
            b"\x05\x02\0\x02",
            b"\x05\x02",
            b"\x01\x03bob\x06s3cret",
            b"\x01\0",
            b"\x05\x01\0\x01\x0a\0\0\x01\x01\xbb",
            b"\x05\0\0\x01\0\0\0\0\0\0",
        ],
    ),
    ("HTTP CONNECT", false, &[b"CONNECT a.b:443 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]),
    (
        "LDAP StartTLS (RFC 4511)",
        false,
        &[
            b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037",
            b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00",
        ],
    ),
    (
        "SMTP STARTTLS (RFC 3207)",
        true,
        &[
            b"220 mail.example ESMTP\r\n",
            b"EHLO a.example\r\n",
            b"250-mail.example\r\n250 STARTTLS\r\n",
            b"STARTTLS\r\n",
            b"220 go ahead\r\n",
        ],
    ),
    (
        "IMAP STARTTLS (RFC 9051)",
        true,
        &[
            b"* OK IMAP4rev2 ready\r\n",
            b"a1 CAPABILITY\r\n",
            b"* CAPABILITY IMAP4rev2 STARTTLS\r\na1 OK done\r\n",
            b"a2 STARTTLS\r\n",
            b"a2 OK begin\r\n",
        ],
    ),
    (
        "POP3 STLS (RFC 2595)",
        true,
        &[b"+OK POP3 ready\r\n", b"CAPA\r\n", b"+OK\r\nSTLS\r\n.\r\n", b"STLS\r\n", b"+OK begin\r\n"],
    ),
];

#[test]
fn tls_is_counted_behind_protocols_that_lead_to_it() {
    let postgresql: [&[u8]; 2] = [b"\0\0\0\x08\x04\xd2\x16\x2f", b"S"];
    let cases = PLAIN.into_iter().chain([("PostgreSQL SSLRequest", false, &postgresql[..])]);
    for (name, greets, plain) in cases {
        for served in [false, true] {
            let mut replay = Replay::new(Connection::new(crate::ScopeId(1)));
            for (at, bytes) in plain.iter().enumerate() {
                let by_server = at.is_multiple_of(2) == greets;
                if by_server == served { replay.egress(bytes) } else { replay.ingress(bytes) }
            }
            let (hello, answer) = (client_hello("www.example.com"), server_hello());
            if served {
                replay.ingress(&hello);
                replay.egress(&answer);
            } else {
                replay.egress(&hello);
                replay.ingress(&answer);
            }
            replay.close();
            let tls: Vec<_> =
                replay.exchanges.iter().filter(|exchange| exchange.protocol == Protocol::Tls).collect();
            assert_eq!(tls.len(), 1, "{name}, {served}: {:?}", replay.lines());
            assert_eq!(tls[0].side, if served { Side::Server } else { Side::Client }, "{name}");
            let others = usize::from(name == "HTTP CONNECT");
            assert_eq!(replay.exchanges.len(), 1 + others, "{name}: {:?}", replay.lines());
        }
    }
}
