//! Descriptors whose closing nobody waits for.
//!
//! The kernel takes about 100 ms to detach a program from a function (it waits until no task can be in the middle of its
//! entry), and does so one by one when the agent's descriptors are closed: an agent that was killed ended after one or two
//! seconds, and with it the sandbox. The files that are registered with an `io_uring` (`io_uring_register(2)`) are put by a
//! worker of the kernel instead when the ring is closed; nothing else is done with the ring.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// Size of `struct io_uring_params` (`include/uapi/linux/io_uring.h`).
const PARAMETERS_BYTES: usize = 120;

/// `IORING_REGISTER_FILES` there.
const REGISTER_FILES: libc::c_uint = 2;

/// A ring that keeps files open.
#[derive(Debug)]
pub struct Parking(OwnedFd);

impl Parking {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        // Aligned as the kernel's struct of integers.
        let mut parameters = [0_u64; PARAMETERS_BYTES / 8];
        // SAFETY: the parameters are as long as the kernel's struct, and zero.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
        if ring < 0 {
            return Err(io::Error::last_os_error());
        }
        let ring = RawFd::try_from(ring).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        // SAFETY: the kernel gave it to us alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(ring) }))
    }

    /// Keeps these files open as long as the ring is, whether the descriptors are or not. To be called once.
    pub fn park(&self, files: &[OwnedFd]) -> io::Result<()> {
        let descriptors: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: an array of so many descriptors, which is read before the call returns.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.0.as_raw_fd(),
                REGISTER_FILES,
                descriptors.as_ptr(),
                descriptors.len(),
            )
        };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl From<Parking> for OwnedFd {
    fn from(parking: Parking) -> Self {
        parking.0
    }
}
