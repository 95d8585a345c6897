//! What the programs know of processes that serve requests, in memory that they share with the agent.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::OwnedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use porthole_bpf_types::process::{PROCESSES_MAX, ServingProcess, armed};

/// The map of processes, in this process's memory.
#[derive(Debug)]
pub struct Places {
    memory: NonNull<ServingProcess>,
    /// Keeps the map.
    _map: OwnedFd,
}

// SAFETY: the mapping is not bound to a thread, and its words are read and written whole, by volatile operations.
unsafe impl Send for Places {}

/// Length of the mapping.
const fn length() -> usize {
    PROCESSES_MAX as usize * size_of::<ServingProcess>()
}

impl Places {
    /// Maps the places.
    pub fn map(map: OwnedFd) -> io::Result<Self> {
        let length = NonZeroUsize::new(length()).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping where the kernel chooses, so no other memory changes; it checks length and map.
        let memory = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &map, 0) }?;
        Ok(Self { memory: memory.cast(), _map: map })
    }

    fn place(&self, process: u32) -> *mut ServingProcess {
        let index = (process & (PROCESSES_MAX - 1)) as usize;
        // SAFETY: the index is below `PROCESSES_MAX`, for which the mapping has room.
        unsafe { self.memory.as_ptr().add(index) }
    }

    /// Whether the programs may have followed a request of a process that was open at this time or later, nanoseconds.
    pub fn may_overlap(&self, process: u32, from_ns: u64) -> bool {
        let place = self.place(process);
        // SAFETY: `place` points into the mapping, which is page-aligned; the programs write whole words.
        unsafe {
            // The programs write when a request ended before they count it as such.
            let requests = AtomicU64::from_ptr(&raw mut (*place).requests).load(Ordering::Acquire);
            let ended = (&raw const (*place).ended).read_volatile();
            let other = (&raw const (*place).other).read_volatile();
            requests & 0xffff_ffff != 0 || ended > from_ns || other != 0
        }
    }

    /// What is known of a process.
    #[cfg(test)]
    pub fn read(&self, process: u32) -> ServingProcess {
        // SAFETY: as above.
        unsafe { self.place(process).read_volatile() }
    }

    /// Writes what is known of a process, as the programs do.
    #[cfg(test)]
    pub fn write(&self, process: u32, place: ServingProcess) {
        // SAFETY: as above.
        unsafe { self.place(process).write_volatile(place) };
    }

    /// Has the programs report the next calls of a process, or not.
    pub fn arm(&self, process: u32, reports: bool) {
        let value = if reports { armed(process) } else { 0 };
        // SAFETY: as above; the programs count it down, and either of two writers at once may win.
        unsafe { (&raw mut (*self.place(process)).armed).write_volatile(value) };
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        // SAFETY: our own mapping of that length; references into it do not outlive `self`.
        let _ = unsafe { munmap(self.memory.cast(), length()) };
    }
}
