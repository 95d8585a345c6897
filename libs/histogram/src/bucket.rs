//! Bucket arithmetic of the exponential histogram with base 2^(1/8) seconds.
//!
//! Bucket `i` holds durations in (2^((i-1)/8), 2^(i/8)] seconds, as schema 3 of Prometheus' native histograms
//! (`prometheus/prometheus: model/histogram`). Durations below [`INDEX_MIN`]'s bound fall into it, longer ones
//! than [`INDEX_MAX`]'s into that.

/// Lowest bucket: up to 2^-20 s, 0.95 µs.
pub const INDEX_MIN: i32 = -160;
/// Highest bucket: up to 2^6 s = 64 s, and everything above.
pub const INDEX_MAX: i32 = 48;
/// Number of buckets.
pub const BUCKETS: usize = (INDEX_MAX - INDEX_MIN + 1) as usize;

/// 2^(j/8) for j in 0..8 as 1.31 fixed point, rounded down.
const THRESHOLDS: [u32; 8] = [
    2_147_483_648,
    2_341_847_524,
    2_553_802_833,
    2_784_941_738,
    3_037_000_499,
    3_311_872_529,
    3_611_622_602,
    3_938_502_375,
];

/// Durations are clamped to this (240 s) before the arithmetic, which then cannot overflow.
const DURATION_MAX_NS: u64 = 240_000_000_000;

/// Bucket of a duration in nanoseconds.
#[inline]
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    // `clamp` has a check that may panic, which the verifier would have to see.
    clippy::manual_clamp
)]
pub fn bucket_index(duration_ns: u64) -> i32 {
    let ns = if duration_ns > DURATION_MAX_NS { DURATION_MAX_NS } else { duration_ns };
    // Seconds in 2^-38 fixed point would overflow at the top, so short and long durations take different scales.
    // 2^30 / 10^9 = 1 + 73_741_824 / 10^9.
    let (fixed, scale) = if ns < 1 << 26 {
        // Below 67 ms: 2^-38 s, so that microseconds keep eight bits below the point.
        ((ns << 8) + ((ns * 73_741_824) << 8) / 1_000_000_000, 38)
    } else {
        (ns + (ns * 73_741_824) / 1_000_000_000, 30)
    };
    if fixed == 0 {
        return INDEX_MIN;
    }
    let exponent = 63 - fixed.leading_zeros() as i32;
    // The mantissa in 1.31, rounded up so that a value just above a bound does not fall on it.
    let mantissa = if exponent >= 31 {
        let shift = (exponent - 31) as u32;
        let kept = fixed >> shift;
        kept as u32
    } else {
        (fixed << (31 - exponent) as u32) as u32
    };
    let mut step = 0_i32;
    let mut j = 0;
    while j < 8 {
        // Inclusive upper bounds: a value on a threshold stays in the bucket below it.
        if mantissa > THRESHOLDS[j] {
            step += 1;
        }
        j += 1;
    }
    let index = (exponent - scale) * 8 + step;
    if index < INDEX_MIN {
        INDEX_MIN
    } else if index > INDEX_MAX {
        INDEX_MAX
    } else {
        index
    }
}

/// Upper bound of a bucket, in seconds; the highest bucket's is its nominal one although it has none.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn bucket_upper_bound_seconds(index: i32) -> f64 {
    const FRACTIONS: [f64; 8] = [
        1.0,
        1.090_507_732_665_257_7,
        1.189_207_115_002_721,
        1.296_839_554_651_009_6,
        core::f64::consts::SQRT_2,
        1.542_210_825_407_940_7,
        1.681_792_830_507_429,
        1.834_008_086_409_342_4,
    ];
    let index = index.clamp(INDEX_MIN, INDEX_MAX);
    let whole = index.div_euclid(8);
    let fraction = FRACTIONS[index.rem_euclid(8) as usize & 7];
    if whole >= 0 { fraction * (1_u64 << whole) as f64 } else { fraction / (1_u64 << -whole) as f64 }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_separates_its_buckets() {
        for index in INDEX_MIN..INDEX_MAX {
            let bound_ns = bucket_upper_bound_seconds(index) * 1e9;
            let below = bound_ns.floor() as u64;
            // One part in a million for the fixed-point arithmetic, and one nanosecond for the clock's step.
            let above = (bound_ns * 1.000_001).ceil() as u64 + 1;
            assert!(bucket_index(below) <= index, "{below} ns lies in {} > {index}", bucket_index(below));
            assert!(bucket_index(above) > index, "{above} ns lies in {} <= {index}", bucket_index(above));
        }
    }

    #[test]
    fn the_extremes_are_clamped() {
        assert_eq!(bucket_index(0), INDEX_MIN);
        assert_eq!(bucket_index(u64::MAX), INDEX_MAX);
    }

    #[test]
    fn one_second_is_the_bound_of_bucket_zero() {
        assert_eq!(bucket_index(1_000_000_000), 0);
        assert_eq!(bucket_index(1_000_000_100), 1);
    }

    #[test]
    fn indexes_ascend_with_durations() {
        let mut last = INDEX_MIN;
        let mut ns = 1_u64;
        while ns < 100_000_000_000 {
            let index = bucket_index(ns);
            assert!(index >= last, "{ns} ns");
            last = index;
            ns += ns / 1000 + 1;
        }
    }
}
