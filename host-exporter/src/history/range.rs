//! Which time is wanted, and where its points end.

use super::StepNumber;

/// Points of more steps are not aligned: the newest one would begin long ago, and have no value at its end yet.
const ALIGNED_STEPS_MAX: u64 = 8;

/// A time in points of equal length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Steps in all.
    pub steps: u64,
    /// Steps of one point.
    pub each: u64,
    /// The first step after it; none where it ends with the newest step.
    pub until: Option<StepNumber>,
}

impl Range {
    /// The first step after the last point, and the first one after what is recorded of it; `now` is the first one that is not recorded
    /// yet. Points of a few steps end at multiples of their length, so that they stay the same while time goes on.
    pub fn end(&self, now: StepNumber) -> (StepNumber, StepNumber) {
        let until = self.until.map_or(now, |until| until.min(now));
        let end = until.next_multiple_of(self.each.clamp(1, ALIGNED_STEPS_MAX));
        (end, now.min(end))
    }

    /// The first step after the point that has a step, when the last point ends so.
    pub fn point_end(&self, step: StepNumber, end: StepNumber) -> StepNumber {
        let each = self.each.max(1);
        end.saturating_sub(end.saturating_sub(step.saturating_add(1)) / each * each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_end_at_multiples_of_a_few_steps_and_long_ones_at_the_newest_step() {
        let range = |each, until| Range { steps: 240, each, until };
        assert_eq!(range(4, None).end(102), (104, 102));
        assert_eq!(range(4, None).point_end(99, 104), 100);
        assert_eq!(range(4, None).point_end(100, 104), 104);
        assert_eq!(range(480, None).end(1_001), (1_008, 1_001), "not 479 steps from now");
        assert_eq!(range(480, None).point_end(528, 1_008), 1_008);
        assert_eq!(range(480, None).point_end(527, 1_008), 528);
        assert_eq!(range(4, Some(50)).end(102), (52, 52), "all of what is over is recorded");
        assert_eq!(range(4, Some(500)).end(102), (104, 102), "nothing is known of what is to come");
        assert_eq!(range(0, None).point_end(7, 8), 8);
    }
}
