//! The registers of a system call: there are none, as [`crate::agent::monitor`] names buffer and length itself, but for those of a
//! goroutine.

use std::cell::Cell;

use porthole_bpf_types::{syscall::Call, thread::goroutine::State};

/// Where all goroutines have their stack.
const STACK: u64 = 0xc0_0010_0000;

/// States of goroutines that make a system call, 32 bytes from each other, and one of something else.
static STATES: [State; 4] = {
    let goroutine = [STACK, STACK + 0x2000, (-1314_i64).cast_unsigned(), u64::MAX];
    [goroutine, goroutine, goroutine, [STACK, STACK + 0x2000, 0, 0]]
};

thread_local! {
    static RUNS: Cell<Option<usize>> = const { Cell::new(None) };
}

/// One of [`STATES`] is where the register points to on this thread's machine from now on, or nothing is.
pub fn run_goroutine(index: Option<usize>) {
    RUNS.set(index);
}

/// What can be read of them.
pub fn states() -> &'static [u8] {
    // SAFETY: all of a static of words.
    unsafe { std::slice::from_raw_parts(STATES.as_ptr().cast(), size_of_val(&STATES)) }
}

/// Those of no call.
#[derive(Clone, Copy, Debug)]
pub struct Registers;

#[allow(clippy::unused_self)] // As the registers of a call have it.
impl Registers {
    /// No call.
    pub fn call(self) -> Call {
        Call::NONE
    }

    /// Those of the running task.
    pub fn of((): ()) -> Self {
        Self
    }

    /// Address of the goroutine's state.
    pub fn goroutine(self) -> u64 {
        RUNS.get().map_or(0, |index| (&raw const STATES[index]).addr() as u64)
    }

    /// Its stack.
    pub fn stack(self) -> u64 {
        STACK + 0x1000
    }

    /// Not one of 32 bits.
    pub fn is_compat(self) -> bool {
        false
    }

    /// Zero.
    pub fn argument<const INDEX: usize>(self) -> u64 {
        0
    }
}
