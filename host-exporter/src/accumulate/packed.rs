//! Values in few bytes. Most of what the exporter holds are the last values of series that have not changed for a while:
//! a bucket takes two or three bytes here and sixteen in a histogram.
//!
//! Little-endian base 128 numbers (as in Protocol Buffers, "Encoding"): bytes of requests, bytes of responses, sum of durations,
//! then for each bucket the distance of its index from the one before and its count.

use porthole_histogram::{Histogram, INDEX_MIN};

use super::{cost, values::Values};

/// Values that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed(Box<[u8]>);

impl Packed {
    /// Bytes of memory besides its own.
    pub fn bytes(&self) -> usize {
        cost::block(self.0.len())
    }

    /// The values.
    pub fn unpack(&self) -> Values {
        let mut rest = &*self.0;
        let [request_bytes, response_bytes] = [(); 2].map(|()| take(&mut rest).unwrap_or(0));
        Values { durations: take_histogram(rest), request_bytes, response_bytes }
    }
}

impl From<&Values> for Packed {
    fn from(values: &Values) -> Self {
        let mut packed = Vec::with_capacity(16 + 3 * values.durations.buckets().len());
        for number in [values.request_bytes, values.response_bytes] {
            put(&mut packed, number);
        }
        put_histogram(&mut packed, &values.durations);
        Self(packed.into_boxed_slice())
    }
}

/// Appends a histogram: sum, then distance and count of each bucket. Nothing can follow it.
pub fn put_histogram(packed: &mut Vec<u8>, histogram: &Histogram) {
    put(packed, histogram.sum_ns());
    let mut before = INDEX_MIN;
    for &(index, count) in histogram.buckets() {
        put(packed, u64::from(index.abs_diff(before)));
        put(packed, count);
        before = index;
    }
}

/// The histogram that is the rest.
pub fn take_histogram(mut rest: &[u8]) -> Histogram {
    let sum_ns = take(&mut rest).unwrap_or(0);
    // Each number has one byte without the highest bit.
    let numbers = rest.iter().filter(|byte| **byte < 0x80).count();
    let mut buckets = Vec::with_capacity(numbers / 2);
    let mut index = INDEX_MIN;
    while let (Some(distance), Some(count)) = (take(&mut rest), take(&mut rest)) {
        index = index.saturating_add_unsigned(u32::try_from(distance).unwrap_or(u32::MAX));
        buckets.push((index, count));
    }
    // They were a histogram's.
    Histogram::from_saturated_parts(sum_ns, buckets).unwrap_or_default()
}

/// Appends a number.
pub fn put(packed: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        packed.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    packed.push(number.to_le_bytes()[0]);
}

/// Takes the next number; none at the end.
pub fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let values = |request_bytes, response_bytes, sum_ns, buckets: &[(i32, u64)]| Values {
            durations: Histogram::from_saturated_parts(sum_ns, buckets.to_vec()).expect("well formed"),
            request_bytes,
            response_bytes,
        };
        for values in [
            Values::default(),
            values(1, 127, 128, &[(0, 1)]),
            values(u64::MAX, u64::MAX - 1, u64::MAX, &[(-79, 1 << 44), (-78, 127), (0, 128), (47, 1)]),
        ] {
            assert_eq!(Packed::from(&values).unpack(), values);
        }
    }

    #[test]
    fn a_histogram_of_a_dozen_buckets_takes_a_quarter_of_its_memory() {
        let mut durations = Histogram::default();
        for bucket in 0..12 {
            durations.add(bucket - 60, 100 + u64::from(bucket.unsigned_abs()), 1_000_000);
        }
        durations.shrink();
        let values = Values { durations, request_bytes: 100_000, response_bytes: 1_000_000 };
        assert!(4 * Packed::from(&values).bytes() <= cost::histogram(&values.durations));
    }
}
