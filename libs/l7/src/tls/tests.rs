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
