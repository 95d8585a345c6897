//! Offers: when a connection that the agent follows is offered to the programs. It was open before the agent came, has
//! logged in by now, or fell back to the agent for something that is over.
//!
//! ```text
//! idle ──► offered ──► accepted: the programs follow it
//!             └──► something moved first ──► later again
//! ```

/// How long a lasting offer can be accepted, nanoseconds.
const LASTS_NS: u64 = 500_000_000;

/// How long after an offer that came too late the next one is made, nanoseconds.
const AGAIN_NS: u64 = 500_000_000;

/// How long a connection is kept after it fell back, the first time; twice as long each further time.
const KEPT_NS: u64 = 1_000_000_000;

/// Times that this doubles.
const DOUBLINGS_MAX: u32 = 8;

/// One connection's offers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offering {
    /// One is made and not answered.
    out: bool,
    /// It can be accepted until then, nanoseconds.
    valid_until_ns: u64,
    /// The next one is made no sooner, nanoseconds.
    due_ns: u64,
    fallbacks: u32,
}

impl Offering {
    /// Whether one may be made.
    pub fn is_due(&self, now_ns: u64) -> bool {
        !self.out && now_ns >= self.due_ns
    }

    /// Whether one is made and not answered.
    pub fn is_out(&self) -> bool {
        self.out
    }

    /// One is made.
    pub fn make(&mut self, now_ns: u64, is_lasting: bool) {
        self.out = true;
        self.valid_until_ns = if is_lasting { now_ns.saturating_add(LASTS_NS) } else { 0 };
    }

    /// Something moved on the connection, for which an offer came too late unless it lasts; returns whether one was
    /// open.
    pub fn moved(&mut self, now_ns: u64) -> bool {
        now_ns >= self.valid_until_ns && self.answer(now_ns)
    }

    /// An offer is answered; returns whether one was open.
    pub fn answer(&mut self, now_ns: u64) -> bool {
        self.due_ns = self.due_ns.max(now_ns.saturating_add(if self.out { AGAIN_NS } else { 0 }));
        std::mem::take(&mut self.out)
    }

    /// The connection fell back to the agent.
    pub fn fell_back(&mut self, now_ns: u64) {
        self.due_ns = now_ns.saturating_add(KEPT_NS << self.fallbacks.min(DOUBLINGS_MAX));
        self.fallbacks = self.fallbacks.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_made_once_and_again_after_a_while() {
        let mut offering = Offering::default();
        assert!(offering.is_due(0));
        offering.make(0, false);
        assert!(!offering.is_due(u64::MAX));
        assert!(offering.moved(1_000));
        assert!(!offering.is_due(1_000) && offering.is_due(1_000 + AGAIN_NS));
        assert!(!offering.answer(2_000), "no offer was out");
    }

    #[test]
    fn a_lasting_offer_is_answered_by_being_accepted_or_by_time() {
        let mut offering = Offering::default();
        for answer in [Offering::answer, Offering::moved] {
            offering.make(1_000, true);
            assert!(!offering.moved(1_000 + LASTS_NS - 1) && offering.is_out());
            assert!(answer(&mut offering, 1_000 + LASTS_NS));
            assert!(!offering.is_out());
        }
    }

    #[test]
    fn what_comes_back_is_kept_ever_longer() {
        let mut offering = Offering::default();
        for times in 0..20 {
            offering.fell_back(0);
            let kept = KEPT_NS << times.min(DOUBLINGS_MAX);
            assert!(!offering.is_due(kept - 1) && offering.is_due(kept), "{times}");
        }
    }
}
