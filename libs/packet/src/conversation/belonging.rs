//! Which connection a segment is of: that between its ends, an older one, or one that takes its place.

use super::Conversation;
use crate::{segment::Segment, successor::Successor, tcp::NEAR_BYTES};

/// Bytes that may be under way in one direction: more than the buffers that systems let a socket have by default.
const UNDER_WAY_BYTES: u64 = 8 << 20;

/// What a segment is to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// It is the connection's next.
    Here,
    /// It proves that another connection between the same ends has begun.
    ToNext,
    /// It is another's, if there is one, which is not proved.
    ToUnproved,
    /// It is left over from an older one, or one end's alone.
    ToOlder,
}

impl Conversation {
    /// What a segment is to this connection.
    pub fn belongs(&self, segment: &Segment<'_>) -> Belongs {
        if segment.syn {
            return self.syn_belongs(segment);
        }
        let (own, other) = (&self.directions[segment.from], &self.directions[1 - segment.from]);
        let answers = segment.acknowledged.is_none_or(|acknowledged| other.has_sent(acknowledged));
        if segment.rst {
            return self.rst_belongs(segment, answers);
        }
        if let Some(successor) = self.successor.as_deref().filter(|successor| successor.has(segment)) {
            let fits = if successor.begins_with(segment) {
                own.covers(segment.sequence)
            } else {
                own.is_near(segment.sequence)
            };
            if !(fits && answers) {
                let is_proved = successor.is_agreed_by(segment) || !self.heard[1 - segment.from];
                return if is_proved { Belongs::ToNext } else { Belongs::ToUnproved };
            }
        }
        if self.opening == Some(1 - segment.from) && !answers {
            return Belongs::ToOlder;
        }
        if self.is_over() && segment.length > 0 && !own.is_near(segment.sequence) {
            return Belongs::ToNext;
        }
        Belongs::Here
    }

    fn syn_belongs(&self, segment: &Segment<'_>) -> Belongs {
        let (own, other) = (&self.directions[segment.from], &self.directions[1 - segment.from]);
        let is_over = self.is_over();
        let elsewhere = own.begins_elsewhere(segment.sequence);
        let Some(acknowledged) = segment.acknowledged else {
            return match (is_over, elsewhere) {
                // The connection was reset, and comes back with its number.
                (true, _) => Belongs::ToNext,
                (false, true) => Belongs::ToUnproved,
                (false, false) => Belongs::Here,
            };
        };
        let is_same = !elsewhere && !own.is_new();
        let answers = other.has_sent(acknowledged);
        let is_agreement = |successor: &Successor| successor.has(segment) && successor.is_agreed_by(segment);
        if is_same || (is_over && !elsewhere && answers) {
            Belongs::Here
        } else if is_over || self.successor.as_deref().is_some_and(is_agreement) {
            Belongs::ToNext
        } else if answers && own.is_empty() && !own.is_agreed() {
            Belongs::Here
        } else {
            Belongs::ToUnproved
        }
    }

    fn rst_belongs(&self, segment: &Segment<'_>, answers: bool) -> Belongs {
        let own = &self.directions[segment.from];
        // A SYN is refused by what acknowledges it (RFC 9293 section 3.10.7.3); a closed port's number is 0.
        if own.is_new() && self.opening == Some(1 - segment.from) {
            let refuses = answers && segment.acknowledged.is_some();
            return if refuses { Belongs::Here } else { Belongs::ToOlder };
        }
        if own.is_near(segment.sequence) { Belongs::Here } else { Belongs::ToOlder }
    }

    /// Whether all that came was of one end.
    pub fn is_one_way(&self) -> bool {
        self.heard[0] != self.heard[1]
    }

    /// Whether a segment that was captured elsewhere has the numbers of this connection: of both directions nearby, or of
    /// the only one that is known exactly.
    pub fn has_numbers_of(&self, segment: &Segment<'_>) -> bool {
        let (own, other) = (&self.directions[segment.from], &self.directions[1 - segment.from]);
        if segment.syn && own.begins_elsewhere(segment.sequence) {
            return false;
        }
        match (own.is_new(), segment.acknowledged.filter(|_| !other.is_new())) {
            (false, Some(acknowledged)) => {
                // Of an end that nothing has come from, what the other one acknowledged is known, not what it has sent since; nor
                // how much of what the other one sent has reached it.
                let near = if self.is_one_way() { UNDER_WAY_BYTES } else { NEAR_BYTES };
                own.is_within(segment.sequence, near) && other.is_within(acknowledged, near)
            }
            (false, None) => own.covers(segment.sequence),
            (true, Some(acknowledged)) => other.covers(acknowledged),
            (true, None) => false,
        }
    }
}
