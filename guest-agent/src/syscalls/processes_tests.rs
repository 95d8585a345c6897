use std::{fs::File, os::fd::OwnedFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use porthole_bpf_types::process::{PROCESSES_MAX as PLACES, ServingProcess};

use super::*;
use crate::recorder::SpanPolicy;

/// A process, and its connections.
struct Served {
    processes: Processes,
    open: [usize; 3],
}

impl Served {
    fn new() -> Self {
        Self { processes: Processes::default(), open: [0; 3] }
    }

    /// So many requests are open on a connection from this time on, and those that began at these times have ended.
    fn moved(
        &mut self,
        connection: usize,
        after: Option<usize>,
        ended: &[u64],
        at_ns: u64,
    ) -> ProcessServing {
        let ended: Vec<_> = ended.iter().map(|start| (*start, at_ns)).collect();
        let before = std::mem::replace(&mut self.open[connection], after.unwrap_or(0));
        let connection = connection as u64;
        self.processes.moved(7, &Moved { connection, before, after, ended: &ended, began_ns: at_ns, at_ns })
    }

    fn begins(&mut self, connection: usize, at_ns: u64) {
        self.moved(connection, Some(self.open[connection] + 1), &[], at_ns);
    }

    fn ends(&mut self, connection: usize, start_ns: u64, at_ns: u64) -> Option<(u64, u64)> {
        self.moved(connection, Some(self.open[connection] - 1), &[start_ns], at_ns).alone()
    }
}

fn completed(from: u64, until: u64) -> Completed {
    let serving = (serving::PROCESS | serving::REPORTED).into();
    Completed { tgid: 7, start: from, end: until, alone: [from, until], serving, ..Completed::default() }
}

#[test]
fn a_request_is_alone_until_another_one_begins_and_from_where_the_one_before_it_has_ended() {
    let mut served = Served::new();
    served.begins(0, 10);
    assert_eq!(served.ends(0, 10, 20), Some((10, 20)));
    served.begins(0, 30);
    served.begins(1, 40);
    assert_eq!(served.ends(0, 30, 50), Some((30, 40)));
    assert_eq!(served.ends(1, 40, 60), Some((50, 60)));
    for connection in 0..3 {
        served.begins(connection, 70);
    }
    assert_eq!(served.ends(1, 70, 80), None);
    assert_eq!(served.ends(0, 70, 81), Some((70, 70)));
    assert_eq!(served.ends(2, 70, 82), None, "it is not known which one is left");
    served.begins(2, 90);
    assert_eq!(served.ends(2, 90, 91), Some((90, 91)));
}

#[test]
fn a_response_can_end_before_its_connection_does() {
    let mut served = Served::new();
    served.begins(0, 10);
    served.begins(1, 22);
    let moved =
        Moved { connection: 0, before: 1, after: Some(0), ended: &[(10, 20)], began_ns: 30, at_ns: 30 };
    assert_eq!(served.processes.moved(7, &moved).alone(), Some((10, 22)));
    assert_eq!(served.ends(1, 22, 40), Some((22, 40)));
}

#[test]
fn of_one_connection_another_request_can_end_first() {
    let mut served = Served::new();
    served.begins(0, 10);
    served.begins(0, 20);
    assert_eq!(served.ends(0, 20, 30), None);
    assert_eq!(served.ends(0, 10, 40), Some((10, 20)));
    // Two that begin, or end, at once.
    served.moved(0, Some(2), &[], 50);
    assert_eq!(served.moved(0, Some(0), &[50, 50], 60), ProcessServing::Unknown);
}

#[test]
fn nothing_is_claimed_of_a_process_for_a_while_after_what_is_not_seen() {
    let mut unknown = Served::new();
    unknown.moved(1, None, &[], 5);
    let mut ignored = Served::new();
    ignored.processes.left(7, (1, 0), 5, true);
    let mut missed = Served::new();
    missed.processes.missed(7, 5);
    for (mut served, until) in [(unknown, UNSEEN_NS), (ignored, IGNORED_NS), (missed, UNSEEN_NS)] {
        for (at, alone) in [(10, false), (until + 4, false), (until + 5, true)] {
            let paired = served.processes.of_completed(&completed(at, at + 1)).alone();
            served.begins(0, at);
            let followed = served.ends(0, at, at + 1);
            assert_eq!((paired.is_some(), followed.is_some()), (alone, alone), "{at}");
        }
    }
}

#[test]
fn a_request_that_the_programs_paired_was_alone_where_none_was_open_here() {
    let mut served = Served::new();
    let alone = |served: &Served, from, until| served.processes.of_completed(&completed(from, until)).alone();
    assert_eq!(alone(&served, 10, 20), Some((10, 20)));
    served.begins(0, 15);
    assert_eq!(alone(&served, 10, 20), None);
    let call = |process, at| served.processes.of_call(process, ProcessServing::Unknown, at);
    assert_eq!(call(7, 20), ProcessServing::Followed);
    assert_eq!(call(7, 15 + WAITING_NS), ProcessServing::Unknown, "a stream");
    assert_eq!(call(8, 20), ProcessServing::Unknown);
    served.ends(0, 15, 30);
    assert_eq!((alone(&served, 20, 40), alone(&served, 30, 40)), (None, Some((30, 40))));
}

#[test]
fn more_processes_than_are_kept_leave_the_others_unknown_for_a_while() {
    let mut processes = Processes::default();
    for process in 0..=u32::try_from(PROCESSES_MAX).expect("small") {
        processes.missed(100 + process, 5);
    }
    assert_eq!(processes.table.len(), PROCESSES_MAX);
    assert_eq!(processes.of_completed(&completed(10, 20)), ProcessServing::Unknown);
    let later = UNSEEN_NS + 5;
    assert!(processes.of_completed(&completed(later, later + 1)).alone().is_some());
}

/// What the programs know of processes: nothing yet.
fn places() -> (Places, OwnedFd) {
    let memory = memfd_create("places", MFdFlags::empty()).expect("memory");
    let bytes = u64::from(PLACES) * size_of::<ServingProcess>() as u64;
    File::from(memory.try_clone().expect("cloned")).set_len(bytes).expect("long enough");
    (Places::map(memory.try_clone().expect("cloned")).expect("mapped"), memory)
}

#[test]
fn a_request_is_not_alone_where_the_programs_followed_one_meanwhile() {
    let (places, memory) = places();
    let writing = Places::map(memory).expect("mapped");
    let mut served = Served::new();
    served.processes.set_places(places);
    let none = ServingProcess::default();
    let before = ServingProcess { ended: 10, requests: 5 << 32, ..none };
    let one_ended = ServingProcess { ended: 31, ..none };
    let one_is_open = ServingProcess { requests: (5 << 32) | 1, ..none };
    let another_protocol = ServingProcess { other: 7, ..none };
    let all = [(before, true), (one_ended, false), (one_is_open, false), (another_protocol, false)];
    for (at, (place, alone)) in [10, 30, 50, 70].into_iter().zip(all) {
        writing.write(7, place);
        served.begins(0, at);
        assert_eq!(served.ends(0, at, at + 5).is_some(), alone, "{place:?}");
    }
}

#[test]
fn the_next_calls_of_a_process_that_serves_one_request_at_a_time_are_reported_when_a_span_is_due() {
    let (places, memory) = places();
    let reading = Places::map(memory).expect("mapped");
    let mut served = Served::new();
    served.processes.set_places(places);
    let mut spans = SpanSampler::default();
    spans.set_policy(SpanPolicy { interval_ns: 100, ..SpanPolicy::default() });
    let mut recorded = |at: u64, is_alone: bool| {
        served.begins(0, at);
        let mut process_serving = served.moved(0, Some(0), &[at], at + 1);
        if !is_alone {
            process_serving = ProcessServing::Unknown;
        }
        let details = Details { process: 7, process_serving, ..Details::default() };
        served.processes.recorded(&details, at + 1, &spans);
        reading.read(7).armed
    };
    assert_eq!(recorded(10, false), 0);
    assert_eq!(recorded(20, true), porthole_bpf_types::process::armed(7));
    assert_ne!(recorded(30, true), 0, "no call has come");
    assert_eq!(recorded(40, false), 0);
    assert_eq!(recorded(50, true), 0, "a short while ago");
    assert_ne!(recorded(120, true), 0);
}
