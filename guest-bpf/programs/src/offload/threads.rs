//! Threads that serve HTTP requests: whether one serves a single request, and whether that exchange goes to user space with the
//! calls that are made for it. In processes of Go the same of goroutines ([`goroutines`]), which "thread" stands for here, too.
//!
//! ```text
//! request read  ─► open + 1; nothing else open, and its route is due for a span: its exchange is reported
//! call answered ─► made by the thread whose exchange is reported: a record as well
//! response sent ─► open - 1; of an exchange that is reported: a record
//! ```
//!
//! Threads are those of HTTP's servers. Other servers are databases as a rule, which make no calls.
//!
//! Several threads can share one place. One that reads a request while another one has the place and an open request does not get it.
//! Its request counts for no thread, but the place counts how many such requests are open, and a thread that gets the place meanwhile
//! serves an unknown number until they are answered.

use porthole_bpf_types::{
    offload::{protocol, side},
    thread::{CALLS_MAX, OPEN_NS, ServingThread, THREADS_MAX, UNCOUNTED, goroutine, serving, thread_flag},
};

use super::{
    goroutines::{self, is_goroutine, running},
    lock::{self, Lock, Locked},
    pending::Pending,
    processes::{self, Decision},
    slots,
};
use crate::{
    maps::{GOROUTINES, HANDED_ON, OFFLOADED, Scratch, THREADS},
    verifier::add_u32,
};

#[inline(always)]
fn is_served(offloaded: Locked) -> bool {
    offloaded.protocol == protocol::HTTP1 && offloaded.side == side::SERVER
}

/// Where a thread is, or another one.
#[inline(always)]
fn place_of(key: u64) -> Option<*mut ServingThread> {
    if is_goroutine(key) {
        return GOROUTINES.get_ptr_mut(goroutine::place(key));
    }
    THREADS.get_ptr_mut(key as u32 & (THREADS_MAX - 1))
}

/// What is known of a thread.
#[inline(always)]
fn known(key: u64) -> Option<*mut ServingThread> {
    let thread = place_of(key)?;
    // SAFETY: a value that a look-up gave (see `maps`).
    (unsafe { (*thread).thread } == key).then_some(thread)
}

/// Whether a request that a thread has read is open no longer for certain: its end was missed.
#[inline(always)]
fn is_over(thread: *const ServingThread, now: u64) -> bool {
    // SAFETY: a value that a look-up gave (see `maps`).
    now.wrapping_sub(unsafe { (*thread).read }) >= OPEN_NS
}

/// Whether one more call of what has this key goes with the exchange that its thread serves, or else with one of its process; then it does.
#[inline(always)]
fn takes_call(key: u64, thread: Option<*mut ServingThread>) -> bool {
    let Some(thread) = thread else { return processes::takes_call(key) };
    // SAFETY: a value that a look-up gave (see `maps`), which this thread alone changes but for `open`.
    unsafe {
        if (*thread).reported == 0 {
            return processes::takes_call(key);
        }
        let takes = (*thread).reported > 1;
        (*thread).reported -= u32::from(takes);
        takes
    }
}

/// Requests moved on a connection that is locked.
#[inline(always)]
pub fn requested(work: Scratch, mut offloaded: Locked) {
    let is_served = is_served(offloaded);
    if !is_served && offloaded.side != side::CLIENT {
        return;
    }
    let mut key = running();
    if is_served {
        let newest = Pending::newest(offloaded);
        let (kernel_key, generation) = newest.kernel_key();
        let kernel_key = (u64::from(generation) << 32) | u64::from(kernel_key);
        key = request_begins(key, offloaded.connection, newest.start(), kernel_key);
        // Responses are those to the thread that read last. Mostly none waited before.
        let open = offloaded.pushed.wrapping_sub(offloaded.popped);
        if open != 1 && offloaded.thread != key {
            thread_passes(offloaded.thread, key, u64::from(open).wrapping_sub(work.parse.found));
        }
    }
    offloaded.thread = key;
}

/// Requests were read on this connection by a thread, the newest one of which began at this time and has this kernel key, and that entry's
/// generation in the upper half; gives the thread's key, with [`UNCOUNTED`] where another one has the place. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn request_begins(key: u64, id: u64, start: u64, kernel_key: u64) -> u64 {
    let Some(work) = Scratch::get() else { return key };
    let (key, decision) = begins(work, key, kernel_key);
    processes::begins(work, (key, id), start, kernel_key, decision);
    key
}

/// A thread begins to serve requests, as [`request_begins`] has it.
#[inline(always)]
fn begins(work: Scratch, key: u64, kernel_key: u64) -> (u64, Decision) {
    let mut decision = Decision::None;
    let Some(thread) = place_of(key) else { return (key, decision) };
    let (found, now) = (work.parse.found, work.parse.now);
    // SAFETY: a value that a look-up gave (see `maps`).
    if unsafe { (*thread).thread } != key && !is_goroutine(key) {
        // Of a goroutine that is not found the request counts for nothing.
        if goroutines::is_of_go(key >> 32) || goroutines::recognise_go(key) != 0 {
            return (key, decision);
        }
    }
    // SAFETY: a value that a look-up gave (see `maps`). Where two threads take one place at once, either may win.
    unsafe {
        let is_known = (*thread).thread == key;
        if is_over(thread, now) {
            (*thread).open = 0;
            (*thread).reported = 0;
            (*thread).uncounted = 0;
        }
        let uncounted = (*thread).uncounted > 0;
        if !is_known {
            if (*thread).open > 0 {
                // Both can be of one thread.
                if uncounted || found > 1 {
                    (*thread).flags |= thread_flag::SEVERAL;
                }
                add_u32(&raw mut (*thread).uncounted, found);
                return (key | UNCOUNTED, decision);
            }
            (*thread).thread = key;
            // It can be an event loop that lost the place.
            (*thread).flags &= thread_flag::SEVERAL;
            if uncounted {
                (*thread).flags |= thread_flag::SEVERAL | thread_flag::UNSURE;
            }
        } else if !uncounted {
            (*thread).flags &= !thread_flag::UNSURE;
        }
        let unsure = (*thread).flags & thread_flag::UNSURE != 0;
        let several = (*thread).open > 0 || found > 1;
        (*thread).read = now;
        (*thread).open += found as u32;
        let reported = (*thread).reported;
        (*thread).reported = 0;
        (*thread).only = u32::from(!several && !unsure);
        if several {
            (*thread).flags |= thread_flag::SEVERAL;
            // Which response is that request's is not known by the thread: the next one of its slot is the span.
            if reported != 0 && (*thread).slot != 0 {
                slots::set_sampled((*thread).slot - 1, 0);
            }
        } else if !unsure && (*thread).flags & thread_flag::HANDED_ON == 0 {
            let slot = slots::due(kernel_key as u32, (kernel_key >> 32) as u32, now);
            if let Some(slot) = slot
                && !is_handed_on(key)
            {
                slots::set_sampled(slot, now);
                (*thread).slot = slot + 1;
                (*thread).reported = 1 + CALLS_MAX;
                decision = Decision::Reported;
            } else if slot.is_none() {
                decision = Decision::NotDue;
            }
        }
    }
    (key, decision)
}

/// Requests of a thread are from now on those of another one, which has read more on their connection. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn thread_passes(from: u64, to: u64, requests: u64) -> u64 {
    close(from, requests);
    processes::passes(from, to, requests);
    if to & UNCOUNTED != 0 {
        if let Some(thread) = place_of(to & !UNCOUNTED) {
            // SAFETY: a value that a look-up gave (see `maps`), aligned as its type.
            unsafe { add_u32(&raw mut (*thread).uncounted, requests) };
        }
    } else if let Some(thread) = known(to) {
        // SAFETY: a value that a look-up gave (see `maps`), as in `close`.
        unsafe {
            (*thread).open += requests as u32;
            (*thread).flags |= thread_flag::SEVERAL;
            (*thread).only = 0;
        }
    }
    0
}

/// Whether requests that threads of a process read are answered by others; of a goroutine's key, those that its goroutines read. In a
/// process of Go they are, wherever a thread is known and the goroutine is not.
#[inline(always)]
fn is_handed_on(key: u64) -> bool {
    HANDED_ON.get_ptr(key >> 32).is_some() || (!is_goroutine(key) && goroutines::is_of_go(key >> 32))
}

/// Responses moved on a connection that is locked; `work` gets whether what they complete is reported.
#[inline(always)]
pub fn responded(mut work: Scratch, offloaded: Locked) {
    work.parse.reported = 0;
    work.parse.running = 0;
    work.parse.alone[1] = 0;
    if offloaded.side == side::CLIENT {
        work.parse.running = running();
        thread_called();
    } else if is_served(offloaded) {
        work.parse.running = running();
        request_ends(offloaded.thread, offloaded.connection);
    }
}

/// A call was answered. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn thread_called() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let running = work.parse.running;
    work.parse.reported = u64::from(takes_call(running, known(running)));
    0
}

/// Requests of this connection that a thread read are answered, by whichever runs. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn request_ends(key: u64, id: u64) -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let found = work.parse.found;
    work.parse.reported = close(key, found);
    processes::ends(work, key, id);
    let (key, running) = (key & !UNCOUNTED, work.parse.running);
    // Where the goroutine was not found when it read or answers, nothing is known but that.
    if key != running && is_goroutine(key) == is_goroutine(running) {
        handed_on(key);
    }
    0
}

/// Requests of a thread are open no longer; gives whether their exchange is reported.
#[inline(always)]
fn close(key: u64, requests: u64) -> u64 {
    if key & UNCOUNTED != 0 {
        if let Some(thread) = place_of(key & !UNCOUNTED) {
            // SAFETY: a value that a look-up gave (see `maps`), aligned as its type. They are not there where they were over.
            unsafe {
                if u64::from((*thread).uncounted) >= requests {
                    add_u32(&raw mut (*thread).uncounted, requests.wrapping_neg());
                }
            }
        }
        return 0;
    }
    let Some(thread) = known(key) else { return 0 };
    // SAFETY: a value that a look-up gave (see `maps`). Where two CPUs change it at once, it has several in progress or hands on.
    unsafe {
        let (open, reported) = (u64::from((*thread).open), (*thread).reported);
        (*thread).open = if open > requests { (open - requests) as u32 } else { 0 };
        (*thread).reported = 0;
        u64::from(reported != 0)
    }
}

/// A request that a thread read is answered by another one: so may others be of its process.
#[inline(always)]
fn handed_on(key: u64) {
    if let Some(thread) = known(key) {
        // SAFETY: a value that a look-up gave (see `maps`).
        unsafe { (*thread).flags |= thread_flag::HANDED_ON };
    }
    // Others of its kind can have displaced it.
    if is_handed_on(key) {
        return;
    }
    let _ = HANDED_ON.insert(key >> 32, 1, 0);
}

/// A connection is no longer followed here, and is about to be removed. A global function: its requests that are not answered are of
/// no thread. It stays locked, for another CPU that has looked it up meanwhile.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn thread_left(id: u64) -> u64 {
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return 0 };
    if lock::lock(offloaded, id) != Lock::Locked {
        return 0;
    }
    let offloaded = Locked(offloaded);
    let open = offloaded.pushed.wrapping_sub(offloaded.popped);
    if open != 0 && is_served(offloaded) {
        close(offloaded.thread, u64::from(open));
        processes::leaves(offloaded.thread, id, u64::from(open));
    }
    0
}

/// One of [`serving`] of a thread that has so many requests open.
#[inline(always)]
fn kind_of(thread: *const ServingThread, key: u64, open: u32) -> u8 {
    // SAFETY: a value that a look-up gave (see `maps`).
    unsafe {
        if (*thread).open != open
            || (*thread).only == 0
            || (*thread).flags & thread_flag::HANDED_ON != 0
            || is_handed_on(key)
        {
            return serving::UNKNOWN;
        }
        if (*thread).flags & thread_flag::SEVERAL != 0 { serving::ONLY } else { serving::ALONE }
    }
}

/// What this thread and its process serve while it makes a call that user space parses: see [`serving`]. Above it, from bit 32 on, the
/// number of a goroutine. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn call_serving() -> u64 {
    let key = running();
    let unknown = goroutines::number(key);
    let (mut thread, process) = (known(key), processes::serving_alone(key));
    let mut kind = thread.map_or(serving::UNKNOWN, |thread| kind_of(thread, key, 1));
    if kind == serving::UNKNOWN {
        thread = None;
    }
    let takes = takes_call(key, thread);
    if process.is_some() || (takes && thread.is_none()) {
        kind |= serving::PROCESS;
    }
    if takes {
        kind |= serving::REPORTED;
    }
    unknown | u64::from(kind)
}

/// Which goroutine moves bytes of a connection that it serves, as [`call_serving`] has it; 0 for a thread. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn moving_goroutine() -> u64 {
    goroutines::number(running())
}

/// Why an exchange goes to user space: `why` of [`exchange_serving`].
pub mod why {
    /// Because it has no slot.
    pub const NONE: u64 = 0;
    /// It is sampled.
    pub const SAMPLED: u64 = 1;
    /// It has failed, and has no slot.
    pub const FAILED: u64 = 2;
}

/// [`porthole_bpf_types::kernel_key::Completed::serving`] of an exchange of a connection, and a goroutine's number from bit 32 on. It
/// goes to user space for one of the reasons in [`why`]; of a call that is sampled, or has failed, the exchange that it is made for is
/// reported, too. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn exchange_serving(id: u64, why: u64) -> u64 {
    let Some(work) = Scratch::get() else { return u64::from(serving::UNKNOWN) };
    let running = work.parse.running;
    let unknown = goroutines::number(running);
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return unknown };
    let offloaded = Locked(offloaded);
    let (key, client) = (offloaded.thread, offloaded.side == side::CLIENT);
    if !(client || is_served(offloaded)) {
        return unknown;
    }
    let thread = if key == running { known(key) } else { None };
    let kind = thread.map_or(serving::UNKNOWN, |thread| kind_of(thread, key, u32::from(client)));
    if !client {
        let process = if work.parse.alone[1] != 0 { serving::PROCESS } else { 0 };
        let reported = if work.parse.reported != 0 { serving::REPORTED } else { 0 };
        let kind = kind | process;
        return unknown | u64::from(if kind == serving::UNKNOWN { kind } else { kind | reported });
    }
    let process = processes::serving_alone(running);
    let mut reported = 0;
    // SAFETY: values that look-ups gave (see `maps`), which change as in `takes_call`.
    unsafe {
        if let Some(thread) = thread
            && kind != serving::UNKNOWN
        {
            if (*thread).reported == 0 && calls_for_report(work, why) {
                (*thread).reported = 1;
                (*thread).slot = 0;
            }
            reported = (*thread).reported;
        }
        let Some(process) = process else {
            let kind = if reported != 0 {
                kind | serving::REPORTED
            } else if work.parse.reported != 0 {
                kind | serving::PROCESS | serving::REPORTED
            } else {
                kind
            };
            return unknown | u64::from(kind);
        };
        if reported == 0 {
            if (*process).reported == 0 && calls_for_report(work, why) {
                (*process).reported = 1;
            }
            reported = (*process).reported;
        }
    }
    let kind = kind | serving::PROCESS;
    unknown | u64::from(if reported != 0 { kind | serving::REPORTED } else { kind })
}

/// Whether the request is reported for which the call under construction was made.
#[inline(always)]
fn calls_for_report(work: Scratch, why: u64) -> bool {
    why == why::SAMPLED
        || (why == why::FAILED && slots::failed_call_is_due(work.completed.key.request, work.parse.now))
}
