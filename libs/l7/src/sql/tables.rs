//! The table that a statement is mainly about.
//!
//! Names that the statement makes for itself are no tables: names of its `WITH` clause, aliases, functions in `FROM`.

use super::{
    known,
    token::{Token, Tokens},
};

/// Longest table name given out, in bytes; statements with a longer one have none.
pub(super) const TABLE_MAX: usize = 128;

/// Names of one `WITH` clause that are remembered; a statement with more has no table.
const NAMES_MAX: usize = 16;

/// Deepest nesting of subqueries that is followed.
const DEPTH_MAX: usize = 8;

/// Tokens that are looked at in search of a table.
const TOKENS_MAX: usize = 2_000;

/// The names of a `WITH` clause, each with the statement behind it.
#[derive(Debug, Default)]
pub(super) struct With<'a> {
    names: [Option<(&'a [u8], Tokens<'a>)>; NAMES_MAX],
    count: usize,
    /// Its statements may use every name of the clause; otherwise only those before their own.
    pub(super) recursive: bool,
}

impl<'a> With<'a> {
    pub(super) fn push(&mut self, name: &'a [u8], body: Tokens<'a>) {
        if let Some(slot) = self.names.get_mut(self.count) {
            *slot = Some((name, body));
        }
        self.count += 1;
    }

    /// The place of a name among the first ones, and the statement behind it.
    fn get(&self, name: &[u8], visible: usize) -> Option<(usize, &Tokens<'a>)> {
        let mut candidates = self.names.iter().flatten().enumerate().take(visible);
        candidates.find(|(_, (known, _))| known.eq_ignore_ascii_case(name)).map(|(at, (_, body))| (at, body))
    }

    /// Whether this is one of its names.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.get(name.as_bytes(), NAMES_MAX).is_some()
    }

    fn is_full(&self) -> bool {
        self.count > NAMES_MAX
    }
}

/// Finds tables of one statement.
#[derive(Debug)]
pub(super) struct Search<'a, 'w> {
    pub(super) with: &'w With<'a>,
    pub(super) complete: bool,
    tokens_left: usize,
    /// How many names of the `WITH` clause can be used in the part that is searched.
    visible: usize,
    /// What stands for the table if no other is found: a name of the `WITH` clause, and its place there.
    fallback: Option<(usize, Tokens<'a>)>,
}

/// How the search in a list of tables ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchEnd {
    /// The table is known, or cannot be known.
    Done,
    /// There is none in this part of the statement.
    Nothing,
}

impl<'a, 'w> Search<'a, 'w> {
    pub(super) fn new(with: &'w With<'a>, complete: bool) -> Self {
        Self { with, complete, tokens_left: TOKENS_MAX, visible: NAMES_MAX, fallback: None }
    }

    /// The table of a query whose verb was read: behind the `FROM` that belongs to it.
    pub(super) fn query(&mut self, tokens: &mut Tokens<'a>, table: &mut String) {
        if self.with.is_full() {
            return;
        }
        if self.behind_from(tokens, 0, table) == SearchEnd::Nothing
            && self.complete
            && let Some((at, mut body)) = self.fallback.take()
        {
            // `WITH t AS (SELECT … FROM t)`: within the parentheses `t` is the table.
            self.visible = if self.with.recursive { NAMES_MAX } else { at };
            self.body(&mut body, 1, table);
        }
    }

    /// The table of a query in parentheses, of which the first one comes next.
    pub(super) fn query_in_parentheses(&mut self, tokens: &mut Tokens<'a>, table: &mut String) {
        self.body(tokens, 1, table);
    }

    fn next(&mut self, tokens: &mut Tokens<'a>) -> Option<Token<'a>> {
        self.tokens_left = self.tokens_left.checked_sub(1)?;
        tokens.next()
    }

    /// The table of a statement within parentheses.
    fn body(&mut self, tokens: &mut Tokens<'a>, depth: usize, table: &mut String) -> SearchEnd {
        let verb = loop {
            match self.next(tokens) {
                Some(Token::Mark(b'(')) => {}
                Some(Token::Word(word)) => break word,
                _ => return SearchEnd::Nothing,
            }
        };
        match known(verb) {
            Some("SELECT" | "DELETE") => self.behind_from(tokens, depth, table),
            Some("INSERT" | "UPDATE" | "MERGE" | "TABLE") => {
                next_name(tokens, self.complete, table);
                SearchEnd::Done
            }
            // A `WITH` clause of its own.
            _ if verb.eq_ignore_ascii_case(b"WITH") => SearchEnd::Done,
            _ => SearchEnd::Nothing,
        }
    }

    /// Finds the `FROM` of the query at hand, and a table behind it.
    fn behind_from(&mut self, tokens: &mut Tokens<'a>, depth: usize, table: &mut String) -> SearchEnd {
        let mut open = 0_usize;
        let mut after_distinct = false;
        while let Some(token) = self.next(tokens) {
            match token {
                Token::Mark(b'(') => open += 1,
                Token::Mark(b')') => match open.checked_sub(1) {
                    Some(less) => open = less,
                    // The subquery ended without a FROM of its own.
                    None => return SearchEnd::Nothing,
                },
                Token::Mark(b';') if open == 0 => return SearchEnd::Nothing,
                // `IS DISTINCT FROM` compares.
                Token::Word(word) if open == 0 && !after_distinct && word.eq_ignore_ascii_case(b"FROM") => {
                    return self.list(tokens, depth, table);
                }
                _ => {}
            }
            after_distinct = matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(b"DISTINCT"));
        }
        SearchEnd::Done
    }

    /// Takes the first table of a list, behind `FROM` or an opening parenthesis.
    fn list(&mut self, tokens: &mut Tokens<'a>, depth: usize, table: &mut String) -> SearchEnd {
        if depth >= DEPTH_MAX {
            return SearchEnd::Done;
        }
        loop {
            match self.next(tokens) {
                Some(Token::Word(word))
                    if LIST_NOISE.iter().any(|noise| word.eq_ignore_ascii_case(noise)) =>
                {
                    continue;
                }
                Some(Token::Mark(b'(')) => {
                    let mut open = 1_usize;
                    let mut inside = tokens.clone();
                    let mut ahead = tokens.clone();
                    while ahead.next() == Some(Token::Mark(b'(')) {
                        inside = ahead.clone();
                        *tokens = ahead.clone();
                        open += 1;
                    }
                    let found = match inside.clone().next() {
                        Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"VALUES") => SearchEnd::Nothing,
                        Some(Token::Word(word))
                            if known(word) == Some("SELECT") || word.eq_ignore_ascii_case(b"WITH") =>
                        {
                            self.body(&mut inside, depth + 1, table)
                        }
                        _ => self.list(&mut inside, depth + 1, table),
                    };
                    if found == SearchEnd::Done {
                        return found;
                    }
                    self.close(tokens, open);
                }
                // `ROWS FROM (f(1), g(2))`: functions. A cut may hide the second word.
                Some(Token::Word(word))
                    if !self.complete && word.eq_ignore_ascii_case(b"ROWS") && is_last(tokens) =>
                {
                    return SearchEnd::Done;
                }
                Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"ROWS") && is_from(tokens) => {}
                Some(Token::Word(name) | Token::Quoted(name)) => {
                    qualified(name, tokens, self.complete, table);
                    let next = tokens.clone().next();
                    if table.is_empty() || (next.is_none() && !self.complete) {
                        table.clear();
                        return SearchEnd::Done;
                    }
                    let bare = |known: &&str| table.eq_ignore_ascii_case(known);
                    if next == Some(Token::Mark(b'(')) || FUNCTIONS.iter().any(bare) {
                        table.clear();
                    } else if let Some((at, body)) = self.with.get(table.as_bytes(), self.visible) {
                        if self.fallback.is_none() {
                            self.fallback = Some((at, body.clone()));
                        }
                        table.clear();
                    } else {
                        return SearchEnd::Done;
                    }
                }
                _ => return SearchEnd::Nothing,
            }
            if !self.next_of_list(tokens) {
                return if self.complete { SearchEnd::Nothing } else { SearchEnd::Done };
            }
        }
    }

    /// Moves behind so many closing parentheses.
    fn close(&mut self, tokens: &mut Tokens<'a>, mut open: usize) {
        while open > 0 {
            match self.next(tokens) {
                Some(Token::Mark(b'(')) => open += 1,
                Some(Token::Mark(b')')) => open -= 1,
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Advances to the next table of a list; false at the list's end.
    fn next_of_list(&mut self, tokens: &mut Tokens<'a>) -> bool {
        let mut open = 0_usize;
        while let Some(token) = self.next(tokens) {
            match token {
                Token::Mark(b'(') => open += 1,
                Token::Mark(b')') => match open.checked_sub(1) {
                    Some(less) => open = less,
                    None => return false,
                },
                Token::Mark(b',') if open == 0 => return true,
                Token::Mark(b';') if open == 0 => return false,
                Token::Word(word) if open == 0 => {
                    if JOINS.iter().any(|join| word.eq_ignore_ascii_case(join)) {
                        return true;
                    }
                    if LIST_ENDS.iter().any(|end| word.eq_ignore_ascii_case(end)) {
                        return false;
                    }
                }
                _ => {}
            }
        }
        false
    }
}

/// Functions that are written without parentheses, and the table that is none (PostgreSQL 9.10, MySQL 15.2.13).
const FUNCTIONS: [&str; 12] = [
    "DUAL",
    "CURRENT_DATE",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "CURRENT_USER",
    "CURRENT_ROLE",
    "CURRENT_CATALOG",
    "CURRENT_SCHEMA",
    "SESSION_USER",
    "SYSTEM_USER",
];

/// Words before a table of a list.
const LIST_NOISE: [&[u8]; 3] = [b"ONLY", b"LATERAL", b"TABLE"];

/// Words behind which the next table of a list comes.
const JOINS: [&[u8]; 2] = [b"JOIN", b"STRAIGHT_JOIN"];

/// Words that end a list of tables.
const LIST_ENDS: [&[u8]; 13] = [
    b"WHERE",
    b"GROUP",
    b"HAVING",
    b"WINDOW",
    b"ORDER",
    b"LIMIT",
    b"OFFSET",
    b"FETCH",
    b"FOR",
    b"UNION",
    b"EXCEPT",
    b"INTERSECT",
    b"RETURNING",
];

/// Words between a verb and the name of its table.
const NOISE: [&[u8]; 19] = [
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
    b"OVERWRITE",
    b"LATERAL",
    b"TABLES",
    b"LOCAL",
    b"BINARY",
];

/// Words between `CREATE`, `ALTER` or `DROP` and `TABLE` or `VIEW`.
const OBJECT_NOISE: [&[u8]; 16] = [
    b"OR",
    b"REPLACE",
    b"TEMPORARY",
    b"TEMP",
    b"UNLOGGED",
    b"GLOBAL",
    b"LOCAL",
    b"MATERIALIZED",
    b"RECURSIVE",
    b"FOREIGN",
    b"EXTERNAL",
    b"IGNORE",
    b"ONLINE",
    b"OFFLINE",
    b"SQL",
    b"SECURITY",
];

/// Most tokens of a definer and an algorithm, before `VIEW`.
const DEFINER_MAX: usize = 24;

fn is_any(word: &[u8], of: &[&[u8]]) -> bool {
    of.iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// Takes the name of the table or view that is made, changed or dropped.
pub(super) fn object_name(tokens: &mut Tokens<'_>, complete: bool, table: &mut String) {
    let mut definer = false;
    for _ in 0..DEFINER_MAX {
        match tokens.next() {
            Some(Token::Word(word)) if is_any(word, &[b"TABLE", b"VIEW"]) => {
                return next_name(tokens, complete, table);
            }
            // `DEFINER=u@h PROCEDURE …`: no table.
            Some(Token::Word(word)) if is_any(word, &[b"PROCEDURE", b"FUNCTION", b"TRIGGER", b"EVENT"]) => {
                return;
            }
            Some(Token::Word(word)) if is_any(word, &OBJECT_NOISE) => {}
            Some(Token::Word(word)) if is_any(word, &[b"DEFINER", b"ALGORITHM"]) => definer = true,
            None | Some(Token::Mark(b'(' | b';')) => return,
            // Options of a view before its name (MySQL).
            Some(_) if definer => {}
            Some(_) => return,
        }
    }
}

/// Replaces the alias behind MySQL's `DELETE FROM` by the table that has it behind `USING`.
pub(super) fn resolve_alias(tokens: &mut Tokens<'_>, complete: bool, table: &mut String) {
    let is_using =
        |token: Token<'_>| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(b"USING"));
    if table.is_empty() || !tokens.take(TOKENS_MAX).any(is_using) {
        return;
    }
    let mut named = String::new();
    for _ in 0..TOKENS_MAX {
        match tokens.next() {
            Some(Token::Word(word) | Token::Quoted(word)) if !is_any(word, &JOINS) => {
                named.clear();
                qualified(word, tokens, complete, &mut named);
                let mut ahead = tokens.clone();
                let mut alias = ahead.next();
                if matches!(alias, Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"AS")) {
                    alias = ahead.next();
                }
                if let Some(Token::Word(alias) | Token::Quoted(alias)) = alias
                    && alias.eq_ignore_ascii_case(table.as_bytes())
                {
                    return std::mem::swap(table, &mut named);
                }
            }
            Some(Token::Word(_) | Token::Mark(b',' | b'(' | b')')) => {}
            _ => return,
        }
    }
}

/// Whether at most one token, which may be cut, follows.
fn is_last(tokens: &Tokens<'_>) -> bool {
    let mut ahead = tokens.clone();
    ahead.next().is_none() || ahead.touches_end()
}

/// Whether `FROM` comes next.
fn is_from(tokens: &Tokens<'_>) -> bool {
    matches!(tokens.clone().next(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"FROM"))
}

/// Takes the next name behind any noise words. Whatever else comes first means that there is none.
pub(super) fn next_name(tokens: &mut Tokens<'_>, complete: bool, table: &mut String) {
    loop {
        let name = match tokens.next() {
            Some(Token::Word(word)) if is_any(word, &NOISE) => continue,
            Some(Token::Word(word)) if is_no_table(word, complete, tokens) => return,
            Some(Token::Word(word) | Token::Quoted(word)) => word,
            _ => return,
        };
        return qualified(name, tokens, complete, table);
    }
}

/// `DESCRIBE SELECT …`, `DESCRIBE FORMAT=JSON …`, `LOCK INSTANCE FOR BACKUP`: no table's name.
fn is_no_table(word: &[u8], complete: bool, tokens: &Tokens<'_>) -> bool {
    if !complete && is_any(word, &[b"FORMAT", b"INSTANCE"]) && is_last(tokens) {
        return true;
    }
    let next = tokens.clone().next();
    let follows =
        |wanted: &[u8]| matches!(next, Some(Token::Word(next)) if next.eq_ignore_ascii_case(wanted));
    is_any(word, &[b"SELECT"])
        || (is_any(word, &[b"FORMAT"]) && next == Some(Token::Mark(b'=')))
        || (is_any(word, &[b"INSTANCE"]) && follows(b"FOR"))
}

/// `name`, then any `.name`.
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
