//! Spans of clients that wait for the span of the server's exchange during which they were made.
//!
//! A thread or goroutine that serves one request after the other makes its calls for the request that it serves. The programs in the kernel
//! know which do ([`porthole_bpf_types::thread`]); of those they sample an exchange with the calls that are made for it, and the
//! calls come first. So it is with a process that serves one request ([`porthole_bpf_types::process`]), whichever threads call.

use std::collections::VecDeque;

use porthole_agent_api::agent::{ParentCertainty, Span};

use super::{Details, ProcessServing, Worker};

/// Spans that wait at a time; beyond that the oldest go on without a parent.
const WAITING_MAX: usize = 256;

/// How long one waits, nanoseconds: what serves longer is a stream rather than a request.
pub const WAITING_NS: u64 = 30_000_000_000;

/// A client's span that waits.
#[derive(Debug)]
struct Waiting {
    span: Span,
    /// Process and what of it made the call.
    by: (u32, Worker),
    /// Its process served one request when it was made.
    in_lone_request: bool,
    /// When it began and ended, nanoseconds of the monotonic clock: the wall clock can be set in between.
    start_ns: u64,
    end_ns: u64,
}

/// Spans that wait for their parents, in the order in which they ended.
#[derive(Debug, Default)]
pub(super) struct Parents {
    waiting: VecDeque<Waiting>,
}

impl Parents {
    /// Keeps a client's span; gives one that has to go on for it.
    #[must_use]
    pub fn wait(
        &mut self,
        span: Span,
        details: &Details<'_>,
        (start_ns, end_ns): (u64, u64),
    ) -> Option<Span> {
        let full = self.waiting.len() >= WAITING_MAX;
        let oldest = if full { self.waiting.pop_front() } else { None };
        let in_lone_request = details.process_serving != ProcessServing::Unknown;
        self.waiting.push_back(Waiting { span, by: details.worker(), in_lone_request, start_ns, end_ns });
        oldest.map(|waiting| waiting.span)
    }

    /// Whether calls wait that the process of a server's exchange, which has ended, made while it served that alone.
    pub fn has_calls_of(&self, details: &Details<'_>, (start_ns, end_ns): (u64, u64)) -> bool {
        let Some((from_ns, until_ns)) = details.process_serving.alone() else { return false };
        self.waiting.iter().any(|waiting| {
            waiting.in_lone_request
                && waiting.by.0 == details.process
                && waiting.start_ns >= from_ns.max(start_ns)
                && waiting.end_ns <= until_ns.min(end_ns)
        })
    }

    /// The spans that wait for a server's exchange, which has ended: with its span as their parent, if they were made during it, and it is
    /// known that they were made for it.
    #[must_use]
    pub fn of_request(
        &mut self,
        details: &Details<'_>,
        (start_ns, end_ns): (u64, u64),
        parent: Option<&Span>,
    ) -> Vec<Span> {
        let mut spans = Vec::new();
        let (worker, certainty) = (details.worker(), details.certainty());
        let alone = details.process_serving.alone();
        self.waiting.retain_mut(|waiting| {
            let is_during = |(from_ns, until_ns): (u64, u64)| {
                waiting.start_ns >= from_ns.max(start_ns) && waiting.end_ns <= until_ns.min(end_ns)
            };
            let is_worker = waiting.by == worker;
            let by_worker = is_worker && is_during((start_ns, end_ns));
            let by_process = waiting.in_lone_request
                && waiting.by.0 == worker.0
                && alone.is_some_and(is_during)
                && !differs(&waiting.span, parent);
            // Those of another request of their process wait for it.
            if !(by_worker || by_process || is_worker && !waiting.in_lone_request) {
                return true;
            }
            let certainty = certainty
                .filter(|_| by_worker)
                .or(by_process.then_some(ParentCertainty::PARENT_CERTAINTY_PROCESS));
            let span = &mut waiting.span;
            if let Some((parent, certainty)) = parent.zip(certainty) {
                span.parent = parent.number;
                span.certainty = certainty.into();
            }
            spans.push(std::mem::take(span));
            false
        });
        spans
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those that have waited too long.
    #[must_use]
    pub fn expired(&mut self, now_ns: u64) -> Vec<Span> {
        let since = |waiting: &Waiting| now_ns.saturating_sub(waiting.end_ns);
        let late = self.waiting.iter().take_while(|waiting| since(waiting) > WAITING_NS).count();
        self.waiting.drain(..late).map(|waiting| waiting.span).collect()
    }

    /// All of them.
    #[must_use]
    pub fn take(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.waiting).into_iter().map(|waiting| waiting.span).collect()
    }
}

/// Whether the requests of two spans have trace contexts with other ids.
fn differs(span: &Span, parent: Option<&Span>) -> bool {
    let of_parent = parent.map(|parent| &parent.trace_id).filter(|trace| !trace.is_empty());
    !span.trace_id.is_empty() && of_parent.is_some_and(|trace| *trace != span.trace_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Serving;

    const ONE: ProcessServing = ProcessServing::One { sampled: true };

    fn by(thread: u32, process_serving: ProcessServing) -> Details<'static> {
        Details { process: 7, thread, process_serving, ..Details::default() }
    }

    fn alone(during: (u64, u64)) -> ProcessServing {
        ProcessServing::Alone { during, sampled: true }
    }

    fn span(number: u64) -> Span {
        Span { number, ..Span::default() }
    }

    /// Calls that a process made while it served one request, at these times.
    fn waiting(times: &[(u64, u64)]) -> Parents {
        let mut parents = Parents::default();
        for (number, times) in (1..).zip(times) {
            assert_eq!(parents.wait(span(number), &by(8, ONE), *times), None);
        }
        parents
    }

    /// Of each span its number, its parent's, and how that is known.
    fn claimed(spans: &[Span]) -> Vec<(u64, u64, ParentCertainty)> {
        spans.iter().map(|span| (span.number, span.parent, span.certainty.enum_value_or_default())).collect()
    }

    use ParentCertainty::{PARENT_CERTAINTY_PROCESS as PROCESS, PARENT_CERTAINTY_THREAD as THREAD};

    #[test]
    fn calls_that_a_process_made_while_it_served_one_request_are_below_it_in_whichever_threads() {
        let mut parents = waiting(&[(10, 20), (20, 60)]);
        let _ = parents.wait(span(3), &by(8, ProcessServing::Unknown), (10, 20));
        let _ = parents.wait(span(4), &Details { process: 6, ..by(8, ONE) }, (10, 20));
        let request = (&by(9, alone((5, 50))), (0, 50), &span(9));
        let found = parents.of_request(request.0, request.1, Some(request.2));
        assert_eq!(claimed(&found), [(1, 9, PROCESS)]);
        assert_eq!(parents.take().len(), 3);
    }

    #[test]
    fn what_the_thread_shows_comes_first() {
        let mut parents = waiting(&[(10, 20)]);
        let thread =
            Details { serving: Serving::One { always: true, sampled: true }, ..by(8, alone((5, 50))) };
        assert_eq!(claimed(&parents.of_request(&thread, (5, 50), Some(&span(9)))), [(1, 9, THREAD)]);
    }

    #[test]
    fn calls_wait_for_the_request_that_was_the_only_one_when_they_were_made() {
        // The first one ends when the second one has begun, and the third one's process serves several.
        let mut parents = waiting(&[(10, 20), (25, 45), (40, 50)]);
        let unknown = by(8, ProcessServing::Unknown);
        assert_eq!(parents.of_request(&unknown, (15, 60), Some(&span(7))).len(), 2, "the thread's");
        let first = parents.of_request(&by(9, alone((5, 30))), (5, 35), Some(&span(8)));
        assert_eq!(claimed(&first), [(1, 8, PROCESS)]);
    }

    #[test]
    fn calls_are_below_no_request_of_another_trace() {
        for (call, request, parent) in [(1, 1, 9), (1, 2, 0), (0, 2, 9), (1, 0, 9)] {
            let trace = |id: u8| if id == 0 { Vec::new() } else { vec![id; 16] };
            let mut parents = Parents::default();
            let call = Span { trace_id: trace(call), ..span(1) };
            let _ = parents.wait(call, &by(8, ONE), (10, 20));
            let request = Span { trace_id: trace(request), ..span(9) };
            let mut found = parents.of_request(&by(9, alone((5, 50))), (5, 50), Some(&request));
            found.extend(parents.take());
            assert_eq!(found[0].parent, parent);
        }
    }
}
