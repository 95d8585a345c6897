//! The commands of a client, and the shape of their answers.

use crate::mysql::wire::{lenenc, u16_at};

/// How the answer to a command looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// OK, an error, a request for a local file, or result sets.
    Results,
    /// A statement's id and the definitions of its parameters and columns.
    Prepared,
    /// Rows, or definitions, up to their end.
    Rows,
    /// One packet of text.
    Text,
    /// OK, EOF or an error.
    Single,
    /// An authentication.
    Login,
    /// The connection carries no commands afterwards.
    Stream,
}

/// What follows a command's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// An SQL statement.
    Statement,
    /// The id of a prepared statement.
    Id,
    /// Nothing that is looked at.
    Other,
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    /// Its name, where the statement gives none.
    pub(super) name: &'static str,
    /// How it is answered; `None` when it is not.
    pub(super) answer: Option<Shape>,
    /// What it carries.
    pub(super) content: Content,
    /// Fewest bytes of its payload, the first among them.
    pub(super) shortest: usize,
}

pub(super) const QUIT: u8 = 0x01;
pub(super) const QUERY: u8 = 0x03;
pub(super) const PING: u8 = 0x0e;
pub(super) const PREPARE: u8 = 0x16;
pub(super) const EXECUTE: u8 = 0x17;
pub(super) const SEND_LONG_DATA: u8 = 0x18;
pub(super) const CLOSE: u8 = 0x19;
pub(super) const RESET_CONNECTION: u8 = 0x1f;

/// The command of this number (`include/my_command.h`; MariaDB: `enum_server_command`). Those that were never in use,
/// or are only known inside a server, are not there.
pub(super) fn command(number: u8) -> Option<Command> {
    use Content::{Id, Other, Statement};
    let (name, answer, content, shortest) = match number {
        QUIT => ("QUIT", None, Other, 1),
        0x02 => ("USE", Some(Shape::Single), Other, 1),
        QUERY => ("OTHER", Some(Shape::Results), Statement, 2),
        0x04 => ("FIELD_LIST", Some(Shape::Rows), Other, 2),
        0x05 => ("CREATE_DB", Some(Shape::Single), Other, 2),
        0x06 => ("DROP_DB", Some(Shape::Single), Other, 2),
        0x07 => ("REFRESH", Some(Shape::Single), Other, 2),
        0x08 => ("SHUTDOWN", Some(Shape::Single), Other, 1),
        0x09 => ("STATISTICS", Some(Shape::Text), Other, 1),
        0x0a => ("PROCESS_INFO", Some(Shape::Results), Other, 1),
        0x0c => ("KILL", Some(Shape::Single), Other, 5),
        0x0d => ("DEBUG", Some(Shape::Single), Other, 1),
        PING => ("PING", Some(Shape::Single), Other, 1),
        0x11 => ("CHANGE_USER", Some(Shape::Login), Other, 2),
        0x12 => ("BINLOG_DUMP", Some(Shape::Stream), Other, 11),
        0x15 => ("REGISTER_REPLICA", Some(Shape::Single), Other, 18),
        PREPARE => ("PREPARE", Some(Shape::Prepared), Statement, 2),
        EXECUTE => ("EXECUTE", Some(Shape::Results), Id, 10),
        SEND_LONG_DATA => ("SEND_LONG_DATA", None, Id, 7),
        CLOSE => ("CLOSE", None, Id, 5),
        0x1a => ("RESET", Some(Shape::Single), Id, 5),
        0x1b => ("SET_OPTION", Some(Shape::Single), Other, 3),
        0x1c => ("FETCH", Some(Shape::Rows), Id, 9),
        0x1e => ("BINLOG_DUMP_GTID", Some(Shape::Stream), Other, 11),
        RESET_CONNECTION => ("RESET_CONNECTION", Some(Shape::Single), Other, 1),
        // MariaDB's bulk execution.
        0xfa => ("EXECUTE", Some(Shape::Results), Id, 7),
        _ => return None,
    };
    Some(Command { name, answer, content, shortest })
}

/// Most attributes of a query that are passed over.
const ATTRIBUTES_MAX: u64 = 64;

/// The statement of a `COM_QUERY`, behind its first byte and any query attributes (`CLIENT_QUERY_ATTRIBUTES`). Empty
/// when the capture ends before it.
///
/// Attributes start with their number and the number of their sets, always 1: a byte that continues no statement.
pub(super) fn statement(text: &[u8]) -> &[u8] {
    let Some((count, rest)) = lenenc(text) else { return text };
    let Some(rest) = rest.strip_prefix(&[1]) else { return text };
    if count == 0 { rest } else { behind_attributes(rest, count).unwrap_or_default() }
}

/// Null bitmap, a 1, for each its type (2) and name, then the values of those that are not null.
fn behind_attributes(bytes: &[u8], count: u64) -> Option<&[u8]> {
    let count = usize::try_from(count.min(ATTRIBUTES_MAX + 1)).ok().filter(|count| *count <= 64)?;
    let (nulls, rest) = bytes.split_at_checked(count.div_ceil(8))?;
    let types = rest.strip_prefix(&[1])?;
    let mut values = types;
    for _ in 0..count {
        values = behind_string(values.get(2..)?)?;
    }
    let mut kinds = types;
    for index in 0..count {
        let kind = u16_at(kinds, 0)? & 0xff;
        kinds = behind_string(kinds.get(2..)?)?;
        if nulls.get(index / 8)? >> (index % 8) & 1 == 0 {
            values = behind_value(values, kind)?;
        }
    }
    Some(values)
}

fn behind_string(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = lenenc(bytes)?;
    rest.get(usize::try_from(length).ok()?..)
}

/// A value in the binary protocol, by its column type (`include/field_types.h`).
fn behind_value(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    match kind {
        6 => Some(bytes),
        1 => bytes.get(1..),
        2 | 13 => bytes.get(2..),
        3 | 4 | 9 => bytes.get(4..),
        5 | 8 => bytes.get(8..),
        7 | 10 | 11 | 12 => bytes.get(1 + usize::from(*bytes.first()?)..),
        _ => behind_string(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_attributes_are_passed_over() {
        assert_eq!(statement(b"SELECT 1"), b"SELECT 1");
        assert_eq!(statement(b"\x00\x01SELECT 1"), b"SELECT 1");
        // Three attributes: a string, a null, a number.
        let attributes =
            b"\x03\x01\x02\x01\xfe\x00\x01a\x06\x00\x01b\x08\x00\x01c\x05value\x01\0\0\0\0\0\0\0SELECT 1";
        assert_eq!(statement(attributes), b"SELECT 1");
        for cut in 2..attributes.len() - 8 {
            assert_eq!(statement(&attributes[..cut]), b"", "{cut}");
        }
    }
}
