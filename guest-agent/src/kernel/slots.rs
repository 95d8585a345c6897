//! What the programs aggregated, read out of memory that they share with the agent.

use std::{io, num::NonZeroUsize, os::fd::OwnedFd, ptr::NonNull};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use porthole_bpf_types::kernel_key::{SLOTS_MAX, STRIPES_MAX, Slot};
use porthole_histogram::{BUCKETS, INDEX_MIN};

use crate::recorder::Increment;

/// The map of slots, in this process's memory.
#[derive(Debug)]
pub struct Slots {
    memory: NonNull<Slot>,
    bytes: usize,
    stripes: usize,
    /// Keeps the map.
    _map: OwnedFd,
}

// SAFETY: the mapping is not bound to a thread, and it is only read, by volatile loads.
unsafe impl Send for Slots {}

/// Sums over the stripes of one slot; they wrap as the slot's do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSums {
    /// Durations, nanoseconds.
    pub duration_ns: u64,
    /// Bytes.
    pub request_bytes: u64,
    /// Bytes.
    pub response_bytes: u64,
    /// Exchanges by bucket: index 0 is [`porthole_histogram::INDEX_MIN`].
    pub buckets: [u32; BUCKETS],
}

impl SlotSums {
    /// What was added since `before`.
    pub fn since(&self, before: &Self) -> Increment<impl Iterator<Item = (i32, u64)>> {
        let counts = before.buckets.iter().zip(&self.buckets);
        Increment {
            duration_ns: self.duration_ns.wrapping_sub(before.duration_ns),
            request_bytes: self.request_bytes.wrapping_sub(before.request_bytes),
            response_bytes: self.response_bytes.wrapping_sub(before.response_bytes),
            buckets: (INDEX_MIN..)
                .zip(counts)
                .map(|(index, (before, now))| (index, u64::from(now.wrapping_sub(*before)))),
        }
    }
}

impl Default for SlotSums {
    fn default() -> Self {
        Self { duration_ns: 0, request_bytes: 0, response_bytes: 0, buckets: [0; BUCKETS] }
    }
}

/// When the newest exchanges of a slot's stripes ended: changes with every one.
pub type Marks = [u64; STRIPES_MAX as usize];

/// Number of copies of the slots on a machine with so many CPUs: a power of two.
pub fn stripes(cpus: usize) -> u32 {
    u32::try_from(cpus.next_power_of_two()).unwrap_or(STRIPES_MAX).clamp(1, STRIPES_MAX)
}

impl Slots {
    /// Maps the slots of so many stripes.
    pub fn map(map: OwnedFd, stripes: u32) -> io::Result<Self> {
        let stripes = stripes.clamp(1, STRIPES_MAX) as usize;
        let bytes = stripes * SLOTS_MAX as usize * size_of::<Slot>();
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping where the kernel chooses, so no other memory changes; it checks length and map.
        let memory = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &map, 0) }?;
        Ok(Self { memory: memory.cast(), bytes, stripes, _map: map })
    }

    fn slot(&self, stripe: usize, slot: u32) -> *const Slot {
        let place = stripe * SLOTS_MAX as usize + (slot.min(SLOTS_MAX - 1)) as usize;
        // SAFETY: `stripe` is below `stripes` and the slot below `SLOTS_MAX`, for which the mapping has room.
        unsafe { self.memory.as_ptr().add(place) }
    }

    /// Whether something was added since; `marks` is brought up to date.
    pub fn has_changed(&self, slot: u32, marks: &mut Marks) -> bool {
        let mut changed = false;
        for (stripe, mark) in marks.iter_mut().enumerate().take(self.stripes) {
            // SAFETY: `slot` points into the mapping, which is page-aligned; the programs write whole words.
            let last = unsafe { (&raw const (*self.slot(stripe, slot)).last).read_volatile() };
            changed |= std::mem::replace(mark, last) != last;
        }
        changed
    }

    /// What was aggregated in a slot so far.
    pub fn sums(&self, slot: u32) -> SlotSums {
        let mut sums = SlotSums::default();
        for stripe in 0..self.stripes {
            let slot = self.slot(stripe, slot);
            // SAFETY: `slot` points into the mapping, which is page-aligned; the programs write whole words. What is
            // added between two reads is found by the next one.
            unsafe {
                for (bucket, sum) in sums.buckets.iter_mut().enumerate() {
                    let count = (&raw const (*slot).buckets).cast::<u32>().add(bucket).read_volatile();
                    *sum = sum.wrapping_add(count);
                }
                let read = |word: *const u64| word.read_volatile();
                sums.duration_ns = sums.duration_ns.wrapping_add(read(&raw const (*slot).duration_ns));
                sums.request_bytes = sums.request_bytes.wrapping_add(read(&raw const (*slot).request_bytes));
                sums.response_bytes =
                    sums.response_bytes.wrapping_add(read(&raw const (*slot).response_bytes));
            }
        }
        sums
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: our own mapping of that length; references into it do not outlive `self`.
        let _ = unsafe { munmap(self.memory.cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn increments_are_right_also_when_sums_wrap() {
        let mut before = SlotSums { duration_ns: u64::MAX, request_bytes: 5, ..SlotSums::default() };
        before.buckets[3] = u32::MAX;
        let mut now = SlotSums { duration_ns: 9, request_bytes: 7, ..before.clone() };
        now.buckets[3] = 1;
        let increment = now.since(&before);
        assert_eq!((increment.duration_ns, increment.request_bytes, increment.response_bytes), (10, 2, 0));
        let added: Vec<_> = increment.buckets.filter(|(_, count)| *count > 0).collect();
        assert_eq!(added, [(INDEX_MIN + 3, 2)]);
    }

    #[test]
    fn stripes_are_a_bounded_power_of_two() {
        assert_eq!([0, 1, 2, 3, 8, 96].map(stripes), [1, 1, 2, 4, 8, 8]);
    }
}
