//! As much of BSON as is looked at (bsonspec.org, version 1.1): elements are visited in order, as far as their bytes go.

/// An element's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Text(&'a [u8]),
    /// A whole number, or a double or a boolean as one.
    Number(i64),
    /// A document or an array, as much as there is of it.
    Document(&'a [u8]),
    Other,
}

/// Why no element could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The bytes end before.
    Cut,
    /// No BSON.
    Bad,
}

/// Longest name of an element that is accepted, bytes.
const NAME_MAX: usize = 256;

/// A document's length, and its elements.
pub(super) fn document(bytes: &[u8]) -> Result<(usize, Elements<'_>), Fault> {
    let length = usize::try_from(int(bytes)?).map_err(|_| Fault::Bad)?;
    if length < 5 {
        return Err(Fault::Bad);
    }
    let end = bytes.len().min(length);
    let rest = bytes.get(4..end).unwrap_or_default();
    Ok((length, Elements { rest, whole: end == length, done: false }))
}

/// The elements of a document, in order; ends behind the last, or with a fault.
#[derive(Clone, Debug)]
pub(super) struct Elements<'a> {
    rest: &'a [u8],
    /// All of the document is there.
    whole: bool,
    done: bool,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<(&'a [u8], Value<'a>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let element = self.element();
        if !matches!(element, Some(Ok(_))) {
            self.done = true;
        }
        // What is missing at the end of a whole document was never there.
        match element {
            Some(Err(Fault::Cut)) if self.whole => Some(Err(Fault::Bad)),
            element => element,
        }
    }
}

impl<'a> Elements<'a> {
    fn element(&mut self) -> Option<Result<(&'a [u8], Value<'a>), Fault>> {
        let Some((&kind, rest)) = self.rest.split_first() else { return Some(Err(Fault::Cut)) };
        if kind == 0 {
            return if rest.is_empty() { None } else { Some(Err(Fault::Bad)) };
        }
        self.rest = rest;
        Some(self.name().and_then(|name| self.value(kind).map(|value| (name, value))))
    }

    fn name(&mut self) -> Result<&'a [u8], Fault> {
        match memchr::memchr(0, self.rest.get(..NAME_MAX).unwrap_or(self.rest)) {
            Some(end) => {
                let (name, rest) = self.rest.split_at(end);
                self.rest = rest.get(1..).unwrap_or_default();
                Ok(name)
            }
            None if self.rest.len() < NAME_MAX => Err(Fault::Cut),
            None => Err(Fault::Bad),
        }
    }

    fn value(&mut self, kind: u8) -> Result<Value<'a>, Fault> {
        Ok(match kind {
            0x01 => Value::Number(i64::from(self.take(8)?.iter().any(|byte| *byte != 0))),
            // A string, code, a symbol.
            0x02 | 0x0d | 0x0e => {
                let length = self.length()?;
                let text = self.take(length)?;
                Value::Text(text.strip_suffix(b"\0").ok_or(Fault::Bad)?)
            }
            0x03 | 0x04 => {
                let length = usize::try_from(int(self.rest)?).map_err(|_| Fault::Bad)?;
                let found = self.rest.get(..length).unwrap_or(self.rest);
                self.rest = self.rest.get(length..).unwrap_or_default();
                if length < 5 {
                    return Err(Fault::Bad);
                }
                Value::Document(found)
            }
            0x05 => {
                let length = self.length()?;
                self.take(length + 1)?;
                Value::Other
            }
            0x07 => self.pass(12)?,
            0x08 => Value::Number(i64::from(self.take(1)?[0])),
            0x09 | 0x11 => self.pass(8)?,
            0x06 | 0x0a | 0x7f | 0xff => Value::Other,
            0x0b => {
                self.name()?;
                self.name()?;
                Value::Other
            }
            0x0c => {
                let length = self.length()?;
                self.pass(length + 12)?
            }
            // Code with its scope: its length is the whole's.
            0x0f => {
                let length = self.length()?;
                self.pass(length.checked_sub(4).ok_or(Fault::Bad)?)?
            }
            0x10 => Value::Number(i64::from(self.take(4).and_then(int)?)),
            0x12 => {
                let bytes = self.take(8)?;
                Value::Number(bytes.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes)))
            }
            0x13 => self.pass(16)?,
            _ => return Err(Fault::Bad),
        })
    }

    fn length(&mut self) -> Result<usize, Fault> {
        usize::try_from(self.take(4).and_then(int)?).map_err(|_| Fault::Bad)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Fault::Cut)?;
        self.rest = rest;
        Ok(taken)
    }

    fn pass(&mut self, count: usize) -> Result<Value<'a>, Fault> {
        self.take(count).map(|_| Value::Other)
    }
}

/// The first four bytes, as a signed number.
pub(super) fn int(bytes: &[u8]) -> Result<i32, Fault> {
    bytes.first_chunk().map(|bytes| i32::from_le_bytes(*bytes)).ok_or(Fault::Cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{a: "x", b: 5, c: {}, d: 1.0, e: true, f: null, g: 7 (64 bits)}`
    fn sample() -> Vec<u8> {
        let mut body = b"\x02a\0\x02\0\0\0x\0\x10b\0\x05\0\0\0\x03c\0\x05\0\0\0\0\x01d\0".to_vec();
        body.extend(1.0_f64.to_le_bytes());
        body.extend(b"\x08e\0\x01\x0af\0\x12g\0\x07\0\0\0\0\0\0\0\0");
        let length = i32::try_from(body.len() + 4).expect("short").to_le_bytes();
        [&length[..], &body].concat()
    }

    #[test]
    fn elements_are_visited_in_order() {
        let bytes = sample();
        let (length, elements) = document(&bytes).expect("a document");
        assert_eq!(length, bytes.len());
        let found: Vec<_> = elements.map(|element| element.expect("whole")).collect();
        let expected: [(&[u8], Value<'_>); 7] = [
            (b"a", Value::Text(b"x")),
            (b"b", Value::Number(5)),
            (b"c", Value::Document(&[5, 0, 0, 0, 0])),
            (b"d", Value::Number(1)),
            (b"e", Value::Number(1)),
            (b"f", Value::Other),
            (b"g", Value::Number(7)),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn cut_documents_say_so_and_false_ones_too() {
        let bytes = sample();
        for cut in 4..bytes.len() {
            let (_, elements) = document(&bytes[..cut]).expect("a document");
            let last = elements.last();
            // Only its end distinguishes a cut document from a whole one.
            assert!(matches!(last, Some(Err(Fault::Cut))) || cut == 4, "{cut}: {last:?}");
        }
        let mut bad = bytes.clone();
        bad[4] = 0x20;
        assert_eq!(document(&bad).expect("a document").1.next(), Some(Err(Fault::Bad)));
        let mut long = bytes;
        long[7] = 0;
        long[7 + 1] = 100;
        assert!(document(&long).expect("a document").1.any(|element| element == Err(Fault::Bad)));
        assert_eq!(document(&[4, 0, 0, 0]).err(), Some(Fault::Bad));
        assert_eq!(document(&[4, 0]).err(), Some(Fault::Cut));
    }
}
