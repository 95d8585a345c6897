//! Any bytes on a connection whose protocol is not known.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| porthole_l7_fuzz::detection(data));
