//! Processes that serve one HTTP request at a time: what such a process calls meanwhile is called for that request, in whichever threads.
//!
//! ```text
//! time      ───────────────────────────────────────►
//! one       ├── A alone ──┬─────────────┤
//! another                 ├─────────────────────┤
//!           from          until          (B is alone again from where A has ended)
//! ```

use crate::thread::CALLS_MAX;

/// What is known of a process. Processes whose numbers are the same modulo [`PROCESSES_MAX`] share one place and are one process here:
/// while requests of several are open, none is alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServingProcess {
    /// Requests that are open, in the lower half; those that ever began, in the upper one. One word, so that what begins at once on two
    /// CPUs begins one after the other.
    pub requests: u64,
    /// When the newest one began, nanoseconds of `CLOCK_MONOTONIC`.
    pub began: u64,
    /// When one was answered last.
    pub ended: u64,
    /// The request that is alone, or was until the next one began.
    pub lone: LoneRequest,
    /// The one that began after it.
    pub next: LoneRequest,
    /// Kernel key of that one, plus one, and that entry's generation in the upper half; 0 where it has none.
    pub next_key: u64,
    /// Since when [`Self::lone`] is alone.
    pub from: u64,
    /// When [`Self::next`] began.
    pub until: u64,
    /// The process whose next calls are reported while no request is open here, in the upper half, and how many, in the lower one: see
    /// [`armed`].
    pub armed: u64,
    /// A process that has the place serves another protocol, which counts no requests here; 0 where none does, and the largest
    /// number where several did.
    pub other: u32,
    /// As [`crate::thread::ServingThread::reported`].
    pub reported: u32,
}

/// A request that may be alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LoneRequest {
    /// Its connection; 0 for no request.
    pub connection: u64,
    /// Its process.
    pub process: u32,
    /// The upper half of [`ServingProcess::requests`] when it had begun.
    pub number: u32,
}

/// Most processes that are known at a time.
pub const PROCESSES_MAX: u32 = 1024;

/// What the agent writes into [`ServingProcess::armed`] before it expects a request that it follows itself, and of which the calls
/// are to be reported.
pub const fn armed(process: u32) -> u64 {
    ((process as u64) << 32) | CALLS_MAX as u64
}

/// Number of the process in a key as [`crate::thread::ServingThread::thread`] is one, also with [`crate::thread::UNCOUNTED`].
pub const fn of_key(key: u64) -> u32 {
    // Numbers of processes are below 2^22 (`PID_MAX_LIMIT`, `include/linux/threads.h`).
    (key >> 32) as u32 & 0x3f_ffff
}
