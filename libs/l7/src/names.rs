//! Names that are not confirmed yet.
//!
//! ```text
//! request → candidate ─ answered, and not "there is no such thing" ─► a name of the application's vocabulary
//!                     └ otherwise `other`, until it has recurred like code
//! ```
//!
//! What an application calls a table, a topic, a collection, a method or a command is a name once its server has answered a
//! request with it by anything else than that there is no such thing, or once it came [`RECURRENCES`] times over
//! [`SPAN_NS`]. So a statement that is mistyped, or made of a user's data, gives no name. Candidates are bounded: a new one
//! displaces one that was not confirmed.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{
    ErrorClass, NameKind, Protocol, Status, Timestamp,
    exchange::Outcome,
    symbol::{ScopeId, Symbol},
};

/// Requests without a confirmation after which a candidate is a name: as many as of a path's segment.
const RECURRENCES: u16 = 8;

/// Time over which they must have come, nanoseconds.
const SPAN_NS: u64 = 10_000_000_000;

/// Most candidates.
const CANDIDATES_MAX: usize = 1 << SLOT_BITS;

/// Slots that are tried for one.
const PROBES: usize = 8;

/// How long a candidate must not have come to make room for any other, nanoseconds: one that recurs once in this time is still on
/// the way to a name. What is confirmed is in the vocabulary, and needs its slot no longer.
const UNUSED_NS: u64 = 60_000_000_000;

/// A candidate's symbol: this bit, a generation, and a slot.
const CANDIDATE: u32 = 1 << 31;
const SLOT_BITS: u32 = 10;

/// A name that may become one of the vocabulary's.
#[derive(Debug, Default)]
struct Candidate {
    of: Option<(ScopeId, NameKind)>,
    text: String,
    generation: u32,
    /// Requests without a confirmation, and when the first one ended.
    count: u16,
    first: Timestamp,
    /// When a request with it began last, as far as is known.
    used: Timestamp,
    /// It is in the vocabulary.
    confirmed: bool,
}

/// The candidates of all applications.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    slots: Vec<Candidate>,
}

impl Candidates {
    /// The symbol that stands for a name until [`Self::settle`].
    pub(crate) fn symbol(&mut self, scope: ScopeId, kind: NameKind, text: &str, now: Timestamp) -> Symbol {
        if self.slots.is_empty() {
            self.slots.resize_with(CANDIDATES_MAX, Candidate::default);
        }
        let mut hasher = DefaultHasher::new();
        (scope, kind, text).hash(&mut hasher);
        let start = usize::try_from(hasher.finish() % CANDIDATES_MAX as u64).unwrap_or(0);
        let probes = (0..PROBES).map(|probe| (start + probe) % CANDIDATES_MAX);
        let is = |slot: &usize| {
            self.slots.get(*slot).is_some_and(|found| found.of == Some((scope, kind)) && found.text == text)
        };
        let rank = |slot: &usize| {
            let is_used = |found: &Candidate| found.of.is_some() && now.since(found.used) < UNUSED_NS;
            let found = self.slots.get(*slot);
            found.map_or((true, true, 0), |found| (is_used(found), found.confirmed, found.count))
        };
        let known = probes.clone().find(is);
        let Some(slot) = known.or_else(|| probes.min_by_key(rank)) else { return Symbol::OVERFLOWED };
        let Some(candidate) = self.slots.get_mut(slot) else { return Symbol::OVERFLOWED };
        if known.is_none() {
            candidate.of = Some((scope, kind));
            candidate.text.clear();
            candidate.text.push_str(text);
            candidate.generation = candidate.generation.wrapping_add(1) & (CANDIDATE - 1) >> SLOT_BITS;
            (candidate.count, candidate.confirmed) = (0, false);
        }
        candidate.used = candidate.used.max(now);
        Symbol(CANDIDATE | candidate.generation << SLOT_BITS | u32::try_from(slot).unwrap_or(0))
    }

    /// The name that a candidate has become, its kind and text, or the symbol that it has while it is none:
    /// [`Symbol::OTHER`], or [`Symbol::OVERFLOWED`] when another one needed its place.
    pub(crate) fn settle(
        &mut self,
        symbol: Symbol,
        is_confirmed: bool,
        at: Timestamp,
    ) -> Result<(NameKind, &str), Symbol> {
        let slot = usize::try_from(symbol.0 & ((1 << SLOT_BITS) - 1)).unwrap_or(usize::MAX);
        let candidate = self.slots.get_mut(slot).ok_or(Symbol::OTHER)?;
        if candidate.generation != (symbol.0 & !CANDIDATE) >> SLOT_BITS {
            return Err(Symbol::OVERFLOWED);
        }
        if !is_confirmed && !candidate.confirmed {
            if candidate.count == 0 {
                candidate.first = at;
            }
            candidate.count = candidate.count.saturating_add(1);
            if candidate.count < RECURRENCES || at.since(candidate.first) < SPAN_NS {
                return Err(Symbol::OTHER);
            }
        }
        candidate.confirmed = true;
        let (_, kind) = candidate.of.ok_or(Symbol::OTHER)?;
        Ok((kind, &candidate.text))
    }

    /// Drops an application's.
    pub(crate) fn forget(&mut self, scope: ScopeId) {
        for candidate in &mut self.slots {
            if candidate.of.is_some_and(|(of, _)| of == scope) {
                candidate.of = None;
                candidate.generation = candidate.generation.wrapping_add(1) & (CANDIDATE - 1) >> SLOT_BITS;
            }
        }
    }
}

/// The status of a statement that PostgreSQL passed over behind an error (its manual, "Pipelining" of the protocol: messages are
/// discarded until a `Sync`): libpq's name for its result (`PGRES_PIPELINE_ABORTED`). It is no answer.
pub(crate) const PIPELINE_ABORTED: &str = "PIPELINE_ABORTED";

impl Symbol {
    /// Whether it stands for a name that is not confirmed.
    pub(crate) fn is_candidate(self) -> bool {
        self.0 & CANDIDATE != 0
    }
}

/// Whether an answer confirms that the things exist that the request names. `word` gives a status' text.
pub(crate) fn confirms<'a>(
    protocol: Protocol,
    outcome: &Outcome,
    word: impl FnOnce(Symbol) -> &'a str,
) -> bool {
    if outcome.error == ErrorClass::NoResponse || (outcome.bytes == 0 && outcome.status == Status::None) {
        return false;
    }
    match (protocol, outcome.status) {
        // Bad request, method not allowed, not implemented (RFC 9110 section 15).
        (Protocol::Http1 | Protocol::Http2, Status::Code(code)) => !matches!(code, 400 | 405 | 501),
        // `UNIMPLEMENTED` (gRPC: statuscodes.md), and what the client cancelled before there was any answer.
        (Protocol::Grpc, Status::Code(code)) => code != 12 && (code != 1 || outcome.bytes > 0),
        // Not known: it may deny.
        (_, Status::UNKNOWN) | (Protocol::Grpc, _) => false,
        // Access denied, no such database, table, unknown command, object or procedure, syntax (MySQL: server error message
        // reference).
        (Protocol::Mysql, Status::Code(code)) => {
            !matches!(code, 1044..=1047 | 1049 | 1051 | 1064 | 1103 | 1109 | 1142 | 1146 | 1149 | 1305 | 1370)
        }
        // Classes 42 (syntax or access rule, undefined objects) and 3F (schema name), but for objects that are there already
        // (PostgreSQL: appendix A).
        (Protocol::Postgresql, Status::Word(status)) => {
            let state = word(status);
            state != PIPELINE_ABORTED
                && !state.starts_with("3F")
                && (!state.starts_with("42") || matches!(state, "42P07" | "42703"))
        }
        (Protocol::Kafka, Status::Word(status)) => !matches!(
            word(status),
            "UNKNOWN_TOPIC_OR_PARTITION"
                | "INVALID_TOPIC_EXCEPTION"
                | "TOPIC_AUTHORIZATION_FAILED"
                | "UNKNOWN_TOPIC_ID"
                | "INVALID_REQUEST"
                | "UNSUPPORTED_VERSION"
        ),
        // FailedToParse, Unauthorized, NamespaceNotFound, CommandNotFound, InvalidNamespace, unknown field (MongoDB:
        // error_codes.yml).
        (Protocol::Mongodb, Status::Code(code)) => !matches!(code, 9 | 13 | 26 | 59 | 73 | 40_415),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, ParserContext};

    const SCOPE: ScopeId = ScopeId(1);

    fn outcome(status: Status, error: ErrorClass) -> Outcome {
        Outcome { status, error, end: Timestamp(0), bytes: 1 }
    }

    #[test]
    fn an_answer_confirms_unless_it_denies() {
        let none = outcome(Status::None, ErrorClass::None);
        for (protocol, denies, confirms_too) in [
            (Protocol::Http1, 501, 404),
            (Protocol::Http2, 405, 503),
            (Protocol::Grpc, 12, 13),
            (Protocol::Mysql, 1146, 1062),
            (Protocol::Mongodb, 59, 11000),
        ] {
            let answers = |code| {
                confirms(protocol, &outcome(Status::Code(code), ErrorClass::Client), |_| unreachable!())
            };
            assert!(!answers(denies) && answers(confirms_too), "{protocol:?}");
        }
        for (protocol, denies, confirms_too) in [
            (Protocol::Postgresql, "42P01", "23505"),
            (Protocol::Postgresql, "42601", "42P07"),
            (Protocol::Postgresql, PIPELINE_ABORTED, "22012"),
            (Protocol::Kafka, "INVALID_TOPIC_EXCEPTION", "LEADER_NOT_AVAILABLE"),
        ] {
            let status = Status::Word(Symbol(7));
            let answers = |word| confirms(protocol, &outcome(status, ErrorClass::Client), |_| word);
            assert!(!answers(denies) && answers(confirms_too), "{protocol:?}");
        }
        let unknown = outcome(Status::Word(Symbol::OTHER), ErrorClass::None);
        assert!(
            !confirms(Protocol::Http2, &unknown, |_| "other")
                && !confirms(Protocol::Kafka, &unknown, |_| "other")
        );
        assert!(confirms(Protocol::Mysql, &none, |_| ""));
        assert!(!confirms(Protocol::Mysql, &Outcome { bytes: 0, ..none }, |_| ""));
        assert!(!confirms(Protocol::Mysql, &Outcome::none(Timestamp(0)), |_| ""));
    }

    #[test]
    fn a_candidate_is_a_name_once_it_is_confirmed() {
        let mut context = ParserContext::new(Limits::default());
        let candidate = context.candidate(SCOPE, NameKind::Table, "orders");
        assert!(candidate.is_candidate() && context.name(candidate) == "other");
        assert_eq!(context.settle(SCOPE, candidate, false, Timestamp(0)), Symbol::OTHER);
        assert_eq!(context.tally().overflowed_names, 0, "no bound was reached");
        let name = context.settle(SCOPE, candidate, true, Timestamp(1));
        assert_eq!(context.name(name), "orders");
        // What holds the candidate still names it, and so does a failure from now on.
        assert_eq!(context.settle(SCOPE, candidate, false, Timestamp(2)), name);
        assert_eq!(context.candidate(SCOPE, NameKind::Table, "orders"), name);
        assert!(context.candidate(ScopeId(2), NameKind::Table, "orders").is_candidate());
        assert!(context.candidate(SCOPE, NameKind::Collection, "orders").is_candidate());
    }

    #[test]
    fn a_candidate_that_recurs_is_a_name() {
        let mut context = ParserContext::new(Limits::default());
        let candidate = context.candidate(SCOPE, NameKind::Table, "mistyped");
        let mut settle =
            |second: u64| context.settle(SCOPE, candidate, false, Timestamp(second * 1_000_000_000));
        assert!((0..9).all(|second| settle(second) == Symbol::OTHER));
        assert!(!settle(10).is_other());
    }

    #[test]
    fn candidates_that_did_not_come_for_a_while_make_room_for_those_that_recur() {
        let second = |second: u64| Timestamp(second * 1_000_000_000);
        let mut context = ParserContext::new(Limits::default());
        context.observe(second(0));
        for number in 0..8 * CANDIDATES_MAX {
            let candidate = context.candidate(SCOPE, NameKind::Table, &format!("old{number}"));
            // Some confirmed, some on the way.
            for _ in 0..=number % 4 {
                context.settle(SCOPE, candidate, number % 3 == 0, second(0));
            }
        }
        let other = ScopeId(2);
        let mut names = 0;
        for at in 0..=RECURRENCES.into() {
            let now = second(UNUSED_NS / 1_000_000_000 + 2 * at);
            context.observe(now);
            names = 0;
            for number in 0..CANDIDATES_MAX / PROBES {
                let candidate = context.candidate(other, NameKind::Table, &format!("new{number}"));
                names += usize::from(!context.settle(other, candidate, false, now).is_other());
            }
        }
        assert_eq!(names, CANDIDATES_MAX / PROBES);
    }

    #[test]
    fn candidates_are_bounded_and_displace_no_name() {
        let mut context = ParserContext::new(Limits::default());
        let kept = context.candidate(SCOPE, NameKind::Table, "kept");
        let name = context.settle(SCOPE, kept, true, Timestamp(0));
        let mut first = None;
        for number in 0..20 * CANDIDATES_MAX {
            let candidate = context.candidate(SCOPE, NameKind::Table, &format!("t{number}"));
            assert_eq!(context.settle(SCOPE, candidate, false, Timestamp(0)), Symbol::OTHER);
            first.get_or_insert(candidate);
        }
        assert_eq!(context.settle(SCOPE, kept, false, Timestamp(0)), name);
        let first = first.expect("a candidate");
        assert_eq!(context.settle(SCOPE, first, true, Timestamp(0)), Symbol::OVERFLOWED, "displaced");
        assert_eq!(context.tally().overflowed_names, 1);
    }
}
