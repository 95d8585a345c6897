//! What a loss may do, for the protocols that answer in order: conversations of many kinds with calls missing from
//! them. Each response names the request that it answers, so that a wrong pair shows.

use crate::{
    Connection, Direction, Protocol, ScopeId, Transport,
    testing::{Random, Replay},
};

/// Messages of a protocol, made for a number.
struct ProtocolFixture {
    protocol: Protocol,
    /// A request with a mark, and the response to it.
    exchange: fn(u32) -> (Vec<u8>, Vec<u8>),
    /// What its clients do.
    styles: &'static [Style],
}

const FIXTURES: &[ProtocolFixture] = &[
    ProtocolFixture {
        protocol: Protocol::Http1,
        exchange: |mark| {
            let body = "x".repeat(mark as usize % 7 * 20);
            let request = format!("GET /m{mark} HTTP/1.1\r\nHost: example\r\n\r\n");
            let length = body.len();
            let response = match mark % 3 {
                0 => format!("HTTP/1.1 {mark} X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
                _ => format!("HTTP/1.1 {mark} X\r\nContent-Length: {length}\r\n\r\n{body}"),
            };
            (request.into_bytes(), response.into_bytes())
        },
        styles: STYLES,
    },
    ProtocolFixture {
        protocol: Protocol::Redis,
        exchange: |mark| {
            let request = format!("*2\r\n$4\r\nM{mark}\r\n$5\r\nab\r\nc\r\n");
            (request.into_bytes(), format!("-E{mark} is the mark\r\n").into_bytes())
        },
        styles: STYLES,
    },
    ProtocolFixture {
        protocol: Protocol::Postgresql,
        exchange: |mark| {
            let message = |kind: u8, content: &str| {
                let length = u32::try_from(content.len()).expect("short") + 4;
                [&[kind][..], &length.to_be_bytes(), content.as_bytes()].concat()
            };
            let query = format!("SELECT * FROM t{mark}\0");
            let error = format!("SERROR\0C42{mark}\0Mthe mark\0\0");
            (message(b'Q', &query), [message(b'E', &error), message(b'Z', "I")].concat())
        },
        // Pipelined rounds are only followed from the login on.
        styles: &[Style::Single, Style::Sliding(2), Style::Sliding(16)],
    },
    ProtocolFixture {
        protocol: Protocol::Mysql,
        exchange: |mark| {
            let packet = |sequence: u8, content: &[u8]| {
                [&[u8::try_from(content.len()).expect("short"), 0, 0, sequence][..], content].concat()
            };
            let query = format!("\u{3}SELECT * FROM t{mark}");
            let code = u16::try_from(mark).expect("small").to_le_bytes();
            (packet(0, query.as_bytes()), packet(1, &[&[0xff][..], &code, b"#HY000the mark"].concat()))
        },
        styles: &[Style::Single],
    },
];

/// Marks of requests: few, as the names of commands are.
const MARKS: std::ops::Range<u32> = 310..330;

/// How the client sends requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// One request at a time.
    Single,
    /// So many at once, then nothing until all of them are answered.
    Rounds(usize),
    /// Up to so many at once, otherwise the same.
    RandomRounds(usize),
    /// Whenever less than so many are under way.
    Sliding(usize),
}

impl Style {
    fn takes_turns(self) -> bool {
        !matches!(self, Self::Sliding(_))
    }
}

/// A call that moved bytes, and the round in which it did.
#[derive(Clone, Debug)]
struct Call {
    direction: Direction,
    bytes: Vec<u8>,
    round: usize,
}

/// A conversation as the one end's calls, and the number of requests of each round.
struct Conversation {
    calls: Vec<Call>,
    rounds: Vec<usize>,
}

/// Cuts a message into calls, mostly one.
fn cut(random: &mut Random, whole: bool, bytes: &[u8], mut give: impl FnMut(&[u8])) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece = if whole || random.below(3) > 0 { rest.len() } else { 1 + random.below(rest.len()) };
        let (head, tail) = rest.split_at(piece);
        give(head);
        rest = tail;
    }
}

fn converse(
    random: &mut Random,
    fixture: &ProtocolFixture,
    style: Style,
    rounds: usize,
    whole: bool,
) -> Conversation {
    let (asking, answering) =
        [(Direction::Ingress, Direction::Egress), (Direction::Egress, Direction::Ingress)][random.below(2)];
    let mut calls = Vec::new();
    let mut sizes = Vec::new();
    let mut in_flight = std::collections::VecDeque::new();
    for round in 0..rounds {
        let (ask, answer) = match style {
            Style::Single => (1, 1),
            Style::Rounds(depth) => (depth, depth),
            Style::RandomRounds(depth) => {
                let depth = 1 + random.below(depth);
                (depth, depth)
            }
            Style::Sliding(window) => {
                let ask = 1 + random.below(window - in_flight.len());
                let all = in_flight.len() + ask;
                (ask, (1 + random.below(all)).max((all + 1).saturating_sub(window)))
            }
        };
        sizes.push(ask);
        let mut requests = Vec::new();
        for _ in 0..ask {
            let mark = MARKS.start + u32::try_from(random.below(MARKS.len())).expect("few");
            let (request, response) = (fixture.exchange)(mark);
            requests.extend(request);
            in_flight.push_back(response);
        }
        let mut call = |direction, bytes: &[u8]| calls.push(Call { direction, bytes: bytes.to_vec(), round });
        cut(random, whole, &requests, |bytes| call(asking, bytes));
        let responses: Vec<u8> = in_flight.drain(..answer).flatten().collect();
        cut(random, whole, &responses, |bytes| call(answering, bytes));
    }
    Conversation { calls, rounds: sizes }
}

/// What is missing.
#[derive(Clone, Copy, Debug)]
struct Missing {
    /// One in so many calls begins a loss.
    every: usize,
    /// Most calls that are lost at a time.
    calls: usize,
    /// Bytes that are captured of a call.
    captured: usize,
}

/// Plays the conversation; gives the rounds that were hit, and how many requests were answered, all of them rightly.
fn play(
    random: &mut Random,
    fixture: &ProtocolFixture,
    conversation: &Conversation,
    missing: Missing,
    from: usize,
) -> (Vec<bool>, usize) {
    let side = if conversation.calls[0].direction == Direction::Ingress {
        crate::Side::Server
    } else {
        crate::Side::Client
    };
    let connection =
        Connection::known(ScopeId(1), Transport::Stream, fixture.protocol, side).expect("in the table");
    let mut replay = Replay::new(connection);
    let mut hit = vec![false; conversation.rounds.len()];
    let mut losing = 0;
    for Call { direction, bytes, round } in &conversation.calls {
        if losing == 0 && *round >= from && random.below(missing.every) == 0 {
            losing = 1 + random.below(missing.calls);
        }
        if losing > 0 {
            losing -= 1;
            hit[*round] = true;
            replay.lose(*direction, bytes.len() as u64);
        } else {
            replay.part(*direction, &bytes[..bytes.len().min(missing.captured)], bytes.len() as u64);
        }
    }
    replay.close();
    let mut answered = 0;
    for line in replay.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, operation, resource, status, error, _] = words[..] else { panic!("six words: {line}") };
        if error == "NoResponse" {
            continue;
        }
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
        let asked = digits(operation) + &digits(resource);
        // One that was cut by a loss has no name, or no status.
        let unknown = resource == "other" || operation == "other" || status == "-";
        assert!(unknown || digits(status).ends_with(&asked), "{:?} {line}", fixture.protocol);
        answered += 1;
    }
    (hit, answered)
}

const STYLES: &[Style] = &[
    Style::Single,
    Style::Rounds(2),
    Style::Rounds(16),
    Style::RandomRounds(3),
    Style::RandomRounds(16),
    Style::Sliding(2),
    Style::Sliding(3),
    Style::Sliding(16),
    Style::Sliding(64),
];

#[test]
fn no_loss_gives_a_request_anothers_response() {
    for fixture in FIXTURES {
        for (number, style) in fixture.styles.iter().enumerate() {
            for seed in 0..150 {
                let mut random = Random(seed * 100 + number as u64);
                let whole = random.below(2) == 0;
                // Redis is trusted where only bytes of calls are missing.
                let cut = fixture.protocol == Protocol::Http1 || style.takes_turns();
                let conversation = converse(&mut random, fixture, *style, 150, whole);
                let missing = Missing {
                    every: [3, 10, 40][random.below(3)],
                    calls: [1, 3, 30][random.below(3)],
                    captured: if cut { [usize::MAX, 300][random.below(2)] } else { usize::MAX },
                };
                play(&mut random, fixture, &conversation, missing, random_start(seed));
            }
        }
    }
}

/// Losses from the first call on, or later.
fn random_start(seed: u64) -> usize {
    usize::from(seed.is_multiple_of(2)) * 40
}

#[test]
fn a_loss_costs_a_client_that_takes_turns_the_rounds_it_hit_and_two_more() {
    for fixture in FIXTURES {
        for style in fixture.styles.iter().filter(|style| style.takes_turns()) {
            for seed in 0..100 {
                let mut random = Random(seed);
                let conversation = converse(&mut random, fixture, *style, 200, seed.is_multiple_of(2));
                let missing = Missing { every: 40, calls: 1 + random.below(20), captured: usize::MAX };
                let (hit, answered) = play(&mut random, fixture, &conversation, missing, 40);
                let spared = |round: usize| !hit[round.saturating_sub(2)..=round].contains(&true);
                let rounds = conversation.rounds.iter().enumerate();
                let least: usize =
                    rounds.filter(|(round, _)| spared(*round)).map(|(_, requests)| requests).sum();
                assert!(answered >= least, "{:?} {style:?} {seed}: {answered} of {least}", fixture.protocol);
            }
        }
    }
}
