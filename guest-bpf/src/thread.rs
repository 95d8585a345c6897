//! Threads that serve HTTP requests one after the other: calls that such a thread makes in between are made for its request. In processes
//! of Go the same holds of goroutines, and not of threads.
//!
//! A thread that reads a request while another one of its is not answered, or of which another thread answers a request, has
//! several in progress: an event loop, or one of a pool that hands requests on. Which one a call of it is made for cannot be
//! known by the thread.

/// What is known of a thread or goroutine. Threads whose numbers are the same modulo [`THREADS_MAX`] share one place, and goroutines
/// whose [`goroutine::place`] is the same: one that has no open request leaves it to the next that reads one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServingThread {
    /// Process and thread as `bpf_get_current_pid_tgid` gives them, or process and goroutine: see [`goroutine`].
    pub thread: u64,
    /// When it read a request last, nanoseconds of `CLOCK_MONOTONIC`.
    pub read: u64,
    /// Requests that it has read and that are not answered.
    pub open: u32,
    /// Bits of [`thread_flag`].
    pub flags: u32,
    /// Of the request that it serves: not zero when that exchange goes to user space one by one; then one more than the number of
    /// calls that may go with it.
    pub reported: u32,
    /// Not zero: the request that it serves was the only open one since it was read.
    pub only: u32,
    /// Where [`Self::reported`] is not zero: index of the slot whose span by rate that exchange is, plus one; 0 when it is none.
    pub slot: u32,
    /// Requests that are not answered of others, which read them while this one had the place: see [`UNCOUNTED`].
    pub uncounted: u32,
}

/// Set in the key that a connection has of its thread or goroutine: that one had no place when it read the newest request, which is counted
/// in [`ServingThread::uncounted`] of the place.
pub const UNCOUNTED: u64 = 1 << 62;

/// Flags of a thread or goroutine.
pub mod thread_flag {
    /// It had several requests in progress, or another one that had the place before.
    pub const SEVERAL: u32 = 1;
    /// A request that it read was answered by another one.
    pub const HANDED_ON: u32 = 2;
    /// Requests were uncounted when it got the place: until all of those are answered, some can be its own.
    pub const UNSURE: u32 = 4;
}

/// Most threads that are known at a time, and most goroutines.
pub const THREADS_MAX: u32 = 4096;

/// Most processes of Go that are known at a time.
pub const GO_PROCESSES_MAX: u32 = 512;

/// Numbers of processes of Go are marked modulo this.
pub const GO_MARKS_MAX: u32 = 4096;

/// Goroutines, by the state that Go keeps of each (`runtime.g` in `src/runtime/runtime2.go`).
pub mod goroutine {
    /// In a key's number of the process: it is a goroutine's, not a thread's.
    pub const MARK: u64 = 1 << 63;

    /// Bits of an address that are the same for all bytes of 32 at a multiple of 32. A state is longer.
    const WITHIN_BITS: u32 = 5;

    /// The upper bits of the address of a state: which 128 GiB it is in. Go's heap begins at such a multiple, at `0xc0_0000_0000` on
    /// x86-64 and at `0x40_0000_0000` on arm64 (`mallocinit` in `src/runtime/malloc.go`), so mostly all states of a process are in one.
    pub const fn region(address: u64) -> u64 {
        address >> (32 + WITHIN_BITS)
    }

    /// Key of a goroutine: [`MARK`] and the process in the upper half, in the lower one where in its [`region`] its state is. Two
    /// goroutines of one process and region never have the same.
    pub const fn key(process: u64, address: u64) -> u64 {
        MARK | (process << 32) | ((address >> WITHIN_BITS) & 0xffff_ffff)
    }

    /// Index of a goroutine's place, less than [`super::THREADS_MAX`]. Keys have much in common, as the heap has pages for states alone,
    /// so a product's upper bits are taken (Knuth, The Art of Computer Programming, volume 3, section 6.4).
    pub const fn place(key: u64) -> u32 {
        let product = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (product >> 32) as u32 >> (32 - super::THREADS_MAX.trailing_zeros())
    }

    /// Smallest and largest stack of a goroutine, bytes (`fixedStack`, `maxstacksize`).
    const STACK_MIN: u64 = 2 << 10;
    const STACK_MAX: u64 = 1 << 30;

    /// `stackguard0` while a goroutine is in a system call (`stackPreempt`).
    const IN_CALL: u64 = (-1314_i64).cast_unsigned();

    /// `stackguard1` of what is no thread's own stack.
    const NO_SYSTEM_STACK: u64 = u64::MAX;

    /// First words of a state: `stack.lo`, `stack.hi`, `stackguard0`, `stackguard1`. The same in each version since Go 1.17.
    pub type State = [u64; 4];

    /// Whether these words are of a goroutine whose stack is at `stack`, and which makes a system call. Of another program's memory that
    /// the words are so by chance is out of the question: two of them have one value each, and two are around the stack, a power of two
    /// from each other.
    #[allow(clippy::manual_is_power_of_two)] // The target has no instruction that counts bits.
    pub const fn is(state: State, stack: u64) -> bool {
        let [low, high, guard, system] = state;
        let size = high.wrapping_sub(low);
        guard == IN_CALL
            && system == NO_SYSTEM_STACK
            && low <= stack
            && stack < high
            && size >= STACK_MIN
            && size <= STACK_MAX
            && size & (size - 1) == 0
    }
}

/// Most processes that are known at a time of whose threads one reads a request and another one answers it.
pub const HANDING_MAX: u32 = 512;

/// How long an open request keeps its thread's place from others, nanoseconds: its end can be missed.
pub const OPEN_NS: u64 = 3_600_000_000_000;

/// Most calls that go with one exchange.
pub const CALLS_MAX: u32 = 64;

/// What a thread or goroutine serves while it makes a call, or has served when it answers; perhaps with [`serving::PROCESS`],
/// [`serving::GOROUTINE`] and [`serving::REPORTED`].
pub mod serving {
    /// Nothing, several requests, or that is not known.
    pub const UNKNOWN: u8 = 0;
    /// One request, as always.
    pub const ALONE: u8 = 1;
    /// One request, and at other times several: an event loop.
    pub const ONLY: u8 = 2;
    /// Set beside it, also beside [`UNKNOWN`]: its process serves one request.
    pub const PROCESS: u8 = 0x20;
    /// Set beside it, also beside [`UNKNOWN`]: it is a goroutine, and known by its number.
    pub const GOROUTINE: u8 = 0x40;
    /// Set beside [`ALONE`], [`ONLY`] or [`PROCESS`]: the request's exchange goes to user space one by one when it ends.
    pub const REPORTED: u8 = 0x80;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::goroutine::{MARK, State, is, key, place, region};

    /// Where Go's heap begins.
    const HEAP: u64 = 0xc0_0000_0000;

    /// Distances between states: the sizes of objects of the heap that have held one since Go 1.17 (`src/runtime/sizeclasses.go`).
    const DISTANCES: [u64; 3] = [384, 416, 448];

    #[test]
    fn goroutines_of_a_process_have_one_key_each() {
        let process = MARK | (7 << 32);
        assert_eq!(key(7, HEAP + 448), process | 0xe);
        let last = HEAP + (128 << 30) - 32;
        assert_eq!(key(7, last), process | 0xffff_ffff);
        assert_eq!((region(HEAP), region(last)), (6, 6));
        assert_eq!((region(HEAP - 32), region(last + 32)), (5, 7));
        for distance in DISTANCES {
            // Objects need not begin at a multiple of 32.
            let keys: HashSet<_> = (0..10_000).map(|index| key(7, HEAP + 8 + distance * index)).collect();
            assert_eq!(keys.len(), 10_000, "{distance}");
        }
    }

    #[test]
    fn goroutines_are_spread_over_the_places_and_those_of_two_processes_have_others() {
        let distinct = |keys: &mut dyn Iterator<Item = u64>| keys.map(place).collect::<HashSet<_>>().len();
        for distance in DISTANCES {
            for process in [7, 8, 4_321, 65_541] {
                let places = distinct(&mut (0..100).map(|index| key(process, HEAP + distance * index)));
                assert_eq!(places, 100, "{distance} {process}");
                let places = distinct(&mut (0..1000).map(|index| key(process, HEAP + distance * index)));
                assert!(places > 800, "{distance} {process}: {places}");
            }
        }
        assert_eq!(distinct(&mut (1..=1000).map(|process| key(process, HEAP + 0x2380))), 1000);
    }

    #[test]
    fn words_of_a_goroutine_are_told_from_others() {
        let good: State = [0xc0_0010_0000, 0xc0_0010_2000, (-1314_i64).cast_unsigned(), u64::MAX];
        let with = |index: usize, value| {
            let mut state = good;
            state[index] = value;
            state
        };
        assert!(is(good, good[0]) && is(good, good[1] - 8));
        assert!(!is(good, good[1]) && !is(good, good[0] - 1));
        for other in
            [with(0, 0), with(1, good[1] + 8), with(2, good[0] + 928), with(3, 0), [0; 4], [u64::MAX; 4]]
        {
            assert!(!is(other, good[0]), "{other:x?}");
        }
    }
}
