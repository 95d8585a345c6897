//! Threads that serve HTTP requests one after the other: calls that such a thread makes in between are made for its request.
//!
//! A thread that reads a request while another one of its is not answered, or of which another thread answers a request, has
//! several in progress: an event loop, or one of a pool that hands requests on. Which one a call of it is made for cannot be
//! known by the thread.

/// What is known of a thread. Those whose numbers are the same modulo [`THREADS_MAX`] share one place: one that has no open request
/// leaves it to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServingThread {
    /// Process and thread as `bpf_get_current_pid_tgid` gives them.
    pub thread: u64,
    /// When it read a request last, nanoseconds of `CLOCK_MONOTONIC`.
    pub read: u64,
    /// Requests that it has read and that are not answered.
    pub open: u32,
    /// Bits of [`thread_flag`].
    pub flags: u32,
    /// Of the request that it serves: not zero when that exchange goes to user space one by one; then one more than the number of
    /// calls that may go with it.
    pub reported: u32,
    /// Not zero: the request that it serves was the only open one since it was read.
    pub only: u32,
    /// Where [`Self::reported`] is not zero: index of the slot whose span by rate that exchange is, plus one; 0 when it is none.
    pub slot: u32,
    /// Zero.
    pub reserved: u32,
}

/// Flags of a thread, which stay while it has its place.
pub mod thread_flag {
    /// It had several requests in progress.
    pub const SEVERAL: u32 = 1;
    /// A request that it read was answered by another one.
    pub const HANDED_ON: u32 = 2;
}

/// Most threads that are known at a time.
pub const THREADS_MAX: u32 = 4096;

/// Most processes that are known at a time of whose threads one reads a request and another one answers it.
pub const PROCESSES_MAX: u32 = 512;

/// How long an open request keeps its thread's place from others, nanoseconds: its end can be missed.
pub const OPEN_NS: u64 = 3_600_000_000_000;

/// Most calls that go with one exchange.
pub const CALLS_MAX: u32 = 64;

/// What a thread serves while it makes a call, or has served when it answers; perhaps with [`serving::REPORTED`].
pub mod serving {
    /// Nothing, several requests, or that is not known.
    pub const UNKNOWN: u8 = 0;
    /// One request, as always.
    pub const ALONE: u8 = 1;
    /// One request, and at other times several: an event loop.
    pub const ONLY: u8 = 2;
    /// Set beside it: the request's exchange goes to user space one by one when it ends.
    pub const REPORTED: u8 = 0x80;
}
