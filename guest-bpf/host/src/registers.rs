//! The registers of a system call: there are none, as [`crate::agent::monitor`] names buffer and length itself, but for those of a
//! goroutine.

use std::cell::Cell;

use porthole_bpf_types::syscall::Call;

/// Where all goroutines have their stack.
const STACK: u64 = 0xc0_0010_0000;

/// Words of memory with states, at multiples of 32 as in Go's heap.
#[repr(align(32))]
struct Memory([u64; 256]);

/// Index in [`MEMORY`] of the state of each goroutine that makes a system call, 384, 416 and 448 bytes from each other as in Go's heap, and
/// of something else.
const STATES: [usize; 5] = [0, 48, 48 + 52, 48 + 52 + 56, 48 + 52 + 56 + 56];

static MEMORY: Memory = {
    let mut words = [0; 256];
    let mut index = 0;
    while index < STATES.len() {
        let state = STATES[index];
        words[state] = STACK;
        words[state + 1] = STACK + 0x2000;
        if index != NO_GOROUTINE {
            words[state + 2] = (-1314_i64).cast_unsigned();
            words[state + 3] = u64::MAX;
        }
        index += 1;
    }
    Memory(words)
};

/// Which of [`STATES`] only looks like a goroutine's.
pub const NO_GOROUTINE: usize = 4;

thread_local! {
    static RUNS: Cell<Option<usize>> = const { Cell::new(None) };
}

/// One of [`STATES`] is where the register points to on this thread's machine from now on, or nothing is.
#[cfg(test)]
pub fn run_goroutine(index: Option<usize>) {
    RUNS.set(index);
}

/// Address of one of [`STATES`].
pub fn state(index: usize) -> u64 {
    (&raw const MEMORY.0[STATES[index]]).addr() as u64
}

/// What can be read of them.
pub fn states() -> &'static [u8] {
    // SAFETY: all of a static of words.
    unsafe { std::slice::from_raw_parts(MEMORY.0.as_ptr().cast(), size_of_val(&MEMORY.0)) }
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
        RUNS.get().map_or(0, state)
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
