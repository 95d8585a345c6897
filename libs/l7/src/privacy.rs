//! What leaves the guest: markers are planted in every position of a conversation that holds a value, in each protocol
//! that carries any, and no name may hold one.

use crate::{
    Connection, Direction, Protocol, ScopeId, Side, Transport,
    testing::{Replay, Step},
};
use Direction::{Egress as S, Ingress as C};

/// Values as users have them: words, passwords, names, tokens, numbers, and text that ends literals of one dialect only.
const MARKERS: [&str; 9] = [
    "swordfish",
    "hunter2",
    "Bob.Smithers",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijkl",
    "aB3xY9",
    "4111111111111111",
    "x FROM swordfish y",
    "bob:s3cret",
];

fn be32(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("short").to_be_bytes()
}

fn le32(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("short").to_le_bytes()
}

fn postgres(kind: u8, content: &str) -> Vec<u8> {
    [&[kind][..], &be32(content.len() + 4), content.as_bytes()].concat()
}

fn mysql(sequence: u8, content: &[u8]) -> Vec<u8> {
    [&le32(content.len())[..3], &[sequence], content].concat()
}

fn redis(words: &[&str]) -> Vec<u8> {
    let head = format!("*{}\r\n", words.len());
    words.iter().fold(head, |command, word| format!("{command}${}\r\n{word}\r\n", word.len())).into_bytes()
}

fn http(marker: &str) -> Vec<Step> {
    let value = marker.replace(' ', "%20");
    let mut steps = Vec::new();
    for target in [
        format!("/search?q={value}&password={value}"),
        format!("/password/{value}"),
        format!("/reset/{value}"),
        format!("/login/{value}?next=/{value}"),
        format!("/users/{value}/orders"),
        format!("/api/token/{value}#{value}"),
    ] {
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nCookie: id={value}\r\nAuthorization: Bearer {value}\r\n\
             X-{marker}: {value}\r\nContent-Length: {}\r\n\r\n{marker}",
            marker.len()
        );
        let response = format!(
            "HTTP/1.1 200 {marker}\r\nSet-Cookie: {value}\r\nContent-Length: {}\r\n\r\n{marker}",
            marker.len()
        );
        steps.extend([(C, request.into_bytes()), (S, response.into_bytes())]);
    }
    steps
}

fn statements(marker: &str, mysql: bool) -> Vec<String> {
    let mut statements = vec![
        format!("SELECT '{marker}' FROM t"),
        format!("SELECT * FROM t WHERE a = '{marker}' AND b IN ('{marker}')"),
        format!("INSERT INTO t VALUES ('{marker}', '{marker}')"),
        format!("/* {marker} */ UPDATE t SET a = '{marker}' -- {marker}\n"),
        format!("CALL f('{marker}')"),
        format!("SET PASSWORD = '{marker}'"),
        format!("SELECT * FROM f('{marker}') g"),
    ];
    if mysql {
        statements.extend([
            format!(r#"SELECT "\"", "{marker}" FROM t"#),
            format!(r"SELECT '\'', '{marker}' FROM t"),
            format!("SELECT * FROM \"{marker}\""),
            format!("INSERT INTO \"{marker}\" VALUES (1) # {marker}\n"),
            format!("SELECT _utf8\"{marker}\" FROM t"),
        ]);
    } else {
        statements.extend([
            format!(r"SELECT '\', '{marker}' FROM t"),
            format!(r"SELECT E'\'', E'{marker}' FROM t"),
            format!("SELECT $q1${marker}$q1$ FROM t"),
            format!("SELECT /* /* */ {marker} */ 1 FROM t"),
            format!("SELECT U&'{marker}' FROM t"),
        ]);
    }
    statements
}

fn conversations(marker: &str) -> Vec<(Protocol, Vec<Step>)> {
    let sql = |protocol, make: &dyn Fn(&str) -> Vec<Step>| {
        let steps =
            statements(marker, protocol == Protocol::Mysql).iter().flat_map(|text| make(text)).collect();
        (protocol, steps)
    };
    let mut memcached: Vec<Step> = Vec::new();
    let set = format!("set {} 0 0 {}\r\n{marker}\r\n", marker.replace(' ', "_"), marker.len());
    memcached.push((C, set.into_bytes()));
    memcached.push((S, b"STORED\r\n".to_vec()));
    memcached.push((C, format!("get {}\r\n", marker.replace([' ', ':'], "_")).into_bytes()));
    let value = format!("VALUE k 0 {}\r\n{marker}\r\nEND\r\n", marker.len());
    memcached.push((S, value.into_bytes()));
    let nats: Vec<Step> = vec![
        (S, b"INFO {\"server_id\":\"x\"}\r\n".to_vec()),
        (C, format!("CONNECT {{\"verbose\":false,\"pass\":\"{marker}\"}}\r\n").into_bytes()),
        (C, format!("PUB orders.created {}\r\n{marker}\r\n", marker.len()).into_bytes()),
        (C, format!("PUB orders.a _INBOX.x {}\r\n{marker}\r\n", marker.len()).into_bytes()),
        (S, format!("MSG _INBOX.x 1 {}\r\n{marker}\r\n", marker.len()).into_bytes()),
    ];
    let failure = format!("-ERR unknown command '{marker}'\r\n");
    let bulk = format!("${}\r\n{marker}\r\n", marker.len());
    let redis: Vec<Step> = vec![
        (C, redis(&["AUTH", "default", marker])),
        (S, b"+OK\r\n".to_vec()),
        (C, redis(&["SET", marker, marker])),
        (S, b"+OK\r\n".to_vec()),
        (C, redis(&["GET", marker])),
        (S, bulk.into_bytes()),
        (C, format!("{marker}\r\n").into_bytes()),
        (S, failure.into_bytes()),
    ];
    vec![
        (Protocol::Http1, http(marker)),
        (Protocol::Redis, redis),
        (Protocol::Memcached, memcached),
        (Protocol::Nats, nats),
        sql(Protocol::Postgresql, &|text| {
            let done = [postgres(b'C', "SELECT 1\0"), postgres(b'Z', "I")].concat();
            let failed = format!("SERROR\0C42601\0Mnear {marker}\0\0");
            let failed = [postgres(b'E', &failed), postgres(b'Z', "I")].concat();
            let query = postgres(b'Q', &format!("{text}\0"));
            vec![(C, query.clone()), (S, done), (C, query), (S, failed)]
        }),
        sql(Protocol::Mysql, &|text| {
            let query = mysql(0, format!("\x03{text}").as_bytes());
            let failed = mysql(1, &[b"\xff\x28\x04#42000near ", marker.as_bytes()].concat());
            vec![(C, query.clone()), (S, mysql(1, b"\0\0\0\x02\0\0\0")), (C, query), (S, failed)]
        }),
    ]
}

#[test]
fn no_value_becomes_a_name() {
    for marker in MARKERS {
        for (protocol, steps) in conversations(marker) {
            let mut replay = Replay::new(
                Connection::known(ScopeId(1), Transport::Stream, protocol, Side::Server)
                    .expect("in the table"),
            );
            for (direction, bytes) in &steps {
                replay.part(*direction, bytes, bytes.len() as u64);
            }
            replay.close();
            assert!(!replay.exchanges.is_empty(), "{protocol:?}");
            for name in replay.context.names() {
                let holds = MARKERS.iter().any(|marker| {
                    marker
                        .split([' ', ':'])
                        .filter(|word| word.len() > 4)
                        .any(|word| name.to_ascii_lowercase().contains(&word.to_ascii_lowercase()))
                });
                assert!(!holds, "{protocol:?}: {name:?} of {marker:?}");
            }
        }
    }
}
