//! Hashes of SQL statements that leave out their literals, so that statements which differ in nothing else are
//! one key.
//!
//! ```text
//! SELECT a FROM t WHERE b = 'x' AND c = 17   ─►   SELECT a FROM t WHERE b = □ AND c = □
//! ```
//!
//! Whatever is left out is a literal for those, too, who read the statement for its name: quotes and their escapes are
//! taken alike. After something that is not parsed here (comments, dollar quotes) nothing more is left out. So statements of
//! equal hashes have equal names; that equal names may have several hashes does no harm.

/// States of [`SqlHash`].
mod state {
    pub const NORMAL: u16 = 0;
    pub const WORD: u16 = 1;
    pub const NUMBER: u16 = 2;
    /// In `'…'`.
    pub const STRING: u16 = 3;
    /// Behind a backslash in there.
    pub const ESCAPE: u16 = 4;
    /// In `"…"`.
    pub const QUOTED: u16 = 5;
    /// In `` `…` ``.
    pub const BACKTICKS: u16 = 6;
    /// Behind `-` or `/`, which may begin a comment.
    pub const DASH: u16 = 7;
    pub const SLASH: u16 = 8;
    /// Nothing more is left out.
    pub const RAW: u16 = 9;
    /// Behind `;`, of which the same holds.
    pub const ENDED: u16 = 10;
    /// Behind a further statement's beginning.
    pub const SEVERAL: u16 = 11;
}

/// Classes of bytes.
mod class {
    pub const OTHER: u16 = 0;
    pub const LETTER: u16 = 1;
    pub const DIGIT: u16 = 2;
    pub const QUOTE: u16 = 3;
    pub const DOUBLE_QUOTE: u16 = 4;
    pub const BACKTICK: u16 = 5;
    pub const BACKSLASH: u16 = 6;
    pub const DASH: u16 = 7;
    pub const SLASH: u16 = 8;
    pub const STAR: u16 = 9;
    pub const HASH: u16 = 10;
    pub const DOLLAR: u16 = 11;
    pub const SEMICOLON: u16 = 12;
    pub const BLANK: u16 = 13;
}

/// What a step does besides going to the state in its lower four bits.
mod action {
    /// First: what was taken since the mark was a literal.
    pub const LITERAL_BEFORE: u16 = 1 << 4;
    /// Then: a literal may begin here.
    pub const MARK: u16 = 1 << 5;
    /// At last, with the byte: what was taken since the mark was a literal.
    pub const LITERAL: u16 = 1 << 6;
}

/// Class of each byte.
pub type Classes = [u16; 256];

/// See [`Classes`].
pub const CLASSES: Classes = {
    let mut classes = [class::OTHER; 256];
    let mut byte = u8::MAX;
    while byte > 0 {
        classes[byte as usize] = class_of(byte);
        byte -= 1;
    }
    classes
};

const fn class_of(byte: u8) -> u16 {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => class::LETTER,
        b'0'..=b'9' => class::DIGIT,
        b'\'' => class::QUOTE,
        b'"' => class::DOUBLE_QUOTE,
        b'`' => class::BACKTICK,
        b'\\' => class::BACKSLASH,
        b'-' => class::DASH,
        b'/' => class::SLASH,
        b'*' => class::STAR,
        b'#' => class::HASH,
        b'$' => class::DOLLAR,
        b';' => class::SEMICOLON,
        b' ' | b'\t' | b'\n' | b'\r' => class::BLANK,
        _ => class::OTHER,
    }
}

/// The step from each state, times 16, with each class.
pub type Steps = [u16; 256];

/// See [`Steps`].
pub const STEPS: Steps = {
    let mut steps = [0; 256];
    let mut index = 0_u16;
    while index < 256 {
        steps[index as usize] = step(index >> 4, index & 15);
        index += 1;
    }
    steps
};

const fn step(from: u16, class: u16) -> u16 {
    match from {
        state::STRING => match class {
            class::QUOTE => state::NORMAL | action::LITERAL,
            class::BACKSLASH => state::ESCAPE,
            _ => state::STRING,
        },
        state::ESCAPE => state::STRING,
        state::QUOTED if class != class::DOUBLE_QUOTE => from,
        state::BACKTICKS if class != class::BACKTICK => from,
        state::QUOTED | state::BACKTICKS => state::NORMAL,
        state::ENDED if matches!(class, class::SEMICOLON | class::BLANK) => from,
        state::ENDED | state::SEVERAL => state::SEVERAL,
        state::RAW if class == class::SEMICOLON => state::ENDED,
        state::RAW => from,
        state::NUMBER => match class {
            class::DIGIT => from,
            // A name that begins with digits.
            class::LETTER | class::DOLLAR => outside(from, class),
            _ => outside(from, class) | action::LITERAL_BEFORE,
        },
        _ => outside(from, class),
    }
}

/// The step outside of quotes.
const fn outside(from: u16, class: u16) -> u16 {
    match (from, class) {
        (state::DASH, class::DASH) | (state::SLASH, class::STAR) | (_, class::HASH | class::DOLLAR) => {
            state::RAW
        }
        (state::WORD, class::DIGIT) | (_, class::LETTER) => state::WORD,
        (_, class::DIGIT) => state::NUMBER | action::MARK,
        (_, class::QUOTE) => state::STRING | action::MARK,
        (_, class::DOUBLE_QUOTE) => state::QUOTED,
        (_, class::BACKTICK) => state::BACKTICKS,
        (_, class::DASH) => state::DASH,
        (_, class::SLASH) => state::SLASH,
        (_, class::SEMICOLON) => state::ENDED,
        _ => state::NORMAL,
    }
}

const PRIME: u64 = 0x0000_0100_0000_01b3;
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
/// No byte: what a literal is hashed as.
const LITERAL: u64 = 0x1_01;

/// Hash of a statement.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SqlHash {
    hash: u64,
    /// The hash at the mark.
    mark: u64,
    state: u64,
}

impl SqlHash {
    /// Before the statement; statements of different protocols have different hashes.
    #[inline(always)]
    pub const fn new(protocol: u64) -> Self {
        let hash = (BASIS ^ (protocol << 9)).wrapping_mul(PRIME);
        Self { hash, mark: hash, state: state::NORMAL as u64 }
    }

    /// Where the step for a byte of this class is in [`STEPS`].
    #[inline(always)]
    pub const fn index(&self, class: u16) -> usize {
        (((self.state << 4) | class as u64) & 0xff) as usize
    }

    /// Adds the next byte by its step.
    #[inline(always)]
    pub const fn add(&mut self, byte: u8, step: u16) {
        if step & action::LITERAL_BEFORE != 0 {
            self.literal();
        }
        if step & action::MARK != 0 {
            self.mark = self.hash;
        }
        self.hash = (self.hash ^ byte as u64).wrapping_mul(PRIME);
        if step & action::LITERAL != 0 {
            self.literal();
        }
        self.state = (step & 15) as u64;
    }

    #[inline(always)]
    const fn literal(&mut self) {
        self.hash = (self.mark ^ LITERAL).wrapping_mul(PRIME);
    }

    /// Whether what was taken may be more than one statement.
    #[inline(always)]
    pub const fn is_several(&self) -> bool {
        self.state == state::SEVERAL as u64
    }

    /// The statement's hash.
    #[inline(always)]
    pub const fn finish(mut self) -> u64 {
        if self.state == state::NUMBER as u64 {
            self.literal();
        }
        self.hash
    }
}

/// The hash of a statement, and whether it may be several.
pub fn hash(protocol: u16, statement: &[u8]) -> (u64, bool) {
    let mut hash = SqlHash::new(protocol.into());
    for &byte in statement {
        let step = STEPS[hash.index(CLASSES[usize::from(byte)])];
        hash.add(byte, step);
    }
    (hash.finish(), hash.is_several())
}

#[cfg(test)]
mod tests {
    fn hash(statement: &str) -> u64 {
        super::hash(3, statement.as_bytes()).0
    }

    #[test]
    fn literals_are_left_out() {
        for (one, other) in [
            ("SELECT c FROM t WHERE id=1", "SELECT c FROM t WHERE id=4711"),
            ("SELECT c FROM t WHERE id = -1.5 LIMIT 3", "SELECT c FROM t WHERE id = -22.75 LIMIT 10"),
            ("INSERT INTO t VALUES ('a', 'it\\'s')", "INSERT INTO t VALUES ('', 'b;c--d')"),
            ("SELECT `a'b` FROM t WHERE x='1';", "SELECT `a'b` FROM t WHERE x='2';"),
            ("SELECT \"a'b\" FROM t WHERE x='1'", "SELECT \"a'b\" FROM t WHERE x='2'"),
        ] {
            assert_eq!(hash(one), hash(other), "{one} {other}");
        }
    }

    #[test]
    fn nothing_else_is() {
        for (one, other) in [
            ("SELECT 1 FROM a", "SELECT 1 FROM b"),
            ("SELECT 1 FROM t1", "SELECT 1 FROM t2"),
            ("SELECT 1 FROM 2024_logs", "SELECT 1 FROM 2025_logs"),
            ("SELECT 1 FROM `1`", "SELECT 1 FROM `2`"),
            ("SELECT 1 FROM \"1\"", "SELECT 1 FROM \"2\""),
            ("-- it's\n SELECT * FROM a WHERE b='c'", "-- it's\n SELECT * FROM d WHERE b='c'"),
            ("/* ' */ SELECT * FROM a -- '", "/* ' */ SELECT * FROM b -- '"),
            ("SELECT $$'$$ FROM a, $$'$$", "SELECT $$'$$ FROM b, $$'$$"),
            ("SELECT * FROM t WHERE a=1", "SELECT * FROM t WHERE a=1 "),
        ] {
            assert_ne!(hash(one), hash(other), "{one} {other}");
        }
        assert_ne!(super::hash(3, b"SELECT 1").0, super::hash(4, b"SELECT 1").0);
    }

    #[test]
    fn several_statements_are_recognised() {
        for (text, several) in [
            ("SELECT 1", false),
            ("SELECT 1;\n ; ", false),
            ("SELECT ';' FROM \";\"", false),
            ("SELECT 1; SELECT 2", true),
            ("SELECT 'a'; x", true),
            ("/* */ a; b", true),
        ] {
            assert_eq!(super::hash(4, text.as_bytes()).1, several, "{text}");
        }
    }
}
