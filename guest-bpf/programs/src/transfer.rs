//! A system call's end: from its arguments to a record.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_ktime_get_ns, bpf_probe_read_user},
};
use porthole_bpf_types::{
    connection::{Connection, RETRY_BUDGET, calls_until_retry, direction, role, spend, state, wakes},
    record::{HEAD_MAX, MESSAGES_MAX, kind},
    syscall::{Call, NOT_CONSUMING, TRUNCATING, shape},
};

use crate::{
    capture, connections,
    kernel::{self, Socket},
    maps::{CurrentSettings, NO_VECTOR, Scratch, VERDICTS, count, self_tgid},
    offload,
    registers::Registers,
    ring,
};

const EINPROGRESS: i64 = 115;

/// Records of a followed connection between two look-ups of its verdict.
const VERDICT_INTERVAL: u64 = 32;

/// Positions in `struct msghdr` (`struct user_msghdr`, `include/linux/socket.h`) on a 64-bit machine.
pub mod msghdr {
    pub const IOV: u64 = 16;
    pub const SIZE: u64 = 56;
    /// `struct mmsghdr`: a header, then the length that was moved.
    pub const MESSAGE_SIZE: u64 = 64;
}

/// Whether a call with this result may have moved something or begun a connection. Most calls of busy event loops fail.
#[inline(always)]
pub fn succeeded(result: i64) -> bool {
    result >= 0 || result == -EINPROGRESS
}

/// Any system call's end.
#[inline(always)]
pub fn on_call_exit(result: i64, registers: impl FnOnce() -> Registers) {
    if !succeeded(result) {
        return;
    }
    let registers = registers();
    let call = registers.call();
    if call == Call::NONE {
        return;
    }
    if registers.is_compat() {
        count!(compat);
        return;
    }
    match call.shape() {
        shape::ACCEPT => {
            opened(result as u64, u64::from(role::ACCEPTED));
        }
        shape::CONNECT => {
            opened(registers.argument::<0>(), u64::from(role::CONNECTED));
        }
        _ if result <= 0 => {}
        shape => moved(call, shape, registers, result as u64),
    }
}

/// A connection was made. A global function: verified once for all callers.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn opened(fd: u64, role: u64) -> u64 {
    if !is_self()
        && let Some(socket) = Socket::of(kernel::current(), fd)
    {
        let _ = connections::of(socket, role);
    }
    0
}

#[inline(always)]
pub fn is_self() -> bool {
    (bpf_get_current_pid_tgid() >> 32) as u32 == self_tgid()
}

/// A call that moved bytes, or messages.
#[inline(always)]
fn moved(call: Call, shape: u8, registers: Registers, result: u64) {
    let Some(mut work) = Scratch::get() else { return };
    let address = registers.argument::<1>();
    let mut want = result;
    let mut direction = if call.is_egress() { direction::EGRESS } else { direction::INGRESS };
    work.fd = registers.argument::<0>();
    work.address = address;
    work.count = NO_VECTOR;
    work.header.total = result;
    if call.has_receive_flags() {
        let flags =
            if shape == shape::MESSAGE { registers.argument::<2>() } else { registers.argument::<3>() };
        if flags & NOT_CONSUMING != 0 {
            return;
        }
        if flags & TRUNCATING != 0 {
            want = 0;
        }
    }
    match shape {
        shape::VECTOR => work.count = registers.argument::<2>(),
        shape::MESSAGE => message(work, address),
        shape::LENGTH => want = 0,
        shape::SPLICE => {
            // The other end is a pipe.
            want = 0;
            if Socket::of(kernel::current(), work.fd).is_none() {
                direction = direction::EGRESS;
                work.fd = registers.argument::<2>();
            }
        }
        _ => {}
    }
    work.want = want;
    work.header.direction = direction;
    if shape == shape::MESSAGES {
        messages();
    } else {
        transfer();
    }
}

/// Puts the buffers of a `struct msghdr` into `work`.
#[inline(always)]
pub fn message(mut work: Scratch, address: u64) {
    [work.address, work.count] = read_user::<[u64; 2]>(address + msghdr::IOV).unwrap_or([0, 0]);
}

/// Several messages of one call: a record each.
#[inline(never)]
fn messages() -> u64 {
    let Some(mut work) = Scratch::get() else { return 0 };
    let (address, used) = (work.address, work.header.total);
    let mut index = 0;
    while index < u64::from(MESSAGES_MAX) {
        if index >= used {
            return 0;
        }
        let at = address + index * msghdr::MESSAGE_SIZE;
        let len = u64::from(read_user::<u32>(at + msghdr::SIZE).unwrap_or(0));
        work.header.total = len;
        work.want = len;
        message(work, at);
        transfer();
        index += 1;
    }
    if used > u64::from(MESSAGES_MAX) {
        count!(beyond, used - u64::from(MESSAGES_MAX));
    }
    0
}

#[inline(always)]
fn read_user<T: Copy>(address: u64) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: writes the size of `T` to where a `T` has room; the source is checked by the helper.
    let rc =
        unsafe { bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _) };
    // SAFETY: written in full when the helper says so.
    if rc == 0 { Some(unsafe { value.assume_init() }) } else { None }
}

/// The bytes in this CPU's [`WORK`] moved on what may be a socket. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn transfer() -> u64 {
    let Some(work) = Scratch::get() else { return 0 };
    let Some(socket) = Socket::of(kernel::current(), work.fd) else { return 0 };
    let Some(connection) = connections::of(socket, u64::from(role::UNKNOWN)) else { return 0 };
    carried(work, connection, socket.sk);
    0
}

/// The bytes in this CPU's [`WORK`] moved on a connection.
#[inline(always)]
fn carried(work: Scratch, connection: *mut Connection, sk: u64) {
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    if unsafe { (*connection).state } == state::IGNORED && !is_retried(connection) {
        connections::advance(connection, work.header.direction, work.header.total);
        return;
    }
    record(work, connection, sk);
}

/// Whether an ignored connection is due for a retry; then it is a new one to user space.
#[inline(always)]
pub fn is_retried(connection: *mut Connection) -> bool {
    // SAFETY: a value that a look-up gave (see `maps`); of two CPUs at once both may come to the same.
    unsafe {
        if (*connection).budget > 1 {
            (*connection).budget -= 1;
            return false;
        }
        let _ = VERDICTS.remove((*connection).id);
        (*connection).announced = 0;
        // Positions begin anew at TCP's present ones.
        (*connection).placed = 0;
        (*connection).budget = RETRY_BUDGET;
        (*connection).state = state::DETECTING;
    }
    true
}

/// Sends what a call moved on a connection that is not ignored.
#[inline(always)]
pub fn record(mut work: Scratch, connection: *mut Connection, sk: u64) {
    // Positions advance even when the record is not sent, so that a loss shows.
    work.header.offset = connections::advance(connection, work.header.direction, work.header.total);
    let Some(settings) = CurrentSettings::get() else { return };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let (known, begun) = unsafe {
        (*connection).history = ((*connection).history << 1) | u16::from(work.header.direction & 1);
        ((*connection).state, (*connection).sequence)
    };
    if known == state::OFFLOADED {
        // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
        if offload::call(unsafe { (*connection).id }, sk) != offload::FALL_BACK {
            return;
        }
        let announced = offload::fall_back(connection, sk, connections::BY_CALL);
        // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
        unsafe { (*connection).state = state::FOLLOWED };
        if !announced {
            return;
        }
    } else if is_self()
        || (settings.has_offers() && offload::accepts_offer(connection, sk))
        || (known == state::DETECTING
            && begun == 0
            && settings.allows_offload()
            && offload::may_begin(&work, connection)
            && offload::begins(connection, sk))
    {
        return;
    }
    if settings.is_paused() {
        count!(lost);
        return;
    }
    let most = u64::from(settings.head());
    if work.want > most {
        work.want = most;
    }
    if work.want > u64::from(HEAD_MAX) {
        work.want = u64::from(HEAD_MAX);
    }
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let (known, sequence) = unsafe { ((*connection).state, (*connection).sequence) };
    // User space may ignore a followed connection later; that need not take effect at once.
    let mut may = CAPTURE;
    if known != state::FOLLOWED || sequence % VERDICT_INTERVAL == 0 {
        may = may_capture(connection, work.want as u32);
    }
    if may == 0 {
        return;
    }
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    if unsafe { (*connection).announced } == 0 && connections::announce(sk, connections::BY_CALL) == 0 {
        return;
    }
    capture::head(work);
    let task = bpf_get_current_pid_tgid();
    let header = &mut work.header;
    header.kind = kind::CHUNK;
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    header.connection = unsafe { (*connection).id };
    header.tgid = (task >> 32) as u32;
    header.tid = task as u32;
    // SAFETY: a helper without preconditions.
    header.timestamp = unsafe { bpf_ktime_get_ns() };
    header.sequence = connections::next_sequence(connection);
    ring::send_chunk(&work, may == CAPTURE_AND_WAKE);
}

/// Results of [`may_capture`] besides 0, no.
const CAPTURE: u64 = 1;
const CAPTURE_AND_WAKE: u64 = 2;

/// Whether a connection whose protocol is not known yet may be captured; applies user space's verdict.
#[inline(never)]
fn may_capture(connection: *mut Connection, want: u32) -> u64 {
    // SAFETY: a value that a look-up gave (see `maps`); of two writers at once either may win.
    unsafe {
        if let Some(verdict) = VERDICTS.get_ptr((*connection).id) {
            (*connection).state = *verdict;
            if *verdict == state::FOLLOWED {
                return CAPTURE;
            }
            (*connection).budget = calls_until_retry((*connection).retries);
            (*connection).retries += 1;
            return 0;
        }
        let before = (*connection).budget;
        let Some(left) = spend(before, want) else {
            (*connection).state = state::EXHAUSTED;
            count!(exhausted);
            return 0;
        };
        (*connection).budget = left;
        if wakes(before, left) { CAPTURE_AND_WAKE } else { CAPTURE }
    }
}
