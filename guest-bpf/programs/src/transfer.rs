//! A system call's end: from its arguments to a record.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns};
use porthole_bpf_types::{
    connection::{
        Connection, RETRY_BUDGET, Verdict, calls_until_retry, detection_call_max, direction, role, spend,
        state, transport, wakes,
    },
    record::{CALL_MAX, HEAD_MAX, MESSAGES_MAX, kind},
    syscall::{Call, NOT_CONSUMING, TRUNCATING, shape},
    thread::serving,
};
use porthole_framing::Framing;

use crate::{
    capture, connections, datagrams,
    kernel::{self, Socket},
    maps::{CurrentSettings, NO_VECTOR, Scratch, VERDICTS, count, self_tgid},
    offload,
    registers::Registers,
    user_memory::{msghdr, read_user},
    verifier::rounds,
};

const EINPROGRESS: i64 = 115;

/// Calls on a followed connection between two look-ups of its verdict.
const VERDICT_INTERVAL: u32 = 32;

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
    work.message = 0;
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
        work.next_message = address;
        work.messages_left = result;
        // Four in a round are cheaper to verify.
        let mut left = rounds::<{ MESSAGES_MAX as u64 / 4 }>();
        while left > 0 && transfer() > 0 && transfer() > 0 && transfer() > 0 && transfer() > 0 {
            left -= 1;
        }
    } else {
        work.messages_left = 0;
        transfer();
    }
}

/// Puts the buffers of a `struct msghdr` into `work`.
#[inline(always)]
pub fn message(mut work: Scratch, address: u64) {
    work.message = address;
    [work.address, work.count] = read_user::<[u64; 2]>(address + msghdr::IOV);
}

/// Puts the next message of a call of several into `work`.
#[inline(always)]
fn next_message(mut work: Scratch) {
    let at = work.next_message;
    work.next_message = at + msghdr::MESSAGE_SIZE;
    work.messages_left -= 1;
    let len = u64::from(read_user::<u32>(at + msghdr::SIZE));
    work.header.total = len;
    work.want = len;
    message(work, at);
}

/// The bytes in this CPU's `WORK` moved on what may be a socket; of a call of several messages, those of the next one, which
/// becomes a record of its own. How many messages are left. A global function, which takes the message by itself: what its
/// caller does for each is verified as often as a call may have messages.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn transfer() -> u64 {
    let Some(work) = Scratch::get() else { return 0 };
    if work.messages_left > 0 {
        next_message(work);
    }
    let Some(socket) = Socket::of(kernel::current(), work.fd) else { return 0 };
    let Some(connection) = connections::of(socket, u64::from(role::UNKNOWN)) else { return 0 };
    carried(work, connection, socket.sk);
    work.messages_left
}

/// The bytes in this CPU's `WORK` moved on a connection.
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
        (*connection).framing = 0;
        (*connection).state = state::DETECTING;
    }
    true
}

/// Sends what a call moved on a connection that is not ignored.
#[inline(always)]
pub fn record(mut work: Scratch, connection: *mut Connection, sk: u64) {
    // Positions advance even when the record is not sent, so that a loss shows.
    work.header.offset = connections::advance(connection, work.header.direction, work.header.total);
    let settings = CurrentSettings::get();
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
    let may = may_capture(connection, work.want);
    if may == 0 {
        return;
    }
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    if unsafe { (*connection).announced } == 0 && connections::announce(sk, connections::BY_CALL) == 0 {
        return;
    }
    let task = bpf_get_current_pid_tgid();
    let header = &mut work.header;
    header.kind = kind::CHUNK;
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    header.connection = unsafe { (*connection).id };
    header.tgid = (task >> 32) as u32;
    header.tid = task as u32;
    // SAFETY: a helper without preconditions.
    header.timestamp = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a value that a look-up gave: valid until the program ends (see `maps`).
    let (known, framing, transport, role) =
        unsafe { ((*connection).state, (*connection).framing, (*connection).transport, (*connection).role) };
    let wake = may & CAPTURE_AND_WAKE == CAPTURE_AND_WAKE;
    let ingress = work.header.direction == direction::INGRESS;
    // What moves the other way is moved by the same ones as a rule, and they need not be looked for twice.
    let serving = match (role == role::ACCEPTED, ingress) {
        (true, true) if transport != transport::UDP && Framing::may_be_http(framing) => {
            offload::moving_goroutine()
        }
        (false, false) => offload::call_serving(),
        _ => 0,
    };
    work.header.serving = serving as u8;
    // The record has no room for both: it is one line of the cache, as what is cast to it (`send_unnamed`) is.
    if work.header.serving & serving::GOROUTINE != 0 {
        work.header.tid = (serving >> 32) as u32;
    }
    if transport == transport::UDP {
        datagrams::send(sk, u64::from(wake));
        return;
    }
    work.capture.framing = u64::from(framing);
    if work.want <= u64::from(HEAD_MAX) {
        capture::short(work, connection, Framing::has_layout(framing), wake);
        return;
    }
    work.capture.limit = if known == state::FOLLOWED { CALL_MAX } else { may & !CAPTURE_AND_WAKE };
    work.capture.wake = u64::from(wake);
    capture::pieces(sk);
}

/// Results of [`may_capture`] besides 0, no: in the low bits; in the others, the limit of bytes while the protocol is being
/// detected.
const CAPTURE: u64 = 1;
const CAPTURE_AND_WAKE: u64 = 3;

/// Whether a call of so many bytes may be captured; applies user space's verdict.
#[inline(never)]
fn may_capture(connection: *mut Connection, want: u64) -> u64 {
    // SAFETY: a value that a look-up gave (see `maps`); of two writers at once either may win.
    unsafe {
        let decided = (*connection).state == state::FOLLOWED && (*connection).framing != 0;
        // User space may ignore a followed connection later; that need not take effect at once.
        if decided && (*connection).budget > 1 && (*connection).budget <= VERDICT_INTERVAL {
            (*connection).budget -= 1;
            return CAPTURE;
        }
        if let Some(verdict) = VERDICTS.get_ptr((*connection).id) {
            let verdict = Verdict(*verdict);
            (*connection).state = verdict.state();
            (*connection).framing = verdict.framing();
            if verdict.state() == state::FOLLOWED {
                (*connection).budget = VERDICT_INTERVAL;
                return CAPTURE;
            }
            (*connection).budget = calls_until_retry((*connection).retries);
            (*connection).retries += 1;
            return 0;
        }
        if decided {
            // It made room for others.
            (*connection).budget = VERDICT_INTERVAL;
            return CAPTURE;
        }
        let before = (*connection).budget;
        let most = detection_call_max(before);
        let want = if want < u64::from(most) { want as u32 } else { most };
        let Some(left) = spend(before, want) else {
            (*connection).state = state::EXHAUSTED;
            // With a retry it is as ignored as before until user space has decided.
            if (*connection).retries == 0 {
                count!(exhausted);
            }
            return 0;
        };
        (*connection).budget = left;
        u64::from(most) | if wakes(before, left) { CAPTURE_AND_WAKE } else { CAPTURE }
    }
}
