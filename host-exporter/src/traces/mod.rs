//! Traces: the spans of one request through several sandboxes of a tenant, joined on the host.
//!
//! ```text
//! spans of a tenant ─► calls: both ends of one call   ─┐
//!                   └► within: a client under its server ─┴─► a forest ─► one trace each
//! ```
//!
//! Nothing is added to what programs send each other. A client's span and a server's are one call when both sandboxes report the same
//! connection, with addresses that the host knows as theirs, and their times agree within the error of their clocks ([`calls`]); what is
//! left, when both requests carry the same context ([`contexts`]). Within a sandbox a client's span belongs to the server's span during
//! which it was made, where its agent reports that or its thread shows it ([`within`]). What is ambiguous stays unjoined: then there are
//! several traces where one could be.
//!
//! Invariants:
//! - traces are made from one tenant's spans alone;
//! - a call needs a record of each end. What is joined by a connection, a sandbox that makes up spans changes for its own calls alone;
//!   what is joined by a context, also for calls of other sandboxes of its tenant, if it knows their ids;
//! - a trace's id is the host's own, or that of its first span's own context: no span below it changes it;
//! - every join has its certainty, and every place in time its error.

mod calls;
mod contexts;
mod interval;
mod within;

use std::{collections::BTreeSet, sync::Arc};

use self::{calls::Call, interval::Interval};
use crate::{
    ids::{IdKeys, SpanId, TraceId},
    protocol::{ErrorClass, ParentCertainty, SpanReason},
    spans::Kept,
};

/// How it is known that a span belongs below another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Both ends of one connection report it.
    Connection,
    /// Both ends report the ids that the request carries, which the caller chose.
    Propagated,
    /// It was made during the request of the other one, which is known by this.
    Within(ParentCertainty),
}

impl Certainty {
    /// The word in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Propagated => ParentCertainty::Propagated.as_str(),
            Self::Within(certainty) => certainty.as_str(),
        }
    }
}

/// A span in its trace.
#[derive(Clone, Debug)]
pub struct TraceSpan {
    /// The span.
    pub kept: Arc<Kept>,
    /// Its id.
    pub id: SpanId,
    /// The span that it is below, by its place in [`Trace::spans`], and how that is known.
    pub parent: Option<(usize, Certainty)>,
    /// Spans above it.
    pub depth: usize,
    /// When it began by the host's clock, nanoseconds since 1970-01-01T00:00:00Z.
    pub start_unix_ns: u64,
    /// How far its beginning can be from there, relative to the beginning of the trace's first span, nanoseconds.
    pub clock_error_ns: u64,
}

/// A tree of spans.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Its id.
    pub id: TraceId,
    /// Depth first, by their beginnings; the first one is above all others.
    pub spans: Vec<TraceSpan>,
    /// How far the host's clock can be from the first one's times, nanoseconds.
    pub clock_error_ns: u64,
}

impl Trace {
    /// The span above all others.
    pub fn root(&self) -> &TraceSpan {
        &self.spans[0]
    }

    /// Spans that failed.
    pub fn errors(&self) -> usize {
        self.spans.iter().filter(|span| span.kept.error != ErrorClass::None).count()
    }

    /// Whether something in it failed or was slow.
    pub fn is_marked(&self) -> bool {
        self.spans.iter().any(|span| span.kept.span.reason != SpanReason::Rate)
    }

    /// When the last of its spans came, milliseconds since 1970-01-01T00:00:00Z.
    pub fn received_unix_ms(&self) -> u64 {
        self.spans.iter().map(|span| span.kept.reception.unix_ms).max().unwrap_or_default()
    }

    /// The applications that it went through.
    pub fn services(&self) -> BTreeSet<&str> {
        self.spans.iter().map(|span| span.kept.identity.service_name.as_str()).collect()
    }
}

/// The traces of one tenant's spans, which are in the order in which they came.
pub fn assemble(spans: &[Arc<Kept>], keys: &IdKeys) -> Vec<Trace> {
    let mut forest = Forest::new(spans.len());
    let calls = calls::join(spans);
    for call in &calls {
        forest.link_call(call);
    }
    for (client, server, certainty) in within::link(spans) {
        // Both have one clock.
        let link = Link { parent: server, certainty: Certainty::Within(certainty), shift: Interval::ZERO };
        forest.link(client, link);
    }
    // At last: a server's span that is above the client's is no server of its.
    for call in contexts::join(spans, &calls) {
        forest.link_call(&call);
    }
    let children = forest.children();
    let roots = (0..spans.len()).filter(|at| forest.links[*at].is_none());
    roots.map(|root| Tree { spans, keys, children: &children, links: &forest.links }.trace(root)).collect()
}

#[derive(Clone, Copy, Debug)]
struct Link {
    parent: usize,
    certainty: Certainty,
    /// What the span's clock has to be moved by to show the time of the one above.
    shift: Interval,
}

/// Links of spans to the ones above them, without circles.
struct Forest {
    links: Vec<Option<Link>>,
    /// For each span another one of its tree, or itself.
    sets: Vec<usize>,
}

impl Forest {
    fn new(spans: usize) -> Self {
        Self { links: vec![None; spans], sets: (0..spans).collect() }
    }

    /// One span for all of a tree.
    fn set_of(&mut self, mut span: usize) -> usize {
        while self.sets[span] != span {
            self.sets[span] = self.sets[self.sets[span]];
            span = self.sets[span];
        }
        span
    }

    /// Puts a span below another one, if it is below none and the other one is not below it.
    fn link(&mut self, child: usize, link: Link) {
        let (of_child, of_parent) = (self.set_of(child), self.set_of(link.parent));
        if self.links[child].is_none() && of_child != of_parent {
            self.links[child] = Some(link);
            self.sets[of_child] = of_parent;
        }
    }

    fn link_call(&mut self, call: &Call) {
        let link = Link { parent: call.client, certainty: call.certainty, shift: call.shift };
        self.link(call.server, link);
    }

    fn children(&self) -> Vec<Vec<usize>> {
        let mut children = vec![Vec::new(); self.links.len()];
        for (child, link) in self.links.iter().enumerate() {
            if let Some(link) = link {
                children[link.parent].push(child);
            }
        }
        children
    }
}

struct Tree<'a> {
    spans: &'a [Arc<Kept>],
    keys: &'a IdKeys,
    children: &'a [Vec<usize>],
    links: &'a [Option<Link>],
}

/// A span whose place in the trace is known, and the difference of the host's clock and its guest's that was taken for it.
struct Placed {
    span: usize,
    parent: Option<usize>,
    depth: usize,
    offset_ns: i128,
    error_ns: u64,
}

impl Tree<'_> {
    fn trace(&self, root: usize) -> Trace {
        let offset = self.spans[root].reception.offset;
        let mut next = vec![Placed {
            span: root,
            parent: None,
            depth: 0,
            offset_ns: offset.middle_ns().into(),
            error_ns: 0,
        }];
        let mut spans: Vec<TraceSpan> = Vec::new();
        let mut first = root;
        while let Some(placed) = next.pop() {
            let kept = &self.spans[placed.span];
            // Without a context the id of a trace is that of the span that came first: it stays while the trace grows.
            first = first.min(placed.span);
            let at = spans.len();
            spans.push(TraceSpan {
                kept: Arc::clone(kept),
                id: self.keys.span(kept.number),
                parent: placed.parent.zip(self.links[placed.span].map(|link| link.certainty)),
                depth: placed.depth,
                start_unix_ns: interval::unix_ns(i128::from(kept.span.start_unix_ns) + placed.offset_ns),
                clock_error_ns: placed.error_ns,
            });
            let mut children: Vec<_> = self.children[placed.span]
                .iter()
                .map(|&child| {
                    let shift = self.links[child].map_or(Interval::ZERO, |link| link.shift);
                    Placed {
                        span: child,
                        parent: Some(at),
                        depth: placed.depth + 1,
                        offset_ns: placed.offset_ns + shift.middle(),
                        error_ns: placed.error_ns.saturating_add(shift.error()),
                    }
                })
                .collect();
            // The first one is taken first.
            children.sort_by_key(|child| {
                std::cmp::Reverse(i128::from(self.spans[child.span].span.start_unix_ns) + child.offset_ns)
            });
            next.extend(children);
        }
        // Contexts of spans below the first one may be of other sandboxes.
        let propagated = self.spans[root].span.lineage.context.map(|context| context.trace);
        let id = propagated.unwrap_or_else(|| self.keys.trace(self.spans[first].number));
        Trace { id, spans, clock_error_ns: offset.error_ns() }
    }
}

#[cfg(test)]
mod tests;
