//! Splits SQL into the few tokens that its shape depends on, without allocating.
//!
//! Understands the comments and quotes of MySQL, MariaDB and PostgreSQL (MySQL Reference Manual 11.1 and 11.7;
//! PostgreSQL manual 4.1). Literals are recognised in order to be passed over: nothing of them leaves this module.

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
#[derive(Clone, Debug)]
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
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
                (Some(b'-'), Some(b'-')) | (Some(b'#'), _) => self.skip_past(b"\n"),
                // MySQL executes the inside of `/*! … */` and `/*+ … */` is a hint; neither decides the shape.
                (Some(b'/'), Some(b'*')) => {
                    self.at += 2;
                    self.skip_past(b"*/");
                }
                _ => return,
            }
        }
    }

    /// From behind an opening quote to behind the closing one; a doubled quote stands for itself.
    fn quoted(&mut self, quote: u8, backslash: bool) -> &'a [u8] {
        let start = self.at;
        while let Some(b) = self.peek(0) {
            self.at += 1;
            if b == b'\\' && backslash {
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
        let tag = rest.iter().skip(1).take_while(|b| b.is_ascii_alphabetic() || **b == b'_').count();
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
        self.skip_blank();
        let first = self.peek(0)?;
        Some(match first {
            b'\'' => {
                self.at += 1;
                self.quoted(b'\'', true);
                Token::Literal
            }
            b'"' | b'`' => {
                self.at += 1;
                Token::Quoted(self.quoted(first, false))
            }
            b'$' if self.dollar_quoted() => Token::Literal,
            b'$' | b'?' | b':' | b'@' => {
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
            b if b.is_ascii_alphabetic() || b == b'_' || b >= 0x80 => {
                let word = self.word();
                // `E'…'`, `N'…'`, `X'…'`, `B'…'`, `_utf8'…'`: a string with a prefix.
                if self.peek(0) == Some(b'\'') && (word.len() == 1 || word.starts_with(b"_")) {
                    self.at += 1;
                    self.quoted(b'\'', true);
                    Token::Literal
                } else {
                    Token::Word(word)
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

    #[test]
    fn literals_and_comments_are_passed_over() {
        let text = b"a -- x\n 'it''s \\' b' /* c */ \"d e\" `f``g` $q$ h $q$ $1 1.5e3 E'z' , # end";
        let tokens: Vec<_> = Tokens::new(text).collect();
        assert_eq!(
            tokens,
            [
                Token::Word(b"a"),
                Token::Literal,
                Token::Quoted(b"d e"),
                Token::Quoted(b"f``g"),
                Token::Literal,
                Token::Literal,
                Token::Literal,
                Token::Literal,
                Token::Mark(b','),
            ]
        );
    }

    #[test]
    fn every_cut_ends() {
        let text = b"SELECT 'a\\', \"b, `c, $x$ d, /* e, E'f FROM t -- g";
        for cut in 0..=text.len() {
            assert!(Tokens::new(&text[..cut]).count() <= cut);
        }
    }
}
