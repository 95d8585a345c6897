//! The slots of kernel keys, and whether their exchanges are due for a span by rate.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use porthole_bpf_types::kernel_key::{KernelKey, SLOTS_MAX, STATUSES_MAX};

use crate::{
    maps::{KERNEL_KEYS, MEMORY, SLOTS, STRIPE_MASK, constant, memory, sampling},
    window::NONE,
};

/// Index of a slot in this CPU's stripe of [`SLOTS`].
#[inline(always)]
fn in_stripe(slot: u32) -> u32 {
    // SAFETY: a helper without preconditions.
    let stripe = unsafe { bpf_get_smp_processor_id() } & constant(&raw const STRIPE_MASK);
    stripe * SLOTS_MAX + slot
}

/// Index of the slot by which a kernel key, plus one, is due for a span by rate, if it is: the slot of its first status stands for
/// all.
#[inline(always)]
pub fn due(kernel_key: u32, generation: u32, now: u64) -> Option<u32> {
    if kernel_key == 0 {
        return None;
    }
    let entry = KERNEL_KEYS.get_ptr(kernel_key - 1)?;
    // SAFETY: a value that a look-up gave (see `maps`); the agent writes `used` last.
    let slot = unsafe {
        if (*entry).generation != generation || (*entry).used == 0 {
            return None;
        }
        (*entry).slots[0]
    };
    let index = in_stripe(slot);
    let slot = SLOTS.get_ptr(index)?;
    // SAFETY: a value that a look-up gave (see `maps`).
    let since = now.wrapping_sub(unsafe { (*slot).sampled });
    (since >= sampling!(interval)).then_some(index)
}

/// Writes when an exchange of a slot was sampled last; with 0 the next one is due.
#[inline(always)]
pub fn set_sampled(index: u32, at: u64) {
    let Some(slot) = SLOTS.get_ptr_mut(index) else { return };
    // SAFETY: a value that a look-up gave (see `maps`).
    unsafe { (*slot).sampled = at };
}

/// Whether a failed call that has no slot is due for being sampled with the request that it was made for; then it was, now.
#[inline(always)]
pub fn failed_call_is_due(request: u64, now: u64) -> bool {
    let index = memory::FAILED_CALLS + (request as u32 & (memory::FAILED_CALLS_MAX - 1));
    let Some(last) = MEMORY.get_ptr_mut(index) else { return false };
    // SAFETY: a value that a look-up gave (see `maps`). Of two CPUs at once both may come to it.
    let since = now.wrapping_sub(unsafe { *last });
    let is_due = since >= sampling!(failures_interval);
    if is_due {
        // SAFETY: as above.
        unsafe { *last = now };
    }
    is_due
}

/// Index of the slot of a kernel key and a status in this CPU's stripe of [`SLOTS`]; [`NONE`] when there is none. A global
/// function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn slot_index(kernel_key: u64, generation: u64, status: u64) -> u64 {
    let Some(entry) = KERNEL_KEYS.get_ptr(kernel_key as u32) else { return NONE };
    let entry: *const KernelKey = entry;
    // SAFETY: a value that a look-up gave (see `maps`), and within its arrays; the agent writes `used` last.
    unsafe {
        if (*entry).generation != generation as u32 {
            return NONE;
        }
        let mut index = 0;
        while index < STATUSES_MAX {
            if index >= (*entry).used as usize {
                return NONE;
            }
            if (*entry).statuses[index] == status as u32 {
                return u64::from(in_stripe((*entry).slots[index]));
            }
            index += 1;
        }
    }
    NONE
}
