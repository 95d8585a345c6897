//! Joins the records of one call: a parser gets the bytes of one call at a time, since calls often begin and end where
//! messages do.

use std::borrow::Cow;

use porthole_bpf_types::{
    connection::direction,
    record::{CALL_MAX, Chunk},
};
use porthole_l7::{Direction, Timestamp};

/// A record's header, and its captured bytes.
pub(super) type Part<'a> = (Chunk, Cow<'a, [u8]>);

/// Of each direction of a connection, the records of a call whose next record is still to come.
#[derive(Debug, Default)]
pub(super) struct Pieces([Option<Begun>; 2]);

/// The records of a call so far, as one.
type Begun = Box<(Chunk, Vec<u8>)>;

impl Pieces {
    /// Takes the next record; gives what is complete: what is left of an earlier call whose last record was lost, and the
    /// call that ends with this one.
    pub fn join<'a>(&mut self, chunk: Chunk, head: Cow<'a, [u8]>) -> [Option<Part<'a>>; 2] {
        let Some(begun) = self.0.get_mut(usize::from(chunk.direction & 1)) else { return [None, None] };
        let mut left = None;
        let mut part = (chunk, head);
        if let Some(before) = begun.take() {
            let (mut joined, mut bytes) = *before;
            let follows = joined.offset.checked_add(joined.total) == Some(chunk.offset)
                && joined.timestamp == chunk.timestamp
                && bytes.len() as u64 + u64::from(chunk.head) <= CALL_MAX;
            if follows {
                bytes.extend_from_slice(&part.1);
                joined.total = joined.total.saturating_add(chunk.total);
                joined.continues = chunk.continues;
                part = (joined, Cow::Owned(bytes));
            } else {
                left = Some((joined, Cow::Owned(bytes)));
            }
        }
        if part.0.continues != 0 && part.0.total == part.1.len() as u64 {
            *begun = Some(Box::new((part.0, part.1.into_owned())));
            return [left, None];
        }
        [left, Some(part)]
    }

    /// Whether there are calls whose last record did not come.
    pub fn any(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }

    /// What there is of calls whose last record did not come.
    pub fn take(&mut self) -> impl Iterator<Item = Part<'static>> + use<> {
        let left = std::mem::take(&mut self.0);
        left.into_iter().flatten().map(|part| (part.0, Cow::Owned(part.1)))
    }
}

/// The bytes of a record, as a parser gets them.
pub(super) fn chunk<'a>(record: &Chunk, bytes: &'a [u8]) -> porthole_l7::Chunk<'a> {
    let is_egress = record.direction == direction::EGRESS;
    porthole_l7::Chunk {
        direction: if is_egress { Direction::Egress } else { Direction::Ingress },
        timestamp: Timestamp(record.timestamp),
        offset: record.offset,
        bytes,
        total: record.total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: u64, timestamp: u64, bytes: &[u8], total: u64, continues: bool) -> Part<'_> {
        let chunk = Chunk {
            head: u32::try_from(bytes.len()).expect("short"),
            offset,
            total,
            timestamp,
            continues: u8::from(continues),
            ..Chunk::default()
        };
        (chunk, Cow::Borrowed(bytes))
    }

    /// Takes records; gives offset, bytes and total of what was complete, in order.
    fn joined(records: &[Part<'_>]) -> Vec<(u64, String, u64)> {
        let mut pieces = Pieces::default();
        let mut all = Vec::new();
        for (chunk, head) in records {
            let head = Cow::Owned(head.to_vec());
            all.extend(pieces.join(*chunk, head).into_iter().flatten());
        }
        for part in pieces.take() {
            all.push(part);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        all.iter().map(|(chunk, bytes)| (chunk.offset, text(bytes), chunk.total)).collect()
    }

    #[test]
    fn records_of_one_call_become_one() {
        let records = [
            record(10, 1, b"ab", 2, true),
            record(12, 1, b"cd", 2, true),
            record(14, 1, b"e", 5, false),
            record(19, 1, b"f", 1, false),
        ];
        assert_eq!(joined(&records), [(10, "abcde".to_owned(), 9), (19, "f".to_owned(), 1)]);
    }

    #[test]
    fn calls_of_which_a_record_is_missing_are_not_joined() {
        let lost = [record(10, 1, b"ab", 2, true), record(14, 1, b"ef", 2, false)];
        assert_eq!(joined(&lost), [(10, "ab".to_owned(), 2), (14, "ef".to_owned(), 2)]);
        let next_call = [record(10, 1, b"ab", 2, true), record(12, 2, b"cd", 2, false)];
        assert_eq!(joined(&next_call), [(10, "ab".to_owned(), 2), (12, "cd".to_owned(), 2)]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let most = vec![0; usize::try_from(CALL_MAX).expect("fits")];
        let records = [record(0, 1, &most, CALL_MAX, true), record(CALL_MAX, 1, b"x", 1, true)];
        assert_eq!(joined(&records).len(), 2);
    }
}
