//! Classic buckets whose bounds are bounds of the exponential histogram, so that nothing is interpolated.
//!
//! Powers of two of seconds, from 2^-16 (15 µs) to 2^5 (32 s). The exponential histogram's highest bucket, up to 64 s,
//! also holds everything longer, so 64 s cannot be a bound of its own: those durations are in `+Inf` only.

use porthole_histogram::{Histogram, bucket_upper_bound_seconds};

/// Exponent of the lowest bound.
const LOWEST: i32 = -16;

/// Exponent of the highest finite bound.
const HIGHEST: i32 = 5;

/// Buckets of the exponential histogram for each power of two.
const PER_POWER: i32 = 8;

/// Number of classic buckets, `+Inf` among them.
#[allow(clippy::cast_sign_loss)]
pub const CLASSIC: usize = (HIGHEST - LOWEST) as usize + 2;

/// Upper bounds and counts, not cumulative, as prometheus-client takes them.
pub fn classic(histogram: &Histogram) -> [(f64, u64); CLASSIC] {
    let mut classic = [(f64::INFINITY, 0_u64); CLASSIC];
    for (bucket, exponent) in classic.iter_mut().zip(LOWEST..=HIGHEST) {
        bucket.0 = bucket_upper_bound_seconds(exponent * PER_POWER);
    }
    for &(index, count) in histogram.buckets() {
        // Rounded up: bucket i reaches to 2^(i/8), so it is wholly below 2^ceil(i/8).
        let exponent = -(-index).div_euclid(PER_POWER);
        let at = usize::try_from(exponent.clamp(LOWEST, HIGHEST + 1) - LOWEST).unwrap_or(CLASSIC - 1);
        classic[at].1 = classic[at].1.saturating_add(count);
    }
    classic
}

/// The sum in seconds.
#[allow(clippy::cast_precision_loss)]
pub fn sum_seconds(histogram: &Histogram) -> f64 {
    histogram.sum_ns() as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_in_the_first_classic_bucket_that_reaches_it() {
        let mut seed = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            // From nanoseconds to minutes, evenly over the magnitudes.
            let ns = 10_f64.powf(seed.f64() * 11.0);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let ns = ns as u64;
            let mut histogram = Histogram::default();
            histogram.record(ns);
            let classic = classic(&histogram);
            let at = classic.iter().position(|bucket| bucket.1 == 1).expect("counted");
            #[allow(clippy::cast_precision_loss)]
            let seconds = ns as f64 / 1e9;
            // One part in a million: the bound itself is compared in fixed point.
            assert!(seconds <= classic[at].0 * 1.000_001, "{seconds} in {classic:?}");
            if at > 0 {
                assert!(seconds > classic[at - 1].0 * 0.999_999, "{seconds} in {classic:?}");
            }
        }
    }

    #[test]
    fn the_bounds_are_exact_powers_of_two() {
        let bounds = classic(&Histogram::default()).map(|bucket| bucket.0);
        assert!((bounds[0] - 1.0 / 65_536.0).abs() < f64::EPSILON * 1e-3);
        assert!((bounds[CLASSIC - 2] - 32.0).abs() < f64::EPSILON);
        assert!(bounds[CLASSIC - 1].is_infinite());
    }

    #[test]
    fn beyond_the_highest_bound_is_infinity() {
        let mut histogram = Histogram::default();
        histogram.record(33_000_000_000);
        histogram.record(u64::MAX);
        assert_eq!(classic(&histogram)[CLASSIC - 1].1, 2);
    }
}
