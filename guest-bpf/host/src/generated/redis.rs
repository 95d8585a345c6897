//! Redis: RESP2 and RESP3.

use super::{Message, choices::Choices, client, server};

const COMMANDS: &[&str] = &[
    "GET", "get", "SET", "Get", "MGET", "DEL", "HGETALL", "LRANGE", "PING", "INCR", "EVAL", "MULTI", "EXEC",
    "INFO", "AUTH", "SELECT", "XADD", "ZADD", "BLPOP", "EXPIRE", "NOSUCH", "CLIENT", "HELLO", "CONFIG",
    "JSON.GET",
];

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn command(choices: &mut Choices<'_>) -> Vec<u8> {
    let name = if choices.once_in(3) { choices.of(COMMANDS) } else { choices.of(&COMMANDS[..12]) };
    if choices.once_in(60) {
        return format!("{name} inline\r\n").into_bytes();
    }
    let count = choices.below(5);
    let mut out = format!("*{}\r\n{}", count + 1, bulk(name));
    for _ in 0..count {
        let size = choices.size();
        let text = match choices.below(12) {
            0 => "\r\n*1\r\n$4\r\nPING\r\n".to_owned(),
            1 => "TRACKING".to_owned(),
            2 => "SETNAME".to_owned(),
            _ => choices.text(size),
        };
        out.push_str(&bulk(&text));
    }
    let mut bytes = out.into_bytes();
    choices.control(&mut bytes);
    bytes
}

fn value(choices: &mut Choices<'_>, depth: usize) -> String {
    if depth == 0 && choices.once_in(40) {
        // As deep as scripts nest.
        return format!("{}:1\r\n", "*1\r\n".repeat(20 + choices.below(60)));
    }
    let kinds = if depth > 2 { 12 } else { 17 };
    match choices.below(kinds) {
        0 => "+OK\r\n".to_owned(),
        1 => format!(":{}\r\n", choices.below(1000)),
        2 => "$-1\r\n".to_owned(),
        3 => "_\r\n".to_owned(),
        4 => ",3.14\r\n".to_owned(),
        5 => "#t\r\n".to_owned(),
        6 => "(3492890328409238509324850943850943825024385\r\n".to_owned(),
        7 => "=8\r\ntxt:text\r\n".to_owned(),
        8 => "!7\r\nERR bad\r\n".to_owned(),
        9 => "*-1\r\n".to_owned(),
        10 | 11 => {
            let size = choices.size();
            bulk(&choices.text(size))
        }
        12 | 13 => aggregate(choices, '*', 1, depth),
        14 => aggregate(choices, '~', 1, depth),
        15 => aggregate(choices, '%', 2, depth),
        _ => format!("|1\r\n+ttl\r\n:3600\r\n{}", value(choices, depth + 1)),
    }
}

fn aggregate(choices: &mut Choices<'_>, kind: char, each: usize, depth: usize) -> String {
    let count = choices.below(5);
    let mut out = format!("{kind}{count}\r\n");
    for _ in 0..count * each {
        out.push_str(&value(choices, depth + 1));
    }
    out
}

fn reply(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut out = String::new();
    if choices.once_in(60) {
        out.push_str(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n");
    }
    match choices.below(8) {
        0 => out.push_str(choices.of(&[
            "-ERR unknown command\r\n",
            "-WRONGTYPE Operation against a key\r\n",
            "-MOVED 1 1.2.3.4:5\r\n",
            "-NOAUTH\r\n",
            "-\r\n",
        ])),
        _ => out.push_str(&value(choices, 0)),
    }
    let mut bytes = out.into_bytes();
    choices.control(&mut bytes);
    bytes
}

/// A conversation.
pub(super) fn conversation(choices: &mut Choices<'_>) -> Vec<Message> {
    // Arrays of more or fewer arguments than their command takes are no proof of Redis for `l7`, which does not know who
    // opened the connection; and neither is a reply whose line is cut.
    let mut all = vec![client("*1\r\n$4\r\nPING\r\n"), server("+PONG\r\n")];
    for _ in 0..=choices.below(8) {
        let count = if choices.once_in(4) { 1 + choices.below(70) } else { 1 };
        let commands: Vec<u8> = (0..count).flat_map(|_| command(choices)).collect();
        all.push(client(commands));
        let replies: Vec<Vec<u8>> = (0..count).map(|_| reply(choices)).collect();
        if choices.once_in(2) {
            all.push(server(replies.concat()));
        } else {
            all.extend(replies.into_iter().map(server));
        }
    }
    all
}
