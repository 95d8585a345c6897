//! Generated conversations of this protocol through the programs and through `l7`.
#![no_main]
use porthole_protocol::Offload;
libfuzzer_sys::fuzz_target!(|data: &[u8]| porthole_bpf_host::generated::fuzz(Offload::Mysql, data));
