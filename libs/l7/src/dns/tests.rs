//! Conversations as resolvers and servers have them, whole, cut and mutated, and bytes that are none.

mod peers;

use crate::{
    Connection, Direction, Limits, Protocol, ScopeId, Transport, Verdict, captured,
    parser::{Detection, Prefix, Sender},
    testing::{Random, Replay, Step, assert_no_harm, assert_same_at_every_cut, first_bytes, play},
};

const C: Direction = Direction::Egress;
const S: Direction = Direction::Ingress;

fn socket() -> Connection {
    Connection::datagram(ScopeId(0))
}

fn stream() -> Connection {
    Connection::new(ScopeId(0))
}

/// A message: id, flags, question, counts of records, records.
fn message(id: u16, flags: u16, name: &str, kind: u16, counts: [u16; 3], records: &[u8]) -> Vec<u8> {
    let mut bytes = [id, flags, 1, counts[0], counts[1], counts[2]].map(u16::to_be_bytes).concat();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("short"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend([kind, 1].map(u16::to_be_bytes).concat());
    bytes.extend(records);
    bytes
}

/// Client's OPT record: root, type 41, size 1232.
const OPT: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
/// The same with the upper bits of BADVERS.
const BADVERS: &[u8] = &[0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0];
/// An address of the question's name.
const ADDRESS: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1];

fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    message(id, 0x0100, name, kind, [0; 3], &[])
}

fn answer(id: u16, name: &str, kind: u16) -> Vec<u8> {
    message(id, 0x8180, name, kind, [1, 0, 0], ADDRESS)
}

fn nothing(id: u16, name: &str, kind: u16, rcode: u16) -> Vec<u8> {
    message(id, 0x8180 | rcode, name, kind, [0; 3], &[])
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    messages
        .iter()
        .flat_map(|message| {
            let length = u16::try_from(message.len()).expect("short").to_be_bytes();
            [length.as_slice(), message].concat()
        })
        .collect()
}

#[test]
fn a_search_list_and_parallel_types_are_exchanges_of_their_own() {
    let steps: Vec<Step> = vec![
        (C, query(1, "db.prod.svc.cluster.local", 1)),
        (C, query(2, "db.prod.svc.cluster.local", 28)),
        (S, nothing(2, "db.prod.svc.cluster.local", 28, 3)),
        (S, nothing(1, "db.prod.svc.cluster.local", 1, 3)),
        (C, query(1, "db.prod", 1)),
        (S, answer(1, "db.prod", 1)),
        (C, query(9, "www.Example.co.uk", 65)),
        (S, nothing(9, "wWw.eXample.co.uk", 65, 2)),
    ];
    let expected = [
        "Client AAAA db.prod.svc.cluster.local NXDOMAIN Client 43/43",
        "Client A db.prod.svc.cluster.local NXDOMAIN Client 43/43",
        "Client A db.prod NOERROR None 25/41",
        "Client HTTPS example.co.uk SERVFAIL Server 35/35",
    ];
    assert_eq!(play(socket(), &steps), expected);
}

#[test]
fn addresses_that_a_client_looked_up_have_the_name_of_its_question() {
    // An alias, two addresses behind it, and a record that ends beyond the message.
    let alias = [&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4], &[1, b'x', 0xc0, 12][..]].concat();
    let six = [&[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16], &[0xfd; 16][..]].concat();
    let records = [&alias[..], ADDRESS, &six, &ADDRESS[..8]].concat();
    let four: std::net::IpAddr = [10, 0, 0, 1].into();
    let six: std::net::IpAddr = [0xfd; 16].into();
    let looked_up = |bytes: &[Step], scope, address| {
        let mut replay = Replay::new(socket());
        for (direction, bytes) in bytes {
            replay.datagram(None, *direction, bytes, bytes.len() as u64);
        }
        replay.context.looked_up(ScopeId(scope), address).map(str::to_owned)
    };
    let response = message(1, 0x8180, "api.Example.com", 1, [4, 0, 0], &records);
    let steps = vec![(C, query(1, "api.Example.com", 1)), (S, response)];
    for address in [four, six] {
        assert_eq!(looked_up(&steps, 0, address).as_deref(), Some("example.com"));
        assert_eq!(looked_up(&steps, 1, address), None, "another application's");
    }
    for (steps, why) in [
        (vec![(S, query(1, "example.com", 1)), (C, answer(1, "example.com", 1))], "a server's answer"),
        (vec![(C, query(1, "example.com", 15)), (S, answer(1, "example.com", 15))], "another type"),
        (vec![(S, answer(1, "example.com", 1))], "no question"),
        (
            vec![
                (C, query(1, "example.com", 1)),
                (S, message(1, 0x8183, "example.com", 1, [1, 0, 0], ADDRESS)),
            ],
            "a failure",
        ),
        (vec![(C, query(1, "a b.example", 1)), (S, answer(1, "a b.example", 1))], "no name of a host"),
    ] {
        assert_eq!(looked_up(&steps, 0, four), None, "{why}");
    }
}

#[test]
fn clients_of_one_server_may_choose_the_same_id() {
    let steps: Vec<Step> = vec![
        (S, query(7, "a.example", 1)),
        (S, query(7, "b.example", 1)),
        (C, nothing(7, "b.example", 1, 5)),
        (C, answer(7, "a.example", 1)),
    ];
    assert_eq!(
        play(socket(), &steps),
        ["Server A b.example REFUSED Server 27/27", "Server A a.example NOERROR None 27/43"]
    );
}

#[test]
fn edns_and_truncation_and_answers_without_a_question() {
    let with_opt = message(3, 0x0120, "example.com", 16, [0, 0, 1], OPT);
    let steps: Vec<Step> = vec![
        (C, with_opt.clone()),
        // Truncated: TC, no records.
        (S, message(3, 0x8380, "example.com", 16, [0, 0, 1], OPT)),
        (C, with_opt.clone()),
        (S, message(3, 0x8180, "example.com", 16, [0, 0, 1], BADVERS)),
        (C, with_opt),
        // Only a header: FORMERR.
        (S, vec![0, 3, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]),
        (C, message(4, 0x0100, "", 2, [0; 3], &[])),
        (S, message(4, 0x8180, "", 2, [0; 3], &[])),
    ];
    assert_eq!(
        play(socket(), &steps),
        [
            "Client TXT example.com NOERROR None 40/40",
            "Client TXT example.com BADVERS Server 40/40",
            "Client TXT example.com FORMERR Client 40/12",
            "Client NS . NOERROR None 17/17",
        ]
    );
}

fn tcp() -> (Vec<Step>, [String; 4]) {
    let transfer = message(4, 0x8400, "example.com", 252, [1, 0, 0], ADDRESS);
    let steps: Vec<Step> = vec![
        (C, framed(&[query(1, "a.example", 1), query(2, "a.example", 28)])),
        (S, framed(&[nothing(2, "a.example", 28, 0)])),
        (S, framed(&[answer(1, "a.example", 1)])),
        (C, framed(&[query(4, "example.com", 252)])),
        // The transfer's second message repeats no question.
        (S, framed(&[transfer, [&[0, 4, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0], ADDRESS].concat()])),
        (C, framed(&[query(5, "a.example", 15)])),
    ];
    let expected = [
        "Client AAAA a.example NOERROR None 29/29",
        "Client A a.example NOERROR None 29/45",
        "Client AXFR example.com NOERROR None 31/47",
        "Client MX a.example - NoResponse 29/0",
    ]
    .map(String::from);
    (steps, expected)
}

#[test]
fn streams_are_followed_wherever_they_are_cut() {
    let (steps, expected) = tcp();
    assert_eq!(play(stream(), &steps), expected);
    assert_same_at_every_cut(stream, &steps, &expected);
}

#[test]
fn a_long_answer_may_be_captured_in_part() {
    let whole = framed(&[message(1, 0x8180, "a.example", 16, [40, 0, 0], &[ADDRESS; 40].concat())]);
    let mut replay = Replay::new(stream());
    replay.egress(&framed(&[query(1, "a.example", 16)]));
    replay.part(S, &whole[..100], whole.len() as u64);
    replay.egress(&framed(&[query(2, "a.example", 1)]));
    replay.ingress(&framed(&[answer(2, "a.example", 1)]));
    replay.close();
    assert_eq!(
        replay.lines(),
        ["Client TXT a.example NOERROR None 29/669", "Client A a.example NOERROR None 29/45"]
    );
    let mut replay = Replay::new(socket());
    replay.egress(&query(1, "a.example", 16));
    replay.part(S, &whole[2..64], whole.len() as u64 - 2);
    replay.close();
    assert_eq!(replay.lines(), ["Client TXT a.example NOERROR None 27/667"]);
}

#[test]
fn after_a_loss_nothing_is_paired_that_is_not_sure() {
    let mut replay = Replay::new(stream());
    replay.egress(&framed(&[query(1, "a.example", 1), query(2, "b.example", 1)]));
    replay.ingress(&framed(&[answer(1, "a.example", 1)]));
    replay.lose(S, 45);
    replay.ingress(b"rest of something that is no message");
    replay.egress(&framed(&[query(3, "c.example", 1)]));
    replay.ingress(&framed(&[answer(3, "c.example", 1)]));
    replay.close();
    assert_eq!(
        replay.lines(),
        ["Client A a.example NOERROR None 29/45", "Client A c.example NOERROR None 29/45"]
    );
    let tally = replay.context.tally();
    assert_eq!((tally.gaps, tally.unparsed), (1, 1));
}

#[test]
fn queries_that_carry_records_are_queries() {
    /// A record of the question's name, of this type and class, with 4 bytes.
    fn record(kind: u16, class: u16) -> Vec<u8> {
        [&[0xc0, 12][..], &kind.to_be_bytes(), &class.to_be_bytes(), &[0, 0, 0, 0, 0, 4, 1, 2, 3, 4]].concat()
    }
    // The client's part of a key, as Windows sends it before a signed update, and its version of a zone.
    let key = message(1, 0, "868-ms-7.1-532e$980336e0", 249, [0, 0, 1], &record(249, 255));
    let signed = [record(249, 255), OPT.to_vec(), record(250, 255)].concat();
    let signed_key = message(2, 0, "868-ms-7.1-532e$980336e0", 249, [0, 0, 3], &signed);
    let zone = message(3, 0, "a.example", 251, [0, 1, 0], &record(6, 1));
    for (query, line) in [(key, "TKEY"), (signed_key, "TKEY"), (zone, "IXFR")] {
        let mut answer = query.clone();
        answer[2] = 0x80;
        let mut replay = Replay::new(stream());
        replay.egress(&framed(std::slice::from_ref(&query)));
        replay.ingress(&framed(&[answer]));
        replay.close();
        let lines = replay.lines();
        assert!(lines.len() == 1 && lines[0].starts_with(&format!("Client {line} ")), "{lines:?}");
    }
    // Others carry none.
    for kind in [1, 6, 252] {
        let other = message(4, 0, "a.example", kind, [0, 1, 0], &record(6, 1));
        assert_eq!(detect(Transport::Datagram, &other, other.len()), Detection::No);
        let other = message(5, 0, "a.example", kind, [0, 0, 1], &record(249, 255));
        assert_eq!(detect(Transport::Datagram, &other, other.len()), Detection::No);
    }
}

#[test]
fn multicast_dns_and_netbios_names_are_set_aside() {
    let mut netbios = query(77, "EKEDFEEIEDCACACACACACACACACACAAA", 32);
    netbios[3] = 0x10;
    let mdns = message(0, 0, "printer._tcp.local", 12, [0; 3], &[]);
    let announcement = [&[0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0], ADDRESS].concat();
    let mut unicast = message(0, 0, "host.example", 1, [0; 3], &[]);
    let class = unicast.len() - 2;
    unicast[class] = 0x80;
    for bytes in [netbios, mdns, announcement, unicast] {
        let mut replay = Replay::new(socket());
        for _ in 0..3 {
            replay.egress(&bytes);
            replay.ingress(&bytes);
        }
        assert!(!matches!(replay.connection.verdict(), Verdict::Known(_)));
        replay.close();
        assert!(replay.exchanges.is_empty());
    }
    // An id of 0 is as good as any other.
    let steps: Vec<Step> = vec![(C, query(0, "a.example", 1)), (S, answer(0, "a.example", 1))];
    assert_eq!(play(socket(), &steps), ["Client A a.example NOERROR None 27/43"]);
}

#[test]
fn a_socket_that_sends_to_groups_alone_is_given_up() {
    let group = |replay: &mut Replay| {
        for address in ["239.255.255.250:1900", "[ff02::fb]:5353", "[::ffff:224.0.0.251]:5353"] {
            let bytes = query(7, "a.example", 1);
            replay.datagram(address.parse().ok(), Direction::Egress, &bytes, bytes.len() as u64);
        }
    };
    let mut replay = Replay::new(socket());
    group(&mut replay);
    assert_eq!(replay.connection.verdict(), Verdict::Detecting, "it may have other peers");
    (0..5).for_each(|_| group(&mut replay));
    assert_eq!(replay.connection.verdict(), Verdict::Ignored);
    replay.close();
    assert!(replay.exchanges.is_empty());
    // One that is known stays so.
    let mut replay = Replay::new(socket());
    replay.egress(&query(7, "a.example", 1));
    replay.ingress(&answer(7, "a.example", 1));
    (0..10).for_each(|_| group(&mut replay));
    assert_eq!(replay.connection.verdict(), Verdict::Known(Protocol::Dns));
}

#[test]
fn several_questions_are_one_exchange_by_the_first() {
    type Transported = (fn() -> Connection, fn(Vec<u8>) -> Vec<u8>);
    // The second name refers to the first one.
    let ask = |flags: u16, id: u16| {
        let mut bytes = message(id, flags, "a.example", 1, [0; 3], &[1, b'b', 0xc0, 14, 0, 28, 0, 1]);
        bytes[5] = 2;
        bytes
    };
    let alone = |message| message;
    let behind_its_length = |message| framed(&[message]);
    let transports: [Transported; 2] = [(socket, alone), (stream, behind_its_length)];
    for (connection, wrap) in transports {
        let refusal = [&[0, 8, 0x81, 0x81][..], &[0; 8]].concat();
        let steps: Vec<Step> = vec![
            (C, wrap(ask(0x0100, 7))),
            (S, wrap(ask(0x8180, 7))),
            (C, wrap(ask(0x0100, 8))),
            (S, wrap(refusal)),
            (C, wrap(query(9, "a.example", 1))),
            (S, wrap(nothing(9, "a.example", 1, 0))),
        ];
        let lines: Vec<String> = play(connection(), &steps);
        let rests: Vec<&str> =
            lines.iter().filter_map(|line| line.rsplit_once(' ')).map(|(rest, _)| rest).collect();
        let expected =
            ["NOERROR None", "FORMERR Client", "NOERROR None"].map(|end| format!("Client A a.example {end}"));
        assert_eq!(rests, expected);
    }
}

#[test]
fn names_of_services_have_blanks_and_letters_of_all_languages() {
    let name = "Drucker im B\u{fc}ro._ipp._tcp.a.example";
    let steps: Vec<Step> = vec![(C, query(1, name, 33)), (S, nothing(1, name, 33, 3))];
    let [line] = &play(socket(), &steps)[..] else { panic!("one exchange") };
    assert!(line.starts_with("Client SRV ") && line.contains(" NXDOMAIN "), "{line}");
}

fn detect(transport: Transport, bytes: &[u8], total: usize) -> Detection {
    super::detect(&Prefix { total: total as u64, ..first_bytes(transport, bytes, &[]) })
}

#[test]
fn both_ends_are_recognised_from_their_messages_alone() {
    let asks = query(300, "a.example", 1);
    let answers = answer(300, "a.example", 1);
    for (bytes, sender) in [(asks, Sender::Client), (answers, Sender::Server)] {
        assert_eq!(detect(Transport::Datagram, &bytes, bytes.len()), Detection::Yes(sender));
        let framed = framed(std::slice::from_ref(&bytes));
        for cut in 0..framed.len() {
            let detection = detect(Transport::Stream, &framed[..cut], cut);
            // An answer is known by its first record's head.
            let known =
                sender == Sender::Server && detection == Detection::Yes(sender) && cut + 4 >= framed.len();
            assert!(known || detection == Detection::More, "{sender:?} cut at {cut}");
        }
        assert_eq!(detect(Transport::Stream, &framed, framed.len()), Detection::Yes(sender));
        // A byte more or less is another protocol's.
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(detect(Transport::Datagram, &longer, longer.len()), Detection::No);
        let shorter = &bytes[..bytes.len() - 1];
        assert_eq!(detect(Transport::Datagram, shorter, shorter.len()), Detection::No);
    }
    // Servers are followed when their answers are seen first.
    let mut replay = Replay::new(socket());
    replay.egress(&answer(1, "a.example", 1));
    replay.ingress(&query(2, "a.example", 1));
    replay.egress(&answer(2, "a.example", 1));
    replay.close();
    assert_eq!(replay.lines(), ["Server A a.example NOERROR None 27/43"]);
}

#[test]
fn random_bytes_are_never_dns() {
    let mut random = Random(11);
    for round in 0..300_000_u32 {
        let length = 1 + random.below(64);
        let mut bytes = random.bytes(length);
        // Half of them with a length that fits, and one question.
        if round % 2 == 0 && length > 14 {
            bytes[0] = 0;
            bytes[1] = u8::try_from(length - 2).expect("small");
        }
        assert_ne!(detect(Transport::Datagram, &bytes, length), Detection::Yes(Sender::Client));
        assert_ne!(detect(Transport::Datagram, &bytes, length), Detection::Yes(Sender::Server));
        assert!(!matches!(detect(Transport::Stream, &bytes, length), Detection::Yes(_)));
    }
}

#[test]
fn names_and_waiting_questions_are_bounded() {
    let mut replay = Replay::new(socket());
    for number in 0..5_000_u16 {
        replay.egress(&query(number, &format!("host{number}.zone{number}.example"), 1));
    }
    replay.close();
    let limits = Limits::default();
    let tally = replay.context.tally();
    assert_eq!(replay.exchanges.len(), limits.pending_per_connection);
    assert_eq!(tally.unparsed, 5_000 - limits.pending_per_connection as u64);
    assert_eq!(tally.overflowed_names, 5_000 - limits.routes_per_scope as u64);
}

#[test]
fn mutations_and_losses_do_no_harm() {
    for transport in [Transport::Stream, Transport::Datagram] {
        assert_no_harm(Protocol::Dns, transport, &tcp().0);
    }
}

#[test]
fn what_dig_and_dnsmasq_say_is_understood() {
    let expected = [
        "A shop.example NOERROR None 53/57",
        "AAAA shop.example NOERROR None 53/69",
        "A mail.example NXDOMAIN Client 30/30",
        "A nowhere.example NXDOMAIN Client 56/44",
        "MX example NOERROR None 48/64",
        "SRV _tcp.example NOERROR None 59/95",
        "PTR {}.in-addr.arpa NOERROR None 62/76",
        // Truncated, then by TCP.
        "TXT big.example NOERROR None 52/472",
        "TXT big.example NOERROR None 54/4362",
        "A shop.example NOERROR None 55/59",
        // Two on one connection.
        "A shop.example NOERROR None 55/59",
        "AAAA nowhere.example NXDOMAIN Client 58/46",
        "HTTPS outside.test REFUSED Server 53/47",
        "TXT version.bind NOERROR None 53/66",
        "A shop.example NOERROR None 53/57",
        // A search list.
        "A prod.svc NXDOMAIN Client 52/40",
        "A db REFUSED Server 43/37",
    ];
    captured::assert_exchanges("dns-dnsmasq", &expected);
}

#[test]
fn what_the_c_library_asks_is_understood() {
    // `shop`, `mail.example` and `www.example.`, with the search list `prod.svc example`.
    let expected = [
        "2 A prod.svc NXDOMAIN Client",
        "2 AAAA prod.svc NXDOMAIN Client",
        "1 A shop.example NOERROR None",
        "1 AAAA shop.example NOERROR None",
        "1 A example.example NXDOMAIN Client",
        "1 AAAA example.example NXDOMAIN Client",
        "1 A mail.example NXDOMAIN Client",
        "1 AAAA mail.example NXDOMAIN Client",
        "1 A www.example NOERROR None",
        "1 AAAA www.example NOERROR None",
    ];
    captured::assert_counts("dns-libc", &expected);
}

#[test]
fn names_of_windows_networks_are_set_aside_and_new_types_are_not() {
    let mut status = query(9, "CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 33);
    status[2] = 0;
    let mut local = query(10, "printer", 1);
    local[2] = 0;
    for bytes in [status, local] {
        let mut replay = Replay::new(socket());
        replay.egress(&bytes);
        replay.close();
        assert!(replay.exchanges.is_empty());
    }
    let steps: Vec<Step> = vec![(C, query(7, "a.example", 261)), (S, answer(7, "a.example", 261))];
    let found = play(socket(), &steps);
    assert!(found[0].starts_with("Client TYPE261 a.example NOERROR None"), "{found:?}");
}
