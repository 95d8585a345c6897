//! The system calls that move bytes on sockets.
//!
//! A call is one byte, so that the programs find it by one load from a table: the low bits are the form in which the
//! bytes are passed, one bit is the direction.

/// A system call that the programs look at. The byte 0 stands for every other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Call(pub u8);

/// Set when the process writes.
const EGRESS: u8 = 0x80;
/// Set when the call has a flags argument of recv(2).
const RECEIVE_FLAGS: u8 = 0x40;

/// The form in which a call passes its bytes.
pub mod shape {
    /// One buffer: second argument; its length is the call's result.
    pub const BUFFER: u8 = 1;
    /// An array of `struct iovec`: second argument; its length is the third.
    pub const VECTOR: u8 = 2;
    /// A `struct msghdr`: second argument.
    pub const MESSAGE: u8 = 3;
    /// An array of `struct mmsghdr`: second argument; the call's result is the number used.
    pub const MESSAGES: u8 = 4;
    /// The bytes come from a file: only their number is known; the socket is the first argument.
    pub const LENGTH: u8 = 5;
    /// Bytes move between two descriptors, a pipe and maybe a socket: first and third argument.
    pub const SPLICE: u8 = 6;
    /// The result is the descriptor of a connection that was accepted.
    pub const ACCEPT: u8 = 7;
    /// The first argument becomes a client's connection.
    pub const CONNECT: u8 = 8;
}

impl Call {
    /// Any call that is not looked at.
    pub const NONE: Self = Self(0);
    /// read(2).
    pub const READ: Self = Self(shape::BUFFER);
    /// readv(2).
    pub const READV: Self = Self(shape::VECTOR);
    /// recvfrom(2), flags in the fourth argument.
    pub const RECVFROM: Self = Self(shape::BUFFER | RECEIVE_FLAGS);
    /// recvmsg(2), flags in the third argument.
    pub const RECVMSG: Self = Self(shape::MESSAGE | RECEIVE_FLAGS);
    /// recvmmsg(2), flags in the fourth argument.
    pub const RECVMMSG: Self = Self(shape::MESSAGES | RECEIVE_FLAGS);
    /// write(2).
    pub const WRITE: Self = Self(shape::BUFFER | EGRESS);
    /// writev(2).
    pub const WRITEV: Self = Self(shape::VECTOR | EGRESS);
    /// sendto(2).
    pub const SENDTO: Self = Self(shape::BUFFER | EGRESS);
    /// sendmsg(2).
    pub const SENDMSG: Self = Self(shape::MESSAGE | EGRESS);
    /// sendmmsg(2).
    pub const SENDMMSG: Self = Self(shape::MESSAGES | EGRESS);
    /// sendfile(2).
    pub const SENDFILE: Self = Self(shape::LENGTH | EGRESS);
    /// splice(2).
    pub const SPLICE: Self = Self(shape::SPLICE);
    /// accept(2) and accept4(2).
    pub const ACCEPT: Self = Self(shape::ACCEPT);
    /// connect(2).
    pub const CONNECT: Self = Self(shape::CONNECT);

    /// The form in which it passes its bytes: one of [`shape`].
    #[inline(always)]
    pub const fn shape(self) -> u8 {
        self.0 & 0x0f
    }

    /// Whether the process writes.
    #[inline(always)]
    pub const fn is_egress(self) -> bool {
        self.0 & EGRESS != 0
    }

    /// Whether one of its arguments holds flags of recv(2).
    #[inline(always)]
    pub const fn has_receive_flags(self) -> bool {
        self.0 & RECEIVE_FLAGS != 0
    }
}

/// Calls by number; both architectures' numbers of interest are below its length.
pub type Table = [Call; 512];

/// x86-64 (`arch/x86/entry/syscalls/syscall_64.tbl`).
pub const TABLE_X86_64: Table = table(&[
    (0, Call::READ),
    (1, Call::WRITE),
    (19, Call::READV),
    (20, Call::WRITEV),
    (40, Call::SENDFILE),
    (42, Call::CONNECT),
    (43, Call::ACCEPT),
    (44, Call::SENDTO),
    (45, Call::RECVFROM),
    (46, Call::SENDMSG),
    (47, Call::RECVMSG),
    (275, Call::SPLICE),
    (288, Call::ACCEPT),
    (299, Call::RECVMMSG),
    (307, Call::SENDMMSG),
]);

/// arm64 (`include/uapi/asm-generic/unistd.h`).
pub const TABLE_AARCH64: Table = table(&[
    (63, Call::READ),
    (64, Call::WRITE),
    (65, Call::READV),
    (66, Call::WRITEV),
    (71, Call::SENDFILE),
    (76, Call::SPLICE),
    (202, Call::ACCEPT),
    (203, Call::CONNECT),
    (206, Call::SENDTO),
    (207, Call::RECVFROM),
    (211, Call::SENDMSG),
    (212, Call::RECVMSG),
    (242, Call::ACCEPT),
    (243, Call::RECVMMSG),
    (269, Call::SENDMMSG),
]);

/// The same calls as the kernel's functions are named, behind a prefix that is the architecture's: see
/// [`FUNCTION_PREFIX`].
pub const FUNCTIONS: [&str; 15] = [
    "accept",
    "accept4",
    "connect",
    "read",
    "readv",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "sendfile64",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "splice",
    "write",
    "writev",
];

/// What the names of system calls' functions begin with (`arch/*/include/asm/syscall_wrapper.h`).
#[cfg(target_arch = "x86_64")]
pub const FUNCTION_PREFIX: &str = "__x64_sys_";
/// What the names of system calls' functions begin with (`arch/*/include/asm/syscall_wrapper.h`).
#[cfg(target_arch = "aarch64")]
pub const FUNCTION_PREFIX: &str = "__arm64_sys_";

const fn table(calls: &[(usize, Call)]) -> Table {
    let mut table = [Call::NONE; 512];
    let mut i = 0;
    while i < calls.len() {
        table[calls[i].0] = calls[i].1;
        i += 1;
    }
    table
}

/// Flags of recv(2) with which a call does not take bytes off the connection: `MSG_PEEK`, `MSG_ERRQUEUE`; and
/// `MSG_OOB`, whose byte is outside the stream (`include/linux/socket.h`).
pub const NOT_CONSUMING: u64 = 0x2 | 0x2000 | 0x1;

/// Flag of recv(2) with which a stream's bytes are discarded and the buffer stays as it was: `MSG_TRUNC`.
pub const TRUNCATING: u64 = 0x20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_architectures_know_the_same_calls() {
        let count = |table: &Table, call| table.iter().filter(|&&c| c == call).count();
        for call in TABLE_X86_64 {
            assert_eq!(count(&TABLE_X86_64, call).min(2), count(&TABLE_AARCH64, call).min(2), "{call:?}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_numbers_are_the_kernels() {
        for (number, call) in [
            (libc_numbers::READ, Call::READ),
            (libc_numbers::SENDMMSG, Call::SENDMMSG),
            (libc_numbers::RECVMMSG, Call::RECVMMSG),
            (libc_numbers::ACCEPT4, Call::ACCEPT),
        ] {
            assert_eq!(TABLE_X86_64[number], call);
        }
    }

    /// From `asm/unistd_64.h`, typed a second time on purpose.
    #[cfg(target_arch = "x86_64")]
    mod libc_numbers {
        pub const READ: usize = 0;
        pub const ACCEPT4: usize = 288;
        pub const RECVMMSG: usize = 299;
        pub const SENDMMSG: usize = 307;
    }

    #[test]
    fn only_receiving_calls_have_receive_flags() {
        for call in TABLE_X86_64 {
            assert!(!(call.is_egress() && call.has_receive_flags()), "{call:?}");
        }
        assert!(Call::RECVMSG.has_receive_flags() && !Call::READ.has_receive_flags());
    }
}
