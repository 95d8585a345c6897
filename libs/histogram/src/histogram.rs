//! The sparse histogram of one series.

use crate::bucket::{INDEX_MAX, INDEX_MIN, bucket_index, bucket_upper_bound_seconds};

/// Durations of the exchanges of one series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    count: u64,
    sum_ns: u64,
    /// Counts by bucket, ascending by index; only buckets that hold something.
    buckets: Vec<(i32, u64)>,
}

/// Parts that make no histogram.
#[derive(Debug, thiserror::Error)]
#[error("malformed histogram: {0}")]
pub struct MalformedHistogram(&'static str);

impl MalformedHistogram {
    /// An error of a form that is read into a histogram.
    pub const fn new(what: &'static str) -> Self {
        Self(what)
    }
}

impl Histogram {
    /// Adds one duration, in nanoseconds.
    pub fn record(&mut self, duration_ns: u64) {
        self.add(bucket_index(duration_ns), 1, duration_ns);
    }

    /// Adds `count` durations of one bucket that sum up to `sum_ns`.
    pub fn add(&mut self, index: i32, count: u64, sum_ns: u64) {
        if count == 0 {
            return;
        }
        self.count = self.count.saturating_add(count);
        self.sum_ns = self.sum_ns.saturating_add(sum_ns);
        match self.buckets.binary_search_by_key(&index, |bucket| bucket.0) {
            Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(count),
            Err(at) => self.buckets.insert(at, (index, count)),
        }
    }

    /// Adds to the sum alone, for durations whose counts are added bucket by bucket.
    pub fn add_sum(&mut self, sum_ns: u64) {
        self.sum_ns = self.sum_ns.saturating_add(sum_ns);
    }

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        for &(index, count) in &other.buckets {
            self.add(index, count, 0);
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum of the durations, nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Bytes of memory that the buckets take besides the histogram itself.
    pub fn allocated_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<(i32, u64)>()
    }

    /// Gives memory back that no bucket uses.
    pub fn shrink(&mut self) {
        self.buckets.shrink_to_fit();
    }

    /// Buckets that hold something: (index, count), ascending.
    pub fn buckets(&self) -> &[(i32, u64)] {
        &self.buckets
    }

    /// Upper bound, in seconds, of the bucket with the `q` quantile (0 < q <= 1); `None` when empty.
    #[allow(clippy::cast_precision_loss, clippy::cast_sign_loss, clippy::cast_possible_truncation)]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = ((self.count as f64 * q).ceil() as u64).max(1);
        let mut seen = 0_u64;
        self.buckets.iter().find_map(|&(index, count)| {
            seen = seen.saturating_add(count);
            (seen >= rank).then(|| bucket_upper_bound_seconds(index))
        })
    }

    /// A histogram of these buckets, (index, count), ascending by index, and the sum of their durations.
    pub fn from_parts(sum_ns: u64, buckets: Vec<(i32, u64)>) -> Result<Self, MalformedHistogram> {
        if buckets.iter().try_fold(0_u64, |total, &(_, count)| total.checked_add(count)).is_none() {
            return Err(MalformedHistogram("count overflow"));
        }
        Self::from_saturated_parts(sum_ns, buckets)
    }

    /// The same of sums, whose counts saturate when they are added: what was added can be read back.
    pub fn from_saturated_parts(sum_ns: u64, buckets: Vec<(i32, u64)>) -> Result<Self, MalformedHistogram> {
        if buckets.iter().any(|&(index, _)| !(INDEX_MIN..=INDEX_MAX).contains(&index)) {
            return Err(MalformedHistogram("index out of range"));
        }
        if buckets.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(MalformedHistogram("indexes must ascend"));
        }
        let count = buckets.iter().fold(0_u64, |total, &(_, count)| total.saturating_add(count));
        Ok(Self { count, sum_ns, buckets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_must_ascend_and_lie_in_range() {
        let whole = Histogram::from_parts(7, vec![(-3, 1), (5, 2)]).expect("well formed");
        assert_eq!((whole.count(), whole.sum_ns()), (3, 7));
        for buckets in [vec![(5, 1), (5, 1)], vec![(INDEX_MAX + 1, 1)], vec![(0, u64::MAX), (1, 1)]] {
            assert!(Histogram::from_parts(0, buckets).is_err());
        }
    }

    #[test]
    fn saturated_sums_are_read_back() {
        let mut sum = Histogram::from_parts(u64::MAX, vec![(0, u64::MAX)]).expect("well formed");
        sum.merge(&Histogram::from_parts(u64::MAX, vec![(0, 5), (3, 7)]).expect("well formed"));
        let read = Histogram::from_saturated_parts(sum.sum_ns(), sum.buckets().to_vec());
        assert_eq!(read.expect("read back"), sum);
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for _ in 0..99 {
            histogram.record(1_000_000);
        }
        histogram.record(1_000_000_000);
        let p50 = histogram.quantile(0.5).expect("not empty");
        assert!((0.001..0.0011).contains(&p50), "{p50}");
        assert_eq!(histogram.quantile(1.0), Some(1.0));
    }
}
