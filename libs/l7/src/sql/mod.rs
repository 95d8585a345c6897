//! The shape of an SQL statement: its operation and the table that it is mainly about.
//!
//! Used by MySQL and PostgreSQL. The statement may be cut at any byte; a name that the cut may have shortened is not
//! given out. Literals, column lists and conditions are never looked at beyond finding their end.

pub mod name;
mod tables;
mod token;

use tables::{Search, With, next_name};
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
const OPERATIONS: [&str; 55] = [
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
];

/// The operation of a statement that starts with no known word.
pub const OTHER: &str = "OTHER";

/// How the table of an operation is found.
enum Rule {
    /// Behind the first `FROM` of the outermost query.
    From,
    /// Behind one of these words and any of the noise words.
    Next,
    /// Behind `INTO TABLE`.
    Into,
    /// There is none.
    Without,
}

/// Reads a statement. Writes its main table, as `name` or `schema.name`, into `table` (emptied first; left empty
/// where there is none or the cut hides it) and returns its operation in upper case.
///
/// `complete` says that `statement` was not cut.
pub fn shape(dialect: Dialect, statement: &[u8], complete: bool, table: &mut String) -> &'static str {
    table.clear();
    let mut tokens = Tokens::new(dialect, statement);
    let mut with = With::default();
    let Some(operation) = operation(&mut tokens, &mut with, complete) else { return OTHER };
    match rule(operation) {
        Rule::From => Search::new(&with, complete).query(&mut tokens, table),
        Rule::Next => next_name(&mut tokens, complete, table),
        Rule::Into => {
            if tokens.any(|token| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(b"INTO"))) {
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
        "SELECT" | "DELETE" => Rule::From,
        "LOAD" => Rule::Into,
        "INSERT" | "UPDATE" | "REPLACE" | "MERGE" | "UPSERT" | "TABLE" | "COPY" | "CREATE" | "ALTER"
        | "DROP" | "TRUNCATE" | "DESCRIBE" | "CALL" | "LOCK" => Rule::Next,
        _ => Rule::Without,
    }
}

fn known(word: &[u8]) -> Option<&'static str> {
    OPERATIONS
        .into_iter()
        .find(|operation| word.eq_ignore_ascii_case(operation.as_bytes()))
        .or_else(|| word.eq_ignore_ascii_case(b"DESC").then_some("DESCRIBE"))
        .or_else(|| word.eq_ignore_ascii_case(b"END").then_some("COMMIT"))
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
                    matches!(*verb, "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "REPLACE")
                });
                if verb.is_some() {
                    return verb.filter(|_| complete || !tokens.touches_end());
                }
                if word.eq_ignore_ascii_case(b"AS") {
                    body = true;
                } else if name.is_none() && !word.eq_ignore_ascii_case(b"RECURSIVE") {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Backticks are MySQL's.
    fn dialect_of(statement: &str) -> Dialect {
        if statement.contains('`') { Dialect::Mysql } else { Dialect::Postgresql }
    }

    fn shape_of(statement: &str) -> (&'static str, String) {
        let mut table = String::new();
        let operation = shape(dialect_of(statement), statement.as_bytes(), true, &mut table);
        (operation, table)
    }

    const STATEMENTS: &[(&str, &str, &str)] = &[
        ("select 1", "SELECT", ""),
        ("SELECT * FROM users WHERE name = 'x FROM y'", "SELECT", "users"),
        ("SELECT a FROM `shop`.`order items` o", "SELECT", "shop.order items"),
        ("SELECT a FROM \"Public\".\"Users\"", "SELECT", "Public.Users"),
        ("/* app:x */ -- y\n SELECT 1 FROM t;", "SELECT", "t"),
        ("SELECT extract(year FROM ts) FROM events", "SELECT", "events"),
        ("SELECT (SELECT max(x) FROM inner1) FROM outer1", "SELECT", "outer1"),
        ("SELECT * FROM (SELECT * FROM deep) d", "SELECT", "deep"),
        ("SELECT * FROM (a JOIN b ON true)", "SELECT", "a"),
        ("SELECT * FROM (SELECT 1) x", "SELECT", ""),
        ("SELECT a IS DISTINCT FROM b FROM t", "SELECT", "t"),
        ("(SELECT 1 FROM t) UNION (SELECT 2 FROM u)", "SELECT", "t"),
        ("SELECT * FROM ONLY parent", "SELECT", "parent"),
        ("WITH x AS (SELECT 1 FROM hidden) SELECT * FROM y JOIN x", "SELECT", "y"),
        ("WITH RECURSIVE x(n) AS (SELECT 1) INSERT INTO log SELECT n FROM x", "INSERT", "log"),
        ("INSERT INTO t (a,b) VALUES (1,'2')", "INSERT", "t"),
        ("INSERT IGNORE INTO db.t SET a=1", "INSERT", "db.t"),
        ("REPLACE INTO t VALUES (1)", "REPLACE", "t"),
        ("UPDATE t SET a = 1", "UPDATE", "t"),
        ("DELETE FROM t WHERE id = $1", "DELETE", "t"),
        ("TRUNCATE TABLE t", "TRUNCATE", "t"),
        ("CREATE TABLE IF NOT EXISTS t (id int)", "CREATE", "t"),
        ("CREATE UNIQUE INDEX i ON t (a)", "CREATE", ""),
        ("DROP TABLE IF EXISTS t", "DROP", "t"),
        ("COPY t (a) FROM STDIN", "COPY", "t"),
        ("LOAD DATA LOCAL INFILE 'x INTO y' IGNORE INTO TABLE `t` FIELDS", "LOAD", "t"),
        ("FETCH FORWARD 100 FROM \"c\"", "FETCH", ""),
        ("COPY (SELECT * FROM t) TO STDOUT", "COPY", ""),
        ("begin", "BEGIN", ""),
        ("END", "COMMIT", ""),
        ("SET NAMES utf8mb4", "SET", ""),
        ("CALL do_it(1)", "CALL", "do_it"),
        ("gibberish here", "OTHER", ""),
        ("", "OTHER", ""),
        ("'SELECT'", "OTHER", ""),
    ];

    #[test]
    fn statements_have_their_operation_and_table() {
        for (statement, operation, table) in STATEMENTS {
            assert_eq!(shape_of(statement), (*operation, (*table).to_owned()), "{statement}");
        }
    }

    /// Statements of either dialect with names of their own.
    const OWN_NAMES: &[(&str, &str, &str)] = &[
        ("WITH x AS (SELECT a FROM orders) SELECT * FROM x", "SELECT", "orders"),
        ("WITH x AS (SELECT a FROM orders) SELECT * FROM x JOIN items i ON true", "SELECT", "items"),
        ("WITH x AS (SELECT 1), y (n) AS (SELECT 2) SELECT * FROM y", "SELECT", ""),
        ("WITH RECURSIVE x(n) AS (SELECT 1 UNION SELECT n FROM x) SELECT n FROM x", "SELECT", ""),
        ("WITH x AS MATERIALIZED (SELECT a FROM orders) SELECT * FROM X", "SELECT", "orders"),
        ("WITH x AS (INSERT INTO log VALUES (1) RETURNING id) SELECT * FROM x", "SELECT", "log"),
        ("WITH x AS (SELECT 1) SELECT * FROM public.x", "SELECT", "public.x"),
        ("SELECT * FROM generate_series(1, 10) AS n", "SELECT", ""),
        ("SELECT * FROM unnest(ARRAY['a(', 'b']) u, orders o", "SELECT", "orders"),
        ("SELECT * FROM pg_catalog.generate_series(1, 2) g JOIN t ON true", "SELECT", "t"),
        ("SELECT * FROM (VALUES (1), (2)) v", "SELECT", ""),
        ("SELECT * FROM LATERAL (SELECT * FROM t) l", "SELECT", "t"),
        ("SELECT * FROM ((SELECT * FROM t)) d", "SELECT", "t"),
        ("SELECT 1 FROM DUAL", "SELECT", ""),
        ("DELETE FROM t USING u WHERE t.a = u.a", "DELETE", "t"),
        ("UPDATE t AS a SET b = 1 FROM c", "UPDATE", "t"),
        ("SELECT * FROM a /* , b */ AS c WHERE d = 'FROM e'", "SELECT", "a"),
    ];

    #[test]
    fn names_of_a_statements_own_are_no_tables() {
        for (statement, operation, table) in OWN_NAMES {
            assert_eq!(shape_of(statement), (*operation, (*table).to_owned()), "{statement}");
        }
    }

    #[test]
    fn literals_of_either_dialect_give_no_names() {
        for (dialect, statement, table) in [
            (Dialect::Postgresql, r"SELECT '\', ' FROM secret ' FROM t", ""),
            (Dialect::Postgresql, r"SELECT E'\' FROM secret' FROM t", "t"),
            (Dialect::Postgresql, "SELECT $a1$ FROM secret $a1$ FROM t", "t"),
            (Dialect::Postgresql, "SELECT /* /* */ FROM secret */ 1 FROM t", "t"),
            (Dialect::Mysql, r"SELECT '\' FROM secret' FROM t", "t"),
            (Dialect::Mysql, r#"SELECT "\" FROM secret" FROM t"#, ""),
            (Dialect::Mysql, r#"SELECT "' FROM secret", 'x' FROM t"#, "t"),
            (Dialect::Mysql, "SELECT * FROM \"secret\"", ""),
            (Dialect::Mysql, "INSERT INTO \"secret\" VALUES (1)", ""),
            (Dialect::Mysql, "SELECT N\"FROM secret\" FROM t", "t"),
        ] {
            let mut found = String::new();
            shape(dialect, statement.as_bytes(), true, &mut found);
            assert_eq!(found, table, "{statement}");
        }
    }

    #[test]
    fn a_cut_statement_never_gives_another_table() {
        let mut table = String::new();
        for (statement, operation, whole) in STATEMENTS.iter().chain(OWN_NAMES) {
            for cut in 0..statement.len() {
                let found = shape(dialect_of(statement), &statement.as_bytes()[..cut], false, &mut table);
                assert!(found == *operation || found == OTHER, "{statement} cut at {cut}: {found}");
                assert!(
                    table.is_empty() || table == *whole || whole.starts_with(&format!("{table}.")),
                    "{statement} cut at {cut}: {table}"
                );
            }
        }
    }

    #[test]
    fn statements_are_told_apart() {
        for (text, rest) in [
            ("SELECT 1; SELECT 2;", Some(" SELECT 2;")),
            (";; SELECT ';' ;-- ;\n", None),
            ("SELECT ';'; /* ; */ x", Some(" /* ; */ x")),
            ("SELECT 1", None),
            ("SELECT $$;$$;", None),
            ("", None),
        ] {
            assert_eq!(following(Dialect::Postgresql, text.as_bytes()), rest.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn literals_never_become_tables() {
        for statement in ["SELECT * FROM 'secret'", "INSERT INTO $x$secret$x$", "UPDATE 'secret' SET a=1"] {
            assert_eq!(shape_of(statement).1, "", "{statement}");
        }
    }

    #[test]
    fn random_bytes_do_no_harm() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut table = String::new();
        for _ in 0..20_000 {
            let mut text = b"SELECT * FROM ".to_vec();
            for _ in 0..24 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                text.push(state.to_le_bytes()[0]);
            }
            shape(Dialect::Postgresql, &text, false, &mut table);
            shape(Dialect::Mysql, &text, false, &mut table);
            assert!(table.len() <= tables::TABLE_MAX && !table.contains(char::is_control));
        }
    }
}
