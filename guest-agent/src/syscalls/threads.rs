//! Threads and goroutines on whose servers' connections the agent follows itself. Of their requests the programs know nothing, so what
//! the programs know of such a one is not all that it serves.

use foldhash::{HashMap, HashMapExt as _};
use porthole_bpf_types::{kernel_key::Completed, offload::side, record::kind};

use super::connections::{goroutine, process_serving, serving};
use crate::recorder::{Details, Serving, Worker};

/// Most of them that are known of a process at a time, of processes that come later than so many in all, and most processes of which some
/// are known. A server can have a process for each connection.
const WORKERS_MAX: usize = 256;
const WORKERS_IN_ALL: usize = 16_384;
const WORKERS_OF_MANY: usize = 16;
const PROCESSES_MAX: usize = 1_024;

/// Time between two looks through a full table, nanoseconds.
const RETAIN_NS: u64 = 1_000_000_000;

/// How long one is known after its last call, nanoseconds.
const KNOWN_NS: u64 = 60_000_000_000;

/// Those with connections that the agent follows.
#[derive(Debug)]
pub(super) struct Threads {
    processes: HashMap<u32, Process>,
    /// Until when it is not known which threads there are of processes that are not known, nanoseconds.
    unknown_until_ns: u64,
    /// When the table is next looked through for room.
    next_retain_ns: u64,
}

impl Default for Threads {
    fn default() -> Self {
        Self { processes: HashMap::new(), unknown_until_ns: 0, next_retain_ns: 0 }
    }
}

/// Those of one process.
#[derive(Debug)]
struct Process {
    /// When each one moved something last, and when any did, nanoseconds.
    workers: HashMap<Worker, u64>,
    newest_ns: u64,
    /// Until when it is not known which ones there are, nanoseconds.
    unknown_until_ns: u64,
}

impl Process {
    fn served(&mut self, worker: Worker, most: usize, now_ns: u64) {
        self.newest_ns = self.newest_ns.max(now_ns);
        if let Some(last) = self.workers.get_mut(&worker) {
            *last = now_ns;
            return;
        }
        if self.workers.len() >= most {
            self.workers.retain(|_, last| now_ns.saturating_sub(*last) < KNOWN_NS);
        }
        if self.workers.len() >= most {
            self.workers.clear();
            self.unknown_until_ns = now_ns.saturating_add(KNOWN_NS);
        }
        self.workers.insert(worker, now_ns);
    }

    fn may_have_served(&self, worker: Worker, now_ns: u64) -> bool {
        let last = self.workers.get(&worker);
        last.is_some_and(|last| now_ns.saturating_sub(*last) < KNOWN_NS) || now_ns < self.unknown_until_ns
    }
}

impl Threads {
    /// One moved something on a server's connection that the agent follows.
    pub fn served(&mut self, (process, worker): (u32, Worker), now_ns: u64) {
        if !self.processes.contains_key(&process) {
            if self.processes.len() >= PROCESSES_MAX && now_ns >= self.next_retain_ns {
                self.next_retain_ns = now_ns.saturating_add(RETAIN_NS);
                self.processes.retain(|_, process| now_ns.saturating_sub(process.newest_ns) < KNOWN_NS);
            }
            if self.processes.len() >= PROCESSES_MAX {
                self.unknown_until_ns = self.unknown_until_ns.max(now_ns.saturating_add(KNOWN_NS));
                return;
            }
        }
        let most = (WORKERS_IN_ALL / self.processes.len().max(1)).clamp(WORKERS_OF_MANY, WORKERS_MAX);
        self.processes
            .entry(process)
            .or_insert_with(|| Process {
                workers: HashMap::new(),
                newest_ns: now_ns,
                // Some can have been left out before.
                unknown_until_ns: self.unknown_until_ns,
            })
            .served(worker, most, now_ns);
    }

    /// Of an exchange that the programs paired: what moved it, and what that served meanwhile.
    pub fn details(&self, completed: &Completed) -> Details<'static> {
        // What is too large is of another build.
        let number = u8::try_from(completed.serving).unwrap_or_default();
        let details = Details {
            process: completed.tgid,
            thread: completed.tid,
            goroutine: goroutine(number, completed.goroutine),
            sampled: completed.kind == kind::SAMPLED,
            ..Details::default()
        };
        let serving = serving(number);
        if completed.key.side != u32::from(side::SERVER) {
            return Details { serving, process_serving: process_serving(number), ..details };
        }
        Details { serving: self.serving(completed, serving, details.worker()), ..details }
    }

    /// What the worker served, of a server's exchange.
    fn serving(&self, completed: &Completed, serving: Serving, (process, worker): (u32, Worker)) -> Serving {
        let may_serve_others = match self.processes.get(&process) {
            Some(process) => process.may_have_served(worker, completed.start),
            None => completed.start < self.unknown_until_ns,
        };
        if may_serve_others { Serving::Unknown } else { serving }
    }
}

#[cfg(test)]
mod tests {
    use porthole_bpf_types::{kernel_key::RequestKey, thread};

    use super::*;

    const ALONE: Serving = Serving::One { always: true, sampled: false };

    fn completed(tid: u32, start: u64, side: u16) -> Completed {
        let key = RequestKey { side: side.into(), ..RequestKey::default() };
        let serving = thread::serving::ALONE.into();
        Completed { tgid: 7, tid, start, end: start + 1, key, serving, ..Completed::default() }
    }

    #[test]
    fn a_thread_whose_connections_the_agent_follows_serves_an_unknown_number_of_requests() {
        let mut threads = Threads::default();
        threads.served((7, Worker::Thread(8)), 1_000);
        assert_eq!(threads.details(&completed(8, 2_000, side::SERVER)).serving, Serving::Unknown);
        assert_eq!(threads.details(&completed(8, 2_000, side::CLIENT)).serving, ALONE);
        assert_eq!(threads.details(&completed(9, 2_000, side::SERVER)).serving, ALONE);
        assert_eq!(threads.details(&completed(8, 1_000 + KNOWN_NS, side::SERVER)).serving, ALONE);
    }

    #[test]
    fn a_goroutine_is_known_by_its_number_and_not_by_the_thread_that_it_is_in() {
        let mut threads = Threads::default();
        let serving = (thread::serving::ALONE | thread::serving::GOROUTINE).into();
        let by = |tid, goroutine| Completed { serving, goroutine, ..completed(tid, 2_000, side::SERVER) };
        threads.served((7, Worker::Thread(8)), 1_000);
        threads.served((7, Worker::Goroutine(14)), 1_000);
        let details = threads.details(&by(8, 28));
        assert_eq!((details.worker(), details.serving), ((7, Worker::Goroutine(28)), ALONE));
        assert_eq!(threads.details(&by(9, 14)).serving, Serving::Unknown);
    }

    #[test]
    fn more_than_are_kept_of_a_process_leave_all_of_that_one_unknown_for_a_while() {
        let mut threads = Threads::default();
        for number in 0..=u32::try_from(WORKERS_MAX).expect("fits") {
            threads.served((7, Worker::Goroutine(number)), 1_000);
        }
        threads.served((6, Worker::Thread(6)), 1_000);
        assert!(threads.processes[&7].workers.len() <= WORKERS_MAX);
        assert_eq!(threads.details(&completed(5_000, 2_000, side::SERVER)).serving, Serving::Unknown);
        assert_eq!(threads.details(&completed(5_000, 1_000 + KNOWN_NS, side::SERVER)).serving, ALONE);
        for (tgid, tid, serving) in [(6, 6, Serving::Unknown), (6, 5_000, ALONE), (5, 5_000, ALONE)] {
            let other = Completed { tgid, ..completed(tid, 2_000, side::SERVER) };
            assert_eq!(threads.details(&other).serving, serving, "{tgid} {tid}");
        }
    }

    #[test]
    fn more_processes_than_are_kept_leave_the_others_unknown_for_a_while() {
        let mut threads = Threads::default();
        let most = u32::try_from(PROCESSES_MAX).expect("fits");
        for process in 0..=most {
            threads.served((process, Worker::Thread(8)), 1_000);
        }
        assert_eq!(threads.processes.len(), PROCESSES_MAX);
        let serving = |threads: &Threads, tgid, tid, start| {
            threads.details(&Completed { tgid, ..completed(tid, start, side::SERVER) }).serving
        };
        assert_eq!(serving(&threads, 0, 9, 2_000), ALONE, "one that is known");
        assert_eq!(serving(&threads, most, 8, 2_000), Serving::Unknown);
        assert_eq!(serving(&threads, most, 8, 1_000 + KNOWN_NS), ALONE);
        // The known ones have moved nothing for so long that they make room.
        threads.served((most, Worker::Thread(8)), 1_000 + KNOWN_NS);
        assert_eq!(threads.processes.len(), 1);
    }

    #[test]
    fn a_server_with_a_process_for_each_connection_leaves_others_known() {
        let mut threads = Threads::default();
        for process in 100..600 {
            for thread in 0..WORKERS_OF_MANY {
                let thread = u32::try_from(thread).expect("fits");
                threads.served((process, Worker::Thread(thread)), 1_000);
            }
        }
        assert_eq!(threads.details(&completed(8, 2_000, side::SERVER)).serving, ALONE);
        let of_one = Completed { tgid: 599, ..completed(50, 2_000, side::SERVER) };
        assert_eq!(threads.details(&of_one).serving, ALONE);
        let workers = threads.processes.values().map(|process| process.workers.len());
        assert!(workers.sum::<usize>() <= WORKERS_IN_ALL);
    }

    #[test]
    fn a_number_of_another_build_is_unknown() {
        let odd = Completed { serving: 77, ..completed(8, 1, side::CLIENT) };
        assert_eq!(Threads::default().details(&odd).serving, Serving::Unknown);
    }
}
