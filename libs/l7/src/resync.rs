//! Resynchronisation: where pairing begins again after bytes were missing, in protocols that answer in order.
//!
//! After a gap the number of requests in flight is unknown, so the next response may belong to any of them. It is known
//! again with a client that alternates: it sends a request, or several at once, and nothing more until all of them were
//! answered. Then a request that follows a response finds no other in flight. The connection itself shows whether its
//! client does that:
//!
//! - While everything was seen, each *turn* (a request that starts right behind a segment of the server's) shows
//!   whether a request was still in flight. A connection that alternated `RUN` times in a row is trusted; each time
//!   that it did not, it has to do so twice as long.
//! - After a loss one round is watched: from a turn to the next one there must come as many responses as requests.
//!   Then the second turn is where pairing begins again. On a connection that was not trusted before the loss such
//!   rounds are counted as turns are.
//! - Bytes that were left out of a call's capture hide no call: then the next turn will do. A protocol whose clients
//!   often pipeline more than is captured may trust a connection until it was seen not to alternate.
//! - A request after `QUIET_NS` of silence after a response finds no other in flight, either.
//!
//! So a loss costs a connection that alternates at most the rounds that it hit and two more; one whose client sends
//! whenever it likes, what comes until it is quiet.

use crate::{
    Timestamp,
    parser::{Segment, Sender},
};

/// Turns in a row after which a connection is trusted to alternate.
const RUN: u16 = 32;

/// Most turns in a row that are required of a connection that was seen not to alternate.
const RUN_MAX: u16 = RUN << 7;

/// How much later than its response a request may be delivered, nanoseconds: calls end on several CPUs at once, and are
/// put in order by their time. A response that ended earlier than this before a request cannot be its answer.
pub const EARLY_NS_MAX: u64 = 20_000_000;

/// Time between a response and the next request that shows that everything was answered, nanoseconds.
const QUIET_NS: u64 = 100_000_000;

/// Why bytes are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapKind {
    /// Whole calls may be missing.
    Lost,
    /// The rest of one call was not captured.
    Truncated,
    /// They were captured, and could not be parsed.
    Malformed,
}

/// How far the server has answered by its bytes, when a request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponsePosition {
    /// They ended where a response ends, or nothing is known.
    Boundary,
    /// They ended within a response.
    Inside,
    /// They ended within a response whose end cannot be seen: the request shows that it has ended.
    Unbounded,
}

/// What is known of the requests in flight on one connection.
#[derive(Debug)]
pub struct Resync {
    /// Requests that were not answered: all of them, and after a gap at least so many. Below zero: responses that
    /// were delivered before their requests.
    in_flight: i32,
    last: Option<Sender>,
    /// When the server last sent something.
    answered: Timestamp,
    /// Turns in a row at which no request was in flight.
    run: u16,
    /// Turns in a row after which the connection is trusted.
    needed: u16,
    /// Trusted to alternate as long as only bytes of calls are missing.
    optimistic: bool,
    /// A turn came too early, unless it turns out that responses were lost before it.
    suspect: bool,
    desynced: Option<Desynced>,
}

/// State after a gap.
#[derive(Clone, Copy, Debug)]
struct Desynced {
    /// Whole calls may be missing.
    lost: bool,
    trusted: bool,
    round: Round,
}

/// What was seen since the last turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Nothing that allows a conclusion.
    Unknown,
    /// As many responses as requests, or fewer so far.
    Balanced,
    /// Parts of calls were not captured.
    Truncated,
}

impl Default for Resync {
    fn default() -> Self {
        Self {
            in_flight: 0,
            last: None,
            answered: Timestamp::default(),
            run: 0,
            needed: RUN,
            optimistic: false,
            suspect: false,
            desynced: None,
        }
    }
}

impl Resync {
    /// For a protocol whose clients often pipeline more than is captured of a call.
    pub fn optimistic() -> Self {
        Self { optimistic: true, ..Self::default() }
    }

    /// For the same connection after the kernel has followed it for a while: what its client has shown holds on.
    #[must_use]
    pub fn resumed(&self) -> Self {
        Self { needed: self.needed, optimistic: self.optimistic, ..Self::default() }
    }

    /// Whether it is unknown which response belongs to which request.
    pub fn is_desynced(&self) -> bool {
        self.desynced.is_some()
    }

    /// Whether the server sent last.
    pub fn is_turn(&self) -> bool {
        self.last == Some(Sender::Server)
    }

    /// When the server last sent something.
    pub fn answered(&self) -> Timestamp {
        self.answered
    }

    /// Requests that are known to be in flight.
    pub fn in_flight(&self) -> u32 {
        u32::try_from(self.in_flight).unwrap_or(0)
    }

    /// The client sent a segment, which `starts` a request; what was lost before it was reported before. True when requests
    /// and responses correspond again from here on: no other request is in flight.
    pub fn client(&mut self, segment: &Segment<'_>, starts: bool, answer: ResponsePosition) -> bool {
        let lost = segment.gap > 0;
        let behind = self.last.replace(Sender::Client);
        if !starts || behind != Some(Sender::Server) {
            return false;
        }
        let in_flight = match answer {
            ResponsePosition::Boundary => self.in_flight,
            ResponsePosition::Inside => self.in_flight.max(1),
            ResponsePosition::Unbounded => self.in_flight - 1,
        };
        let Some(desynced) = &mut self.desynced else {
            self.suspect |= in_flight > 0;
            if in_flight == 0 && !lost {
                self.run = self.run.saturating_add(1).min(RUN_MAX);
            }
            return false;
        };
        let round = desynced.round;
        desynced.round = Round::Balanced;
        let whole = match round {
            Round::Unknown => false,
            Round::Balanced => in_flight <= 0,
            Round::Truncated => true,
        };
        match round {
            Round::Balanced if whole => self.run = self.run.saturating_add(1).min(RUN_MAX),
            Round::Balanced => self.suspect = true,
            Round::Truncated | Round::Unknown => {}
        }
        // Each round is counted for itself.
        self.in_flight = 0;
        let trusted = self.optimistic && !desynced.lost && self.needed == RUN;
        let enough = desynced.trusted || self.run >= self.needed || trusted;
        let quiet = in_flight <= 0 && segment.at.since(self.answered) >= QUIET_NS;
        let synced = !lost && answer != ResponsePosition::Inside && (quiet || (whole && enough));
        if synced {
            self.desynced = None;
            self.suspect = false;
        }
        synced
    }

    /// The server sent a segment.
    pub fn server(&mut self, segment: &Segment<'_>) {
        self.last = Some(Sender::Server);
        self.answered = segment.at;
        if std::mem::take(&mut self.suspect) && segment.gap == 0 {
            self.distrust();
        }
    }

    /// A response without a request: they did not correspond.
    pub fn distrust(&mut self) {
        self.run = 0;
        self.needed = self.needed.saturating_mul(2).min(RUN_MAX);
        if let Some(desynced) = &mut self.desynced {
            desynced.trusted = false;
        }
    }

    /// A request that will be answered.
    pub fn request(&mut self) {
        self.in_flight = self.in_flight.saturating_add(1);
    }

    /// A response has come to its end.
    pub fn response(&mut self) {
        match &mut self.desynced {
            Some(desynced) if self.in_flight <= 0 => {
                if desynced.round == Round::Balanced {
                    desynced.round = Round::Unknown;
                    self.run = if desynced.trusted { self.run } else { 0 };
                }
            }
            _ => self.in_flight = self.in_flight.saturating_sub(1),
        }
    }

    /// Bytes of one end are missing: from here on, which response belongs to which request is unknown; but what the
    /// client had sent before bytes of its own were lost is still answered first.
    pub fn desync(&mut self, of: Sender, gap: GapKind) {
        let trusted = self.run >= self.needed;
        let desynced = self.desynced.get_or_insert(Desynced { lost: false, trusted, round: Round::Unknown });
        desynced.lost |= gap == GapKind::Lost;
        desynced.round = match (gap, desynced.round) {
            (GapKind::Truncated, _) | (GapKind::Malformed, Round::Truncated) => Round::Truncated,
            _ => Round::Unknown,
        };
        self.in_flight = if of == Sender::Server { 0 } else { self.in_flight.max(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_has_shown_holds_on_while_the_kernel_follows_its_connection() {
        let segment = |from, at| Segment { from, at: Timestamp(at), gap: 0, bytes: b"x", truncated: 0 };
        for pipelines in [false, true] {
            let mut resync = Resync::optimistic();
            if pipelines {
                resync.distrust();
            }
            let mut resync = resync.resumed();
            resync.desync(Sender::Client, GapKind::Truncated);
            resync.server(&segment(Sender::Server, 1));
            let is_synced = resync.client(&segment(Sender::Client, 2), true, ResponsePosition::Boundary);
            assert_eq!(is_synced, !pipelines);
        }
    }
}
