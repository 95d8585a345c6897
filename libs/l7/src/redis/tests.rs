//! Conversations as Redis has them, whole and cut, and bytes that are none.

mod inline;
mod streamed;
mod subscriber;

use crate::{
    Chunk, Connection, Direction, ErrorClass, Exchange, Limits, ParserContext, Protocol, ScopeId, Side,
    Status, Timestamp, Transport, Verdict,
    redis::detect,
    testing::{self, Replay, assert_no_harm},
};

/// Who sends next.
#[derive(Clone, Copy)]
enum Say {
    C(&'static [u8]),
    S(&'static [u8]),
}
use Say::{C, S};

struct Heard {
    exchanges: Vec<Exchange>,
    context: ParserContext,
    verdict: Verdict,
}

impl Heard {
    fn operations(&self) -> Vec<String> {
        self.exchanges
            .iter()
            .map(|exchange| {
                let status = match exchange.status {
                    Status::Word(word) => format!("={}", self.context.name(word)),
                    _ => String::new(),
                };
                format!("{}{status}", self.context.name(exchange.operation))
            })
            .collect()
    }
}

/// Plays a conversation to the server's side, every part cut into pieces of at most `piece` bytes.
fn play(conversation: &[Say], piece: usize, close: bool) -> Heard {
    let mut context = ParserContext::new(Limits::default());
    let mut connection = Connection::new(ScopeId(0));
    let mut exchanges = Vec::new();
    let (mut now, mut offsets) = (0, [0_u64; 2]);
    for say in conversation {
        let (bytes, direction, offset) = match *say {
            C(bytes) => (bytes, Direction::Ingress, 0),
            S(bytes) => (bytes, Direction::Egress, 1),
        };
        for bytes in bytes.chunks(piece) {
            now += 1000;
            let chunk = Chunk {
                direction,
                timestamp: Timestamp(now),
                offset: offsets[offset],
                bytes,
                total: bytes.len() as u64,
            };
            offsets[offset] += bytes.len() as u64;
            connection.chunk(&chunk, &mut context, &mut |exchange| exchanges.push(exchange));
        }
    }
    if close {
        connection.close(Timestamp(now + 1000), &mut context, &mut |exchange| exchanges.push(exchange));
    }
    Heard { exchanges, verdict: connection.verdict(), context }
}

fn expect(conversation: &[Say], operations: &[&str]) {
    for piece in (1..40).chain([usize::MAX]) {
        let heard = play(conversation, piece, true);
        assert_eq!(heard.operations(), operations, "in pieces of {piece}");
        assert!(heard.exchanges.iter().all(|e| e.protocol == Protocol::Redis && e.side == Side::Server));
        let tally = heard.context.tally();
        assert_eq!(tally.messages_seen, tally.exchanges + tally.unparsed, "in pieces of {piece}");
    }
}

#[test]
fn an_attribute_hides_no_error_and_is_no_reply() {
    expect(
        &[
            C(b"*1\r\n$4\r\nPING\r\n"),
            S(b"+PONG\r\n"),
            C(b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nDEL\r\n$1\r\na\r\n"),
            S(b"|1\r\n+ttl\r\n*2\r\n:1\r\n:2\r\n+PONG\r\n|0\r\n|1\r\n+x\r\n_\r\n-WRONGTYPE x\r\n*1\r\n|1\r\n+x\r\n:1\r\n:1\r\n"),
        ],
        &["PING", "PING", "GET=WRONGTYPE", "DEL"],
    );
}

#[test]
fn replies_may_be_nested_to_any_depth() {
    let deep = format!("{}{}$1\r\nx\r\n", "*1\r\n".repeat(500), "*2\r\n:1\r\n".repeat(500));
    let mut replay = Replay::new(Connection::new(ScopeId(0)));
    replay.ingress(b"*1\r\n$4\r\nPING\r\n");
    replay.egress(b"+PONG\r\n");
    replay.ingress(b"*2\r\n$4\r\nEVAL\r\n$1\r\nx\r\n*1\r\n$4\r\nPING\r\n");
    deep.as_bytes().chunks(7).for_each(|piece| replay.egress(piece));
    replay.egress(b"+PONG\r\n");
    replay.close();
    let expected = [
        "PING  - None 14/7".to_owned(),
        format!("EVAL  - None 21/{}", deep.len()),
        "PING  - None 14/7".to_owned(),
    ];
    assert_eq!(replay.lines(), expected.map(|line| format!("Server {line}")));
}

#[test]
fn commands_pair_in_order_when_pipelined() {
    expect(
        &[
            C(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nv\r\nv*\r\n*2\r\n$3\r\nget\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n"),
            S(b"+OK\r\n$5\r\nv\r\nv*\r\n+PONG\r\n"),
        ],
        &["SET", "GET", "PING"],
    );
}

#[test]
fn errors_carry_their_prefix() {
    let conversation = &[
        C(b"*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n*2\r\n$3\r\nGET\r\n$1\r\nx\r\n*1\r\n$6\r\nNOSUCH\r\n"),
        S(b"-WRONGTYPE Operation against a key\r\n-MOVED 3999 127.0.0.1:6381\r\n-ERR unknown command 'NOSUCH'\r\n"),
    ];
    expect(conversation, &["INCR=WRONGTYPE", "GET=MOVED", "other=ERR"]);
    let classes: Vec<_> = play(conversation, 99, true).exchanges.iter().map(|e| e.error).collect();
    assert_eq!(classes, [ErrorClass::Client, ErrorClass::None, ErrorClass::Client]);
}

#[test]
fn nested_and_null_replies_are_one_each() {
    expect(
        &[
            C(b"*1\r\n$4\r\nEXEC\r\n*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\nb\r\n*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*1\r\n$4\r\nPING\r\n"),
            S(b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n-ERR inside\r\n*2\r\n$-1\r\n*-1\r\n"),
            S(b"%2\r\n+server\r\n+redis\r\n+proto\r\n:3\r\n|1\r\n+ttl\r\n:5\r\n+PONG\r\n"),
        ],
        &["EXEC", "MGET", "HELLO", "PING"],
    );
}

#[test]
fn pushes_and_messages_answer_nothing() {
    expect(
        &[
            C(b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n"),
            S(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"),
            S(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n"),
            C(b"*1\r\n$4\r\nPING\r\n"),
            S(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n"),
            C(b"*1\r\n$11\r\nUNSUBSCRIBE\r\n"),
            S(b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n"),
            C(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"),
            S(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n$-1\r\n"),
        ],
        &["SUBSCRIBE", "PING", "UNSUBSCRIBE", "GET"],
    );
}

#[test]
fn commands_without_reply_are_over_at_once() {
    expect(
        &[
            C(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n"),
            C(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"),
            S(b"$1\r\n1\r\n"),
            C(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n"),
            C(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$2\r\nON\r\n"),
            S(b"+OK\r\n"),
        ],
        &["CLIENT", "INCR", "GET", "CLIENT", "INCR", "CLIENT"],
    );
}

#[test]
fn monitor_ends_the_following() {
    let conversation = &[
        C(b"*1\r\n$7\r\nMONITOR\r\n"),
        S(b"+OK\r\n"),
        S(b"+1339518083.107412 [0 127.0.0.1:60866] \"keys\" \"*\"\r\n"),
    ];
    expect(conversation, &["MONITOR"]);
    assert_eq!(play(conversation, 99, false).verdict, Verdict::Ignored);
}

#[test]
fn inline_commands_are_recognised_by_their_answer() {
    let conversation = &[C(b"PING\r\n"), S(b"+PONG\r\n"), C(b"SET a b\r\n"), S(b"+OK\r\n")];
    assert_eq!(play(conversation, usize::MAX, true).operations(), ["PING", "SET"]);
}

#[test]
fn an_unknown_word_is_a_command_where_the_client_sends_inline_commands() {
    const ERROR: &[u8] = b"-ERR unknown command\r\n";
    let conversation = &[
        C(b"SET a 1\r\nGET a\r\nFT.SEARCH a\r\n"),
        S(b"+OK\r\n$1\r\n1\r\n"),
        S(ERROR),
        C(b"secret\r\n"),
        S(ERROR),
        C(b"AB12\r\n"),
        S(ERROR),
    ];
    assert_eq!(
        play(conversation, usize::MAX, true).operations(),
        ["SET", "GET", "FT.SEARCH=ERR", "other=ERR", "other=ERR"]
    );
    let conversation = &[C(b"*1\r\n$4\r\nPING\r\n"), S(b"+PONG\r\n"), C(b"SECRET\r\n"), S(ERROR)];
    assert_eq!(play(conversation, usize::MAX, true).operations(), ["PING", "other=ERR"]);
}

#[test]
fn an_unanswered_command_ends_with_the_connection() {
    let heard = play(&[C(b"*1\r\n$4\r\nPING\r\n")], 99, true);
    assert_eq!(heard.exchanges.iter().map(|e| e.error).collect::<Vec<_>>(), [ErrorClass::NoResponse]);
}

#[test]
fn big_values_are_skipped_by_length() {
    let mut context = ParserContext::new(Limits::default());
    let mut connection = Connection::new(ScopeId(0));
    let mut exchanges = Vec::new();
    let head = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nxxxx";
    let total = head.len() as u64 - 4 + 1_000_002;
    for round in 0..3_u64 {
        let request = Chunk {
            direction: Direction::Egress,
            timestamp: Timestamp(round * 10 + 1),
            offset: round * total,
            bytes: head,
            total,
        };
        let reply = Chunk {
            direction: Direction::Ingress,
            timestamp: Timestamp(round * 10 + 2),
            offset: round * 5,
            bytes: b"+OK\r\n",
            total: 5,
        };
        for chunk in [request, reply] {
            connection.chunk(&chunk, &mut context, &mut |exchange| exchanges.push(exchange));
        }
    }
    assert_eq!(exchanges.len(), 3);
    assert!(exchanges.iter().all(|e| e.side == Side::Client && e.request_bytes == total));
}

#[test]
fn after_a_loss_nothing_is_paired_wrongly() {
    let mut context = ParserContext::new(Limits::default());
    let mut connection = Connection::new(ScopeId(0));
    let mut exchanges = Vec::new();
    let get = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    let ping = b"*1\r\n$4\r\nPING\r\n";
    let steps: &[(Direction, u64, &[u8])] = &[
        (Direction::Ingress, 0, get),
        (Direction::Egress, 0, b"$1\r\nv\r\n"),
        // Here a pipelined batch of 1000 bytes is lost, and its answers come.
        (Direction::Ingress, 1020, get),
        (Direction::Egress, 7, b"$1\r\nv\r\n$1\r\nv\r\n$1\r\nv\r\n"),
        (Direction::Ingress, 1040, ping),
        (Direction::Egress, 28, b"+PONG\r\n"),
        // Behind a silence of a second everything was answered.
        (Direction::Ingress, 1054, ping),
        (Direction::Egress, 35, b"+PONG\r\n"),
    ];
    for (index, (direction, offset, bytes)) in steps.iter().enumerate() {
        let chunk = Chunk {
            direction: *direction,
            timestamp: Timestamp(index as u64 + 1 + if index > 5 { 1_000_000_000 } else { 0 }),
            offset: *offset,
            bytes,
            total: bytes.len() as u64,
        };
        connection.chunk(&chunk, &mut context, &mut |exchange| exchanges.push(exchange));
    }
    let names: Vec<_> = exchanges.iter().map(|e| context.name(e.operation)).collect();
    assert_eq!(names, ["GET", "PING"]);
    assert_eq!(context.tally().gaps, 1);
    connection.close(Timestamp(99), &mut context, &mut |_| {});
    let tally = context.tally();
    assert_eq!(tally.messages_seen, tally.exchanges + tally.unparsed);
}

#[test]
fn other_line_protocols_are_not_redis() {
    for conversation in [
        &[C(b"PING\r\n"), S(b"PONG\r\n")][..],
        &[S(b"+OK POP3 ready\r\n"), C(b"AUTH x\r\n"), S(b"+OK welcome\r\n")],
        &[C(b"get k\r\n"), S(b"END\r\n")],
        &[C(b"*1\r\n$5\r\nHAPPY\r\n"), S(b"+OK\r\n")],
    ] {
        let heard = play(conversation, usize::MAX, true);
        assert!(heard.exchanges.iter().all(|exchange| exchange.protocol != Protocol::Redis));
    }
}

#[test]
fn mutations_and_losses_do_no_harm() {
    let commands = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nv\r\nv*\r\n*2\r\n$3\r\nget\r\n$1\r\nk\r\n";
    let replies = b"+OK\r\n*2\r\n$5\r\nv\r\nv*\r\n:1\r\n%1\r\n+a\r\n>1\r\n$-1\r\n|1\r\n+x\r\n_\r\n-ERR y\r\n";
    let round = [(Direction::Ingress, commands.to_vec()), (Direction::Egress, replies.to_vec())];
    assert_no_harm(Protocol::Redis, Transport::Stream, &[round.clone(), round.clone(), round].concat());
}

fn lines(conversation: &[(Direction, &[u8])]) -> Vec<String> {
    let mut replay = crate::testing::Replay::new(Connection::new(ScopeId(1)));
    for (direction, bytes) in conversation {
        replay.part(*direction, bytes, bytes.len() as u64);
    }
    replay.close();
    replay.lines()
}

#[test]
fn a_reply_that_begins_with_a_commands_name_is_no_command() {
    use Direction::{Egress as Server, Ingress as Client};
    let ask = b"*2\r\n$7\r\nHGETALL\r\n$1\r\nh\r\n";
    for name in ["type", "TYPE", "set", "GET"] {
        let reply = format!("*4\r\n${}\r\n{name}\r\n$1\r\nx\r\n$1\r\na\r\n$1\r\nb\r\n", name.len());
        // Joined between a command and its reply.
        let mut conversation: Vec<(Direction, &[u8])> = vec![(Server, reply.as_bytes())];
        for _ in 0..5 {
            conversation.extend([(Client, &ask[..]), (Server, reply.as_bytes())]);
        }
        let found = lines(&conversation);
        assert!(found.len() >= 4, "{name}: {found:?}");
        assert!(found.iter().all(|line| line.starts_with("Server HGETALL")), "{name}: {found:?}");
    }
}

#[test]
fn a_hash_of_subscriptions_is_a_reply() {
    use Direction::{Egress as Server, Ingress as Client};
    let found = lines(&[
        (Client, b"*2\r\n$7\r\nHGETALL\r\n$1\r\nh\r\n"),
        (Server, b"*4\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n$1\r\na\r\n$1\r\nb\r\n"),
        (Client, b"*4\r\n$6\r\nLRANGE\r\n$1\r\nl\r\n$1\r\n0\r\n$1\r\n2\r\n"),
        (Server, b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
        (Client, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"),
        (Server, b"-WRONGTYPE x\r\n"),
    ]);
    let words: Vec<Vec<&str>> = found.iter().map(|line| line.split(' ').collect()).collect();
    let pairs: Vec<_> = words.iter().map(|words| (words[1], words[3])).collect();
    assert_eq!(pairs, [("HGETALL", "-"), ("LRANGE", "-"), ("GET", "WRONGTYPE")]);
}

#[test]
fn a_command_whose_end_was_not_captured_is_answered() {
    let mut replay = crate::testing::Replay::new(Connection::new(ScopeId(1)));
    for _ in 0..3 {
        let head = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\nxxxx";
        replay.part(Direction::Ingress, head, 100_036);
        replay.egress(b"+OK\r\n");
        let keys = b"*5000\r\n$4\r\nMGET\r\n$4\r\nkey1\r\n$4\r\nkey2\r\n$4\r\nke";
        replay.part(Direction::Ingress, keys, 50_000);
        replay.egress(b"*1\r\n$-1\r\n");
    }
    replay.close();
    let found = replay.lines();
    assert_eq!(found.len(), 6, "{found:?}");
    assert!(found.iter().all(|line| line.contains(" None ")), "{found:?}");
}

#[test]
fn commands_that_wait_are_called_so_and_are_no_failure() {
    let found = lines(&[
        (Direction::Egress, b"*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n5\r\n"),
        (Direction::Ingress, b"*-1\r\n"),
        (Direction::Egress, b"*4\r\n$5\r\nXREAD\r\n$7\r\nSTREAMS\r\n$1\r\ns\r\n$1\r\n0\r\n"),
        (Direction::Ingress, b"*-1\r\n"),
        (
            Direction::Egress,
            b"*9\r\n$10\r\nXREADGROUP\r\n$5\r\nGROUP\r\n$1\r\ng\r\n$1\r\nc\r\n$5\r\nblock\r\n$1\r\n0\r\n$7\r\nSTREAMS\r\n$1\r\ns\r\n$1\r\n>\r\n",
        ),
        (Direction::Ingress, b"*-1\r\n"),
        (Direction::Egress, b"*3\r\n$5\r\nBRPOP\r\n$1\r\nq\r\n$1\r\n0\r\n"),
    ]);
    let found: Vec<&str> = found.iter().map(|line| line.rsplit_once(' ').expect("sizes").0).collect();
    assert_eq!(
        found,
        [
            "Client BLPOP (long poll)  - None",
            "Client XREAD  - None",
            "Client XREADGROUP (long poll)  - None",
            "Client BRPOP (long poll)  - None",
        ]
    );
    assert!(crate::redis_commands().all(|(_, name, _)| !["XREAD", "XREADGROUP"].contains(&name)));
}

/// `*<n>` and bulk strings.
fn array(words: &str) -> Vec<u8> {
    let words: Vec<&str> = words.split(' ').collect();
    let strings = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("*{}\r\n{}", words.len(), strings.collect::<String>()).into_bytes()
}

#[test]
fn roles_are_right_wherever_a_connection_is_joined() {
    for (request, reply) in [
        ("LRANGE l 0 -1", "GET x"),
        ("lrange l 0 -1", "GET x"),
        ("smembers s", "get x"),
        ("HGETALL h", "SET a b"),
        ("KEYS *", "PING"),
        ("EVALSHA abc 0", "DEL a"),
        ("EXEC", "INCR a"),
        ("MYMOD.LIST l", "GET x"),
        ("HGETALL h", "type x"),
    ] {
        let exchange = [(Direction::Ingress, array(request)), (Direction::Egress, array(reply))];
        let steps = [exchange.clone(), exchange.clone(), exchange.clone(), exchange].concat();
        for joined in 0..steps.len() - 1 {
            let lines = testing::play(Connection::new(ScopeId(1)), &steps[joined..]);
            assert!(lines.iter().all(|line| line.starts_with("Server ")), "{request}, {joined}: {lines:?}");
            let answered = lines.iter().filter(|line| line.contains(" - None ")).count();
            // The first answer may only show which end is the client.
            assert!(answered + 1 >= (steps.len() - joined) / 2, "{request}, {joined}: {lines:?}");
        }
    }
}

#[test]
fn a_servers_link_to_its_replica_has_no_client() {
    let replica = (Direction::Ingress, array("REPLCONF ACK 100"));
    let steps = [(Direction::Egress, array("SET a b")), (Direction::Egress, array("PING")), replica];
    let steps = [steps.clone(), steps.clone(), steps].concat();
    for joined in 0..steps.len() - 2 {
        let lines = testing::play(Connection::new(ScopeId(1)), &steps[joined..]);
        assert!(lines.is_empty(), "{joined}: {lines:?}");
    }
}

#[test]
fn a_server_that_never_answers_is_recognised_by_its_client() {
    let mut replay = Replay::new(Connection::new(ScopeId(1)));
    replay.ingress(&array("GET a"));
    replay.close();
    assert_eq!(replay.lines(), ["Server GET  - NoResponse 20/0"]);
}

#[test]
fn a_connection_may_begin_with_a_large_command() {
    let command = array(&format!("SET k {}", "x".repeat(6000)));
    for captured in [1400, 100] {
        let mut replay = Replay::new(Connection::new(ScopeId(1)));
        for _ in 0..2 {
            for piece in command.chunks(1400) {
                let head = piece.get(..captured).unwrap_or(piece);
                replay.part(Direction::Ingress, head, piece.len() as u64);
            }
            replay.egress(b"+OK\r\n");
        }
        replay.close();
        let expected = format!("Server SET  - None {}/5", command.len());
        assert_eq!(replay.lines(), [expected.clone(), expected], "{captured}");
    }
}

/// Clients read a reply's type, its length and its text by calls of their own.
#[test]
fn a_connection_is_recognised_by_replies_that_are_read_in_pieces() {
    let replies: [&[u8]; 10] = [
        b"$5\r\nhello\r\n",
        b"$-1\r\n",
        b":1234567\r\n",
        b"+OK\r\n",
        b"-ERR no such thing\r\n",
        b"-WRONGTYPE a\r\n",
        b"#t\r\n",
        b",3.25\r\n",
        b"_\r\n",
        b"%1\r\n+a\r\n:1\r\n",
    ];
    for (request, inline) in [(array("GET a"), false), (b"GET a\r\n".to_vec(), true)] {
        for reply in replies {
            if inline && matches!(reply[0], b'#' | b',' | b'_') {
                // Such a line answers in other protocols, too.
                continue;
            }
            for size in 1..=reply.len() {
                let mut replay = Replay::new(Connection::new(ScopeId(1)));
                for _ in 0..2 {
                    replay.egress(&request);
                    reply.chunks(size).for_each(|piece| replay.ingress(piece));
                }
                replay.close();
                let found = replay.lines();
                let bytes = format!("{}/{}", request.len(), reply.len());
                let right = found.len() == 2
                    && found.iter().all(|line| line.starts_with("Client GET ") && line.ends_with(&bytes));
                assert!(right, "{} by {size}: {found:?}", reply.escape_ascii());
            }
        }
    }
}
