//! Descriptors that are closed in the background.
//!
//! The kernel takes about 100 ms to detach a program from a function (it waits until no task can be in the middle of its
//! entry), and does so one by one when the agent's descriptors are closed: an agent that was killed ended after one or two
//! seconds, and with it the sandbox. The files that are registered with an `io_uring` (`io_uring_register(2)`) are closed
//! by a worker of the kernel instead when the ring is closed; nothing else is done with the ring.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use io_uring::IoUring;

/// A ring that keeps files open.
pub struct DeferredClose(IoUring);

impl DeferredClose {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        IoUring::new(1).map(Self)
    }

    /// Keeps these files open as long as the ring is, whether the descriptors are or not. To be called once.
    pub fn keep(&self, files: &[OwnedFd]) -> io::Result<()> {
        let descriptors: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        self.0.submitter().register_files(&descriptors)
    }
}
