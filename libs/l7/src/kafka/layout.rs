//! Reads a message's body by its layout, as far as its bytes go.
//!
//! A layout is a line of words. A word is one field: a letter, behind the versions that have it (`3+`: from 3 on;
//! `0-12:`: up to 12; nothing: all). `[` to `]` is an array of structures, each with its tagged fields in a flexible
//! version; `.` ends what is described.
//!
//! | letter | field |
//! |---|---|
//! | `b` `h` `w` `q` `u` | 1, 2, 4, 8, 16 bytes |
//! | `s` `n` `B` | a string or bytes, or null |
//! | `W` `Q` `S` | an array of numbers of 4 or 8 bytes, or of strings |
//! | `t` `U` `T` | a topic's name, its id, an array of names |
//! | `e` | an error code |
//! | `r` | records |
//! | `a` `m` `x` `k` | a produce request's acks; a fetch request's longest wait, least bytes, session epoch |

/// The values of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestFields<'a> {
    /// The first topic.
    pub(super) topic: Option<Topic<'a>>,
    /// How many different ones there were, as far as was read; neighbours that are equal count once.
    pub(super) topics: u32,
    /// The first error code that is not 0.
    pub(super) error: i16,
    /// Whether there are any records.
    pub(super) records: bool,
    /// All records, if they are in one field, as far as was read.
    pub(super) batch: Option<&'a [u8]>,
    pub(super) acks: Option<i16>,
    pub(super) max_wait: i32,
    pub(super) min_bytes: Option<i32>,
    pub(super) epoch: Option<i32>,
}

impl RequestFields<'_> {
    /// Whether bytes that are missing may hold what a whole message would have given. Behind records stands only what other
    /// partitions have, as in a message that is longer than what is looked at.
    pub(super) fn lacks(&self, end: End) -> bool {
        end == End::Cut && !self.records
    }
}

/// A topic, as a message calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic<'a> {
    Name(&'a [u8]),
    Id(&'a [u8; 16]),
}

/// How reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Behind the last field, at this position.
    At(usize),
    /// The layout does not define what follows.
    Open,
    /// The bytes end before.
    Cut,
    /// The bytes are something else.
    Bad,
}

/// Largest value of a length.
const LENGTH_MAX: u64 = 1 << 30;

/// Reads `bytes` by a layout. `named` is called for every topic that has its id beside it.
pub(super) fn read<'a>(
    bytes: &'a [u8],
    layout: &'static str,
    version: i16,
    flexible: bool,
    named: &mut dyn FnMut(&[u8], &[u8; 16]),
) -> (RequestFields<'a>, End) {
    let mut reader = Reader { bytes, at: 0, version, flexible, found: RequestFields::default(), named };
    let end = match reader.structure(layout.as_bytes()) {
        Ok(_) => End::At(reader.at),
        Err(end) => end,
    };
    (reader.found, end)
}

/// Passes tagged fields; the number of bytes that they take.
pub(super) fn tagged(bytes: &[u8]) -> Result<usize, End> {
    let mut reader = Reader {
        bytes,
        at: 0,
        version: 0,
        flexible: true,
        found: RequestFields::default(),
        named: &mut |_, _| (),
    };
    reader.tagged_fields()?;
    Ok(reader.at)
}

struct Reader<'a, 'n> {
    bytes: &'a [u8],
    at: usize,
    version: i16,
    flexible: bool,
    found: RequestFields<'a>,
    named: &'n mut dyn FnMut(&[u8], &[u8; 16]),
}

impl<'a> Reader<'a, '_> {
    /// Reads the fields of one structure; gives the layout behind its `]`.
    fn structure(&mut self, layout: &'static [u8]) -> Result<&'static [u8], End> {
        let mut rest = layout;
        let mut topic: Option<&'a [u8]> = None;
        while let Some((word, after)) = word(rest) {
            rest = after;
            let (present, letter) = versions(word, self.version);
            match letter {
                b']' => break,
                b'[' if present => {
                    let count = self.count()?;
                    for _ in 0..count.unwrap_or(0) {
                        let before = self.at;
                        self.structure(rest)?;
                        if self.at == before {
                            return Err(End::Bad);
                        }
                    }
                    rest = behind_bracket(rest);
                }
                b'[' => rest = behind_bracket(rest),
                _ if !present => {}
                b't' => {
                    topic = self.string()?.filter(|name| !name.is_empty());
                    if let Some(name) = topic {
                        self.topic(Topic::Name(name));
                    }
                }
                b'U' => {
                    let id = self.take(16)?.first_chunk().ok_or(End::Bad)?;
                    match topic {
                        Some(name) => (self.named)(name, id),
                        None if id.iter().any(|byte| *byte != 0) => self.topic(Topic::Id(id)),
                        None => {}
                    }
                }
                _ => self.field(letter)?,
            }
        }
        if self.flexible {
            self.tagged_fields()?;
        }
        Ok(rest)
    }

    fn field(&mut self, letter: u8) -> Result<(), End> {
        match letter {
            b'b' => self.pass(1)?,
            b'h' => self.pass(2)?,
            b'w' => self.pass(4)?,
            b'q' => self.pass(8)?,
            b'u' => self.pass(16)?,
            b's' | b'n' => self.string().map(|_| ())?,
            b'B' => self.pass_bytes()?,
            b'r' => {
                let length = self.bytes_length()?;
                let length = length.unwrap_or(0);
                let start = self.at;
                let is_first = !self.found.records;
                self.found.records |= length > 0;
                self.pass(length)?;
                if length > 0 {
                    self.found.batch = self.bytes.get(start..self.at).filter(|_| is_first);
                }
            }
            b'W' => self.numbers(4)?,
            b'Q' => self.numbers(8)?,
            b'S' | b'T' => {
                for _ in 0..self.count()?.unwrap_or(0) {
                    if let Some(name) = self.string()?
                        && letter == b'T'
                    {
                        self.topic(Topic::Name(name));
                    }
                }
            }
            b'e' => {
                let code = self.short()?;
                if self.found.error == 0 {
                    self.found.error = code;
                }
            }
            b'a' => self.found.acks = Some(self.short()?),
            b'm' => self.found.max_wait = self.int()?,
            b'x' => self.found.min_bytes = Some(self.int()?),
            b'k' => self.found.epoch = Some(self.int()?),
            _ => return Err(End::Open),
        }
        Ok(())
    }

    fn topic(&mut self, topic: Topic<'a>) {
        if self.found.topic.is_none() {
            self.found.topic = Some(topic);
        }
        if self.found.topics == 0 || self.found.topic != Some(topic) {
            self.found.topics += 1;
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], End> {
        let taken = self.bytes.get(self.at..self.at + count).ok_or(End::Cut)?;
        self.at += count;
        Ok(taken)
    }

    fn pass(&mut self, count: u64) -> Result<(), End> {
        let count = usize::try_from(count).map_err(|_| End::Bad)?;
        if self.bytes.len() - self.at < count {
            return Err(End::Cut);
        }
        self.at += count;
        Ok(())
    }

    fn short(&mut self) -> Result<i16, End> {
        self.take(2).map(|b| i16::from_be_bytes([b[0], b[1]]))
    }

    fn int(&mut self) -> Result<i32, End> {
        self.take(4).map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// An unsigned number of seven bits a byte.
    fn varint(&mut self) -> Result<u64, End> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return if value <= LENGTH_MAX { Ok(value) } else { Err(End::Bad) };
            }
        }
        Err(End::Bad)
    }

    /// A length or count: `None` is null.
    fn length(&mut self, signed: impl FnOnce(&mut Self) -> Result<i64, End>) -> Result<Option<u64>, End> {
        if self.flexible {
            return Ok(self.varint()?.checked_sub(1));
        }
        match signed(self)? {
            -1 => Ok(None),
            length => {
                let length = u64::try_from(length).map_err(|_| End::Bad)?;
                if length <= LENGTH_MAX { Ok(Some(length)) } else { Err(End::Bad) }
            }
        }
    }

    fn count(&mut self) -> Result<Option<u64>, End> {
        self.length(|reader| reader.int().map(i64::from))
    }

    fn bytes_length(&mut self) -> Result<Option<u64>, End> {
        self.count()
    }

    fn pass_bytes(&mut self) -> Result<(), End> {
        let length = self.bytes_length()?.unwrap_or(0);
        self.pass(length)
    }

    fn string(&mut self) -> Result<Option<&'a [u8]>, End> {
        let Some(length) = self.length(|reader| reader.short().map(i64::from))? else { return Ok(None) };
        if length > i16::MAX as u64 {
            return Err(End::Bad);
        }
        self.take(usize::try_from(length).map_err(|_| End::Bad)?).map(Some)
    }

    fn numbers(&mut self, size: u64) -> Result<(), End> {
        let count = self.count()?.unwrap_or(0);
        self.pass(count * size)
    }

    fn tagged_fields(&mut self) -> Result<(), End> {
        let count = self.varint()?;
        for _ in 0..count {
            self.varint()?;
            let size = self.varint()?;
            self.pass(size)?;
        }
        Ok(())
    }
}

/// The first word, and what follows it.
fn word(layout: &'static [u8]) -> Option<(&'static [u8], &'static [u8])> {
    let start = layout.iter().position(|b| *b != b' ')?;
    let layout = layout.get(start..)?;
    let end = layout.iter().position(|b| *b == b' ').unwrap_or(layout.len());
    layout.split_at_checked(end)
}

/// Whether a version has the word's field, and the field's letter.
fn versions(word: &[u8], version: i16) -> (bool, u8) {
    let mut numbers = [0_i16; 2];
    let mut which = 0;
    let mut present = true;
    for &byte in word {
        match byte {
            b'0'..=b'9' => {
                if let Some(number) = numbers.get_mut(which) {
                    *number = *number * 10 + i16::from(byte - b'0');
                }
            }
            b'-' => which = 1,
            b'+' => present = version >= numbers[0],
            b':' => present = (numbers[0]..=numbers[1]).contains(&version),
            letter => return (present, letter),
        }
    }
    (false, b' ')
}

/// What follows the `]` that belongs to a `[` before.
fn behind_bracket(layout: &'static [u8]) -> &'static [u8] {
    let mut depth = 0;
    for (at, byte) in layout.iter().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' if depth == 0 => return layout.get(at + 1..).unwrap_or_default(),
            b']' => depth -= 1,
            _ => {}
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_choose_the_fields() {
        assert_eq!(versions(b"t", 0), (true, b't'));
        assert_eq!(versions(b"13+U", 12), (false, b'U'));
        assert_eq!(versions(b"13+U", 13), (true, b'U'));
        assert_eq!(versions(b"0-12:t", 12), (true, b't'));
        assert_eq!(versions(b"0-12:t", 13), (false, b't'));
        assert_eq!(versions(b"7+[", 6), (false, b'['));
    }

    #[test]
    fn nested_arrays_are_passed_and_skipped() {
        let layout = "w [ t 1+[ w e ] W ] e";
        let body = [
            &[0, 0, 0, 9, 0, 0, 0, 1, 0, 2, b'a', b'b'][..],
            &[0, 0, 0, 1, 0, 0, 0, 7, 0, 3],
            &[0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 5],
        ]
        .concat();
        let (found, end) = read(&body, layout, 1, false, &mut |_, _| ());
        assert_eq!(end, End::At(body.len()));
        assert_eq!((found.topic, found.topics, found.error), (Some(Topic::Name(b"ab")), 1, 3));
        let without = [&body[..12], &body[22..]].concat();
        let (found, end) = read(&without, layout, 0, false, &mut |_, _| ());
        assert_eq!((found.error, end), (5, End::At(without.len())));
        for cut in 0..body.len() {
            assert_eq!(read(&body[..cut], layout, 1, false, &mut |_, _| ()).1, End::Cut, "{cut}");
        }
        assert_eq!(read(&[0, 0, 0, 9, 0, 0, 0, 0], layout, 0, false, &mut |_, _| ()).1, End::Cut);
        assert_eq!(read(&[0, 0, 0, 9, 0x80, 0, 0, 0], layout, 0, false, &mut |_, _| ()).1, End::Bad);
    }

    #[test]
    fn flexible_lengths_and_tags() {
        // One topic "ab" with an id, tagged field 3 of two bytes, then no fields behind the whole.
        let mut body = vec![2, 3, b'a', b'b'];
        body.extend([7; 16]);
        body.extend([1, 3, 2, 0xff, 0xff, 0]);
        let mut heard = Vec::new();
        let mut named = |name: &[u8], id: &[u8; 16]| heard.push((name.to_vec(), *id));
        let (found, end) = read(&body, "[ t U ]", 0, true, &mut named);
        assert_eq!(end, End::At(body.len()));
        assert_eq!((found.topic, found.topics), (Some(Topic::Name(b"ab")), 1));
        assert_eq!(heard, [(b"ab".to_vec(), [7; 16])]);
    }
}
