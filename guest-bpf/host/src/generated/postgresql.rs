//! PostgreSQL, from the start of the session on.

use super::{Message, choices::Choices, client, server};

/// Statements, some of which are none.
const STATEMENTS: &[&str] = &[
    "SELECT 1",
    "select a from t where b = 'x'",
    "INSERT INTO t VALUES (1, 'it''s')",
    "UPDATE t SET a = 2",
    "BEGIN",
    "COMMIT",
    "",
    "SELEC 1",
    "SELECT 1; SELECT 2",
    "SELECT 1;",
    "/* c */ SELECT a FROM \"t t\"",
    "SELECT $$a;b$$",
    ";",
    "SET a = 7",
    "VACUUM t",
];

fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len() + 4).expect("short").to_be_bytes();
    [&[kind], &len[..], content].concat()
}

fn login() -> Vec<Message> {
    let start = b"\0\x03\0\0user\0postgres\0database\0shop\0\0";
    let len = u32::try_from(start.len() + 4).expect("short").to_be_bytes();
    let welcome = [message(b'R', &[0; 4]), message(b'S', b"a\0b\0"), message(b'K', &[7; 8]), ready()];
    vec![client([&len[..], start].concat()), server(welcome.concat())]
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn error(choices: &mut Choices<'_>) -> Vec<u8> {
    let state = choices.of(&["42601", "42P01", "23505", "57014", "XX000"]);
    message(b'E', format!("SERROR\0VERROR\0C{state}\0Mno\0\0").as_bytes())
}

/// Rows and the command's end, or an error.
fn result(choices: &mut Choices<'_>, all: &mut Vec<u8>) -> bool {
    if choices.once_in(15) {
        all.extend(message(b'N', b"SNOTICE\0C00000\0Mhm\0\0"));
    }
    if choices.once_in(6) {
        all.extend(error(choices));
        return false;
    }
    if choices.once_in(3) {
        let tag = choices.of(&["INSERT 0 1\0", "UPDATE 3\0", "BEGIN\0", "SET\0"]);
        all.extend(message(b'C', tag.as_bytes()));
        return true;
    }
    all.extend(message(b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0"));
    let rows = choices.below(30);
    for _ in 0..rows {
        let size = choices.size();
        let len = u32::try_from(size).expect("short").to_be_bytes();
        all.extend(message(b'D', &[&[0, 1], &len[..], choices.text(size).as_bytes()].concat()));
    }
    if choices.once_in(15) {
        all.extend(error(choices));
        return false;
    }
    all.extend(message(b'C', format!("SELECT {rows}\0").as_bytes()));
    true
}

fn exchange(choices: &mut Choices<'_>, all: &mut Vec<Message>) {
    if choices.once_in(10) {
        let notification = choices.of(b"ASN");
        all.push(server(message(notification, b"\0\0\0\x07a\0b\0")));
    }
    let mut statement = choices.of(STATEMENTS).to_owned();
    if choices.once_in(20) {
        statement = format!("{statement} /* {} */", choices.text(1200));
    }
    let mut reply = Vec::new();
    if choices.once_in(6) {
        // The extended protocol.
        let parse = message(b'P', format!("\0{statement}\0\0\0").as_bytes());
        let bind = message(b'B', &[0; 8]);
        let execute = message(b'E', &[0; 5]);
        all.push(client([parse, bind, execute, message(b'S', b"")].concat()));
        reply.extend([message(b'1', b""), message(b'2', b"")].concat());
        result(choices, &mut reply);
        reply.extend(ready());
        all.push(server(reply));
        return;
    }
    all.push(client(message(b'Q', format!("{statement}\0").as_bytes())));
    if statement.is_empty() || statement == ";" {
        reply.extend(message(b'I', b""));
    } else {
        let statements = if statement.contains("; ") { 2 } else { 1 };
        for _ in 0..statements {
            if !result(choices, &mut reply) {
                break;
            }
        }
    }
    if choices.once_in(25) {
        reply.extend(message(b'S', b"TimeZone\0UTC\0"));
    }
    if choices.once_in(6) {
        all.push(server(reply));
        all.push(server(ready()));
    } else {
        reply.extend(ready());
        all.push(server(reply));
    }
}

/// A conversation.
pub(super) fn conversation(choices: &mut Choices<'_>) -> Vec<Message> {
    let mut all = login();
    for _ in 0..=choices.below(10) {
        exchange(choices, &mut all);
    }
    if choices.once_in(2) {
        all.push(client(message(b'X', b"")));
    }
    all
}
