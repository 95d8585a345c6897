//! The name of a statement (operation and table), in the form in which it is kept for the kernel's hash of the statement.

use super::{Dialect, OTHER, known, shape};

/// Behind the operation.
const END: u8 = 0;

/// Operation and table of a statement, as they are kept to give names to its exchanges later.
pub fn statement_name(dialect: Dialect, statement: &[u8]) -> Box<[u8]> {
    let mut table = String::new();
    let operation = shape(dialect, statement, true, &mut table);
    prepared_name(operation, &table)
}

/// The same of a statement whose operation and table are known.
pub fn prepared_name(operation: &str, table: &str) -> Box<[u8]> {
    [operation.as_bytes(), &[END], table.as_bytes()].concat().into()
}

/// The operation, [`OTHER`] among them, and the table; `None` when nothing is known of the statement.
pub(crate) fn decode(name: &[u8]) -> Option<(&'static str, &str)> {
    let end = memchr::memchr(END, name)?;
    let (operation, table) = name.split_at_checked(end)?;
    Some((known(operation).unwrap_or(OTHER), std::str::from_utf8(table.get(1..)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_says_operation_and_table() {
        for (statement, operation, table) in [
            ("select a from `shop`.`order items` where b = 1", "SELECT", "shop.order items"),
            ("begin", "BEGIN", ""),
            ("gibberish", "OTHER", ""),
            ("INSERT INTO größe VALUES (1)", "INSERT", "größe"),
        ] {
            assert_eq!(
                decode(&statement_name(Dialect::Mysql, statement.as_bytes())),
                Some((operation, table)),
                "{statement}"
            );
        }
        assert_eq!(decode(b""), None);
        assert_eq!(decode(b"\x0e"), None);
    }
}
