//! The one place that depends on the architecture: number and arguments of the system call that ends, and what else of the process's
//! registers is read.

use core::ptr::read_volatile;

use aya_ebpf::bindings::{pt_regs, task_struct};
use porthole_bpf_types::syscall::{Call, Table};

/// The registers that the process came with (`struct pt_regs`), typed for the verifier.
#[derive(Clone, Copy)]
pub struct Registers(*const u8);

impl Registers {
    /// Those of the running task.
    #[inline(always)]
    pub fn of(task: *mut task_struct) -> Self {
        // SAFETY: a helper without preconditions besides a task, which this is.
        Self(unsafe { aya_ebpf::helpers::bpf_task_pt_regs(task) } as *const u8)
    }

    /// Those that a system call's function was given (`asmlinkage long __x64_sys_read(const struct pt_regs *)`).
    #[inline(always)]
    pub fn given(registers: *const pt_regs) -> Self {
        Self(registers.cast())
    }

    #[inline(always)]
    fn register(self, offset: usize) -> u64 {
        // SAFETY: a load that the verifier turns into one that cannot fault.
        unsafe { read_volatile(self.0.add(offset).cast()) }
    }
}

#[cfg(bpf_target_arch = "x86_64")]
mod arch {
    //! x86-64: `arch/x86/include/asm/ptrace.h`. `rax` holds the result by now, `orig_rax` the number; the
    //! arguments' registers are preserved.
    use super::Registers;

    pub const TABLE: super::Table = porthole_bpf_types::syscall::TABLE_X86_64;

    impl Registers {
        pub const NUMBER: usize = 120;
        pub const ARGUMENTS: [usize; 5] = [112, 104, 96, 56, 72];
        /// `r14`, where Go's compiler keeps the goroutine's state (`src/cmd/compile/abi-internal.md`).
        pub const GOROUTINE: usize = 8;
        pub const STACK: usize = 152;

        /// `__USER32_CS`: numbers and arguments are those of the 32-bit system calls.
        #[inline(always)]
        pub fn is_compat(self) -> bool {
            self.register(136) & 0xffff == 0x23
        }
    }
}

#[cfg(bpf_target_arch = "aarch64")]
mod arch {
    //! arm64: `arch/arm64/include/asm/ptrace.h`. The result overwrites `x0`, the first argument is in `orig_x0`.
    use super::Registers;

    pub const TABLE: super::Table = porthole_bpf_types::syscall::TABLE_AARCH64;

    impl Registers {
        pub const NUMBER: usize = 280;
        pub const ARGUMENTS: [usize; 5] = [272, 8, 16, 24, 32];
        /// `x28`, where Go's compiler keeps the goroutine's state.
        pub const GOROUTINE: usize = 224;
        pub const STACK: usize = 248;

        /// `PSR_MODE32_BIT` in `pstate`.
        #[inline(always)]
        pub fn is_compat(self) -> bool {
            self.register(264) & 0x10 != 0
        }
    }
}

/// The calls by number, as data of the programs.
#[unsafe(no_mangle)]
static CALLS: Table = arch::TABLE;

impl Registers {
    /// The call that ends.
    #[inline(always)]
    pub fn call(self) -> Call {
        let number = self.register(Self::NUMBER) as usize;
        if number >= CALLS.len() {
            return Call::NONE;
        }
        // SAFETY: within the table.
        unsafe { read_volatile((&raw const CALLS).cast::<Call>().add(number)) }
    }

    /// Where the running goroutine's state would be in a process of Go.
    #[inline(always)]
    pub fn goroutine(self) -> u64 {
        self.register(Self::GOROUTINE)
    }

    /// The process's stack.
    #[inline(always)]
    pub fn stack(self) -> u64 {
        self.register(Self::STACK)
    }

    /// Its `N`th argument, from 0.
    #[inline(always)]
    pub fn argument<const N: usize>(self) -> u64 {
        self.register(Self::ARGUMENTS[N])
    }
}
