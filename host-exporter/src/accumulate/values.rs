//! Cumulative values, and the arithmetic that makes them safe to receive twice.

use porthole_histogram::Histogram;

/// What one series has counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// Durations of its exchanges; their number is the number of exchanges.
    pub durations: Histogram,
    /// Bytes of the requests.
    pub request_bytes: u64,
    /// Bytes of the responses.
    pub response_bytes: u64,
}

impl Values {
    /// Adds what `other` holds.
    pub fn add(&mut self, other: &Self) {
        self.durations.merge(&other.durations);
        self.request_bytes = self.request_bytes.saturating_add(other.request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(other.response_bytes);
    }

    /// What came since `earlier`; `None` when anything went backwards.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            durations: histogram_since(&self.durations, &earlier.durations)?,
            request_bytes: self.request_bytes.checked_sub(earlier.request_bytes)?,
            response_bytes: self.response_bytes.checked_sub(earlier.response_bytes)?,
        })
    }
}

/// What came into a histogram since `earlier`; `None` when a bucket or the sum went backwards.
pub fn histogram_since(later: &Histogram, earlier: &Histogram) -> Option<Histogram> {
    let sum_ns = later.sum_ns().checked_sub(earlier.sum_ns())?;
    let mut grown = Vec::new();
    let mut before = earlier.buckets().iter().peekable();
    for &(index, count) in later.buckets() {
        let known = match before.peek() {
            Some(&&(at, _)) if at < index => return None,
            Some(&&(at, known)) if at == index => {
                before.next();
                known
            }
            _ => 0,
        };
        let new = count.checked_sub(known)?;
        if new > 0 {
            grown.push((index, new));
        }
    }
    // A bucket that vanished went backwards too.
    before.next().is_none().then(|| Histogram::from_parts(sum_ns, grown).ok())?
}

/// The larger of both in every bucket: what is known when one of them lags behind the other.
pub fn histogram_at_least(current: &Histogram, floor: &Histogram) -> Histogram {
    let mut buckets = floor.buckets().to_vec();
    for &(index, count) in current.buckets() {
        match buckets.binary_search_by_key(&index, |bucket| bucket.0) {
            Ok(at) => buckets[at].1 = buckets[at].1.max(count),
            Err(at) => buckets.insert(at, (index, count)),
        }
    }
    let sum_ns = current.sum_ns().max(floor.sum_ns());
    // Only a count beyond 2^64 is refused here; then the current values stay.
    Histogram::from_parts(sum_ns, buckets).unwrap_or_else(|_| current.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: &[(i32, u64)], sum_ns: u64) -> Histogram {
        Histogram::from_parts(sum_ns, buckets.to_vec()).expect("well formed")
    }

    #[test]
    fn the_difference_added_to_the_earlier_gives_the_later() {
        let earlier = histogram(&[(-8, 2), (0, 1)], 100);
        let later = histogram(&[(-9, 4), (-8, 2), (0, 3), (4, 1)], 900);
        let mut sum = earlier.clone();
        sum.merge(&histogram_since(&later, &earlier).expect("grown"));
        assert_eq!(sum, later);
    }

    #[test]
    fn whatever_shrinks_is_noticed() {
        let earlier = histogram(&[(-8, 2), (0, 1)], 100);
        for later in [
            histogram(&[(-8, 1), (0, 2)], 100),
            histogram(&[(0, 9)], 100),
            histogram(&[(-8, 9)], 100),
            histogram(&[(-8, 2), (0, 1)], 99),
            Histogram::default(),
        ] {
            assert_eq!(histogram_since(&later, &earlier), None, "{later:?}");
        }
    }

    #[test]
    fn the_larger_of_two_holds_every_bucket_of_both() {
        let larger = histogram_at_least(&histogram(&[(1, 5), (3, 1)], 10), &histogram(&[(1, 2), (2, 7)], 30));
        assert_eq!(larger, histogram(&[(1, 5), (2, 7), (3, 1)], 30));
    }
}
