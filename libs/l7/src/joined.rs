//! Protocols of text that are joined at any byte, or of which bytes up to any byte are lost: nothing is found that was not
//! sent, and what comes after the next message is found.
//!
//! A message's length is not behind its first bytes, as it is in other protocols: the end of a body and the next request read
//! like one request with another name.

use crate::{
    Connection, Direction, ScopeId, captured,
    testing::{Replay, Step},
};
use Direction::{Egress as S, Ingress as C};

/// Requests, each with its response, or several of them with theirs.
struct Conversation {
    name: &'static str,
    rounds: Vec<[Vec<u8>; 2]>,
    /// Exchanges of each round, without sizes.
    expected: Vec<&'static [&'static str]>,
    /// What the server sends first.
    greeting: &'static [u8],
}

fn conversation(name: &'static str, rounds: &[(&str, &str, &'static [&'static str])]) -> Conversation {
    let bytes = |text: &str| text.as_bytes().to_vec();
    Conversation {
        name,
        rounds: rounds.iter().map(|(request, response, _)| [bytes(request), bytes(response)]).collect(),
        expected: rounds.iter().map(|(.., expected)| *expected).collect(),
        greeting: b"",
    }
}

fn all() -> Vec<Conversation> {
    vec![http1(), redis(), redis_inline(), memcached(), nats()]
}

fn http1() -> Conversation {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let post = "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 15\r\n\r\nhello,\r\nPUB GET";
    let [delete, frob] = ["DELETE", "FROB"].map(|method| format!("{post}{method} /c HTTP/1.1\r\n\r\n"));
    let two = [ok, chunked].concat();
    conversation(
        "HTTP/1",
        &[
            ("GET /a HTTP/1.1\r\nHost: a\r\nUser-Agent: POST /b HTTP\r\n\r\n", ok, &["GET /a 200 None"]),
            (post, chunked, &["POST /up 404 Client"]),
            (&delete, &two, &["POST /up 200 None", "DELETE /c 404 Client"]),
            (
                "PUT /d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                ok,
                &["PUT /d 200 None"],
            ),
            ("FROB /e HTTP/1.1\r\n\r\n", ok, &["FROB /e 200 None"]),
            (&frob, &two, &["POST /up 200 None", "FROB /c 404 Client"]),
            ("OPTIONS * HTTP/1.1\r\n\r\n", chunked, &["OPTIONS * 404 Client"]),
            (post, ok, &["POST /up 200 None"]),
            ("PATCH /f HTTP/1.0\r\n\r\n", ok, &["PATCH /f 200 None"]),
            ("GET /g HTTP/1.1\r\n\r\n", ok, &["GET /g 200 None"]),
        ],
    )
}

fn redis() -> Conversation {
    conversation(
        "Redis",
        &[
            ("*2\r\n$3\r\nGET\r\n$5\r\nhello\r\n", "$5\r\nhello\r\n", &["GET  - None"]),
            ("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$8\r\na GET\r\nb\r\n", "+OK\r\n", &["SET  - None"]),
            (
                "*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$4\r\nPING\r\n",
                "+PONG\r\n$4\r\nPING\r\n",
                &["PING  - None", "ECHO  - None"],
            ),
            ("*2\r\n$7\r\nHGETALL\r\n$1\r\nh\r\n", "*2\r\n$3\r\nget\r\n$3\r\nDEL\r\n", &["HGETALL  - None"]),
            ("*3\r\n$6\r\nFT.FOO\r\n$1\r\na\r\n$3\r\nGET\r\n", "-ERR unknown\r\n", &["other  ERR Client"]),
            ("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhello\r\n", "+OK\r\n", &["SET  - None"]),
            ("*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n", "-WRONGTYPE no\r\n", &["INCR  WRONGTYPE Client"]),
            ("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "$-1\r\n", &["GET  - None"]),
            ("*2\r\n$3\r\nTTL\r\n$1\r\nk\r\n", ":5\r\n", &["TTL  - None"]),
        ],
    )
}

fn redis_inline() -> Conversation {
    conversation(
        "Redis inline",
        &[
            ("SET key world\r\n", "+OK\r\n", &["SET  - None"]),
            ("GET key\r\n", "$5\r\nworld\r\n", &["GET  - None"]),
            ("INCR GET\r\nECHO DEL\r\n", ":7\r\n$3\r\nDEL\r\n", &["INCR  - None", "ECHO  - None"]),
            ("JSON.SET a b\r\n", "-ERR no\r\n", &["JSON.SET  ERR Client"]),
            ("PING\r\n", "+PONG\r\n", &["PING  - None"]),
            ("MGET a DEL\r\n", "*2\r\n$-1\r\n$-1\r\n", &["MGET  - None"]),
            ("GET k\r\n", "$-1\r\n", &["GET  - None"]),
            ("TTL k\r\n", ":5\r\n", &["TTL  - None"]),
        ],
    )
}

fn memcached() -> Conversation {
    conversation(
        "Memcached",
        &[
            ("set user:1 0 0 10\r\nhello\r\nget\r\n", "STORED\r\n", &["set user STORED None"]),
            ("get user:1 b set\r\n", "VALUE user:1 0 10\r\nhello\r\nget\r\nEND\r\n", &["get user HIT None"]),
            ("gets get\r\nincr set 1\r\n", "END\r\n7\r\n", &["gets  MISS None", "incr  - None"]),
            (
                "set a 0 0 5\r\nhello\r\nget a\r\n",
                "STORED\r\nVALUE a 0 5\r\nhello\r\nEND\r\n",
                &["set  STORED None", "get  HIT None"],
            ),
            ("mg get v\r\n", "VA 5 kget\r\nhello\r\n", &["mg  HIT None"]),
            ("delete user:1\r\n", "DELETED\r\n", &["delete user DELETED None"]),
            ("touch b 1\r\n", "NOT_FOUND\r\n", &["touch  NOT_FOUND None"]),
            ("get b\r\n", "END\r\n", &["get  MISS None"]),
        ],
    )
}

fn nats() -> Conversation {
    Conversation {
        greeting: b"INFO {\"server_id\":\"NA\",\"version\":\"2.9\",\"max_payload\":1048576}\r\n",
        ..conversation(
            "NATS",
            &[
                ("CONNECT {\"verbose\":false}\r\nPING\r\nSUB _INBOX.x.* 1\r\nSUB a.* 2\r\n", "PONG\r\n", &[]),
                (
                    "PUB svc.get _INBOX.x.1 5\r\nhello\r\n",
                    "MSG _INBOX.x.1 1 14\r\nhello\r\nMSG b 1\r\n",
                    &["REQUEST svc.get - None"],
                ),
                (
                    "PUB orders 10\r\nhello\r\nPUB\r\nPUB svc.b _INBOX.x.2 0\r\n\r\n",
                    "MSG _INBOX.x.2 1 2\r\nok\r\n",
                    &["PUB orders - None", "REQUEST svc.b - None"],
                ),
                (
                    "HPUB a 12 17\r\nNATS/1.0\r\n\r\nhello\r\n",
                    "MSG a.x 2 5\r\nhello\r\nPING\r\n",
                    &["PUB a - None", "MSG a.x - None"],
                ),
                (
                    "PUB svc.c _INBOX.x.3 5\r\nhello\r\n",
                    "HMSG _INBOX.x.3 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
                    &["REQUEST svc.c 503 Server"],
                ),
                (
                    "PUB svc.d _INBOX.x.4 5\r\nhello\r\n",
                    "MSG _INBOX.x.4 1 2\r\nok\r\n",
                    &["REQUEST svc.d - None"],
                ),
                (
                    "PUB svc.e _INBOX.x.5 5\r\nhello\r\n",
                    "MSG _INBOX.x.5 1 2\r\nok\r\n",
                    &["REQUEST svc.e - None"],
                ),
            ],
        )
    }
}

impl Conversation {
    /// Whether a step has several requests, or their responses.
    fn is_pipelined(&self, step: usize) -> bool {
        let before = usize::from(!self.greeting.is_empty());
        step.checked_sub(before).is_some_and(|step| self.expected[step / 2].len() > 1)
    }

    fn steps(&self) -> Vec<Step> {
        let greeting = (!self.greeting.is_empty()).then(|| (S, self.greeting.to_vec()));
        let rounds =
            self.rounds.iter().flat_map(|[request, response]| [(C, request.clone()), (S, response.clone())]);
        greeting.into_iter().chain(rounds).collect()
    }
}

/// How a conversation is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The connection was open before: what came before this byte of a step was not seen.
    From(usize, usize),
    /// The same, and where the connection was when it was first seen is not known.
    Joined(usize, usize),
    /// From its beginning, but what comes before this byte of a step was lost.
    Without(usize, usize),
}

impl Seen {
    /// The bytes of a step that are captured.
    fn of(self, number: usize, step: &[u8]) -> Option<&[u8]> {
        let (Self::From(first, byte) | Self::Joined(first, byte) | Self::Without(first, byte)) = self;
        match number.cmp(&first) {
            std::cmp::Ordering::Less => matches!(self, Self::Without(..)).then_some(step),
            std::cmp::Ordering::Equal => Some(&step[byte..]),
            std::cmp::Ordering::Greater => Some(step),
        }
    }
}

/// Plays what is seen of a conversation, perhaps of one end alone, in pieces of so many bytes. Requests follow the response
/// before them after a while.
fn play(steps: &[Step], seen: Seen, heard: Option<Direction>, piece: usize) -> Vec<String> {
    let connection = Connection::new(ScopeId(1));
    let mut replay =
        Replay::new(if matches!(seen, Seen::Joined(..)) { connection.joined() } else { connection });
    for (number, (direction, bytes)) in steps.iter().enumerate() {
        if *direction == C {
            replay.now += 200_000_000;
        }
        let captured = seen.of(number, bytes).filter(|_| heard.is_none_or(|heard| heard == *direction));
        let captured = captured.unwrap_or_default();
        if !matches!(seen, Seen::Joined(..)) {
            replay.lose(*direction, (bytes.len() - captured.len()) as u64);
        }
        for part in captured.chunks(piece) {
            replay.part(*direction, part, part.len() as u64);
        }
    }
    replay.close();
    replay
        .lines()
        .iter()
        .map(|line| line.strip_prefix("Server ").unwrap_or("of the other side - None 0/0").to_owned())
        .collect()
}

/// Every way to see a conversation from a byte on.
fn ways(steps: &[Step]) -> impl Iterator<Item = Seen> {
    let bytes = steps
        .iter()
        .enumerate()
        .flat_map(|(number, (_, bytes))| (0..bytes.len()).map(move |byte| (number, byte)));
    bytes.flat_map(|(number, byte)| {
        [Seen::From(number, byte), Seen::Joined(number, byte), Seen::Without(number, byte)]
    })
}

#[test]
fn joined_at_any_byte_nothing_is_found_that_was_not_sent() {
    let mut wrong = Vec::new();
    for conversation in all() {
        let steps = conversation.steps();
        let whole = play(&steps, Seen::From(0, 0), None, usize::MAX);
        for seen in ways(&steps) {
            for heard in [None, Some(C), Some(S)] {
                for piece in [usize::MAX, 7, 1] {
                    let part = play(&steps, seen, heard, piece);
                    let found = match seen {
                        // Whose response comes first does not show.
                        Seen::From(number, _) | Seen::Joined(number, _)
                            if conversation.is_pipelined(number) =>
                        {
                            captured::invented(&unanswered(&part), &unanswered(&whole))
                                .map(|(line, _)| line.clone())
                        }
                        _ => captured::invented(&part, &whole).map(|(line, _)| line.clone()),
                    };
                    wrong.extend(
                        found.map(|line| {
                            format!("{}, {seen:?} {heard:?} {piece}: {line:?}", conversation.name)
                        }),
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
}

#[test]
fn joined_at_any_byte_what_follows_the_next_message_is_found() {
    let mut wrong = Vec::new();
    for conversation in all() {
        let steps = conversation.steps();
        for seen in ways(&steps) {
            let (Seen::From(number, _) | Seen::Joined(number, _) | Seen::Without(number, _)) = seen;
            // Behind the round that is hit, and two that show what the next bytes are; of several requests at once more may be
            // missing.
            let rounds = (number.div_ceil(2) + 2).saturating_sub(conversation.greeting.len().min(1))
                ..conversation.rounds.len();
            let mut found = play(&steps, seen, None, usize::MAX);
            for round in rounds.filter(|round| conversation.expected[*round].len() == 1) {
                for expected in conversation.expected[round] {
                    match found
                        .iter()
                        .position(|line| line.rsplit_once(' ').is_some_and(|(line, _)| line == *expected))
                    {
                        Some(at) => drop(found.remove(at)),
                        None => wrong.push(format!("{}, {seen:?}: no {expected}", conversation.name)),
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
}

/// Exchanges without their responses.
fn unanswered(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            format!("{} {} - NoResponse 0/0", words[0], words[1])
        })
        .collect()
}

#[test]
fn whole_conversations_give_their_exchanges() {
    for conversation in all() {
        for piece in [usize::MAX, 7, 1] {
            let found = play(&conversation.steps(), Seen::From(0, 0), None, piece);
            let found: Vec<&str> =
                found.iter().map(|line| line.rsplit_once(' ').expect("with sizes").0).collect();
            assert_eq!(found, conversation.expected.concat(), "{} {piece}", conversation.name);
        }
    }
}

/// Plays rounds of a request and a whole response on a connection that was open before; gives the operations.
fn joined_operations(requests: &[&str]) -> Vec<String> {
    let mut replay = Replay::new(Connection::new(ScopeId(1)).joined());
    for request in requests {
        replay.now += 200_000_000;
        replay.ingress(format!("{request} /x HTTP/1.1\r\n\r\n").as_bytes());
        replay.egress(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
    replay.close();
    replay.lines().iter().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect()
}

#[test]
fn extension_methods_are_found_where_their_products_use_them() {
    for method in ["CCM_POST", "BITS_POST", "SSTP_DUPLEX_POST"] {
        assert_eq!(joined_operations(&[method; 4]), [method; 4]);
    }
    // Others behind a whole response.
    for method in ["FROB", "X_POST"] {
        assert_eq!(joined_operations(&["GET", method, method, "GET"]).len(), 4, "{method}");
    }
}

/// Also where another protocol waits for more behind these bytes: they are an inline command of Redis.
#[test]
fn what_may_be_the_rest_of_a_message_has_no_unknown_method() {
    let found = joined_operations(&["SET", "GET", "GET", "GET"]);
    assert!(!found.is_empty() && found.iter().all(|method| method == "GET"), "{found:?}");
    assert_eq!(joined_operations(&["GET", "SET", "GET"]).len(), 3);
}
