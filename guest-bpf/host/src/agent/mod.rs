//! The agent's way from records to exchanges: its own files where they are what is tested.

pub mod aggregates;
mod kernel_keys;
pub mod monitor;

#[path = "../../../../guest-agent/src/syscalls/fallback.rs"]
mod fallback;
#[allow(dead_code)]
#[path = "../../../../guest-agent/src/syscalls/pieces.rs"]
mod pieces;
#[path = "../../../../guest-agent/src/syscalls/request_numbers.rs"]
mod request_numbers;
