//! Threads on whose servers' connections the agent follows itself. Of their requests the programs know nothing, so what the programs
//! know of such a thread is not all that it serves.

use foldhash::{HashMap, HashMapExt as _};
use porthole_bpf_types::{kernel_key::Completed, offload::side};

use super::connections::serving;
use crate::recorder::Serving;

/// Most threads that are known at a time.
const THREADS_MAX: usize = 1024;

/// How long a thread is known after its last call, nanoseconds.
const KNOWN_NS: u64 = 60_000_000_000;

/// Threads with connections that the agent follows.
#[derive(Debug)]
pub(super) struct Threads {
    /// By process and thread: when they moved something last, nanoseconds.
    last_ns: HashMap<(u32, u32), u64>,
    /// Until when it is not known which threads there are, nanoseconds.
    unknown_until_ns: u64,
}

impl Default for Threads {
    fn default() -> Self {
        Self { last_ns: HashMap::new(), unknown_until_ns: 0 }
    }
}

impl Threads {
    /// A thread moved something on a server's connection that the agent follows.
    pub fn served(&mut self, thread: (u32, u32), now_ns: u64) {
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

    /// What the thread of an exchange that the programs paired served meanwhile.
    pub fn serving(&self, completed: &Completed) -> Serving {
        let serving = u8::try_from(completed.serving).map_or(Serving::Unknown, serving);
        let is_server = completed.key.side == u32::from(side::SERVER);
        if is_server && serving != Serving::Unknown {
            let last = self.last_ns.get(&(completed.tgid, completed.tid));
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
        threads.served((7, 8), 1_000);
        assert_eq!(threads.serving(&completed(8, 2_000, side::SERVER)), Serving::Unknown);
        assert_eq!(threads.serving(&completed(8, 2_000, side::CLIENT)), ALONE);
        assert_eq!(threads.serving(&completed(9, 2_000, side::SERVER)), ALONE);
        assert_eq!(threads.serving(&completed(8, 1_000 + KNOWN_NS, side::SERVER)), ALONE);
    }

    #[test]
    fn more_threads_than_are_kept_leave_all_unknown_for_a_while() {
        let mut threads = Threads::default();
        for tid in 0..=u32::try_from(THREADS_MAX).expect("fits") {
            threads.served((7, tid), 1_000);
        }
        assert!(threads.last_ns.len() <= THREADS_MAX);
        assert_eq!(threads.serving(&completed(5_000, 2_000, side::SERVER)), Serving::Unknown);
        assert_eq!(threads.serving(&completed(5_000, 1_000 + KNOWN_NS, side::SERVER)), ALONE);
    }

    #[test]
    fn a_number_of_another_build_is_unknown() {
        let odd = Completed { serving: 77, ..completed(8, 1, side::CLIENT) };
        assert_eq!(Threads::default().serving(&odd), Serving::Unknown);
    }
}
