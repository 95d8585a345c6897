//! Processes whose requests the agent follows itself: which of those a process served alone. The same rule as the programs' for the
//! requests that they follow ([`porthole_bpf_types::process`]), and here what both follow comes together.
//!
//! ```text
//! chunk of a server's connection ─► requests that begin and end ─► alone from .. until, unless the programs had one open
//! exchange that the programs paired                             ─► alone as in its record, unless one was open here
//! ```
//!
//! Of a connection whose protocol does not show here what is open, nothing is claimed for a while.

use foldhash::{HashMap, HashMapExt as _};
use porthole_bpf_types::{
    kernel_key::Completed,
    offload::{OffloadedConnection, PENDING_MAX, side},
    thread::serving,
};

use crate::{
    kernel::places::Places,
    recorder::{Details, ProcessServing, SpanSampler, parents::WAITING_NS},
};

/// Most processes of which something is known. A server can have a process for each connection.
const PROCESSES_MAX: usize = 1_024;

/// Time between two looks through a full table, nanoseconds.
const RETAIN_NS: u64 = 1_000_000_000;

/// How long nothing is claimed of a process after the last byte on a connection whose requests are not seen, nanoseconds.
const UNSEEN_NS: u64 = 60_000_000_000;

/// The same after the agent began to ignore one, of which it does not see further bytes.
const IGNORED_NS: u64 = 3_600_000_000_000;

/// The processes.
#[derive(Debug)]
pub(super) struct Processes {
    table: HashMap<u32, Process>,
    /// Until when it is not known what processes serve that are not in the table, nanoseconds.
    unknown_until_ns: u64,
    /// When the table is next looked through for room.
    next_retain_ns: u64,
    /// What the programs know.
    places: Option<Places>,
}

impl Default for Processes {
    fn default() -> Self {
        Self { table: HashMap::new(), unknown_until_ns: 0, next_retain_ns: 0, places: None }
    }
}

/// One process.
#[derive(Debug, Default)]
struct Process {
    /// Requests that are open, and that ever began.
    open: usize,
    begun: u64,
    /// The request that is alone, or was until the next one began; and that one.
    lone: Option<Lone>,
    next: Option<Lone>,
    /// When one ended last, nanoseconds.
    ended_ns: u64,
    /// Until when nothing is claimed.
    unseen_until_ns: u64,
    /// When something moved last.
    last_ns: u64,
    /// When its next calls were last reported, and whether they still are.
    armed_ns: Option<u64>,
    is_armed: bool,
}

/// A request that may be alone.
#[derive(Clone, Copy, Debug)]
struct Lone {
    connection: u64,
    /// [`Process::begun`] when it had begun.
    number: u64,
    /// When it began: another request of its connection began later.
    began_ns: u64,
    /// Since when it is alone.
    from_ns: u64,
}

/// What moved on a connection of a server that is followed here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved<'a> {
    pub connection: u64,
    /// Requests that were open before, and are now; none where that is not known.
    pub before: usize,
    pub after: Option<usize>,
    /// When each exchange that ended began and ended, nanoseconds: it can have ended before that was seen.
    pub ended: &'a [(u64, u64)],
    /// When the first one that began did; and when it moved.
    pub began_ns: u64,
    pub at_ns: u64,
}

impl Process {
    fn begins(&mut self, moved: &Moved<'_>, requests: usize) {
        let before = self.open;
        self.open += requests;
        self.begun += requests as u64;
        let request = (requests == 1).then_some(Lone {
            connection: moved.connection,
            number: self.begun,
            began_ns: moved.began_ns,
            from_ns: self.ended_ns,
        });
        if before == 0 {
            (self.lone, self.next) = (request, None);
        } else if self.lone.is_some_and(|lone| lone.number + 1 == self.begun) {
            self.next = request;
        }
    }

    /// Requests have ended, one of which began then; gives from when until when that was alone.
    fn ends(
        &mut self,
        moved: &Moved<'_>,
        requests: usize,
        exchange: Option<(u64, u64)>,
    ) -> Option<(u64, u64)> {
        let (start_ns, end_ns) =
            (exchange.map(|times| times.0), exchange.map_or(moved.at_ns, |times| times.1));
        self.open = self.open.saturating_sub(requests);
        let lone = self.lone.filter(|lone| lone.connection == moved.connection);
        // Of one connection another one can end before it.
        let is_lone = start_ns.is_none_or(|start| lone.is_some_and(|lone| start <= lone.began_ns));
        let mut alone = None;
        if let Some(lone) = lone
            && is_lone
        {
            self.lone = None;
            let next = self.next.filter(|next| next.number == lone.number + 1);
            let until = if self.begun == lone.number { Some(end_ns) } else { next.map(|next| next.began_ns) };
            alone = start_ns.zip(until).map(|(start, until)| (start.max(lone.from_ns), until));
            if self.open == 1 && next.is_some_and(|next| next.number == self.begun) {
                self.lone = next.map(|next| Lone { from_ns: end_ns, ..next });
                self.next = None;
            }
        }
        self.ended_ns = self.ended_ns.max(end_ns);
        alone.filter(|_| requests == 1)
    }

    /// Something moved; gives from when until when the request was alone that has ended, if it is one.
    fn moved(&mut self, moved: &Moved<'_>) -> Option<(u64, u64)> {
        let Some(after) = moved.after else {
            self.unseen_until_ns = self.unseen_until_ns.max(moved.at_ns.saturating_add(UNSEEN_NS));
            self.leaves(moved);
            return None;
        };
        let ended = moved.ended.len();
        let begin = (after + ended).saturating_sub(moved.before);
        if begin > 0 {
            self.begins(moved, begin);
        }
        let gone = (moved.before + begin).saturating_sub(after);
        if gone == 0 {
            return None;
        }
        let start = if gone == 1 { moved.ended.first().copied() } else { None };
        self.ends(moved, gone, start)
    }

    /// A connection is no longer followed here.
    fn leaves(&mut self, moved: &Moved<'_>) {
        if moved.before > 0 {
            self.ends(moved, moved.before, None);
        }
    }

    fn is_unseen(&self, at_ns: u64) -> bool {
        at_ns < self.unseen_until_ns
    }
}

impl Processes {
    /// Looks into what the programs know, from now on.
    pub fn set_places(&mut self, places: Places) {
        self.places = Some(places);
    }

    fn get(&mut self, process: u32, now_ns: u64) -> Option<&mut Process> {
        if !self.table.contains_key(&process) {
            if self.table.len() >= PROCESSES_MAX && now_ns >= self.next_retain_ns {
                self.next_retain_ns = now_ns.saturating_add(RETAIN_NS);
                let is_kept = |process: &Process| {
                    process.open > 0
                        || process.is_unseen(now_ns)
                        || now_ns.saturating_sub(process.last_ns) < UNSEEN_NS
                };
                self.table.retain(|_, process| is_kept(process));
            }
            if self.table.len() >= PROCESSES_MAX {
                self.unknown_until_ns = self.unknown_until_ns.max(now_ns.saturating_add(UNSEEN_NS));
                return None;
            }
            // Some can have been left out before.
            let unseen_until_ns = self.unknown_until_ns;
            self.table.insert(process, Process { unseen_until_ns, ..Process::default() });
        }
        let entry = self.table.get_mut(&process)?;
        entry.last_ns = entry.last_ns.max(now_ns);
        Some(entry)
    }

    /// Something moved on a connection of a server; gives what the process served while it served the request that has ended, if it is
    /// one.
    pub fn moved(&mut self, process: u32, moved: &Moved<'_>) -> ProcessServing {
        let Some(entry) = self.get(process, moved.at_ns) else { return ProcessServing::Unknown };
        let Some((from, until)) = entry.moved(moved) else { return ProcessServing::Unknown };
        if entry.is_unseen(from)
            || self.places.as_ref().is_some_and(|places| places.may_overlap(process, from))
        {
            return ProcessServing::Unknown;
        }
        ProcessServing::Alone { during: (from, until), sampled: false }
    }

    /// A connection with so many open requests is followed no longer: by no one, where it is `ignored`.
    pub fn left(&mut self, process: u32, (connection, before): (u64, usize), at_ns: u64, ignored: bool) {
        let Some(entry) = self.get(process, at_ns) else { return };
        entry.leaves(&Moved { connection, before, after: None, ended: &[], began_ns: at_ns, at_ns });
        if ignored {
            entry.unseen_until_ns = entry.unseen_until_ns.max(at_ns.saturating_add(IGNORED_NS));
        }
    }

    /// Bytes or records of a connection are missing: requests can be open that are not seen.
    pub fn missed(&mut self, process: u32, at_ns: u64) {
        if let Some(entry) = self.get(process, at_ns) {
            entry.unseen_until_ns = entry.unseen_until_ns.max(at_ns.saturating_add(UNSEEN_NS));
        }
    }

    /// What a process served when its call ended, where the programs do not know it. What is open for long is a stream.
    pub fn of_call(&self, process: u32, known: ProcessServing, at_ns: u64) -> ProcessServing {
        let is_new = |lone: Lone| at_ns.saturating_sub(lone.began_ns) < WAITING_NS;
        let serves_one = |process: &Process| process.open == 1 && process.lone.is_some_and(is_new);
        if known == ProcessServing::Unknown && self.table.get(&process).is_some_and(serves_one) {
            return ProcessServing::Followed;
        }
        known
    }

    /// What the process served while it served a request that the programs followed.
    pub fn of_completed(&self, completed: &Completed) -> ProcessServing {
        // What is too large is of another build.
        let number = u8::try_from(completed.serving).unwrap_or_default();
        let [from, until] = completed.alone;
        let is_alone = match self.table.get(&completed.tgid) {
            Some(process) => process.open == 0 && process.ended_ns <= from && !process.is_unseen(from),
            None => from >= self.unknown_until_ns,
        };
        if !is_alone || number & serving::PROCESS == 0 {
            return ProcessServing::Unknown;
        }
        ProcessServing::Alone { during: (from, until), sampled: number & serving::REPORTED != 0 }
    }

    /// A request that is followed here has ended, and these are the spans. The next calls of a process that serves one request at a time
    /// are reported when a span is due again, so that the request that they are made for has them.
    pub fn recorded(&mut self, details: &Details<'_>, at_ns: u64, spans: &SpanSampler) {
        let process = details.process;
        let (Some(places), Some(entry)) = (&self.places, self.table.get_mut(&process)) else { return };
        let is_alone = details.process_serving.alone().is_some_and(|(_, until)| until >= at_ns);
        if entry.is_armed && (spans.has_claimed() || !is_alone) {
            places.arm(process, false);
            entry.is_armed = false;
        }
        let Some(interval_ns) = spans.interval_ns() else { return };
        if is_alone && entry.armed_ns.is_none_or(|armed| at_ns.saturating_sub(armed) >= interval_ns) {
            places.arm(process, true);
            (entry.armed_ns, entry.is_armed) = (Some(at_ns), true);
        }
    }
}

/// When the oldest request of a server that is not answered began, nanoseconds; none where all are.
pub(super) fn oldest_start(offloaded: &OffloadedConnection) -> Option<u64> {
    let index = offloaded.popped as usize % PENDING_MAX;
    let is_open = offloaded.side == side::SERVER && offloaded.popped != offloaded.pushed;
    is_open.then(|| offloaded.pending[index].start)
}

#[cfg(test)]
#[path = "processes_tests.rs"]
mod tests;
