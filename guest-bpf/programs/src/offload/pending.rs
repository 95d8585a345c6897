//! Pending requests of a connection, and the trace context of one of them.

use porthole_bpf_types::{
    kernel_key::CONTEXT_MAX,
    offload::{PENDING_MAX, PendingRequest},
};

use super::lock::Locked;
use crate::{
    maps::{HEAD_ROOM, Scratch},
    verifier::{bounded, load},
};

/// Index of the request of this number in the array of a connection.
#[inline(always)]
pub fn place_of(number: u32) -> u64 {
    bounded::<{ PENDING_MAX as u64 - 1 }>(u64::from(number))
}

/// A pending request. What it gives are copies: a request that is pushed meanwhile may take its place.
#[derive(Clone, Copy)]
pub struct Pending(*mut PendingRequest);

impl Pending {
    #[inline(always)]
    fn at(offloaded: Locked, place: u64) -> Self {
        // SAFETY: the index is less than the array's length; the array is part of the map's value.
        Self(unsafe { (&raw mut (*offloaded.0).pending).cast::<PendingRequest>().add(place as usize) })
    }

    /// The oldest one of a connection.
    #[inline(always)]
    pub fn oldest(offloaded: Locked) -> Self {
        Self::at(offloaded, place_of(offloaded.popped))
    }

    /// The newest one.
    #[inline(always)]
    pub fn newest(offloaded: Locked) -> Self {
        Self::at(offloaded, place_of(offloaded.pushed.wrapping_sub(1)))
    }

    /// The one that is pushed next, at its place.
    #[inline(always)]
    pub fn next(offloaded: Locked, place: u64) -> Self {
        Self::at(offloaded, place)
    }

    #[inline(always)]
    pub fn request(self) -> u64 {
        // SAFETY: an element of the array of a connection that this CPU has locked.
        unsafe { (*self.0).request }
    }

    #[inline(always)]
    pub fn start(self) -> u64 {
        // SAFETY: as in `request`.
        unsafe { (*self.0).start }
    }

    #[inline(always)]
    pub fn bytes(self) -> u64 {
        // SAFETY: as in `request`.
        u64::from(unsafe { (*self.0).bytes })
    }

    /// Its kernel key, plus one, and that entry's generation.
    #[inline(always)]
    pub fn kernel_key(self) -> (u32, u32) {
        // SAFETY: as in `request`.
        unsafe { ((*self.0).kernel_key, (*self.0).generation) }
    }

    /// Takes bytes that have not moved from it.
    #[inline(always)]
    pub fn leave_out(self, bytes: u32) {
        // SAFETY: as in `request`.
        unsafe { (*self.0).bytes = (*self.0).bytes.wrapping_sub(bytes) };
    }

    /// Writes it; `of` are its kernel key and that entry's generation.
    #[inline(always)]
    pub fn write(self, request: u64, start: u64, bytes: u32, flags: u32, of: (u32, u32)) {
        // SAFETY: as in `request`.
        unsafe {
            (*self.0).request = request;
            (*self.0).start = start;
            (*self.0).bytes = bytes;
            (*self.0).flags = flags;
            (*self.0).kernel_key = of.0;
            (*self.0).generation = of.1;
        }
    }
}

/// What [`porthole_bpf_types::offload::OffloadedConnection::context_of`] is for the request of this number.
#[inline(always)]
fn context_of(number: u32) -> u64 {
    u64::from(number) + 1
}

const WORDS: usize = CONTEXT_MAX / 8;

/// Keeps the lines with a trace context of the request that is pushed next. They are in the window, and what follows the head in
/// `work` is longer than they are.
#[inline(always)]
pub fn keep_context(work: Scratch, mut offloaded: Locked) {
    let at = bounded::<{ HEAD_ROOM as u64 - 1 }>(work.parse.context_at) as usize;
    let mut index = 0;
    while index < WORDS {
        // SAFETY: within `work`, and within the array. One by one: the compiler would call a function that copies byte by byte.
        unsafe {
            let from = (&raw const (*work.as_ptr()).head).cast::<u8>().add(at + 8 * index);
            (&raw mut (*offloaded.0).context).cast::<u64>().add(index).write_volatile(load::<0>(from));
        }
        index += 1;
    }
    offloaded.context_of = context_of(offloaded.pushed);
}

/// Puts the trace context of the request that was completed last into the record under construction, if it has one.
#[inline(always)]
pub fn add_context(mut work: Scratch, offloaded: Locked) {
    if offloaded.context_of != context_of(offloaded.popped.wrapping_sub(1)) {
        return;
    }
    let mut index = 0;
    while index < WORDS {
        // SAFETY: within both arrays, as above.
        unsafe {
            let from = (&raw const (*offloaded.0).context).cast::<u64>().add(index);
            core::ptr::write_volatile(&raw mut work.completed.text[index], from.read_volatile());
        }
        index += 1;
    }
}
