//! What `aya-ebpf` gives the programs, in a process of the host: maps, and the helpers that the parsing of calls needs.
//!
//! The signatures are those of `aya-ebpf`, so that the programs' files compile against either. Each thread is a machine of
//! its own with one CPU: its maps are empty at first ([`machine::reset`]), and its clock shows what it was set to.

pub mod bindings;
pub mod helpers;
pub mod machine;
pub mod maps;

/// Attributes of the programs' items.
pub mod macros {
    pub use aya_ebpf_macros::map;
}
