//! What the two sides agree on.

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, unsafe_op_in_unsafe_fn)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub use generated::{guest, guest_ttrpc};

/// vsock port of the [`guest_ttrpc::Guest`] service.
pub const CONTROL_PORT: u32 = 1024;

/// vsock port that takes the connections for standard streams.
pub const STREAM_PORT: u32 = 1025;

/// Length of what the host sends first on a stream connection: the stream's number, little endian.
pub const STREAM_HEADER_BYTES: usize = 8;

/// What the guest answers to it.
pub const STREAM_ACCEPTED: u8 = 1;

/// The context id of the host, the only peer that the guest accepts.
pub const HOST_CID: u32 = 2;

/// What the init writes to the console when it listens.
pub const READY_LINE: &str = "porthole-init: ready";

/// Name of the shared file system, as the device offers it.
pub const SHARED_TAG: &str = "porthole";

/// Where the guest mounts it.
pub const SHARED_DIRECTORY: &str = "/shared";

/// The guest's network interface unless the pod's has another name.
pub const GUEST_INTERFACE: &str = "eth0";
