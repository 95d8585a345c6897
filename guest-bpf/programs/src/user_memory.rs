//! Reading the memory of the process whose call it is.

use aya_ebpf::helpers::generated::bpf_probe_read_user;

/// Positions in `struct msghdr` (`struct user_msghdr`, `include/linux/socket.h`) on a 64-bit machine.
pub mod msghdr {
    pub const NAME: u64 = 0;
    pub const NAME_LEN: u64 = 8;
    pub const IOV: u64 = 16;
    pub const SIZE: u64 = 56;
    /// `struct mmsghdr`: a header, then the length that was moved.
    pub const MESSAGE_SIZE: u64 = 64;
}

/// Reads a process's memory; zeros where there is none, as the helper writes them then.
#[inline(always)]
pub fn read_user<T: Copy>(address: u64) -> T {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes the size of `T` to where a `T` has room, also when it cannot read; zeros are a value of
    // the integers that are read. The source is checked by the helper.
    unsafe {
        bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _);
        value.assume_init()
    }
}
