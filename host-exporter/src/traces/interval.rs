//! Times between two bounds. Guests' times are any 64 bits, so they are added up with more.

/// From `low` to `high`, both included, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub low: i128,
    pub high: i128,
}

impl Interval {
    /// No time at all.
    pub const ZERO: Self = Self { low: 0, high: 0 };

    /// What both have in common.
    pub fn and(self, other: Self) -> Option<Self> {
        let both = Self { low: self.low.max(other.low), high: self.high.min(other.high) };
        (both.low <= both.high).then_some(both)
    }

    pub fn middle(self) -> i128 {
        self.low.midpoint(self.high)
    }

    /// How far from the middle it reaches.
    pub fn error(self) -> u64 {
        u64::try_from((self.high - self.low + 1) / 2).unwrap_or(u64::MAX)
    }
}

/// The times that most of the intervals have in common, with the number of those. None where two separate times are as good.
pub(super) fn most_common(intervals: &[Interval]) -> Option<(Interval, usize)> {
    let mut ends: Vec<(i128, bool)> =
        intervals.iter().flat_map(|interval| [(interval.low, false), (interval.high, true)]).collect();
    // At one time beginnings come before ends, which are included.
    ends.sort_unstable();
    let (mut open, mut most, mut best, mut as_good) = (0_usize, 0, None, false);
    let mut ends = ends.into_iter().peekable();
    while let Some((time, is_end)) = ends.next() {
        if is_end {
            open -= 1;
            continue;
        }
        open += 1;
        // The deepest point ends where the next interval does.
        if let Some((high, true)) = ends.peek()
            && open >= most
        {
            as_good = open == most;
            most = open;
            best = Some(Interval { low: time, high: *high });
        }
    }
    best.filter(|_| !as_good).map(|best| (best, most))
}

/// A time since 1970 that can be shown.
pub(super) fn unix_ns(time: i128) -> u64 {
    u64::try_from(time.max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(low: i128, high: i128) -> Interval {
        Interval { low, high }
    }

    #[test]
    fn what_most_have_in_common_is_found_unless_two_times_are_as_good() {
        let common = |intervals: &[(i128, i128)]| {
            let intervals: Vec<_> = intervals.iter().map(|&(low, high)| interval(low, high)).collect();
            most_common(&intervals).map(|(best, most)| (best.low, best.high, most))
        };
        assert_eq!(common(&[]), None);
        assert_eq!(common(&[(1, 5)]), Some((1, 5, 1)));
        assert_eq!(common(&[(1, 5), (5, 9)]), Some((5, 5, 2)));
        assert_eq!(common(&[(1, 5), (3, 9), (20, 30)]), Some((3, 5, 2)));
        assert_eq!(common(&[(1, 5), (6, 9)]), None);
        assert_eq!(common(&[(1, 5), (2, 4), (6, 9), (6, 7)]), None);
        assert_eq!(common(&[(6, 9), (6, 7), (1, 5), (2, 4), (3, 3)]), Some((3, 3, 3)));
    }

    #[test]
    fn intervals_have_a_middle_and_an_error() {
        let common = interval(0, 10).and(interval(4, 20)).expect("common");
        assert_eq!((common, common.middle(), common.error()), (interval(4, 10), 7, 3));
        assert_eq!(interval(0, 3).and(interval(4, 5)), None);
        assert_eq!(interval(i128::from(i64::MIN) * 4, i128::from(i64::MAX) * 4).error(), u64::MAX);
    }
}
