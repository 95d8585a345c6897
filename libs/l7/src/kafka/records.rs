//! The trace that a produced record names in its headers.
//!
//! Read is a batch (message format 2, `org.apache.kafka.common.record.DefaultRecordBatch`) that is not compressed and has one
//! record: of several records each may be of another trace. Keys and values are passed over.

use crate::trace::{TraceContext, TraceFields, TraceHeader};

/// Position of the format's number in a batch.
const MAGIC_AT: usize = 16;

/// The format that has headers.
const MAGIC: u8 = 2;

/// Position of the attributes, of which the lowest three bits are the compression.
const ATTRIBUTES_AT: usize = 21;
const COMPRESSION: u8 = 0x07;

/// Position of the number of records, which follow.
const COUNT_AT: usize = 57;

/// Headers of a record that are looked at.
const HEADERS_MAX: i64 = 64;

/// The context in the headers of a batch's only record.
pub(super) fn trace(batch: &[u8]) -> Option<TraceContext> {
    let is_plain = batch.get(ATTRIBUTES_AT + 1)? & COMPRESSION == 0;
    if *batch.get(MAGIC_AT)? != MAGIC || !is_plain || batch.get(COUNT_AT..COUNT_AT + 4)? != [0, 0, 0, 1] {
        return None;
    }
    let mut rest = batch.get(COUNT_AT + 4..)?;
    let length = usize::try_from(varint(&mut rest)?).ok()?;
    let mut record = rest.get(..length)?;
    // Attributes, and the differences of time and offset.
    record = record.get(1..)?;
    varint(&mut record)?;
    varint(&mut record)?;
    let (_key, _value) = (bytes(&mut record)?, bytes(&mut record)?);
    let mut fields = TraceFields::default();
    for _ in 0..varint(&mut record)?.min(HEADERS_MAX) {
        let (name, value) = (bytes(&mut record)?, bytes(&mut record)?);
        if let Some(header) = TraceHeader::of(name) {
            fields.take(header, value);
        }
    }
    fields.context()
}

/// A length and so many bytes; none where the length is -1.
fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = varint(rest)?;
    if length == -1 {
        return Some(&[]);
    }
    let (taken, left) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = left;
    Some(taken)
}

/// A number of seven bits a byte, of which the lowest bit is the sign.
fn varint(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A number of the format.
    fn number(value: i64) -> Vec<u8> {
        let mut value = ((value << 1) ^ (value >> 63)).cast_unsigned();
        let mut bytes = Vec::new();
        while value > 0x7f {
            bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        bytes.push(value.to_le_bytes()[0]);
        bytes
    }

    fn length(length: usize) -> Vec<u8> {
        number(i64::try_from(length).expect("short"))
    }

    fn text(text: &[u8]) -> Vec<u8> {
        [length(text.len()), text.to_vec()].concat()
    }

    pub(in crate::kafka) const PARENT: &[u8] = b"00-0102030405060708090a0b0c0d0e0f10-1112131415161718-01";

    /// A batch of records with these attributes, each of which has the headers.
    pub(in crate::kafka) fn batch(attributes: u8, count: u8, headers: &[(&str, &[u8])]) -> Vec<u8> {
        let mut record = [vec![0], number(0), number(0), number(-1), text(b"value")].concat();
        record.extend(length(headers.len()));
        for (name, value) in headers {
            record.extend([text(name.as_bytes()), text(value)].concat());
        }
        let record = text(&record);
        let mut batch = vec![0; COUNT_AT];
        (batch[MAGIC_AT], batch[ATTRIBUTES_AT + 1]) = (MAGIC, attributes);
        batch.extend([0, 0, 0, count]);
        for _ in 0..count {
            batch.extend(&record);
        }
        batch
    }

    #[test]
    fn the_only_records_header_is_the_context() {
        let found = trace(&batch(0, 1, &[("x", b"1"), ("traceparent", PARENT)])).expect("a context");
        assert_eq!((found.trace_id[15], found.parent_span_id[0], found.sampled), (0x10, 0x11, true));
        let other = trace(&batch(0, 1, &[("b3", b"0102030405060708090a0b0c0d0e0f10-1112131415161718-1")]));
        assert_eq!(other, Some(found));
    }

    #[test]
    fn of_several_records_or_compressed_ones_nothing_is_taken() {
        let headers: &[(&str, &[u8])] = &[("traceparent", PARENT)];
        for (attributes, count) in [(0, 2), (1, 1), (4, 1), (0, 0)] {
            assert_eq!(trace(&batch(attributes, count, headers)), None, "{attributes} {count}");
        }
        // A value that looks like a header is none.
        assert_eq!(
            trace(&batch(0, 1, &[("note", &[&[22], &b"traceparent"[..], &[110], PARENT].concat())])),
            None
        );
        assert_eq!(trace(&batch(0, 1, &[("traceparent", PARENT), ("traceparent", PARENT)])), None, "twice");
    }

    #[test]
    fn a_batch_that_is_cut_or_damaged_names_nothing() {
        let whole = batch(0, 1, &[("traceparent", PARENT)]);
        for cut in 0..whole.len() {
            assert_eq!(trace(&whole[..cut]), None, "{cut}");
        }
        for at in 0..whole.len() {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                trace(&damaged);
            }
        }
    }
}
