//! A clock that does not go back, from the timestamps of packets.

/// How far behind the newest timestamp that of a packet that was captured out of order can be, nanoseconds.
const REORDERING_NS_MAX: u64 = 1_000_000_000;

/// Most packets in a row that are behind the newest one because they were captured out of order.
const REORDERED_PACKETS_MAX: u32 = 64;

/// Turns timestamps into a time in which durations are right, also when the clock behind the timestamps was set back.
#[derive(Debug, Default)]
pub struct Clock {
    /// The newest time, nanoseconds.
    now_ns: u64,
    /// What the clock was set back by in all, nanoseconds.
    set_back_ns: u64,
    /// Packets since the newest one.
    behind: u32,
}

impl Clock {
    /// The time of a packet with that timestamp, nanoseconds.
    pub fn time(&mut self, timestamp_ns: u64) -> u64 {
        let time_ns = timestamp_ns.saturating_add(self.set_back_ns);
        if time_ns >= self.now_ns {
            self.now_ns = time_ns;
            self.behind = 0;
            return time_ns;
        }
        self.behind += 1;
        let behind_ns = self.now_ns - time_ns;
        if behind_ns <= REORDERING_NS_MAX && self.behind <= REORDERED_PACKETS_MAX {
            return time_ns;
        }
        self.set_back_ns = self.set_back_ns.saturating_add(behind_ns);
        self.behind = 0;
        self.now_ns
    }

    /// The newest time, nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// The timestamp of a time, as the clock is set now.
    pub fn timestamp(&self, time_ns: u64) -> u64 {
        time_ns.saturating_sub(self.set_back_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn packets_out_of_order_keep_their_time() {
        let mut clock = Clock::default();
        let times: Vec<u64> = [10, 12, 11, 13].map(|ms| clock.time(ms * MS)).to_vec();
        assert_eq!(times, [10, 12, 11, 13].map(|ms| ms * MS));
        for _ in 0..1000 {
            assert_eq!(clock.time(20 * MS), 20 * MS);
            assert_eq!(clock.time(15 * MS), 15 * MS, "every second packet is late");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_goes_on() {
        let mut clock = Clock::default();
        assert_eq!(clock.time(3_600_000 * MS), 3_600_000 * MS);
        let first = clock.time(5 * MS);
        assert_eq!(first, 3_600_000 * MS);
        assert_eq!(clock.time(55 * MS), first + 50 * MS);
        assert_eq!((clock.timestamp(first), clock.now_ns()), (5 * MS, first + 50 * MS));
    }

    #[test]
    fn a_clock_that_was_set_back_a_little_goes_on_after_a_while() {
        let mut clock = Clock::default();
        clock.time(1_000 * MS);
        let times: Vec<u64> = (0..300).map(|ms| clock.time((500 + ms) * MS)).collect();
        let late: Vec<u64> = times[100..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(times[100] >= 1_000 * MS && late.iter().all(|&step| step == MS), "{late:?}");
    }

    #[test]
    fn no_timestamp_overflows() {
        let mut clock = Clock::default();
        for timestamp in [u64::MAX, 0, u64::MAX, 0, 1, u64::MAX] {
            let time = clock.time(timestamp);
            assert!(clock.timestamp(time) <= time);
        }
    }
}
