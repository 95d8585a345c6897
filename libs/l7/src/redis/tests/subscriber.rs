//! Subscribers, and clients that switch replies off: which messages answer a command.

use super::*;

#[test]
fn replies_show_that_they_are_on_again() {
    let mut replay = Replay::new(Connection::new(ScopeId(1)));
    replay.ingress(b"*1\r\n$4\r\nPING\r\n");
    replay.egress(b"+PONG\r\n");
    replay.ingress(&array("CLIENT REPLY OFF"));
    replay.ingress(&array("SET a b"));
    let on = array("CLIENT REPLY ON");
    replay.lose(Direction::Ingress, on.len() as u64);
    replay.egress(b"+OK\r\n");
    for (request, reply) in
        [("GET a", &b"$1\r\nb\r\n"[..]), ("INCR a", b"-ERR no\r\n"), ("INCR a", b"-ERR no\r\n")]
    {
        replay.wait(1_000_000_000);
        replay.ingress(&array(request));
        replay.egress(reply);
    }
    replay.close();
    let lines = replay.lines();
    assert!(lines.last().is_some_and(|line| line.contains("INCR ") && line.contains(" ERR ")), "{lines:?}");
    let wrong = lines.iter().filter(|line| line.contains("INCR ") && !line.contains(" ERR ")).count();
    assert_eq!(wrong, 0, "{lines:?}");
}

#[test]
fn roles_are_right_wherever_a_subscription_is_joined() {
    const SUBSCRIBED: &[u8] = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n";
    const PUBLISHED: &[u8] = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$3\r\nGET\r\n";
    let conversation: &[(Direction, &[u8])] = &[
        (Direction::Ingress, b"*2\r\n$9\r\nsubscribe\r\n$1\r\na\r\n"),
        (Direction::Egress, SUBSCRIBED),
        (Direction::Egress, PUBLISHED),
        (Direction::Ingress, b"*1\r\n$4\r\nPING\r\n"),
        (Direction::Egress, PUBLISHED),
        (Direction::Egress, b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"),
        (Direction::Egress, b"*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\na\r\n$1\r\nx\r\n"),
        (Direction::Ingress, b"*2\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n"),
        (Direction::Egress, PUBLISHED),
        (Direction::Egress, b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n"),
        (Direction::Ingress, b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n"),
        (Direction::Egress, b"-WRONGTYPE no\r\n"),
    ];
    let steps: Vec<testing::Step> = conversation.iter().map(|(way, bytes)| (*way, bytes.to_vec())).collect();
    let whole = testing::play(Connection::new(ScopeId(1)), &steps);
    let operations: Vec<&str> = whole.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(operations, ["SUBSCRIBE", "PING", "UNSUBSCRIBE", "GET"]);
    for joined in 0..steps.len() {
        let requests = steps[joined..].iter().filter(|(way, _)| *way == Direction::Ingress).count();
        let expected = whole.get(whole.len() - requests..).unwrap_or_default();
        let lines = testing::play(Connection::new(ScopeId(1)), &steps[joined..]);
        assert_eq!(lines, expected, "joined at {joined}");
        // The end that is cut may be either one's.
        testing::assert_same_at_every_cut(|| Connection::new(ScopeId(1)), &steps[joined..], expected);
    }
    // A subscriber that stays silent is known by what is published alone.
    let mut replay = Replay::new(Connection::new(ScopeId(1)));
    replay.egress(PUBLISHED);
    assert_eq!(replay.connection.verdict(), Verdict::Known(Protocol::Redis));
    // A client may write its command in small letters, of the same number of elements.
    for cut in [3, 15, 26, 32] {
        let subscribe = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n$1\r\nb\r\n";
        let mut replay = Replay::new(Connection::new(ScopeId(1)));
        replay.ingress(&subscribe[..cut]);
        replay.ingress(&subscribe[cut..]);
        replay.egress(SUBSCRIBED);
        replay.egress(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n");
        let lines = replay.lines();
        assert!(matches!(&lines[..], [line] if line.starts_with("Server SUBSCRIBE ")), "{cut}: {lines:?}");
    }
}

const CONFIRMATION: &[u8] = b"*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n";
const END: &[u8] = b"*3\r\n$11\r\nunsubscribe\r\n$2\r\nch\r\n:0\r\n";
const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$2\r\nhi\r\n";
const WRONG_TYPE: &[u8] = b"-WRONGTYPE no\r\n";

/// Commands and their replies on the server's side of a connection: the operations and statuses that come of them, and
/// whether the kernel may follow the connection afterwards.
fn served(conversation: &[(&str, &[u8])]) -> (Vec<String>, bool) {
    let mut replay = Replay::new(Connection::new(ScopeId(1)));
    for (command, replies) in conversation {
        if !command.is_empty() {
            replay.ingress(&array(command));
        }
        replay.egress(replies);
    }
    let is_idle = replay.connection.idle_state().is_some();
    replay.close();
    let name = |line: &String| line.split(' ').skip(1).step_by(2).take(2).collect::<Vec<_>>().join(" ");
    (replay.lines().iter().map(name).collect(), is_idle)
}

#[test]
fn replies_that_look_published_make_no_subscriber() {
    for command in ["HMGET ev:1 type id body", "LRANGE l 0 2", "MGET a b c"] {
        let name = command.split(' ').next().unwrap_or_default();
        // Joined between a command and its reply.
        let conversation = [("", MESSAGE), (command, MESSAGE), (command, MESSAGE), ("GET x", WRONG_TYPE)];
        let expected = [format!("{name} -"), format!("{name} -"), "GET WRONGTYPE".to_owned()];
        assert_eq!(served(&conversation), (expected.to_vec(), true));
        // Two replies are due, and the first command that is seen is one that subscribers send, too.
        let due = [("", MESSAGE), ("PING", &[MESSAGE, b"+PONG\r\n"].concat())];
        let (found, is_idle) = served(&[&due[..], &conversation[1..]].concat());
        assert_eq!((&found[0][..], &found[1..], is_idle), ("PING -", &expected[..], true));
    }
}

#[test]
fn subscriptions_are_confirmed_whether_replies_are_on_or_not() {
    let after = [
        ("", MESSAGE),
        ("UNSUBSCRIBE", END),
        ("CLIENT REPLY ON", &b"+OK\r\n"[..]),
        ("LRANGE l 0 2", MESSAGE),
        ("GET x", WRONG_TYPE),
    ];
    // A `PING` behind it is answered where replies are on.
    for (mode, pong) in
        [("CLIENT REPLY OFF", &b""[..]), ("CLIENT REPLY SKIP", b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")]
    {
        let before =
            [("PING", &b"+PONG\r\n"[..]), (mode, b""), ("SUBSCRIBE ch", CONFIRMATION), ("PING", pong)];
        let (found, is_idle) = served(&[&before[..], &after[..]].concat());
        let expected = [
            "PING -",
            "CLIENT -",
            "SUBSCRIBE -",
            "PING -",
            "UNSUBSCRIBE -",
            "CLIENT -",
            "LRANGE -",
            "GET WRONGTYPE",
        ];
        assert_eq!((&found[..], is_idle), (&expected.map(str::to_owned)[..], true), "{mode}");
    }
}

#[test]
fn who_is_no_subscriber_any_more_gets_arrays_as_replies() {
    let push = |array: &[u8]| [b">", array.get(1..).unwrap_or_default()].concat();
    let (subscribed, published) = (push(CONFIRMATION), push(MESSAGE));
    let queued = [&b"*1\r\n"[..], CONFIRMATION, MESSAGE].concat();
    let subscriptions: [&[(&str, &[u8])]; 4] = [
        // Refused.
        &[("SUBSCRIBE ch", b"-NOPERM no\r\n")],
        &[("SUBSCRIBE ch", CONFIRMATION), ("", MESSAGE), ("RESET", b"+RESET\r\n")],
        &[
            ("SUBSCRIBE ch", &subscribed),
            ("", &published),
            ("LRANGE l 0 2", MESSAGE),
            ("RESET", b"+RESET\r\n"),
        ],
        &[
            ("MULTI", b"+OK\r\n"),
            ("SUBSCRIBE ch", b"+QUEUED\r\n"),
            ("EXEC", &queued),
            ("UNSUBSCRIBE ch", END),
        ],
    ];
    for subscription in subscriptions {
        let conversation = [subscription, &[("LRANGE l 0 2", MESSAGE), ("GET x", WRONG_TYPE)]].concat();
        let (found, is_idle) = served(&conversation);
        let commands = conversation.iter().filter(|(command, _)| !command.is_empty()).count();
        assert_eq!((found.len(), is_idle), (commands, true), "{found:?}");
        let last = found.get(commands - 2..).unwrap_or_default();
        assert_eq!(last, ["LRANGE -", "GET WRONGTYPE"], "{found:?}");
    }
}

#[test]
fn a_subscribers_replies_stay_as_they_are() {
    let refused = b"-ERR Can't execute 'client|reply'\r\n";
    let end = [("UNSUBSCRIBE", END), ("CLIENT REPLY ON", &b"+OK\r\n"[..]), ("GET x", WRONG_TYPE)];
    let off: [(&str, &[u8]); 4] = [
        ("PING", b"+PONG\r\n"),
        ("CLIENT REPLY OFF", b""),
        ("SUBSCRIBE ch", CONFIRMATION),
        ("CLIENT REPLY ON", b""),
    ];
    let on: [(&str, &[u8]); 4] = [
        ("PING", b"+PONG\r\n"),
        ("SUBSCRIBE ch", CONFIRMATION),
        ("CLIENT REPLY OFF", refused),
        ("", MESSAGE),
    ];
    let (found, is_idle) = served(&[&off[..], &end].concat());
    let expected =
        ["PING -", "CLIENT -", "SUBSCRIBE -", "CLIENT -", "UNSUBSCRIBE -", "CLIENT -", "GET WRONGTYPE"];
    assert_eq!((&found[..], is_idle), (&expected.map(str::to_owned)[..], true));
    let (found, is_idle) = served(&[&on[..], &end].concat());
    let expected = ["PING -", "SUBSCRIBE -", "CLIENT ERR", "UNSUBSCRIBE -", "CLIENT -", "GET WRONGTYPE"];
    assert_eq!((&found[..], is_idle), (&expected.map(str::to_owned)[..], true));
}
