//! Numbers of system calls by architecture.

use syscalls::{x86, x86_64};

/// An architecture of which an x86 kernel takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit.
    X86_64,
    /// 64-bit with 32-bit pointers: the same to the kernel, with [`X32_BIT`] in the number.
    X32,
    /// 32-bit.
    X86,
}

/// `__X32_SYSCALL_BIT` of `asm/unistd.h`.
pub const X32_BIT: u32 = 0x4000_0000;

/// Calls that have numbers of their own with 32-bit pointers: `arch/x86/entry/syscalls/syscall_64.tbl` in the kernel's
/// sources, from 512 on without a gap.
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

const X32_OWN_FIRST: u32 = 512;

/// Operations of the 32-bit `socketcall`, from 1 on: `linux/net.h`.
const SOCKET_OPERATIONS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

/// Operations of the 32-bit `ipc`: `linux/ipc.h`.
const IPC_OPERATIONS: [(&str, u32); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// A call's number, if the architecture has it.
pub fn number(abi: Abi, name: &str) -> Option<u32> {
    match abi {
        Abi::X86_64 => number_64(name),
        Abi::X86 => name.parse().ok().and_then(|call: x86::Sysno| u32::try_from(call.id()).ok()),
        Abi::X32 => {
            let own = (X32_OWN_FIRST..).zip(X32_OWN).find(|(_, call)| *call == name);
            own.map(|(number, _)| number).or_else(|| number_64(name)).map(|number| number | X32_BIT)
        }
    }
}

fn number_64(name: &str) -> Option<u32> {
    name.parse().ok().and_then(|call: x86_64::Sysno| u32::try_from(call.id()).ok())
}

/// The number of the call by which a 32-bit program can make this one too, with the first argument that means it.
pub fn multiplexed(abi: Abi, name: &str) -> Option<(u32, u32)> {
    if abi != Abi::X86 {
        return None;
    }
    if let Some((operation, _)) = (1..).zip(SOCKET_OPERATIONS).find(|(_, call)| *call == name) {
        return Some((number(abi, "socketcall")?, operation));
    }
    let (_, operation) = IPC_OPERATIONS.iter().find(|(call, _)| *call == name)?;
    Some((number(abi, "ipc")?, *operation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(number(Abi::X86_64, "mkdir").map(i64::from), Some(libc::SYS_mkdir));
        assert_eq!(number(Abi::X86, "mkdir"), Some(39));
        assert_eq!(number(Abi::X32, "mkdir"), Some(X32_BIT + 83));
        assert_eq!(number(Abi::X32, "execve"), Some(X32_BIT + 520));
        assert_eq!(number(Abi::X32, "pwritev2"), Some(X32_BIT + 547));
        assert_eq!(number(Abi::X86_64, "socketcall"), None, "no such call here");
        assert_eq!(number(Abi::X86_64, "mkdirr"), None);
        for name in X32_OWN {
            assert!(number_64(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_32_bit_program_has_two_ways_to_a_socket() {
        assert_eq!(multiplexed(Abi::X86, "socket"), Some((102, 1)));
        assert_eq!(multiplexed(Abi::X86, "sendmmsg"), Some((102, 20)));
        assert_eq!(multiplexed(Abi::X86, "shmctl"), Some((117, 24)));
        assert_eq!(multiplexed(Abi::X86_64, "socket"), None);
        assert_eq!(multiplexed(Abi::X86, "mkdir"), None);
    }
}
