//! Threads and goroutines on whose servers' connections the agent follows itself. Of their requests the programs know nothing, so what
//! the programs know of such a one is not all that it serves.

use foldhash::{HashMap, HashMapExt as _};
use porthole_bpf_types::{kernel_key::Completed, offload::side, record::kind};

use super::connections::{goroutine, serving};
use crate::recorder::{Details, Serving, Worker};

/// Most of them that are known at a time.
const THREADS_MAX: usize = 1024;

/// How long one is known after its last call, nanoseconds.
const KNOWN_NS: u64 = 60_000_000_000;

/// Those with connections that the agent follows.
#[derive(Debug)]
pub(super) struct Threads {
    /// By process and what of it: when it moved something last, nanoseconds.
    last_ns: HashMap<(u32, Worker), u64>,
    /// Until when it is not known which threads there are, nanoseconds.
    unknown_until_ns: u64,
}

impl Default for Threads {
    fn default() -> Self {
        Self { last_ns: HashMap::new(), unknown_until_ns: 0 }
    }
}

impl Threads {
    /// One moved something on a server's connection that the agent follows.
    pub fn served(&mut self, thread: (u32, Worker), now_ns: u64) {
        if let Some(last) = self.last_ns.get_mut(&thread) {
            *last = now_ns;
            return;
        }
        if self.last_ns.len() >= THREADS_MAX {
            self.last_ns.retain(|_, last| now_ns.saturating_sub(*last) < KNOWN_NS);
        }
        if self.last_ns.len() >= THREADS_MAX {
            self.last_ns.clear();
            self.unknown_until_ns = now_ns.saturating_add(KNOWN_NS);
        }
        self.last_ns.insert(thread, now_ns);
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
        Details { serving: self.serving(completed, serving(number), details.worker()), ..details }
    }

    fn serving(&self, completed: &Completed, serving: Serving, worker: (u32, Worker)) -> Serving {
        let is_server = completed.key.side == u32::from(side::SERVER);
        if is_server && serving != Serving::Unknown {
            let last = self.last_ns.get(&worker);
            let is_known = last.is_some_and(|last| completed.start.saturating_sub(*last) < KNOWN_NS);
            if is_known || completed.start < self.unknown_until_ns {
                return Serving::Unknown;
            }
        }
        serving
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
    fn more_threads_than_are_kept_leave_all_unknown_for_a_while() {
        let mut threads = Threads::default();
        for tid in 0..=u32::try_from(THREADS_MAX).expect("fits") {
            threads.served((7, Worker::Thread(tid)), 1_000);
        }
        assert!(threads.last_ns.len() <= THREADS_MAX);
        assert_eq!(threads.details(&completed(5_000, 2_000, side::SERVER)).serving, Serving::Unknown);
        assert_eq!(threads.details(&completed(5_000, 1_000 + KNOWN_NS, side::SERVER)).serving, ALONE);
    }

    #[test]
    fn a_number_of_another_build_is_unknown() {
        let odd = Completed { serving: 77, ..completed(8, 1, side::CLIENT) };
        assert_eq!(Threads::default().details(&odd).serving, Serving::Unknown);
    }
}
