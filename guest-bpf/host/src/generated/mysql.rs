//! MySQL, behind the login.

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
    "/* c */ SELECT a FROM `t t`",
    "CALL p()",
    "SET @a = 7",
    "\u{1}",
    "\n\tSELECT 1",
];

fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short").to_le_bytes();
    [&[len[0], len[1], len[2], number], payload].concat()
}

/// The greeting, and a login whose capabilities have (or have not) an end of rows of its own.
fn login(deprecates_eof: bool) -> Vec<Message> {
    let capabilities: u32 = 0x00ff_a285 | if deprecates_eof { 1 << 24 } else { 0 };
    let server_capabilities = (capabilities | 0x0000_0800).to_le_bytes();
    let mut greeting = vec![10];
    greeting.extend_from_slice(b"8.0.36\0\x05\0\0\0abcdefgh\0");
    greeting.extend_from_slice(&server_capabilities[..2]);
    greeting.extend_from_slice(&[45, 2, 0]);
    greeting.extend_from_slice(&server_capabilities[2..]);
    greeting.push(21);
    greeting.extend_from_slice(&[0; 10]);
    greeting.extend_from_slice(b"ijklmnopqrst\0mysql_native_password\0");
    let mut response = capabilities.to_le_bytes().to_vec();
    response.extend_from_slice(&[0, 0, 0, 1, 45]);
    response.extend_from_slice(&[0; 23]);
    response.extend_from_slice(b"root\0\0shop\0mysql_native_password\0\0");
    vec![server(packet(0, &greeting)), client(packet(1, &response)), server(packet(2, &ok(2)))]
}

fn ok(status: u16) -> Vec<u8> {
    let status = status.to_le_bytes();
    vec![0, 1, 0, status[0], status[1], 0, 0]
}

fn error(choices: &mut Choices<'_>) -> Vec<u8> {
    let code: u16 = choices.of(&[1064, 1146, 1062, 1213, 2013]);
    let code = code.to_le_bytes();
    [&[0xff, code[0], code[1]], &b"#42000You have an error"[..]].concat()
}

/// A result with columns and rows, or an OK; `more` follow.
fn result(choices: &mut Choices<'_>, number: &mut u8, deprecates_eof: bool, more: bool) -> Vec<u8> {
    let status: u16 = 2 | if more { 8 } else { 0 };
    let mut out = Vec::new();
    let mut push = |payload: &[u8]| {
        out.extend(packet(*number, payload));
        *number = number.wrapping_add(1);
    };
    if choices.once_in(3) {
        push(&ok(status));
        return out;
    }
    let columns = 1 + choices.below(4);
    push(&[u8::try_from(columns).expect("few")]);
    for _ in 0..columns {
        push(b"\x03def\x04shop\x01t\x01t\x01a\x01a\x0c\x3f\x00\x0b\x00\x00\x00\x03\x00\x00\x00\x00\x00");
    }
    let flags = status.to_le_bytes();
    let eof = [0xfe, 0, 0, flags[0], flags[1]];
    if !deprecates_eof {
        push(&[0xfe, 0, 0, 2, 0]);
    }
    for _ in 0..choices.below(30) {
        let size = choices.size();
        let mut row = if size > 250 {
            vec![0xfc, size.to_le_bytes()[0], size.to_le_bytes()[1]]
        } else {
            vec![size.to_le_bytes()[0]]
        };
        row.extend(choices.text(size).into_bytes());
        push(&row);
    }
    if choices.once_in(12) {
        push(&error(choices));
    } else if deprecates_eof {
        push(&[0xfe, 0, 0, flags[0], flags[1], 0, 0]);
    } else {
        push(&eof);
    }
    out
}

fn exchange(choices: &mut Choices<'_>, deprecates_eof: bool, all: &mut Vec<Message>) {
    let mut number = 1;
    match choices.below(12) {
        0 => {
            all.push(client(packet(0, &[0x0e])));
            all.push(server(packet(1, &ok(2))));
        }
        1 => {
            all.push(client(packet(0, b"\x02shop")));
            let failed = choices.once_in(3);
            let reply = if failed { error(choices) } else { ok(2) };
            all.push(server(packet(1, &reply)));
        }
        2 => {
            // A prepared statement, and an execution.
            all.push(client(packet(0, b"\x16SELECT a FROM t WHERE b = ?")));
            let mut reply = packet(1, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            if choices.once_in(2) {
                reply = packet(1, &[0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
                reply.extend(packet(2, b"\x03def\x04shop\x01t\x01t\x01a\x01a\x0c\x3f\x00\x0b\x00\x00\x00\x03\x00\x00\x00\x00\x00"));
                if !deprecates_eof {
                    reply.extend(packet(3, &[0xfe, 0, 0, 2, 0]));
                }
            }
            all.push(server(reply));
            for _ in 0..choices.below(4) {
                all.push(client(packet(0, &[0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0])));
                let mut number = 1;
                all.push(server(result(choices, &mut number, deprecates_eof, false)));
            }
        }
        _ => {
            let mut query = vec![3];
            query.extend_from_slice(choices.of(STATEMENTS).as_bytes());
            if choices.once_in(20) {
                query.extend(format!(" /* {} */", choices.text(1200)).into_bytes());
            }
            let query = packet(0, &query);
            if choices.once_in(5) {
                // Clients that send header and payload apart.
                all.push(client(&query[..4]));
                all.push(client(&query[4..]));
            } else {
                all.push(client(query));
            }
            if choices.once_in(6) {
                all.push(server(packet(1, &error(choices))));
                return;
            }
            let results = if choices.once_in(8) { 2 + choices.below(3) } else { 1 };
            let mut reply = Vec::new();
            for index in 0..results {
                reply.extend(result(choices, &mut number, deprecates_eof, index + 1 < results));
            }
            all.push(server(reply));
        }
    }
}

/// A conversation.
pub(super) fn conversation(choices: &mut Choices<'_>) -> Vec<Message> {
    let deprecates_eof = choices.once_in(2);
    let mut all = login(deprecates_eof);
    for _ in 0..=choices.below(10) {
        exchange(choices, deprecates_eof, &mut all);
    }
    if choices.once_in(2) {
        all.push(client(packet(0, &[1])));
    }
    all
}
