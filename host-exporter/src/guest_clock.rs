//! How far a guest's wall clock is from the host's.
//!
//! The agent's answer to a call has the guest's time, and the host's clock is read before the call and after the answer: the guest read
//! its clock in between, so the difference of both clocks lies between two bounds that are as far apart as the call took. Of an agent
//! whose answers have no time only an upper bound is known: a span ends before it comes.
//!
//! A guest's clock can be set at any time, and a hostile guest's shows anything. That changes where its own spans are placed, and with
//! whose they can be joined, and nothing of others.

/// How fast a guest's clock runs away from the host's at most, nanoseconds for each second.
const DRIFT_NS_PER_SECOND: i64 = 100_000;

/// How long after its end a span comes at most, where nothing else is known: the interval of batches, and what a busy host adds.
const DELIVERY_NS: i64 = 2_000_000_000;

/// The host's clock less the guest's, between two bounds, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offset {
    /// Lower bound.
    pub low_ns: i64,
    /// Upper bound.
    pub high_ns: i64,
}

impl Offset {
    /// In the middle of the bounds, where both clocks' difference is taken to be.
    pub fn middle_ns(self) -> i64 {
        self.low_ns.midpoint(self.high_ns)
    }

    /// How far from the middle it can be.
    pub fn error_ns(self) -> u64 {
        self.low_ns.abs_diff(self.high_ns).div_ceil(2)
    }
}

/// What is known of a guest's clock.
#[derive(Debug, Default)]
pub struct GuestClock {
    measured: Option<Measured>,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    offset: Offset,
    /// The host's clock after the answer.
    at_unix_ns: u64,
}

impl GuestClock {
    /// A call was answered: the host's clock before it, the guest's in the answer, and the host's after it.
    pub fn measured(&mut self, sent_unix_ns: u64, guest_unix_ns: u64, received_unix_ns: u64) {
        if guest_unix_ns == 0 {
            // An agent that does not report it.
            self.measured = None;
            return;
        }
        let offset = Offset {
            low_ns: difference(sent_unix_ns, guest_unix_ns),
            high_ns: difference(received_unix_ns, guest_unix_ns),
        };
        self.measured = Some(Measured { offset, at_unix_ns: received_unix_ns });
    }

    /// The bounds as of the last call, of an agent that reports its clock.
    pub fn at_last_call(&self) -> Option<Offset> {
        self.measured.map(|measured| measured.offset)
    }

    /// The bounds for moments that a guest reports together with its clock, which it read when it made the report; 0 of one that does not
    /// report it. None where there was no call yet, or the clock seems to be set since the last: it is known after the next.
    pub fn at_report(&self, guest_unix_ns: u64, received_unix_ns: u64) -> Option<Offset> {
        let bounds = self.measured?.at(received_unix_ns);
        if guest_unix_ns == 0 {
            return Some(bounds);
        }
        let latest = difference(received_unix_ns, guest_unix_ns);
        let is_set = latest < bounds.low_ns || latest.saturating_sub(DELIVERY_NS) > bounds.high_ns;
        (!is_set).then(|| Offset { high_ns: bounds.high_ns.min(latest), ..bounds })
    }

    /// The bounds for spans that came together, of which the last ended at that time of the guest's clock.
    pub fn at_reception(&mut self, last_end_unix_ns: u64, received_unix_ns: u64) -> Offset {
        let latest = difference(received_unix_ns, last_end_unix_ns);
        let by_reception = Offset { low_ns: latest.saturating_sub(DELIVERY_NS), high_ns: latest };
        let Some(measured) = self.measured else { return by_reception };
        let bounds = measured.at(received_unix_ns);
        if latest < bounds.low_ns {
            // A span cannot end after it came: the guest's clock was set since it was measured.
            self.measured = None;
            return by_reception;
        }
        Offset { high_ns: bounds.high_ns.min(latest), ..bounds }
    }
}

impl Measured {
    /// The bounds at a later time of the host's clock.
    fn at(self, unix_ns: u64) -> Offset {
        let seconds = unix_ns.saturating_sub(self.at_unix_ns).div_ceil(1_000_000_000);
        let drift = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(DRIFT_NS_PER_SECOND);
        Offset {
            low_ns: self.offset.low_ns.saturating_sub(drift),
            high_ns: self.offset.high_ns.saturating_add(drift),
        }
    }
}

fn difference(host_unix_ns: u64, guest_unix_ns: u64) -> i64 {
    let difference = i128::from(host_unix_ns) - i128::from(guest_unix_ns);
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_call_bounds_the_clock_by_its_own_time() {
        let mut clock = GuestClock::default();
        // The guest is 500 ms behind.
        clock.measured(10_000 * MS, 9_501 * MS, 10_002 * MS);
        let offset = clock.at_reception(9_600 * MS, 10_900 * MS);
        assert_eq!((offset.low_ns, offset.high_ns), (498_900_000, 501_100_000), "with the drift of a second");
        assert_eq!((offset.middle_ns(), offset.error_ns()), (500_000_000, 1_100_000));
        let offset = clock.at_reception(10_400 * MS - 400_000, 10_900 * MS);
        assert_eq!(offset.high_ns, 500_400_000, "a span ends before it comes");
    }

    #[test]
    fn a_clock_that_was_set_is_known_by_reception_until_it_is_measured_again() {
        let mut clock = GuestClock::default();
        let by_reception = |latest: i64| Offset { low_ns: latest - DELIVERY_NS, high_ns: latest };
        assert_eq!(clock.at_reception(10_000 * MS, 10_100 * MS), by_reception(100_000_000));
        clock.measured(10_000 * MS, 10_000 * MS, 10_000 * MS);
        assert_eq!(
            clock.at_reception(70_000 * MS, 11_000 * MS),
            by_reception(-59_000_000_000),
            "a minute ahead"
        );
        assert_eq!(clock.at_reception(71_000 * MS, 12_000 * MS), by_reception(-59_000_000_000));
        clock.measured(13_000 * MS, 73_000 * MS, 13_000 * MS);
        assert_eq!(clock.at_reception(73_000 * MS, 14_000 * MS).middle_ns(), -60_000_000_000);
        clock.measured(15_000 * MS, 0, 15_001 * MS);
        assert_eq!(
            clock.at_reception(15_000 * MS, 15_000 * MS),
            by_reception(0),
            "another agent, without times"
        );
    }

    #[test]
    fn a_report_with_a_clock_that_was_set_waits_for_the_next_call() {
        let mut clock = GuestClock::default();
        assert_eq!(clock.at_report(10_000 * MS, 10_000 * MS), None, "no call yet");
        clock.measured(10_000 * MS, 10_000 * MS, 10_002 * MS);
        let bounds = |high_ns| Some(Offset { low_ns: -100_000, high_ns });
        assert_eq!(clock.at_report(0, 10_500 * MS), bounds(2_100_000), "without a clock");
        assert_eq!(clock.at_report(10_499 * MS, 10_500 * MS), bounds(1_000_000), "made before it came");
        assert_eq!(clock.at_report(9_000 * MS, 10_500 * MS), bounds(2_100_000), "it came late");
        assert_eq!(clock.at_report(70_000 * MS, 10_500 * MS), None, "set forward");
        assert_eq!(clock.at_report(5_000 * MS, 10_500 * MS), None, "set back");
        clock.measured(10_600 * MS, 5_100 * MS, 10_600 * MS);
        let offset = clock.at_report(5_000 * MS, 10_600 * MS).expect("it was measured");
        assert_eq!(offset.middle_ns(), 5_500_000_000);
    }

    #[test]
    fn times_of_nonsense_have_bounds_too() {
        let mut clock = GuestClock::default();
        for (end, received) in [(u64::MAX, 0), (0, u64::MAX), (u64::MAX, u64::MAX)] {
            let offset = clock.at_reception(end, received);
            assert!(
                offset.low_ns <= offset.middle_ns() && offset.middle_ns() <= offset.high_ns,
                "{offset:?}"
            );
            clock.measured(end, received, end);
            clock.measured(received, end, received);
        }
    }
}
