//! The embedded runtime: containers in a small virtual machine of their own, in the manner of Kata Containers.
//!
//! Two programs. `containerd-shim-porthole-microvm-v2` runs on the host: [`shim`] answers containerd, [`vm`] runs the
//! machine as [`config`] has it. `porthole-init` is the guest's first process: [`guest`] runs the containers. Between them goes
//! the ttrpc service of `proto/guest.proto` ([`wire`]) and one vsock connection for each standard stream ([`frames`]).
//!
//! Invariants: the host dials, the guest listens and accepts the host only; what a guest answers is data, never a
//! path or a command on the host; whatever the host has made for a sandbox is on record in its state directory before
//! it exists, so that `delete` finds it when the shim was killed.

#[cfg(feature = "shim")]
pub mod config;
pub mod frames;
#[cfg(feature = "guest")]
pub mod guest;
#[cfg(feature = "shim")]
pub mod shim;
#[cfg(feature = "shim")]
pub mod text;
#[cfg(feature = "shim")]
pub mod vm;
pub mod wire;
