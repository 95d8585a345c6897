//! The one latency histogram, from the kernel to the exposition: exponential, base 2^(1/8) seconds (schema 3 of
//! Prometheus' native histograms).
//!
//! - [`bucket`]: arithmetic from a duration to its bucket and back, fit for the eBPF verifier.
//! - [`Histogram`]: a sparse histogram (feature `std`).
//!
//! Invariant: without its features this crate is `no_std` and does not allocate.
#![cfg_attr(not(any(test, feature = "std")), no_std)]

pub mod bucket;
#[cfg(feature = "std")]
mod histogram;

pub use bucket::{BUCKETS, INDEX_MAX, INDEX_MIN, bucket_index, bucket_upper_bound_seconds};
#[cfg(feature = "std")]
pub use histogram::{Histogram, MalformedHistogram};
