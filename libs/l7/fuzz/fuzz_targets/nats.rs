//! Any bytes given to this protocol's parser.
#![no_main]
use porthole_l7::{Protocol, Transport};
libfuzzer_sys::fuzz_target!(|data: &[u8]| porthole_l7_fuzz::parser(Protocol::Nats, Transport::Stream, data));
