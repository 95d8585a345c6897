//! What the programs know of processes that serve requests.

use aya_ebpf::machine::TASK;
use porthole_bpf_types::{
    process::{PROCESSES_MAX, ServingProcess, armed},
    thread::{CALLS_MAX, OPEN_NS, serving},
};
use porthole_l7::Direction;

use crate::{
    maps::{HANDED_ON, PROCESSES, Scratch},
    offload,
    threads::{OTHER, PROCESS, Served, make_due, slot},
};

/// A process that shares the place.
const SHARING: u64 = TASK + ((PROCESSES_MAX as u64) << 32);

fn place() -> &'static mut ServingProcess {
    let index = u32::try_from(PROCESS & u64::from(PROCESSES_MAX - 1)).expect("small");
    // SAFETY: a value of this thread's machine, which lives as long as the test.
    unsafe { &mut *PROCESSES.get_ptr_mut(index).expect("a place") }
}

fn open() -> u64 {
    place().requests & 0xffff_ffff
}

/// From when until when the request that was answered last had its process alone.
fn alone() -> Option<(u64, u64)> {
    let [from, until] = Scratch::get().expect("the work").parse.alone;
    (until != 0).then_some((from, until))
}

/// Whether a call that is made now is known to be made while the process serves one request, and goes with that.
fn calls() -> (bool, bool) {
    let known = offload::call_serving();
    (known & u64::from(serving::PROCESS) != 0, known & u64::from(serving::REPORTED) != 0)
}

#[test]
fn a_request_is_alone_from_its_first_byte_to_its_response_whichever_threads_move_it() {
    let mut served = Served::recurring();
    served.read(TASK);
    let read = served.now;
    assert_eq!((open(), calls()), (1, (true, false)));
    served.answered(OTHER);
    assert_eq!((open(), alone(), calls()), (0, Some((read, served.now)), (false, false)));
}

#[test]
fn a_request_is_alone_until_the_next_one_begins_and_from_where_the_one_before_it_has_ended() {
    let mut served = Served::recurring();
    served.read(TASK);
    let first = served.now;
    served.read(OTHER);
    let second = served.now;
    assert_eq!(calls(), (false, false));
    served.answered(TASK);
    let answered = served.now;
    assert_eq!((alone(), calls()), (Some((first, second)), (true, false)));
    served.answered(TASK);
    assert_eq!(alone(), Some((answered, served.now)));
}

#[test]
fn of_three_at_a_time_only_the_first_one_was_ever_alone() {
    let mut served = Served::recurring();
    served.read(TASK);
    let (first, second) = (served.now, served.now + 1_000);
    served.read(TASK);
    served.read(TASK);
    served.answered(TASK);
    assert_eq!(alone(), Some((first, second)));
    for _ in 0..2 {
        assert!(!calls().0);
        served.answered(TASK);
        assert_eq!(alone(), None);
    }
    served.read(TASK);
    assert_eq!((open(), calls().0), (1, true));
}

#[test]
fn the_calls_of_a_request_that_is_due_for_a_span_go_with_it_where_its_threads_hand_it_on() {
    let mut served = Served::recurring();
    served.read(TASK);
    served.answered(OTHER);
    assert!(HANDED_ON.get_ptr(PROCESS).is_some());
    make_due(served.now);
    served.read(TASK);
    assert_eq!((slot().sampled, place().reported), (served.now, 1 + CALLS_MAX));
    for _ in 0..CALLS_MAX {
        assert_eq!(calls(), (true, true));
    }
    assert_eq!(calls(), (true, false));
    let before = served.monitor.exchanges().0.len();
    served.answered(OTHER);
    assert_eq!((served.monitor.exchanges().0.len(), place().reported), (before + 1, 0));
}

#[test]
fn a_request_that_is_alone_from_another_ones_end_is_sampled_if_it_is_due() {
    let mut served = Served::recurring();
    served.read(TASK);
    served.answered(OTHER);
    served.read(TASK);
    served.read(OTHER);
    assert_eq!(place().reported, 0);
    make_due(served.now);
    served.answered(TASK);
    assert_eq!((calls(), place().reported), ((true, true), CALLS_MAX));
}

#[test]
fn processes_that_share_a_place_are_not_alone_while_both_have_a_request() {
    let mut served = Served::recurring();
    served.read(SHARING);
    served.read(TASK);
    served.answered(SHARING);
    served.answered(SHARING);
    assert_eq!((open(), alone()), (0, None), "another process answered it");
    served.read(SHARING);
    assert!(!calls_of(TASK));
    assert!(calls_of(SHARING));
}

fn calls_of(task: u64) -> bool {
    aya_ebpf::machine::set_task(task);
    calls().0
}

#[test]
fn a_process_that_serves_another_protocol_is_never_alone_until_it_ends() {
    let mut redis = Served::new();
    redis.moved(TASK, Direction::Ingress, b"*1\r\n$4\r\nPING\r\n");
    let other = place().other;
    assert_eq!(other, u32::try_from(PROCESS).expect("small"));
    let mut served = Served::recurring();
    place().other = other;
    served.read(TASK);
    assert!(!calls().0);
    served.answered(TASK);
    assert_eq!(alone(), None);
    offload::process_ended(PROCESS);
    served.read(TASK);
    assert!(calls().0);
}

#[test]
fn a_connection_that_falls_back_leaves_no_request_open() {
    let mut served = Served::recurring();
    served.read(TASK);
    served.moved(TASK, Direction::Egress, b"nonsense\r\n\r\n");
    assert!(!served.monitor.is_offloaded());
    assert_eq!((open(), place().lone.connection, calls().0), (0, 0, false));
}

#[test]
fn a_request_whose_end_was_missed_is_open_for_an_hour_at_most() {
    let mut served = Served::recurring();
    place().requests += (1 << 32) | 1;
    served.read(TASK);
    assert!(!calls().0);
    served.answered(TASK);
    assert_eq!(open(), 1);
    served.now += OPEN_NS;
    served.read(TASK);
    assert_eq!((open(), calls().0), (1, true));
}

#[test]
fn calls_of_a_process_are_reported_where_user_space_expects_a_request_that_it_follows() {
    let mut served = Served::recurring();
    place().armed = armed(u32::try_from(PROCESS).expect("small"));
    for _ in 0..CALLS_MAX {
        assert_eq!(calls(), (true, true));
    }
    assert_eq!(calls(), (false, false));
    place().armed = armed(9);
    assert_eq!(calls(), (false, false));
    // They are with a request that the programs follow.
    place().armed = armed(u32::try_from(PROCESS).expect("small"));
    served.read(TASK);
    assert_eq!((place().armed, calls()), (0, (true, true)));
    place().armed = armed(u32::try_from(PROCESS).expect("small"));
    served.read(TASK);
    assert_eq!(calls(), (false, false), "which one they are made for is not known");
}
