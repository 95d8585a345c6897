//! Reading the kernel's structs.
//!
//! What the running task points to is read by plain loads, whose types the verifier has and which it makes safe;
//! what is reached through an array of pointers has no type and is read by `bpf_probe_read_kernel`.

use core::{mem::MaybeUninit, ptr::read_volatile};

use aya_ebpf::{
    bindings::task_struct,
    helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel},
};

use crate::maps::{MEMORY, memory, offset};

/// `TCP_CLOSE` (`include/net/tcp_states.h`).
pub const TCP_CLOSE: i32 = 7;

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// The running task.
#[inline(always)]
pub fn current() -> *mut task_struct {
    // SAFETY: a helper without preconditions.
    unsafe { bpf_get_current_task_btf() }
}

/// Loads a member of a struct whose type the verifier has.
///
/// # Safety
///
/// `base` must be a typed pointer of the verifier's, not null.
#[inline(always)]
pub unsafe fn load<T: Copy>(base: *const u8, offset: usize) -> T {
    // SAFETY: the caller guarantees a typed pointer that is not null; the verifier checks the offset against its type.
    unsafe { read_volatile(base.add(offset).cast()) }
}

/// Reads kernel memory at any address; `None` where there is none.
#[inline(always)]
pub fn read<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes the size of a `T` to a place for one, and checks the source.
    let rc = unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _)
    };
    // SAFETY: the helper wrote all of it when it returns 0.
    if rc == 0 { Some(unsafe { value.assume_init() }) } else { None }
}

/// An open socket.
#[derive(Clone, Copy)]
pub struct Socket {
    /// Its `struct file`.
    pub file: u64,
    /// Its `struct sock`.
    pub sk: u64,
}

impl Socket {
    /// The socket of a descriptor of the task; `None` when the descriptor is of something else.
    #[inline(always)]
    pub fn of(task: *mut task_struct, fd: u64) -> Option<Self> {
        // Descriptors are ints; the upper half of the register may hold anything.
        let fd = fd as u32;
        // SAFETY: typed pointers, checked against null; the verifier makes loads from them safe.
        let array: u64 = unsafe {
            let files: *const u8 = load(task.cast(), offset!(task_files));
            if files.is_null() {
                return None;
            }
            let table: *const u8 = load(files, offset!(files_fdt));
            if table.is_null() {
                return None;
            }
            if fd >= load::<u32>(table, offset!(fdt_max_fds)) {
                return None;
            }
            load(table, offset!(fdt_fd))
        };
        let file: u64 = read(array + u64::from(fd) * 8)?;
        if file == 0 {
            return None;
        }
        let operations: u64 = read(file + offset!(file_f_op) as u64)?;
        if !is_socket(file, operations) {
            return None;
        }
        let socket: u64 = read(file + offset!(file_private_data) as u64)?;
        let sk: u64 = read(socket + offset!(socket_sk) as u64)?;
        (sk != 0).then_some(Self { file, sk })
    }

    /// Number of its inode.
    #[inline(always)]
    pub fn inode(self) -> u64 {
        read::<u64>(self.file + offset!(file_f_inode) as u64)
            .and_then(|inode| read::<u64>(inode + offset!(inode_i_ino) as u64))
            .unwrap_or(0)
    }
}

/// All sockets' files have the same operations, whose address is read from the first of them.
#[inline(always)]
fn is_socket(file: u64, operations: u64) -> bool {
    let Some(known) = MEMORY.get_ptr_mut(memory::SOCKET_OPERATIONS) else { return false };
    // SAFETY: a value that a look-up gave (see `maps`); all CPUs write the same.
    let expected = unsafe { read_volatile(known) };
    if expected != 0 {
        return operations == expected;
    }
    let mode = read::<u64>(file + offset!(file_f_inode) as u64)
        .and_then(|inode| read::<u16>(inode + offset!(inode_i_mode) as u64));
    if mode.is_some_and(|mode| mode & S_IFMT == S_IFSOCK) {
        // SAFETY: as above, the same pointer.
        unsafe { core::ptr::write_volatile(known, operations) };
        return true;
    }
    false
}
