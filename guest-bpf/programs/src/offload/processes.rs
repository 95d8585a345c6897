//! Processes that serve one HTTP request alone: see [`porthole_bpf_types::process`]. What such a process calls in between goes to user
//! space with that exchange, also where no thread shows what a call is made for.
//!
//! ```text
//! request read  ─► open + 1; it is the only one: alone from here, and reported when its route is due for a span
//! another one   ─► alone until here
//! response sent ─► open - 1; one is left, and it began right after that one: alone from here
//! ```
//!
//! User space knows of the requests that it follows itself; before it expects one it has the calls of the process reported. A process
//! that serves another protocol which the programs follow is never alone (`serves_other`).

use core::ptr::{read_volatile, write_volatile};

use porthole_bpf_types::{
    process::{PROCESSES_MAX, ServingProcess, of_key},
    thread::{CALLS_MAX, OPEN_NS},
};

use super::slots;
use crate::{
    maps::{PROCESSES, Scratch},
    verifier::fetch_add,
};

#[inline(always)]
fn place_of(process: u32) -> Option<*mut ServingProcess> {
    PROCESSES.get_ptr_mut(process & (PROCESSES_MAX - 1))
}

/// The upper half of a word: of [`ServingProcess::requests`] the number of those that ever began, of [`ServingProcess::armed`] the process.
#[inline(always)]
fn upper(word: u64) -> u32 {
    (word >> 32) as u32
}

/// [`ServingProcess::requests`] of so many that begin.
#[inline(always)]
fn beginning(requests: u64) -> u64 {
    (requests << 32) | requests
}

/// Whether a request of this kernel key, and that entry's generation in the upper half, is due for a span; then it is one.
#[inline(always)]
fn is_due(key: u64, now: u64) -> bool {
    let Some(slot) = slots::due(key as u32, upper(key), now) else { return false };
    slots::set_sampled(slot, now);
    true
}

/// What a thread has found of a request that it has read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is not known whether it is due for a span.
    None,
    /// It is none.
    NotDue,
    /// It is reported with the calls of the thread.
    Reported,
}

/// Requests were read on this connection by what has this key; the newest one began at this time, and has this kernel key and generation.
#[inline(always)]
pub fn begins(work: Scratch, (key, id): (u64, u64), start: u64, kernel_key: u64, decision: Decision) {
    let process = of_key(key);
    let Some(place) = place_of(process) else { return };
    let (found, now) = (work.parse.found, work.parse.now);
    // SAFETY: a value that a look-up gave (see `maps`), aligned as its type. What begins or ends at once on another CPU is distinguished
    // by the numbers: those are written last, and what is next to none is not used.
    unsafe {
        let mut before = fetch_add(&raw mut (*place).requests, beginning(found));
        if before as u32 != 0 && now.wrapping_sub((*place).began) >= OPEN_NS {
            // Their ends were missed.
            before &= !0xffff_ffff;
            write_volatile(&raw mut (*place).requests, before.wrapping_add(beginning(found)));
        }
        (*place).began = now;
        let number = upper(before).wrapping_add(1);
        if before as u32 != 0 || found != 1 {
            if before as u32 != 0 && found == 1 && number == (*place).lone.number.wrapping_add(1) {
                (*place).until = now;
                (*place).next_key = kernel_key;
                (*place).next.connection = id;
                (*place).next.process = process;
                write_volatile(&raw mut (*place).next.number, number);
            }
            return;
        }
        (*place).reported = 0;
        let ended = (*place).ended;
        (*place).from = if start > ended { start } else { ended };
        (*place).lone.connection = id;
        (*place).lone.process = process;
        write_volatile(&raw mut (*place).lone.number, number);
        if decision == Decision::Reported
            || ((*place).other == 0
                && ((decision == Decision::None && is_due(kernel_key, now)) || takes_armed(place, process)))
        {
            (*place).reported = 1 + CALLS_MAX;
        }
    }
}

/// Requests of this connection, which what has this key had read, are answered; where it is one, the work gets since when and until when
/// it was alone, and whether it is reported.
#[inline(always)]
pub fn ends(mut work: Scratch, key: u64, id: u64) {
    let process = of_key(key);
    let Some(place) = place_of(process) else { return };
    let (found, now, running) = (work.parse.found, work.parse.now, of_key(work.parse.running));
    // SAFETY: a value that a look-up gave (see `maps`), aligned as its type; see `begins`.
    unsafe {
        (*place).ended = now;
        let requests = left(place, found);
        let lone = &raw mut (*place).lone;
        if (*lone).connection != id {
            return;
        }
        let is_own = (*lone).process == process && running == process && found == 1 && (*place).other == 0;
        let (number, from, reported) = ((*lone).number, (*place).from, (*place).reported);
        (*lone).connection = 0;
        (*place).reported = 0;
        let mut until = now;
        if upper(requests) != number {
            let next = (*place).next.number;
            until = if next == number.wrapping_add(1) { (*place).until } else { 0 };
            if until != 0 && requests as u32 == 1 && upper(requests) == next {
                next_is_alone(place, now);
            }
        }
        if is_own && until != 0 {
            work.parse.alone = [from, until];
            if reported != 0 {
                work.parse.reported = 1;
            }
        }
    }
}

/// The request that began after the one that was alone is the only one that is open now.
///
/// # Safety
///
/// `place` must be what [`place_of`] gave.
#[inline(always)]
unsafe fn next_is_alone(place: *mut ServingProcess, now: u64) {
    // SAFETY: the caller guarantees a value of the map.
    unsafe {
        (*place).lone.process = (*place).next.process;
        (*place).lone.connection = (*place).next.connection;
        (*place).from = now;
        write_volatile(&raw mut (*place).lone.number, (*place).next.number);
        if (*place).other == 0 && is_due((*place).next_key, now) {
            (*place).reported = 1 + CALLS_MAX;
        }
    }
}

/// Requests are open no longer; gives what [`ServingProcess::requests`] is then.
///
/// # Safety
///
/// `place` must be what [`place_of`] gave.
#[inline(always)]
unsafe fn left(place: *mut ServingProcess, requests: u64) -> u64 {
    // SAFETY: the caller guarantees a value of the map, which is aligned.
    unsafe {
        let before = read_volatile(&raw const (*place).requests);
        // They are not there where they were over.
        if u64::from(before as u32) < requests {
            return before;
        }
        fetch_add(&raw mut (*place).requests, requests.wrapping_neg()).wrapping_sub(requests)
    }
}

/// A connection whose requests what has this key had read is no longer followed here: those that are open are none from here on.
#[inline(always)]
pub fn leaves(key: u64, id: u64, requests: u64) {
    let Some(place) = place_of(of_key(key)) else { return };
    // SAFETY: a value that a look-up gave (see `maps`).
    unsafe {
        if (*place).lone.connection == id {
            (*place).lone.connection = 0;
        }
        left(place, requests);
    }
}

/// Requests that what has one key had read are of another one's process.
#[inline(always)]
pub fn passes(from: u64, to: u64, requests: u64) {
    if of_key(from) == of_key(to) {
        return;
    }
    // SAFETY: values that look-ups gave (see `maps`), aligned as their type.
    unsafe {
        if let Some(place) = place_of(of_key(from)) {
            left(place, requests);
        }
        if let Some(place) = place_of(of_key(to)) {
            fetch_add(&raw mut (*place).requests, beginning(requests));
        }
    }
}

/// The place of the process of a key while that serves one request alone.
#[inline(always)]
pub fn serving_alone(key: u64) -> Option<*mut ServingProcess> {
    let place = place_of(of_key(key))?;
    // SAFETY: a value that a look-up gave.
    unsafe { is_serving_alone(place, key) }.then_some(place)
}

/// Whether the process of a key, which may have this place, serves one request alone.
///
/// # Safety
///
/// `place` must be what [`place_of`] gave.
#[inline(always)]
unsafe fn is_serving_alone(place: *const ServingProcess, key: u64) -> bool {
    // SAFETY: the caller guarantees a value of the map.
    unsafe {
        let requests = read_volatile(&raw const (*place).requests);
        let lone = &raw const (*place).lone;
        requests as u32 == 1
            && (*lone).number == upper(requests)
            && (*lone).process == of_key(key)
            && (*lone).connection != 0
            && (*place).other == 0
    }
}

/// Whether one more call of a process goes with the exchange that it serves alone, or with one that user space expects and follows; then
/// it does.
#[inline(always)]
pub fn takes_call(key: u64) -> bool {
    let Some(place) = place_of(of_key(key)) else { return false };
    // SAFETY: a value that a look-up gave (see `maps`). Of two CPUs at once both can count one.
    unsafe {
        let (reported, armed) = ((*place).reported, read_volatile(&raw const (*place).armed));
        // Mostly neither.
        if reported <= 1 && armed as u32 == 0 {
            return false;
        }
        if reported > 1 {
            let takes = is_serving_alone(place, key);
            (*place).reported = reported - u32::from(takes);
            return takes;
        }
        let takes = upper(armed) == of_key(key) && read_volatile(&raw const (*place).requests) as u32 == 0;
        if takes {
            write_volatile(&raw mut (*place).armed, armed - 1);
        }
        takes
    }
}

/// Whether the calls of a process are reported; no longer, as they are with a request that is followed here.
///
/// # Safety
///
/// `place` must be what [`place_of`] gave.
#[inline(always)]
unsafe fn takes_armed(place: *mut ServingProcess, process: u32) -> bool {
    // SAFETY: the caller guarantees a value of the map.
    unsafe {
        let armed = read_volatile(&raw const (*place).armed);
        let takes = armed as u32 != 0 && upper(armed) == process;
        if takes {
            write_volatile(&raw mut (*place).armed, 0);
        }
        takes
    }
}

/// The process of a key serves another protocol.
#[inline(always)]
pub fn serves_other(key: u64) {
    if let Some(place) = place_of(of_key(key)) {
        // SAFETY: a value that a look-up gave (see `maps`).
        unsafe {
            let other = (*place).other;
            // The end of one of several does not show that none does any longer.
            (*place).other = if other == 0 || other == of_key(key) { of_key(key) } else { u32::MAX };
        }
    }
}

/// A process has ended.
#[inline(always)]
pub fn process_ended(process: u32) {
    if let Some(place) = place_of(process) {
        // SAFETY: a value that a look-up gave (see `maps`).
        unsafe {
            if (*place).other == process {
                (*place).other = 0;
            }
        }
    }
}
