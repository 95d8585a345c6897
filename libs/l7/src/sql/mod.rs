//! The shape of an SQL statement: its operation and the table that it is mainly about.
//!
//! Used by MySQL and PostgreSQL. The statement may be cut at any byte; a name that the cut may have shortened is not
//! given out. Literals, column lists and conditions are never looked at beyond finding their end.

pub mod name;
#[cfg(test)]
mod shapes;
mod tables;
#[cfg(test)]
mod tests;
mod token;

use tables::{Search, With, next_name, object_name, resolve_alias};
use token::{Token, Tokens};

/// Most tokens looked at in search of the verb.
const TOKENS_MAX: usize = 2_000;

/// Whose SQL a statement is written in. The same bytes are a literal in one dialect and a name in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// MySQL and MariaDB with their default `sql_mode`: double quotes and backslashes belong to literals.
    Mysql,
    /// PostgreSQL with `standard_conforming_strings`, as is the default since 9.1: double quotes enclose names, and only
    /// `E'…'` knows backslashes.
    Postgresql,
}

/// Operations given out; any other first word is [`OTHER`].
const OPERATIONS: [&str; 77] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "REPLACE",
    "MERGE",
    "UPSERT",
    "VALUES",
    "TABLE",
    "COPY",
    "LOAD",
    "CREATE",
    "ALTER",
    "DROP",
    "TRUNCATE",
    "RENAME",
    "COMMENT",
    "BEGIN",
    "START",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT",
    "RELEASE",
    "SET",
    "RESET",
    "SHOW",
    "USE",
    "DESCRIBE",
    "EXPLAIN",
    "ANALYZE",
    "VACUUM",
    "PREPARE",
    "EXECUTE",
    "DEALLOCATE",
    "CALL",
    "DO",
    "LOCK",
    "GRANT",
    "REVOKE",
    "LISTEN",
    "NOTIFY",
    "UNLISTEN",
    "DECLARE",
    "FETCH",
    "MOVE",
    "CLOSE",
    "HANDLER",
    "DISCARD",
    "REFRESH",
    "REINDEX",
    "CLUSTER",
    "CHECKPOINT",
    "OPTIMIZE",
    "FLUSH",
    "KILL",
    "CHECK",
    "REPAIR",
    "CHECKSUM",
    "CACHE",
    "UNLOCK",
    "XA",
    "CHANGE",
    "STOP",
    "PURGE",
    "BINLOG",
    "INSTALL",
    "UNINSTALL",
    "SIGNAL",
    "RESIGNAL",
    "GET",
    "HELP",
    "IMPORT",
    "CLONE",
    "RESTART",
    "SHUTDOWN",
    "SECURITY",
    "REASSIGN",
];

/// The operation of a statement that starts with no known word.
pub const OTHER: &str = "OTHER";

/// How the table of an operation is found.
enum Rule {
    /// Behind the first `FROM` of the outermost query.
    From,
    /// Behind any of the noise words.
    Next,
    /// Behind `TABLE` or `VIEW`: of what is made, changed or dropped only these are tables.
    Object,
    /// As `From`; in MySQL's `DELETE FROM x USING t AS x` the name is an alias.
    Delete,
    /// Behind any of the noise words, or that of a query in parentheses.
    Copy,
    /// Behind `INTO TABLE`.
    Into,
    /// There is none.
    Without,
}

/// Reads a statement. Writes its main table, as `name` or `schema.name`, into `table` (emptied first; left empty
/// where there is none or the cut hides it) and returns its operation in upper case.
///
/// `complete` means that `statement` was not cut.
pub fn shape(dialect: Dialect, statement: &[u8], complete: bool, table: &mut String) -> &'static str {
    table.clear();
    let mut tokens = Tokens::new(dialect, statement);
    let mut with = With::default();
    let Some(operation) = operation(&mut tokens, &mut with, complete) else { return OTHER };
    match rule(operation) {
        Rule::From => Search::new(&with, complete).query(&mut tokens, table),
        Rule::Next => {
            next_name(&mut tokens, complete, table);
            // `WITH x AS (…) TABLE x`
            if with.contains(table) {
                table.clear();
            }
        }
        Rule::Object => object_name(&mut tokens, complete, table),
        Rule::Delete => {
            let mut behind = tokens.clone();
            Search::new(&with, complete).query(&mut tokens, table);
            if dialect == Dialect::Mysql {
                resolve_alias(&mut behind, complete, table);
            }
        }
        Rule::Copy => {
            if tokens.clone().next() == Some(Token::Mark(b'(')) {
                Search::new(&with, complete).query_in_parentheses(&mut tokens, table);
            } else {
                next_name(&mut tokens, complete, table);
            }
        }
        Rule::Into => {
            let is = |token: Option<Token<'_>>, wanted: &[u8]| matches!(token, Some(Token::Word(word)) if word.eq_ignore_ascii_case(wanted));
            if tokens.any(|token| is(Some(token), b"INTO")) && is(tokens.next(), b"TABLE") {
                next_name(&mut tokens, complete, table);
            }
        }
        Rule::Without => {}
    }
    operation
}

/// Whether a text is several statements.
pub fn is_several(dialect: Dialect, text: &[u8]) -> bool {
    following(dialect, text).is_some()
}

/// What follows the first of several statements, behind its `;`; `None` when there is nothing.
pub fn following(dialect: Dialect, statement: &[u8]) -> Option<&[u8]> {
    memchr::memchr(b';', statement)?;
    let mut tokens = Tokens::new(dialect, statement);
    let mut begun = false;
    loop {
        match tokens.next()? {
            Token::Mark(b';') if begun => break,
            Token::Mark(b';') => {}
            _ => begun = true,
        }
    }
    let rest = tokens.rest();
    Tokens::new(dialect, rest).any(|token| token != Token::Mark(b';')).then_some(rest)
}

fn rule(operation: &str) -> Rule {
    match operation {
        "SELECT" => Rule::From,
        "DELETE" => Rule::Delete,
        "COPY" => Rule::Copy,
        "LOAD" => Rule::Into,
        "CREATE" | "ALTER" | "DROP" => Rule::Object,
        "INSERT" | "UPDATE" | "REPLACE" | "MERGE" | "UPSERT" | "TABLE" | "TRUNCATE" | "DESCRIBE" | "CALL"
        | "LOCK" => Rule::Next,
        _ => Rule::Without,
    }
}

fn known(word: &[u8]) -> Option<&'static str> {
    OPERATIONS
        .into_iter()
        .find(|operation| word.eq_ignore_ascii_case(operation.as_bytes()))
        .or_else(|| word.eq_ignore_ascii_case(b"DESC").then_some("DESCRIBE"))
        .or_else(|| word.eq_ignore_ascii_case(b"END").then_some("COMMIT"))
        .or_else(|| word.eq_ignore_ascii_case(b"ABORT").then_some("ROLLBACK"))
}

/// The statement's verb: the first word, or behind `WITH` the first verb outside the parentheses.
fn operation<'a>(tokens: &mut Tokens<'a>, names: &mut With<'a>, complete: bool) -> Option<&'static str> {
    let mut with = false;
    let mut depth = 0_usize;
    // The name that is being defined, and whether its statement comes next.
    let (mut name, mut body) = (None, false);
    for _ in 0..TOKENS_MAX {
        match tokens.next()? {
            Token::Mark(b'(' | b';') if !with => {}
            // `WITH x AS (…) (SELECT …)`: the statement itself is in parentheses.
            Token::Mark(b'(') if depth == 0 && with && body && name.is_none() => with = false,
            Token::Mark(b'(') => {
                if depth == 0
                    && body
                    && let Some(name) = name.take()
                {
                    names.push(name, tokens.clone());
                }
                depth += 1;
            }
            Token::Mark(b')') => depth = depth.saturating_sub(1),
            Token::Mark(b',') if with && depth == 0 => (name, body) = (None, false),
            Token::Word(word) if !with && word.eq_ignore_ascii_case(b"WITH") => with = true,
            Token::Word(word) if !with => {
                return known(word).filter(|_| complete || !tokens.touches_end());
            }
            Token::Word(word) if depth == 0 => {
                // Only these follow a WITH clause; its own names and `AS` are passed over.
                let verb = known(word).filter(|verb| {
                    matches!(
                        *verb,
                        "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "REPLACE" | "TABLE" | "VALUES"
                    )
                });
                if verb.is_some() {
                    return verb.filter(|_| complete || !tokens.touches_end());
                }
                if word.eq_ignore_ascii_case(b"AS") {
                    body = true;
                } else if name.is_none() && word.eq_ignore_ascii_case(b"RECURSIVE") {
                    names.recursive = true;
                } else if name.is_none() {
                    name = Some(word);
                }
            }
            Token::Quoted(word) if depth == 0 && name.is_none() => name = Some(word),
            _ if !with => return None,
            _ => {}
        }
    }
    None
}
