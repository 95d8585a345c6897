//! The shape of an SQL statement: its operation and the table that it is mainly about.
//!
//! Used by MySQL and PostgreSQL. The statement may be cut at any byte; a name that the cut may have shortened is not
//! given out. Literals, column lists and conditions are never looked at beyond finding their end.

pub mod name;
mod token;

use token::{Token, Tokens};

/// Longest table name given out, in bytes; longer ones are cut by nobody and so left out.
const TABLE_MAX: usize = 128;

/// Most tokens looked at: a statement whose table comes later has none.
const TOKENS_MAX: usize = 2_000;

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
pub fn shape(statement: &[u8], complete: bool, table: &mut String) -> &'static str {
    table.clear();
    let mut tokens = Tokens::new(statement);
    let Some(operation) = operation(&mut tokens, complete) else { return OTHER };
    match rule(operation) {
        Rule::From => from(&mut tokens, complete, table),
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
pub fn is_several(text: &[u8]) -> bool {
    following(text).is_some()
}

/// What follows the first of several statements, behind its `;`; `None` when there is nothing.
pub fn following(statement: &[u8]) -> Option<&[u8]> {
    memchr::memchr(b';', statement)?;
    let mut tokens = Tokens::new(statement);
    let mut begun = false;
    loop {
        match tokens.next()? {
            Token::Mark(b';') if begun => break,
            Token::Mark(b';') => {}
            _ => begun = true,
        }
    }
    let rest = tokens.rest();
    Tokens::new(rest).any(|token| token != Token::Mark(b';')).then_some(rest)
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
fn operation(tokens: &mut Tokens<'_>, complete: bool) -> Option<&'static str> {
    let mut with = false;
    let mut depth = 0_usize;
    for _ in 0..TOKENS_MAX {
        match tokens.next()? {
            Token::Mark(b'(' | b';') if !with => {}
            Token::Mark(b'(') => depth += 1,
            Token::Mark(b')') => depth = depth.saturating_sub(1),
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
            }
            _ if !with => return None,
            _ => {}
        }
    }
    None
}

/// Finds the `FROM` that belongs to the verb just read, then the table behind it, going down into subqueries.
fn from(tokens: &mut Tokens<'_>, complete: bool, table: &mut String) {
    let (mut depth, mut wanted) = (0_usize, 0_usize);
    let mut after_distinct = false;
    for _ in 0..TOKENS_MAX {
        let Some(token) = tokens.next() else { return };
        match token {
            Token::Mark(b'(') => depth += 1,
            Token::Mark(b')') => {
                if depth == wanted && depth > 0 {
                    // The subquery ended without a FROM of its own.
                    return;
                }
                depth = depth.saturating_sub(1);
            }
            Token::Mark(b';') if depth == 0 => return,
            // `IS DISTINCT FROM` compares.
            Token::Word(word) if depth == wanted && !after_distinct && word.eq_ignore_ascii_case(b"FROM") => {
                let mut ahead = tokens.clone();
                let mut opened = 0;
                while ahead.next() == Some(Token::Mark(b'(')) {
                    *tokens = ahead.clone();
                    opened += 1;
                }
                if opened == 0 {
                    return next_name(tokens, complete, table);
                }
                depth += opened;
                wanted = depth;
                // `FROM (a JOIN b …)` names its table at once, `FROM (SELECT … FROM a)` behind its own FROM.
                let mut ahead = tokens.clone();
                if !matches!(ahead.next(), Some(Token::Word(w)) if known(w) == Some("SELECT") || w.eq_ignore_ascii_case(b"WITH"))
                {
                    return next_name(tokens, complete, table);
                }
            }
            _ => {}
        }
        after_distinct = matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(b"DISTINCT"));
    }
}

/// Words between a verb and the name of its table.
const NOISE: [&[u8]; 24] = [
    b"INTO",
    b"TABLE",
    b"ONLY",
    b"IGNORE",
    b"LOW_PRIORITY",
    b"HIGH_PRIORITY",
    b"DELAYED",
    b"QUICK",
    b"FROM",
    b"IF",
    b"NOT",
    b"EXISTS",
    b"OR",
    b"REPLACE",
    b"TEMPORARY",
    b"TEMP",
    b"UNLOGGED",
    b"GLOBAL",
    b"LOCAL",
    b"OVERWRITE",
    b"LATERAL",
    b"TABLES",
    b"VIEW",
    b"MATERIALIZED",
];

/// Takes the next name behind any noise words. Whatever else comes first means that there is none.
fn next_name(tokens: &mut Tokens<'_>, complete: bool, table: &mut String) {
    loop {
        let name = match tokens.next() {
            Some(Token::Word(word)) if NOISE.iter().any(|noise| word.eq_ignore_ascii_case(noise)) => continue,
            // `CREATE INDEX i ON t`, `CREATE USER u IDENTIFIED …`: objects that are no tables.
            Some(Token::Word(word)) if is_other_object(word) => return,
            Some(Token::Word(word) | Token::Quoted(word)) => word,
            _ => return,
        };
        return qualified(name, tokens, complete, table);
    }
}

fn is_other_object(word: &[u8]) -> bool {
    const OTHERS: [&[u8]; 17] = [
        b"INDEX",
        b"UNIQUE",
        b"USER",
        b"ROLE",
        b"DATABASE",
        b"SCHEMA",
        b"FUNCTION",
        b"PROCEDURE",
        b"TRIGGER",
        b"SEQUENCE",
        b"EXTENSION",
        b"TYPE",
        b"DOMAIN",
        b"SYSTEM",
        b"SERVER",
        b"EVENT",
        b"SELECT",
    ];
    OTHERS.iter().any(|other| word.eq_ignore_ascii_case(other))
}

/// `name`, then any `.name`; a name that is called like a function is no table.
fn qualified(first: &[u8], tokens: &mut Tokens<'_>, complete: bool, table: &mut String) {
    push(first, table);
    if tokens.touches_end() {
        if !complete {
            table.clear();
        }
        return;
    }
    let mut ahead = tokens.clone();
    while ahead.next() == Some(Token::Mark(b'.')) {
        let Some(Token::Word(part) | Token::Quoted(part)) = ahead.next() else {
            table.clear();
            return;
        };
        table.push('.');
        push(part, table);
        *tokens = ahead.clone();
        if tokens.touches_end() && !complete {
            table.clear();
            return;
        }
    }
    if table.len() > TABLE_MAX {
        table.clear();
    }
}

/// Appends a name; control characters, which no sane name has, become `?`.
fn push(name: &[u8], table: &mut String) {
    let name = name.get(..TABLE_MAX + 1).unwrap_or(name);
    for character in String::from_utf8_lossy(name).chars() {
        table.push(if character.is_control() { '?' } else { character });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape_of(statement: &str) -> (&'static str, String) {
        let mut table = String::new();
        let operation = shape(statement.as_bytes(), true, &mut table);
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

    #[test]
    fn a_cut_statement_never_gives_another_table() {
        let mut table = String::new();
        for (statement, operation, whole) in STATEMENTS {
            for cut in 0..statement.len() {
                let found = shape(&statement.as_bytes()[..cut], false, &mut table);
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
            assert_eq!(following(text.as_bytes()), rest.map(str::as_bytes), "{text}");
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
            shape(&text, false, &mut table);
            assert!(table.len() <= TABLE_MAX && !table.contains(char::is_control));
        }
    }
}
