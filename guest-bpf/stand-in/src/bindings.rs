//! Numbers of the kernel's interface (`include/uapi/linux/bpf.h`).

/// A key that is there keeps its value.
pub const BPF_NOEXIST: u32 = 1;
/// Memory of a map that the agent maps.
pub const BPF_F_MMAPABLE: u32 = 1 << 10;
/// Entries of a map are allocated when they are made.
pub const BPF_F_NO_PREALLOC: u32 = 1;

/// A record does not wake the reader.
pub const BPF_RB_NO_WAKEUP: u32 = 1;
/// A record wakes the reader.
pub const BPF_RB_FORCE_WAKEUP: u32 = 2;
/// Question for the bytes that were not read yet.
pub const BPF_RB_AVAIL_DATA: u32 = 0;
/// Question for a ring's size.
pub const BPF_RB_RING_SIZE: u32 = 1;
