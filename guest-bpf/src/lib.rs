//! Types and arithmetic that the eBPF programs in the guest's kernel share with the agent.
//!
//! Invariants: `no_std`, no allocation, nothing that the eBPF verifier would refuse (no 128-bit arithmetic,
//! no floating point in what the programs call); every shared type is `repr(C)` without padding.
#![cfg_attr(not(test), no_std)]

pub mod histogram;
