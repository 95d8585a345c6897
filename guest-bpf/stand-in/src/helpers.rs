//! The kernel's helpers.

pub use generated::bpf_ringbuf_output;

use crate::machine;

/// Process and thread that run.
pub fn bpf_get_current_pid_tgid() -> u64 {
    machine::task()
}

/// Those whose signatures are made from the kernel's header.
pub mod generated {
    use std::ffi::{c_long, c_void};

    use crate::machine;

    /// `EFAULT`.
    const FAULT: c_long = -14;

    /// The machine's clock.
    ///
    /// # Safety
    ///
    /// None is needed; the signature is the kernel's.
    pub unsafe fn bpf_ktime_get_ns() -> u64 {
        machine::now()
    }

    /// The only CPU.
    ///
    /// # Safety
    ///
    /// As of [`bpf_ktime_get_ns`].
    pub unsafe fn bpf_get_smp_processor_id() -> u32 {
        0
    }

    /// Copies from what [`machine::allow`] made readable; writes zeros and fails when any of it is not.
    ///
    /// # Safety
    ///
    /// `size` bytes must be writable at `to`.
    pub unsafe fn bpf_probe_read_user(to: *mut c_void, size: u32, from: *const c_void) -> c_long {
        let size = size as usize;
        if machine::is_readable(from.addr(), size) {
            // SAFETY: the source is a live slice of the test, the destination as the caller guarantees.
            unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast::<u8>(), size) };
            return 0;
        }
        // SAFETY: the caller guarantees the room.
        unsafe { to.cast::<u8>().write_bytes(0, size) };
        FAULT
    }

    /// Keeps a record for [`machine::take_records`].
    ///
    /// # Safety
    ///
    /// `size` bytes must be readable at `data`.
    pub unsafe fn bpf_ringbuf_output(
        _ring: *mut c_void,
        data: *mut c_void,
        size: u64,
        _flags: u64,
    ) -> c_long {
        let size = usize::try_from(size).unwrap_or(0);
        // SAFETY: the caller guarantees the bytes.
        machine::keep_record(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size) });
        0
    }
}
