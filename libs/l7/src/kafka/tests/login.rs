//! Logins whose tokens have no header (Apache Kafka: `SaslHandshake` of version 0, KIP-12 and KIP-152).

use super::*;

/// A handshake, and the server's consent.
fn handshake() -> Vec<Step> {
    let mechanisms = [&[0, 0, 0, 0, 0, 1][..], &string("PLAIN")].concat();
    vec![(C, request(17, 0, 1, &string("PLAIN"))), (S, response(1, &mechanisms))]
}

fn plain() -> Vec<Step> {
    vec![(C, framed(b"\0shop\0s3cret")), (S, framed(b""))]
}

/// Clients of before release 1.0, and those of Azure's Event Hubs, log in so.
#[test]
fn the_tokens_of_an_old_login_are_no_messages() {
    let mechanisms = [&[0, 0, 0, 0, 0, 1][..], &string("PLAIN")].concat();
    let plain = vec![(C, framed(b"\0shop\0s3cret")), (S, framed(b""))];
    let scram = vec![
        (C, framed(b"n,,n=shop,r=4x8zpe1bm9q1cd20v7o5uk")),
        (S, framed(b"r=4x8zpe1bm9q1cd20v7o5uk,s=c2FsdA==,i=4096")),
        (C, framed(b"c=biws,r=4x8zpe1bm9q1cd20v7o5uk,p=cHJvb2Y=")),
        (S, framed(b"v=dmVyaWZpZXI=")),
    ];
    // Tickets of Kerberos are larger than what is looked at of a request.
    let kerberos = vec![
        (C, framed(&[0x60; 3_000])),
        (S, framed(&[0x60; 150])),
        (C, framed(b"")),
        (S, framed(&[5, 4, 5, 0xff, 0, 12])),
        (C, framed(&[5, 4, 4, 0xff, 0, 12])),
        (S, framed(b"")),
    ];
    for tokens in [plain, scram, kerberos] {
        let before = vec![(C, request(17, 0, 1, &string("PLAIN"))), (S, response(1, &mechanisms))];
        let after = vec![
            (C, metadata(2, &["orders"])),
            (S, response(2, &[0; 8])),
            (C, produce(3, 1, "orders", 2000)),
            (S, produced(3, "orders", 0)),
        ];
        let steps = [before, tokens, after].concat();
        let found = play(connection(), &steps);
        assert_eq!(
            found,
            [
                "Client SaslHandshake  - None 24/21",
                "Client Metadata orders - None 29/16",
                "Client Produce orders - None 2047/50",
            ]
        );
        assert_same_at_every_cut(connection, &steps, &found);
    }
}

#[test]
fn a_login_that_is_refused_has_no_tokens() {
    let refused = [&[0, 33, 0, 0, 0, 1][..], &string("PLAIN")].concat();
    let steps = vec![
        (C, request(17, 0, 1, &string("GSSAPI"))),
        (S, response(1, &refused)),
        (C, metadata(2, &["orders"])),
        (S, response(2, &[0; 8])),
    ];
    let found = play(connection(), &steps);
    assert!(found[0].contains("SaslHandshake  UNSUPPORTED_SASL_MECHANISM"), "{found:?}");
    assert_eq!(found[1], "Client Metadata orders - None 29/16");
}

#[test]
fn a_loss_within_a_login_costs_what_was_lost() {
    let mut replay = Replay::new(connection());
    for (direction, bytes) in handshake() {
        replay.part(direction, &bytes, bytes.len() as u64);
    }
    // The token, and the head of a request: what follows reads like the length of a token.
    replay.lose(C, 60);
    replay.egress(b"\0\x0f\0\0the rest of a body");
    for correlation in 2..102 {
        replay.egress(&produce(correlation, 1, "orders", 500 + correlation as usize));
        replay.ingress(&produced(correlation, "orders", 0));
    }
    replay.close();
    assert_eq!(replay.lines().len(), 101, "{:?}", replay.lines());
    assert!(replay.lines()[1..].iter().all(|line| line.starts_with("Client Produce orders - None")));
}

#[test]
fn a_loss_of_the_servers_leaves_the_tokens_of_the_client() {
    let mut replay = Replay::new(connection());
    for (direction, bytes) in handshake() {
        replay.part(direction, &bytes, bytes.len() as u64);
    }
    replay.egress(&framed(b"n,,n=shop,r=4x8zpe1bm9q1cd20v7o5uk"));
    replay.lose(S, 46);
    replay.egress(&framed(b"c=biws,r=4x8zpe1bm9q1cd20v7o5uk,p=cHJvb2Y="));
    replay.ingress(&framed(b"v=dmVyaWZpZXI="));
    for correlation in 2..5 {
        replay.egress(&metadata(correlation, &["orders"]));
        replay.ingress(&response(correlation, &[0; 8]));
    }
    replay.close();
    assert_eq!(replay.lines()[1..], ["Client Metadata orders - None 29/16"; 3]);
    assert_eq!(replay.context.tally().unparsed, 0);
}

/// A request with a header of version 1 from a client of this name.
fn request_of(client: Option<&str>, key: u16, version: u16, correlation: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [key, version].map(u16::to_be_bytes).concat();
    bytes.extend(correlation.to_be_bytes());
    bytes.extend(client.map_or_else(|| vec![0xff, 0xff], string));
    bytes.extend(body);
    framed(&bytes)
}

/// Behind the tokens a request need not prove what it is as the first one of a connection does.
#[test]
fn whatever_a_client_requests_first_behind_its_tokens_is_counted() {
    let produce = &produce(0, 1, "orders", 100)[17..];
    let open = [0; 12];
    for client in [None, Some(""), Some("a"), Some("app")] {
        // Produce of a version that is known, and of one that is not; an API whose body is not looked at.
        for (key, version, body) in [(0, 2, produce), (4, 2, &open), (0, 8 + 60, &open), (29, 1, &open)] {
            let mut replay = Replay::new(connection());
            let first = request_of(client, 18, 0, 1, b"");
            let steps = [
                vec![(C, first), (S, response(1, &[0; 6]))],
                vec![(C, request_of(client, 17, 0, 2, &string("PLAIN")))],
                vec![(S, response(2, &handshake()[1].1[8..]))],
                plain(),
            ];
            for (direction, bytes) in steps.concat() {
                replay.part(direction, &bytes, bytes.len() as u64);
            }
            for correlation in [3, 5, 7, 9, 11] {
                // Another one is behind it.
                let both = [0, 1].map(|more| request_of(client, key, version, correlation + more, body));
                replay.egress(&both.concat());
                replay.ingress(&response(correlation, &[0; 30]));
                replay.ingress(&response(correlation + 1, &[0; 30]));
            }
            replay.close();
            let found = replay.lines();
            assert_eq!(found.len(), 12, "{client:?} {key} {version}: {found:?}");
            assert!(!found.iter().any(|line| line.contains("NoResponse")), "{found:?}");
            assert_eq!(replay.context.tally().unparsed, 0);
        }
    }
}
