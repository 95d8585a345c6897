//! Connections that are offered to the kernel side: opened before the agent came, logged in by now, or handed over for
//! something that is over.
//!
//! ```text
//! nothing under way ──► offered ──► taken: the kernel side counts
//!                          └─► something moved first ──► later again
//! ```

use porthole_bpf_types::offload::side;
use porthole_l7::{Side, offload::IdleConnection};

/// How long an offer stands that need not be taken at once, nanoseconds.
const STANDS_NS: u64 = 500_000_000;

/// How long after an offer that came too late the next one is made, nanoseconds.
const AGAIN_NS: u64 = 500_000_000;

/// How long a connection is kept after it was handed over, the first time; twice as long each further time.
const KEPT_NS: u64 = 1_000_000_000;

/// Times that this doubles.
const DOUBLINGS_MAX: u32 = 8;

/// What the kernel side needs to go on with a connection on which nothing is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// A number of [`porthole_protocol::Offload`].
    pub protocol: u16,
    /// One of [`side`].
    pub side: u16,
    /// Where each direction's next byte is expected.
    pub offsets: [u64; 2],
    /// It need not be taken before anything moves: the connection has one exchange after the other.
    pub stands: bool,
}

impl Offer {
    /// The offer of a connection that stands here.
    pub fn of(settled: &IdleConnection) -> Option<Self> {
        let offload = settled.protocol.row().offload?;
        let side = match settled.side {
            Side::Server => side::SERVER,
            Side::Client => side::CLIENT,
        };
        Some(Self { protocol: offload.number(), side, offsets: settled.offsets, stands: offload.is_sql() })
    }
}

/// One connection's offers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offering {
    /// One is made and not answered.
    out: bool,
    /// It stands until then.
    stands_ns: u64,
    /// The next one is made no sooner.
    due_ns: u64,
    handovers: u32,
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
    pub fn make(&mut self, now_ns: u64, stands: bool) {
        self.out = true;
        self.stands_ns = if stands { now_ns.saturating_add(STANDS_NS) } else { 0 };
    }

    /// Something moved on the connection, for which an offer came too late unless it stands; says whether there was one.
    pub fn moved(&mut self, now_ns: u64) -> bool {
        now_ns >= self.stands_ns && self.answer(now_ns)
    }

    /// An offer is answered; says whether there was one.
    pub fn answer(&mut self, now_ns: u64) -> bool {
        self.due_ns = self.due_ns.max(now_ns.saturating_add(if self.out { AGAIN_NS } else { 0 }));
        std::mem::take(&mut self.out)
    }

    /// The kernel side gave the connection back.
    pub fn handed_over(&mut self, now_ns: u64) {
        self.due_ns = now_ns.saturating_add(KEPT_NS << self.handovers.min(DOUBLINGS_MAX));
        self.handovers = self.handovers.saturating_add(1);
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
    fn an_offer_that_stands_is_answered_by_being_taken_or_by_time() {
        let mut offering = Offering::default();
        for answer in [Offering::answer, Offering::moved] {
            offering.make(1_000, true);
            assert!(!offering.moved(1_000 + STANDS_NS - 1) && offering.is_out());
            assert!(answer(&mut offering, 1_000 + STANDS_NS));
            assert!(!offering.is_out());
        }
    }

    #[test]
    fn what_comes_back_is_kept_ever_longer() {
        let mut offering = Offering::default();
        for times in 0..20 {
            offering.handed_over(0);
            let kept = KEPT_NS << times.min(DOUBLINGS_MAX);
            assert!(!offering.is_due(kept - 1) && offering.is_due(kept), "{times}");
        }
    }
}
