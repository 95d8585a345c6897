//! The order of one connection's records.
//!
//! The kernel numbers a connection's records; two CPUs may send theirs the other way round, and the ring buffer may
//! have no room for one. So what comes early is held until what is missing comes, or until it is certain that it was
//! lost.

/// What to do with a record that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It is the next one; afterwards [`Sequence::pop`] may give others.
    Now,
    /// It came early: [`Sequence::hold`] it.
    Early,
    /// It was skipped already.
    Late,
}

/// Most records that are held for one connection.
pub const HELD_MAX: usize = 64;

/// The records of one connection, in order.
#[derive(Debug)]
pub struct Sequence<T> {
    next: u64,
    held: Vec<(u64, T)>,
}

impl<T> Sequence<T> {
    /// Begins with the record of this number.
    pub fn starting_at(next: u64) -> Self {
        Self { next, held: Vec::new() }
    }

    /// Where a record stands; the next one counts as taken.
    pub fn take(&mut self, number: u64) -> Order {
        match number.cmp(&self.next) {
            std::cmp::Ordering::Less => Order::Late,
            std::cmp::Ordering::Equal => {
                self.next += 1;
                Order::Now
            }
            std::cmp::Ordering::Greater => Order::Early,
        }
    }

    /// Keeps an early record; gives true when there are so many that the missing one must be skipped.
    pub fn hold(&mut self, number: u64, record: T) -> bool {
        self.held.push((number, record));
        self.held.len() >= HELD_MAX
    }

    /// The next record, if it is among the held ones.
    pub fn pop(&mut self) -> Option<T> {
        let at = self.held.iter().position(|(number, _)| *number == self.next)?;
        self.next += 1;
        Some(self.held.swap_remove(at).1)
    }

    /// Goes on behind what is missing before the first held record; gives the number of missing records.
    pub fn skip_missing(&mut self) -> u64 {
        let Some(first) = self.held.iter().map(|(number, _)| *number).min() else { return 0 };
        let missing = first.saturating_sub(self.next);
        self.next = self.next.max(first);
        missing
    }

    /// Whether records are held.
    pub fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds numbers; gives them in the order in which they were let through.
    fn through(numbers: &[u64]) -> Vec<u64> {
        let mut sequence = Sequence::starting_at(0);
        let mut out = Vec::new();
        for &number in numbers {
            match sequence.take(number) {
                Order::Now => out.push(number),
                Order::Early => {
                    sequence.hold(number, number);
                }
                Order::Late => {}
            }
            while let Some(number) = sequence.pop() {
                out.push(number);
            }
        }
        out
    }

    #[test]
    fn swapped_records_come_out_in_order() {
        assert_eq!(through(&[0, 2, 1, 5, 4, 3, 6]), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn nothing_passes_a_gap_until_it_is_skipped() {
        let mut sequence = Sequence::starting_at(0);
        assert_eq!(sequence.take(3), Order::Early);
        sequence.hold(3, 3);
        assert_eq!(sequence.pop(), None);
        assert_eq!(sequence.skip_missing(), 3);
        assert_eq!(sequence.pop(), Some(3));
        assert!(!sequence.is_waiting());
        assert_eq!(sequence.take(1), Order::Late, "skipped");
    }

    #[test]
    fn the_number_of_held_records_is_bounded() {
        let mut sequence = Sequence::starting_at(0);
        let full = (1..1000).find(|&number| sequence.hold(number, ())).expect("an end");
        assert_eq!(full, HELD_MAX as u64);
    }
}
