//! Messages in their encoded form (Protocol Buffers, "Encoding").

/// What a field of a message is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A number of variable length.
    Varint,
    /// Eight bytes.
    Fixed64,
    /// Text, or packed numbers.
    Bytes,
    /// One of a number of texts, which adds to a count.
    Text(usize),
    /// A message, which is looked into.
    Message(&'static Shape),
}

/// The fields of a message by number. Shapes do not contain themselves, so the depth is bounded.
#[derive(Debug)]
pub struct Shape {
    /// The fields that the contract has.
    pub fields: &'static [(u64, Kind)],
    /// Which of the counts each such message adds to.
    pub counted: Option<usize>,
}

/// How much a message may have.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<const N: usize> {
    /// Messages and texts that are counted.
    pub counted: [usize; N],
    /// Fields that the shapes do not have.
    pub unknown: usize,
}

/// How much a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census<const N: usize> {
    /// Messages and texts that are counted.
    pub counted: [usize; N],
    /// Fields that the shapes do not have.
    pub unknown: usize,
}

impl<const N: usize> Census<N> {
    fn count(&mut self, index: usize, bounds: &Bounds<N>) -> Result<(), Refusal> {
        if let (Some(count), Some(most)) = (self.counted.get_mut(index), bounds.counted.get(index)) {
            *count += 1;
            if *count > *most {
                return Err(Refusal::TooMany);
            }
        }
        Ok(())
    }
}

/// Why a message is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has more than its bounds allow.
    #[error("more messages or fields than allowed")]
    TooMany,
    /// It is no message.
    #[error("no message in the encoded form")]
    Malformed,
    /// It is longer than any of its kind.
    #[error("longer than allowed")]
    TooLong,
    /// The frame is of a type that is not expected.
    #[error("a frame of an unexpected type")]
    UnknownFrame,
}

/// Counts what the bytes of a message of this shape have, up to the bounds.
pub fn check<const N: usize>(bytes: &[u8], shape: &Shape, bounds: &Bounds<N>) -> Result<Census<N>, Refusal> {
    let mut census = Census { counted: [0; N], unknown: 0 };
    message(bytes, shape, bounds, &mut census)?;
    Ok(census)
}

fn message<const N: usize>(
    mut bytes: &[u8],
    shape: &Shape,
    bounds: &Bounds<N>,
    census: &mut Census<N>,
) -> Result<(), Refusal> {
    if let Some(index) = shape.counted {
        census.count(index, bounds)?;
    }
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let known = shape.fields.iter().find(|(number, _)| *number == tag >> 3).map(|(_, kind)| *kind);
        let matches = match (tag & 7, known) {
            (0, known) => {
                varint(&mut bytes)?;
                // A repeated number may come packed or one by one: each costs one field.
                matches!(known, Some(Kind::Varint))
            }
            (1, known) => {
                take(&mut bytes, 8)?;
                matches!(known, Some(Kind::Fixed64))
            }
            (2, known) => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| Refusal::Malformed)?;
                let content = take(&mut bytes, length)?;
                match known {
                    Some(Kind::Message(inner)) => {
                        message(content, inner, bounds, census)?;
                        true
                    }
                    Some(Kind::Bytes) => true,
                    Some(Kind::Text(index)) => {
                        census.count(index, bounds)?;
                        true
                    }
                    _ => false,
                }
            }
            (5, _) => {
                take(&mut bytes, 4)?;
                false
            }
            // Groups, which decoders follow by recursion, and types that do not exist.
            _ => return Err(Refusal::Malformed),
        };
        if !matches {
            census.unknown += 1;
            if census.unknown > bounds.unknown {
                return Err(Refusal::TooMany);
            }
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Refusal> {
    let mut value = 0_u64;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = bytes.get(at + 1..).unwrap_or_default();
            return Ok(value);
        }
    }
    Err(Refusal::Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Refusal> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Refusal::Malformed)?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    static INNER: Shape = Shape { fields: &[(1, Kind::Varint)], counted: Some(0) };
    static OUTER: Shape =
        Shape { fields: &[(1, Kind::Message(&INNER)), (2, Kind::Bytes), (3, Kind::Fixed64)], counted: None };
    const BOUNDS: Bounds<1> = Bounds { counted: [3], unknown: 2 };

    #[test]
    fn messages_and_fields_are_counted_up_to_their_bounds() {
        let known = [0x0a, 2, 0x08, 1, 0x12, 1, b'x', 0x19, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(check(&known, &OUTER, &BOUNDS), Ok(Census { counted: [1], unknown: 0 }));
        assert_eq!(check(&[0x0a, 0].repeat(3), &OUTER, &BOUNDS), Ok(Census { counted: [3], unknown: 0 }));
        assert_eq!(check(&[0x0a, 0].repeat(4), &OUTER, &BOUNDS), Err(Refusal::TooMany));
        // Field 15, at the top and within, and a known field of another type.
        for unknown in [&[0x78, 1][..], &[0x0a, 2, 0x78, 1], &[0x10, 1]] {
            assert_eq!(check(&unknown.repeat(2), &OUTER, &BOUNDS).map(|census| census.unknown), Ok(2));
            assert_eq!(check(&unknown.repeat(3), &OUTER, &BOUNDS), Err(Refusal::TooMany));
        }
    }

    #[test]
    fn texts_are_counted_where_there_may_be_many() {
        static LIST: Shape = Shape { fields: &[(1, Kind::Text(0))], counted: None };
        assert_eq!(check(&[0x0a, 0].repeat(3), &LIST, &BOUNDS), Ok(Census { counted: [3], unknown: 0 }));
        assert_eq!(check(&[0x0a, 0].repeat(4), &LIST, &BOUNDS), Err(Refusal::TooMany));
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for bytes in [&[0x0a][..], &[0x0a, 5, 0], &[0xff; 20], &[0x0b], &[0x0c], &[0x19, 1], &[0x0a, 2, 0x08]]
        {
            assert_eq!(check(bytes, &OUTER, &BOUNDS), Err(Refusal::Malformed), "{bytes:?}");
        }
    }
}
