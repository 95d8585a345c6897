//! The histogram as it goes over the wire.

use porthole_histogram::{BUCKETS, Histogram, MalformedHistogram};

use crate::agent;

impl From<&Histogram> for agent::Histogram {
    fn from(histogram: &Histogram) -> Self {
        let mut wire = Self { count: histogram.count(), sum_ns: histogram.sum_ns(), ..Self::default() };
        let mut last = 0;
        for &(index, count) in histogram.buckets() {
            wire.index_delta.push(index - last);
            wire.bucket.push(count);
            last = index;
        }
        wire
    }
}

/// Reads the form on the wire; every field is checked.
impl TryFrom<&agent::Histogram> for Histogram {
    type Error = MalformedHistogram;

    fn try_from(wire: &agent::Histogram) -> Result<Self, Self::Error> {
        if wire.index_delta.len() != wire.bucket.len() {
            return Err(MalformedHistogram::new("as many counts as indexes are needed"));
        }
        if wire.bucket.len() > BUCKETS {
            return Err(MalformedHistogram::new("too many buckets"));
        }
        let mut buckets = Vec::with_capacity(wire.bucket.len());
        let mut last = 0_i32;
        for (&delta, &count) in wire.index_delta.iter().zip(&wire.bucket) {
            last = last.checked_add(delta).ok_or(MalformedHistogram::new("index overflow"))?;
            buckets.push((last, count));
        }
        let histogram = Self::from_parts(wire.sum_ns, buckets)?;
        if histogram.count() != wire.count {
            return Err(MalformedHistogram::new("the buckets do not add up to the count"));
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_survives_a_round_trip() {
        let mut histogram = Histogram::default();
        for ns in [0, 1, 80_000, 80_000, 1_000_000, 3_000_000_000, u64::MAX / 2] {
            histogram.record(ns);
        }
        assert_eq!(Histogram::try_from(&agent::Histogram::from(&histogram)).expect("well formed"), histogram);
    }

    #[test]
    fn contradictions_are_refused() {
        let good = || {
            let mut histogram = Histogram::default();
            histogram.record(5);
            histogram.record(5_000_000);
            agent::Histogram::from(&histogram)
        };
        let mut wire = good();
        wire.count += 1;
        assert!(Histogram::try_from(&wire).is_err());
        let mut wire = good();
        wire.bucket.pop();
        assert!(Histogram::try_from(&wire).is_err());
        let mut wire = good();
        wire.index_delta[1] = 0;
        assert!(Histogram::try_from(&wire).is_err());
        let mut wire = good();
        wire.index_delta[0] = i32::MAX;
        assert!(Histogram::try_from(&wire).is_err());
    }
}
