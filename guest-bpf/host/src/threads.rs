//! What the programs know of threads that serve requests.

use aya_ebpf::machine::{self, TASK};
use porthole_bpf_types::{
    kernel_key::Slot,
    offload::OffloadedConnection,
    process::PROCESSES_MAX,
    thread::{
        CALLS_MAX, OPEN_NS, ServingThread, THREADS_MAX, UNCOUNTED,
        goroutine::{self, MARK},
        serving, thread_flag,
    },
};
use porthole_l7::{Direction, Limits, ParserContext, Side, Timestamp};

use crate::{
    agent::monitor::{Mode, Monitor},
    maps::{GO_PROCESSES, GOROUTINES, HANDED_ON, MEMORY, OFFLOADED, PROCESSES, SLOTS, THREADS, memory},
    offload,
    registers::{NO_GOROUTINE, run_goroutine, state},
};

/// Another thread of the same process.
pub const OTHER: u64 = TASK + 1;

const REQUEST: &[u8] = b"GET /cart HTTP/1.1\r\nHost: shop\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A connection that a process has accepted.
pub struct Served {
    pub monitor: Monitor,
    pub now: u64,
}

impl Served {
    pub fn new() -> Self {
        let monitor = Monitor::new(Mode::Aggregated, Side::Server, ParserContext::new(Limits::default()));
        Self { monitor, now: 1_000_000 }
    }

    pub fn moved(&mut self, task: u64, direction: Direction, bytes: &[u8]) {
        self.now += 1_000;
        machine::set_task(task);
        self.monitor.call(direction, &[bytes], Timestamp(self.now));
    }

    pub fn read(&mut self, task: u64) {
        self.moved(task, Direction::Ingress, REQUEST);
    }

    pub fn answered(&mut self, task: u64) {
        self.moved(task, Direction::Egress, RESPONSE);
    }

    /// One whose requests have a slot.
    pub fn recurring() -> Self {
        let mut served = Self::new();
        for _ in 0..4 {
            served.read(TASK);
            served.answered(TASK);
        }
        assert_eq!(served.monitor.aggregates().len(), 1);
        served
    }
}

fn thread(key: u64) -> *mut ServingThread {
    if key & MARK != 0 {
        return GOROUTINES.get_ptr_mut(goroutine::place(key)).expect("a place");
    }
    let place = u32::try_from(key & u64::from(THREADS_MAX - 1)).expect("small");
    THREADS.get_ptr_mut(place).expect("a place")
}

fn open(task: u64) -> u32 {
    // SAFETY: a value of this thread's machine.
    unsafe { (*thread(task)).open }
}

pub fn slot() -> &'static mut Slot {
    // SAFETY: a value of this thread's machine, which lives as long as the test.
    unsafe { &mut *SLOTS.get_ptr_mut(0).expect("a slot") }
}

/// Another connection has a request open for ever, so that the process is not alone.
fn serves_another(process: u64) {
    let place = u32::try_from(process & u64::from(PROCESSES_MAX - 1)).expect("small");
    // SAFETY: a value of this thread's machine.
    unsafe { (*PROCESSES.get_ptr_mut(place).expect("a place")).requests += 1 << 32 | 1 };
}

/// No span is due by rate but by this: the interval is the longest one.
pub fn make_due(now: u64) {
    slot().sampled = now + 1_000 + 1;
}

#[test]
fn a_request_that_is_due_for_a_span_is_one_where_it_is_the_only_one() {
    let mut served = Served::recurring();
    let before = served.monitor.exchanges().0.len();
    make_due(served.now);
    served.read(TASK);
    let read = served.now;
    // SAFETY: a value of this thread's machine.
    assert_eq!((unsafe { (*thread(TASK)).reported }, slot().sampled), (1 + CALLS_MAX, read));
    served.answered(TASK);
    assert_eq!(served.monitor.exchanges().0.len(), before + 1, "a record");
}

#[test]
fn a_span_that_is_due_is_not_lost_where_another_request_is_read_before_the_response() {
    let mut served = Served::recurring();
    make_due(served.now);
    served.read(TASK);
    served.read(TASK);
    // SAFETY: a value of this thread's machine.
    assert_eq!((unsafe { (*thread(TASK)).reported }, slot().sampled), (0, 0), "the next one is due");
    served.read(TASK);
    assert_eq!((open(TASK), slot().sampled), (3, 0));
}

#[test]
fn a_process_that_hands_requests_on_spends_no_span_and_comes_back_when_it_was_displaced() {
    let mut served = Served::recurring();
    served.read(TASK);
    served.answered(OTHER);
    let process = TASK >> 32;
    assert!(HANDED_ON.get_ptr(process).is_some());
    served.read(OTHER);
    served.answered(OTHER);
    make_due(served.now);
    let due = slot().sampled;
    serves_another(PROCESS);
    served.read(OTHER);
    assert_eq!(slot().sampled, due, "not spent");
    served.answered(OTHER);
    let _ = HANDED_ON.remove(process);
    served.read(TASK);
    served.answered(OTHER);
    assert!(HANDED_ON.get_ptr(process).is_some());
}

#[test]
fn pipelined_requests_that_two_threads_read_leave_none_open() {
    let mut served = Served::recurring();
    served.read(TASK);
    served.read(OTHER);
    assert_eq!((open(TASK), open(OTHER)), (0, 2));
    served.answered(OTHER);
    served.answered(OTHER);
    assert_eq!((open(TASK), open(OTHER)), (0, 0));
    // SAFETY: a value of this thread's machine.
    assert_eq!(unsafe { (*thread(OTHER)).flags & thread_flag::SEVERAL }, thread_flag::SEVERAL);
}

#[test]
fn a_request_whose_end_was_missed_is_open_for_an_hour_at_most() {
    let mut served = Served::recurring();
    // SAFETY: a value of this thread's machine.
    unsafe { (*thread(TASK)).open = 1 };
    served.now += OPEN_NS;
    served.read(TASK);
    // SAFETY: as above.
    let thread = unsafe { *thread(TASK) };
    assert_eq!((thread.open, thread.only, thread.flags), (1, 1, 0));
}

#[test]
fn a_connection_that_falls_back_stays_locked_and_leaves_no_request_open() {
    let mut served = Served::recurring();
    served.read(TASK);
    let offloaded: *const OffloadedConnection = OFFLOADED.get_ptr(1).expect("followed");
    served.moved(TASK, Direction::Egress, b"nonsense\r\n\r\n");
    assert!(!served.monitor.is_offloaded());
    // SAFETY: a value of this thread's machine, which keeps those whose keys are removed.
    assert_eq!((unsafe { (*offloaded).lock }, open(TASK)), (1, 0));
}

#[test]
fn of_a_failed_statement_without_a_slot_the_request_is_reported_as_well_but_not_too_often() {
    let served = ServingThread { thread: TASK, open: 1, only: 1, ..ServingThread::default() };
    let mut client = Served {
        monitor: Monitor::new(Mode::Begun, Side::Client, ParserContext::new(Limits::default())),
        now: u64::MAX / 2,
    };
    let mut called = |reply: &[u8]| {
        // SAFETY: a value of this thread's machine.
        unsafe { *thread(TASK) = served };
        client.moved(TASK, Direction::Egress, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
        client.moved(TASK, Direction::Ingress, reply);
        // SAFETY: as above.
        unsafe { (*thread(TASK)).reported }
    };
    assert_eq!(called(b"$-1\r\n"), 0, "it has not failed");
    let due = |at: u64| {
        for index in memory::FAILED_CALLS..memory::END {
            // SAFETY: a value of this thread's machine.
            unsafe { *MEMORY.get_ptr_mut(index).expect("a value") = at };
        }
    };
    // No time is as long as the interval of these programs but this.
    let now = u64::MAX / 2 + 4_000;
    due(now.wrapping_add(1));
    assert_eq!(called(b"-ERR no\r\n"), 1);
    assert_eq!(called(b"-ERR no\r\n"), 0, "a short while ago");
}

/// Number of the process.
pub const PROCESS: u64 = TASK >> 32;

fn is_of_go(process: u64) -> bool {
    GO_PROCESSES.get_ptr(process).is_some()
}

/// A server whose goroutine 0 has read a request and answered it.
fn of_go() -> Served {
    run_goroutine(Some(0));
    let mut served = Served::recurring();
    assert!(is_of_go(PROCESS));
    served.read(TASK);
    served.answered(TASK);
    served
}

/// Key of a goroutine.
fn key(index: usize) -> u64 {
    goroutine::key(PROCESS, state(index))
}

/// What is known of what a goroutine serves while it makes a call, and of which one that is.
fn calls(index: Option<usize>) -> u64 {
    run_goroutine(index);
    call_serving()
}

/// What is known of what the thread or goroutine serves that runs, whatever its process serves.
fn call_serving() -> u64 {
    let serving = offload::call_serving();
    let of_process = u64::from(serving::PROCESS | serving::REPORTED);
    let is_known = serving & u64::from(serving::ALONE | serving::ONLY) != 0;
    serving & !if is_known { u64::from(serving::PROCESS) } else { of_process }
}

/// What is known of a goroutine that serves this.
fn serving(index: usize, kind: u8) -> u64 {
    (key(index) << 32) | u64::from(kind | serving::GOROUTINE)
}

#[test]
fn a_goroutine_serves_its_request_in_whichever_threads_it_is() {
    let mut served = of_go();
    make_due(served.now);
    served.read(TASK);
    // SAFETY: a value of this thread's machine.
    let (of, reported) = unsafe { ((*thread(key(0))).thread, (*thread(key(0))).reported) };
    assert_eq!((of, open(key(0)), reported), (key(0), 1, 1 + CALLS_MAX));
    machine::set_task(OTHER);
    assert_eq!(calls(Some(1)), serving(1, serving::UNKNOWN), "another goroutine serves nothing");
    assert_eq!(calls(Some(NO_GOROUTINE)), 0);
    assert_eq!(calls(None), 0);
    assert_eq!(calls(Some(0)), serving(0, serving::ALONE | serving::REPORTED));
    let before = served.monitor.exchanges().0.len();
    served.answered(OTHER);
    assert_eq!((open(key(0)), served.monitor.exchanges().0.len()), (0, before + 1));
    assert!(HANDED_ON.get_ptr(key(0) >> 32).is_none());
}

#[test]
fn of_a_process_whose_goroutines_hand_requests_on_none_counts() {
    let mut served = of_go();
    served.read(TASK);
    assert_ne!(call_serving() & u64::from(serving::ALONE), 0);
    run_goroutine(Some(1));
    served.answered(TASK);
    assert_eq!(open(key(0)), 0);
    assert!(HANDED_ON.get_ptr(key(0) >> 32).is_some());
    served.read(TASK);
    assert_eq!(call_serving(), serving(1, serving::UNKNOWN));
}

#[test]
fn threads_of_a_process_of_go_count_neither_before_it_is_known_nor_where_no_goroutine_runs() {
    run_goroutine(Some(0));
    let mut served = Served::new();
    served.read(TASK);
    run_goroutine(None);
    assert_eq!(call_serving(), 0);
    served.answered(TASK);
    served.read(TASK);
    assert_eq!((open(TASK), call_serving()), (0, 0));
}

#[test]
fn what_only_looks_like_a_goroutine_is_a_thread() {
    run_goroutine(Some(NO_GOROUTINE));
    let mut served = Served::recurring();
    served.read(TASK);
    assert!(!is_of_go(PROCESS));
    assert_eq!(call_serving(), u64::from(serving::ALONE));
}

#[test]
fn goroutines_and_threads_do_not_take_each_others_places() {
    let mut served = Served::recurring();
    // SAFETY: values of this thread's machine.
    unsafe {
        for place in 0..THREADS_MAX {
            let other =
                ServingThread { thread: u64::MAX, open: 1, read: u64::MAX / 2, ..ServingThread::default() };
            *GOROUTINES.get_ptr_mut(place).expect("a place") = other;
        }
    }
    served.read(TASK);
    assert_eq!((open(TASK), call_serving()), (1, u64::from(serving::ALONE)));
}

/// Makes the place of a key another one's, which has so many requests open, and these uncounted.
fn displace(key: u64, now: u64, open: u32, uncounted: u32, flags: u32) {
    let other = ServingThread {
        thread: key ^ (1 << 40),
        read: now,
        open,
        uncounted,
        flags,
        ..ServingThread::default()
    };
    // SAFETY: a value of this thread's machine.
    unsafe { *thread(key) = other };
}

#[test]
fn a_request_of_a_thread_whose_place_another_one_has_is_counted_apart_until_it_is_answered() {
    for goes in [None, Some(0)] {
        let mut served = if goes.is_some() { of_go() } else { Served::recurring() };
        let key = if goes.is_some() { key(0) } else { TASK };
        let is_uncounted = || {
            // SAFETY: a value of this thread's machine.
            let (of, open, uncounted) =
                unsafe { ((*thread(key)).thread, (*thread(key)).open, (*thread(key)).uncounted) };
            assert_eq!((of, open), (key ^ (1 << 40), 1));
            uncounted
        };
        displace(key, served.now, 1, 0, 0);
        served.read(TASK);
        assert_eq!((is_uncounted(), calls(goes) & 3), (1, 0));
        // SAFETY: a value of this thread's machine.
        assert_eq!(unsafe { (*OFFLOADED.get_ptr(1).expect("followed")).thread }, key | UNCOUNTED);
        served.answered(TASK);
        assert_eq!(is_uncounted(), 0);
        // SAFETY: as above.
        assert_eq!(unsafe { (*thread(key)).flags & thread_flag::SEVERAL }, 0);
        assert!(HANDED_ON.get_ptr(key >> 32).is_none());
        served.read(TASK);
        served.read(TASK);
        assert_eq!(is_uncounted(), 2, "as many as wait");
        // SAFETY: as above.
        assert_ne!(unsafe { (*thread(key)).flags & thread_flag::SEVERAL }, 0, "both can be one thread's");
        served.moved(TASK, Direction::Egress, b"nonsense\r\n\r\n");
        assert_eq!(is_uncounted(), 0, "the agent follows it");
    }
}

#[test]
fn a_thread_that_gets_its_place_back_serves_an_unknown_number_until_the_others_are_answered() {
    for goes in [None, Some(0)] {
        let mut served = if goes.is_some() { of_go() } else { Served::recurring() };
        let key = if goes.is_some() { key(0) } else { TASK };
        let kind = |goes| u8::try_from(calls(goes) & 0xff).expect("a byte") & !serving::GOROUTINE;
        displace(key, served.now, 0, 1, 0);
        serves_another(PROCESS);
        make_due(served.now);
        let due = slot().sampled;
        for _ in 0..2 {
            served.read(TASK);
            assert_eq!((open(key), kind(goes), slot().sampled), (1, serving::UNKNOWN, due));
            served.answered(TASK);
        }
        // SAFETY: a value of this thread's machine.
        unsafe { (*thread(key)).uncounted = 0 };
        make_due(0);
        served.read(TASK);
        assert_eq!(kind(goes), serving::ONLY, "it had several");
        served.answered(TASK);
        displace(key, served.now, 0, 0, thread_flag::SEVERAL | thread_flag::HANDED_ON);
        served.read(TASK);
        assert_eq!(kind(goes), serving::ONLY, "one of those that share the place had several");
        served.answered(TASK);
        displace(key, served.now, 0, 0, 0);
        served.read(TASK);
        assert_eq!(kind(goes), serving::ALONE);
        served.answered(TASK);
    }
}

#[test]
fn a_request_whose_goroutine_is_not_found_when_it_is_answered_is_unknown_and_no_other_one() {
    let mut served = of_go();
    for (read, answered) in [(Some(0), None), (None, Some(0))] {
        run_goroutine(read);
        served.read(TASK);
        run_goroutine(answered);
        served.answered(TASK);
        assert!(HANDED_ON.get_ptr(PROCESS).is_none() && HANDED_ON.get_ptr(key(0) >> 32).is_none());
        assert_eq!((open(key(0)), open(TASK)), (0, 0));
    }
    served.read(TASK);
    assert_eq!(calls(Some(0)), serving(0, serving::ALONE));
}

#[test]
fn a_process_of_go_takes_nothing_from_another_one() {
    let mut served = of_go();
    // Those that are the same modulo any power of two up to this.
    for process in (1..=100).map(|number| PROCESS + (number << 14)) {
        let task = (process << 32) | 8;
        served.read(task);
        served.answered(task);
        assert!(is_of_go(process) && is_of_go(PROCESS));
        served.read(task);
        assert_eq!(
            call_serving(),
            (goroutine::key(process, state(0)) << 32) | u64::from(serving::ALONE | serving::GOROUTINE)
        );
        served.answered(task);
    }
    served.read(TASK);
    assert_eq!(calls(Some(0)), serving(0, serving::ALONE));
}

#[test]
fn the_first_of_two_threads_that_recognise_a_process_decides_where_its_goroutines_are() {
    let mut served = of_go();
    let _ = GO_PROCESSES.insert(PROCESS, goroutine::region(state(0)) + 1, 0);
    served.read(TASK);
    assert_eq!((open(key(0)), open(TASK)), (0, 0), "elsewhere");
    // SAFETY: a value of this thread's machine.
    assert_eq!(unsafe { *GO_PROCESSES.get_ptr(PROCESS).expect("known") }, goroutine::region(state(0)) + 1);
}

#[test]
fn a_process_with_the_number_of_one_that_has_ended_is_another_one() {
    let mut served = of_go();
    served.read(TASK);
    run_goroutine(Some(1));
    served.answered(TASK);
    let _ = HANDED_ON.insert(PROCESS, 1, 0);
    // It can have lost its place before.
    for is_known in [true, false] {
        if !is_known {
            let _ = GO_PROCESSES.remove(PROCESS);
            let _ = HANDED_ON.insert(key(0) >> 32, 1, 0);
            let _ = HANDED_ON.insert(PROCESS, 1, 0);
        }
        offload::process_ended(PROCESS);
        assert!(!is_of_go(PROCESS));
        assert!(HANDED_ON.get_ptr(PROCESS).is_none() && HANDED_ON.get_ptr(key(0) >> 32).is_none());
    }
    run_goroutine(None);
    served.read(TASK);
    assert_eq!(call_serving(), u64::from(serving::ALONE));
}
