//! Splits SQL into the few tokens that its shape depends on, without allocating.
//!
//! Understands the comments and quotes of MySQL, MariaDB and PostgreSQL (MySQL Reference Manual 11.1 and 11.7;
//! PostgreSQL manual 4.1). Literals are recognised in order to be passed over: nothing of them leaves this module.

use super::Dialect;

/// A lexical element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A bare word: keyword or identifier.
    Word(&'a [u8]),
    /// The inside of a quoted identifier.
    Quoted(&'a [u8]),
    /// `(`, `)`, `,`, `;`, `.` or another single character.
    Mark(u8),
    /// A string, number or parameter marker.
    Literal,
}

/// Tokens of a statement.
///
/// They end behind a literal whose end depends on how a server treats a backslash before a quote: the dialects differ, a
/// server can be configured, and the kernel's hash of statements does not know the dialect. So nothing that may be inside
/// of a literal is ever taken for a name, and statements of one hash have one name.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'a> {
    dialect: Dialect,
    text: &'a [u8],
    at: usize,
    /// The end of a literal was not certain.
    ended: bool,
    /// Inside of `/*! … */`, which MySQL executes.
    executable: bool,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(dialect: Dialect, text: &'a [u8]) -> Self {
        Self { dialect, text, at: 0, ended: false, executable: false }
    }

    /// Whether the token given out last ended where the text ends, so that a cut may have shortened it.
    pub(super) fn touches_end(&self) -> bool {
        self.at >= self.text.len()
    }

    /// What follows the token given out last.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at.saturating_add(ahead)).copied()
    }

    /// Moves behind the next occurrence of `end`, or to the end of the text.
    fn skip_past(&mut self, end: &[u8]) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at +=
            rest.windows(end.len()).position(|w| w == end).map_or(rest.len(), |found| found + end.len());
    }

    fn skip_blank(&mut self) {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b), _) if b.is_ascii_whitespace() => self.at += 1,
                // MySQL wants a blank behind its two dashes: `a--1` subtracts (Reference Manual 11.7).
                (Some(b'-'), Some(b'-'))
                    if self.dialect == Dialect::Postgresql
                        || self.peek(2).is_none_or(|b| b.is_ascii_whitespace() || b.is_ascii_control()) =>
                {
                    self.skip_past(b"\n");
                }
                (Some(b'#'), _) if self.dialect == Dialect::Mysql => self.skip_past(b"\n"),
                (Some(b'/'), Some(b'*')) => match self.executable_comment() {
                    Some(introduction) => {
                        self.at += introduction;
                        self.executable = true;
                    }
                    None => self.skip_comment(),
                },
                (Some(b'*'), Some(b'/')) if self.executable => {
                    self.at += 2;
                    self.executable = false;
                }
                _ => return,
            }
        }
    }

    /// The length of `/*!`, `/*!40101` or MariaDB's `/*M!100300`, behind which a server of at least that version executes
    /// what stands there (Reference Manual 11.7). A version of nines alone is meant for no server.
    fn executable_comment(&self) -> Option<usize> {
        if self.dialect != Dialect::Mysql || self.executable {
            return None;
        }
        let rest = self.text.get(self.at..)?;
        let (introduction, rest) = [b"/*!".as_slice(), b"/*M!"]
            .into_iter()
            .find_map(|start| Some((start.len(), rest.strip_prefix(start)?)))?;
        let digits = rest.iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
        let version = rest.get(..if digits < 5 { 0 } else { digits })?;
        let for_none = !version.is_empty() && version.iter().all(|digit| *digit == b'9');
        (!for_none).then_some(introduction + version.len())
    }

    /// Moves behind a comment in slashes and stars; PostgreSQL's are nested.
    fn skip_comment(&mut self) {
        self.at += 2;
        if self.dialect == Dialect::Mysql {
            return self.skip_past(b"*/");
        }
        let mut open = 1_usize;
        while open > 0 && self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                (Some(b'*'), Some(b'/')) => {
                    open -= 1;
                    self.at += 2;
                }
                (Some(b'/'), Some(b'*')) => {
                    open += 1;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
        }
        self.at = self.at.min(self.text.len());
    }

    /// From behind an opening quote to behind the closing one; a doubled quote stands for itself.
    fn quoted(&mut self, quote: u8, backslash: bool) -> &'a [u8] {
        let start = self.at;
        let mut escaped = false;
        while let Some(b) = self.peek(0) {
            self.at += 1;
            // PostgreSQL's plain literals and MySQL's double quotes are where the kernel's hash reads otherwise.
            let uncertain = match quote {
                b'\'' => !backslash,
                b'"' => backslash,
                _ => false,
            };
            self.ended |= escaped && uncertain && b == quote;
            escaped = b == b'\\' && !escaped;
            if b == b'\\' && backslash {
                // The next byte is part of the literal.
                self.ended |= uncertain && self.peek(0) == Some(quote);
                escaped = false;
                self.at += 1;
            } else if b == quote {
                if self.peek(0) == Some(quote) {
                    self.at += 1;
                } else {
                    return self.text.get(start..self.at - 1).unwrap_or_default();
                }
            }
        }
        self.at = self.text.len();
        self.text.get(start..).unwrap_or_default()
    }

    /// PostgreSQL's `$tag$ … $tag$`; `false` when this dollar does not open one.
    fn dollar_quoted(&mut self) -> bool {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if rest.get(1).is_some_and(u8::is_ascii_digit) {
            return false;
        }
        let in_tag = |b: &&u8| b.is_ascii_alphanumeric() || **b == b'_' || **b >= 0x80;
        let tag = rest.iter().skip(1).take_while(in_tag).count();
        if rest.get(tag + 1) != Some(&b'$') {
            return false;
        }
        let fence = rest.get(..tag + 2).unwrap_or_default();
        self.at += fence.len();
        self.skip_past(fence);
        true
    }

    fn word(&mut self) -> &'a [u8] {
        let start = self.at;
        while self.peek(0).is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default()
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if self.ended {
            return None;
        }
        self.skip_blank();
        let first = self.peek(0)?;
        let mysql = self.dialect == Dialect::Mysql;
        Some(match first {
            b'\'' => {
                self.at += 1;
                self.quoted(b'\'', mysql);
                Token::Literal
            }
            b'"' if mysql => {
                self.at += 1;
                self.quoted(b'"', true);
                Token::Literal
            }
            b'"' => {
                self.at += 1;
                Token::Quoted(self.quoted(first, false))
            }
            b'`' if mysql => {
                self.at += 1;
                Token::Quoted(self.quoted(first, false))
            }
            b'$' if !mysql && self.dollar_quoted() => Token::Literal,
            b'$' | b'?' | b':' | b'@' if !(mysql && first == b'$') => {
                self.at += 1;
                self.word();
                Token::Literal
            }
            b'0'..=b'9' => {
                while self.peek(0).is_some_and(|b| b.is_ascii_alphanumeric() || b == b'.') {
                    self.at += 1;
                }
                Token::Literal
            }
            b if b.is_ascii_alphabetic() || b == b'_' || b >= 0x80 || b == b'$' => {
                let word = self.word();
                match self.peek(0) {
                    // `E'…'`, `N'…'`, `X'…'`, `B'…'`, `_utf8'…'`: a string with a prefix.
                    Some(b'\'') if word.len() == 1 || (mysql && word.starts_with(b"_")) => {
                        self.at += 1;
                        self.quoted(b'\'', mysql || word.eq_ignore_ascii_case(b"E"));
                        Token::Literal
                    }
                    Some(b'"') if mysql && (word.len() == 1 || word.starts_with(b"_")) => {
                        self.at += 1;
                        self.quoted(b'"', true);
                        Token::Literal
                    }
                    // `U&'…'` and `U&"…"`: escapes in it are not resolved, so it gives no name.
                    Some(b'&')
                        if !mysql
                            && word.eq_ignore_ascii_case(b"U")
                            && matches!(self.peek(1), Some(b'\'' | b'"')) =>
                    {
                        let quote = self.peek(1).unwrap_or(b'\'');
                        self.at += 2;
                        self.quoted(quote, false);
                        Token::Literal
                    }
                    _ => Token::Word(word),
                }
            }
            mark => {
                self.at += 1;
                Token::Mark(mark)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(dialect: Dialect, text: &str) -> Vec<Token<'_>> {
        Tokens::new(dialect, text.as_bytes()).collect()
    }

    #[test]
    fn literals_and_comments_are_passed_over() {
        let text = "a -- x\n 'it''s \\' b' /* c */ `f``g` 1.5e3 N'z' _utf8'y' , # end";
        assert_eq!(
            tokens(Dialect::Mysql, text),
            [
                Token::Word(b"a"),
                Token::Literal,
                Token::Quoted(b"f``g"),
                Token::Literal,
                Token::Literal,
                Token::Literal,
                Token::Mark(b','),
            ]
        );
        let text = "a -- x\n 'it''s' /* c /* d */ e */ \"d e\" $q1$ h $q1$ $1 1.5e3 E'z\\'' U&'y' , b";
        assert_eq!(
            tokens(Dialect::Postgresql, text),
            [
                Token::Word(b"a"),
                Token::Literal,
                Token::Quoted(b"d e"),
                Token::Literal,
                Token::Literal,
                Token::Literal,
                Token::Literal,
                Token::Literal,
                Token::Mark(b','),
                Token::Word(b"b"),
            ]
        );
    }

    #[test]
    fn executable_comments_are_code_in_mysql() {
        let words = [Token::Word(b"a"), Token::Word(b"b")];
        for text in
            ["/*!a*/ b", "/*!40101 a */ b", "/*M!100300 a*/b", "/*!080000 a b */", "/*! a /* x */ b */"]
        {
            assert_eq!(tokens(Dialect::Mysql, text), words, "{text}");
        }
        for text in ["a /*!99999 x */ b", "a /*M!999999\\- x */ b", "a /*+ x */ b", "a /* !x */ b"] {
            assert_eq!(tokens(Dialect::Mysql, text), words, "{text}");
        }
        assert_eq!(tokens(Dialect::Postgresql, "a /*!40101 x */ b"), words);
        assert_eq!(tokens(Dialect::Mysql, "a */")[1..], [Token::Mark(b'*'), Token::Mark(b'/')]);
    }

    #[test]
    fn the_dialect_says_where_a_literal_ends() {
        let literal = [Token::Literal, Token::Word(b"x")];
        assert_eq!(tokens(Dialect::Postgresql, r"'\' x"), literal[..1]);
        assert_eq!(tokens(Dialect::Postgresql, r"E'\' x' x"), literal);
        assert_eq!(tokens(Dialect::Mysql, r"'\' x' x"), literal);
        assert_eq!(tokens(Dialect::Mysql, r#""\" FROM y" x"#), literal[..1]);
        assert_eq!(tokens(Dialect::Mysql, "$x$y$"), [Token::Word(b"$x$y$")]);
        assert_eq!(tokens(Dialect::Postgresql, "$x$y$x$ x"), literal);
        assert_eq!(tokens(Dialect::Mysql, "1--1 x")[3..], [Token::Literal, Token::Word(b"x")]);
    }

    #[test]
    fn every_cut_ends() {
        let text = b"SELECT /*!40101 x */ 'a\\', \"b, `c, $x$ d, /* e, E'f FROM t -- g";
        for dialect in [Dialect::Mysql, Dialect::Postgresql] {
            for cut in 0..=text.len() {
                assert!(Tokens::new(dialect, &text[..cut]).count() <= cut);
            }
        }
    }
}
