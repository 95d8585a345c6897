//! Spans of clients that wait for the span of the server's exchange during which they were made.
//!
//! A thread or goroutine that serves one request after the other makes its calls for the request that it serves. The programs in the kernel
//! know which do ([`porthole_bpf_types::thread`]); of those they sample an exchange with the calls that are made for it, and the
//! calls come first.

use std::collections::VecDeque;

use porthole_agent_api::agent::{ParentCertainty, Span};

use super::Worker;

/// Spans that wait at a time; beyond that the oldest go on without a parent.
const WAITING_MAX: usize = 256;

/// How long one waits, nanoseconds: what serves longer is a stream rather than a request.
const WAITING_NS: u64 = 30_000_000_000;

/// A client's span that waits.
#[derive(Debug)]
struct Waiting {
    span: Span,
    /// Process and what of it made the call.
    by: (u32, Worker),
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
    pub fn wait(&mut self, span: Span, by: (u32, Worker), (start_ns, end_ns): (u64, u64)) -> Option<Span> {
        let full = self.waiting.len() >= WAITING_MAX;
        let oldest = if full { self.waiting.pop_front() } else { None };
        self.waiting.push_back(Waiting { span, by, start_ns, end_ns });
        oldest.map(|waiting| waiting.span)
    }

    /// The spans that wait for the exchange of a process's worker, which has ended: with its number as their parent, if they were made
    /// during it, and it is known that they were made for it.
    #[must_use]
    pub fn of_worker(
        &mut self,
        worker: (u32, Worker),
        (start_ns, end_ns): (u64, u64),
        parent: Option<(u64, ParentCertainty)>,
    ) -> Vec<Span> {
        let mut spans = Vec::new();
        self.waiting.retain_mut(|waiting| {
            if waiting.by != worker {
                return true;
            }
            let span = &mut waiting.span;
            if let Some((number, certainty)) = parent
                && waiting.start_ns >= start_ns
                && waiting.end_ns <= end_ns
            {
                span.parent = number;
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
