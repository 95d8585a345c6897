//! Requests that wait for their response: in order ([`Fifo`]), or by an id ([`ById`]). Bounded: the oldest makes room for
//! the newest, and is given back so that its parser counts it.

use std::{
    collections::VecDeque,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use foldhash::{HashMap, HashMapExt as _};

/// What waits on all connections together, beyond what each of them may have.
#[derive(Debug, Default)]
pub(crate) struct SharedPending(Arc<AtomicUsize>);

impl SharedPending {
    /// How many wait.
    pub(crate) fn taken(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// A connection's part of [`SharedPending`], which it gives back at its end.
#[derive(Debug)]
pub(crate) struct PendingShare {
    of: Arc<AtomicUsize>,
    taken: usize,
}

impl PendingShare {
    /// How many it has.
    pub(crate) fn taken(share: Option<&Self>) -> usize {
        share.map_or(0, |share| share.taken)
    }

    /// So many of a connection's requests wait beyond what each connection may have.
    pub(crate) fn set(share: &mut Option<Box<Self>>, taken: usize, shared: &SharedPending) {
        if taken == 0 {
            *share = None;
            return;
        }
        let share = share.get_or_insert_with(|| Box::new(Self { of: Arc::clone(&shared.0), taken: 0 }));
        share.of.fetch_add(taken, Relaxed);
        share.of.fetch_sub(std::mem::replace(&mut share.taken, taken), Relaxed);
    }
}

impl Drop for PendingShare {
    fn drop(&mut self) {
        self.of.fetch_sub(self.taken, Relaxed);
    }
}

/// Requests for which room is kept when none waits.
const ROOM_KEPT: usize = 1024;

/// What answers next, in a protocol that answers in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// This one.
    Waiting(T),
    /// One that had to be forgotten: its response is to be dropped.
    Forgotten,
}

/// First in, first out. When it is full the oldest is forgotten, and its response will be recognised as such: the
/// pairing of the others stays right.
#[derive(Debug)]
pub struct Fifo<T> {
    waiting: VecDeque<T>,
    forgotten: u64,
}

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), forgotten: 0 }
    }
}

impl<T> Fifo<T> {
    /// Adds one that waits; gives back the one that was forgotten for it.
    pub fn push(&mut self, item: T, limit: usize) -> Option<T> {
        let evicted = if self.waiting.len() >= limit.max(1) { self.waiting.pop_front() } else { None };
        self.forgotten += u64::from(evicted.is_some());
        self.waiting.push_back(item);
        evicted
    }

    /// Takes the one whose response has come; `None` when nothing waits.
    pub fn pop(&mut self) -> Option<Next<T>> {
        if self.forgotten > 0 {
            self.forgotten -= 1;
            return Some(Next::Forgotten);
        }
        self.pop_front().map(Next::Waiting)
    }

    fn pop_front(&mut self) -> Option<T> {
        let front = self.waiting.pop_front();
        if self.waiting.is_empty() && self.waiting.capacity() > ROOM_KEPT {
            self.waiting.shrink_to(ROOM_KEPT);
        }
        front
    }

    /// Takes the oldest that is still known, whatever was forgotten before it: for the end of a connection.
    pub fn drain_one(&mut self) -> Option<T> {
        self.forgotten = 0;
        self.pop_front()
    }

    /// The one that is answered next, unless it was forgotten.
    pub fn front(&self) -> Option<&T> {
        if self.forgotten > 0 { None } else { self.waiting.front() }
    }

    /// The one that is answered next, to be changed.
    pub fn front_mut(&mut self) -> Option<&mut T> {
        if self.forgotten > 0 { None } else { self.waiting.front_mut() }
    }

    /// The newest.
    pub fn back(&self) -> Option<&T> {
        self.waiting.back()
    }

    /// The newest, to be changed.
    pub fn back_mut(&mut self) -> Option<&mut T> {
        self.waiting.back_mut()
    }

    /// All that wait, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter()
    }

    /// How many wait and are known.
    pub fn known(&self) -> usize {
        self.waiting.len()
    }

    /// How many wait, with those forgotten.
    pub fn len(&self) -> usize {
        self.waiting.len() + usize::try_from(self.forgotten).unwrap_or(usize::MAX / 2)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.forgotten == 0
    }
}

/// Ids of requests that were given up, because no response came for too long. A response that comes after all is dropped.
#[derive(Debug)]
pub struct Late<K> {
    ids: VecDeque<K>,
}

/// Most ids of requests that were given up which are remembered.
const LATE_MAX: usize = 64;

impl<K> Default for Late<K> {
    fn default() -> Self {
        Self { ids: VecDeque::new() }
    }
}

impl<K: PartialEq> Late<K> {
    /// The request of this id was given up.
    pub fn push(&mut self, id: K) {
        if self.ids.len() >= LATE_MAX {
            self.ids.pop_front();
        }
        self.ids.push_back(id);
    }

    /// A response to this id came: whether its request was given up.
    pub fn remove(&mut self, id: &K) -> bool {
        self.take_if(|late| late == id).is_some()
    }

    /// Takes the first that fulfils the condition.
    pub fn take_if(&mut self, condition: impl Fn(&K) -> bool) -> Option<K> {
        let at = self.ids.iter().position(condition)?;
        self.ids.remove(at)
    }
}

/// By correlation id or stream id. When it is full the oldest is forgotten; its response finds nothing.
#[derive(Debug)]
pub struct ById<K, T> {
    waiting: HashMap<K, (u64, T)>,
    order: VecDeque<(u64, K)>,
    sequence: u64,
}

impl<K: Copy + Eq + Hash, T> Default for ById<K, T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new(), sequence: 0 }
    }
}

impl<K: Copy + Eq + Hash, T> ById<K, T> {
    /// Adds one that waits; gives back one of the same id, or the oldest, that was forgotten for it.
    pub fn insert(&mut self, id: K, item: T, limit: usize) -> Option<T> {
        self.sequence += 1;
        let mut evicted = self.waiting.insert(id, (self.sequence, item)).map(|(_, old)| old);
        self.order.push_back((self.sequence, id));
        // Those answered are still in the order: drop them before they pile up.
        while let Some(&(sequence, id)) = self.order.front() {
            let alive = self.waiting.get(&id).is_some_and(|entry| entry.0 == sequence);
            if alive && self.waiting.len() <= limit.max(1) {
                self.compact();
                break;
            }
            self.order.pop_front();
            if alive {
                evicted = self.waiting.remove(&id).map(|(_, old)| old);
            }
        }
        evicted
    }

    /// Drops from the order what is answered, before it piles up.
    fn compact(&mut self) {
        if self.order.len() > 2 * self.waiting.len() + 16 {
            let waiting = &self.waiting;
            self.order.retain(|(sequence, id)| waiting.get(id).is_some_and(|entry| entry.0 == *sequence));
        }
    }

    /// The one with this id, which is the newest from now on: of what is kept for longer, what is used is not forgotten.
    pub fn get_used(&mut self, id: K) -> Option<&mut T> {
        self.sequence += 1;
        self.waiting.get_mut(&id)?.0 = self.sequence;
        self.order.push_back((self.sequence, id));
        self.compact();
        self.get_mut(id)
    }

    /// Takes the one whose response has come.
    pub fn remove(&mut self, id: K) -> Option<T> {
        let (_, item) = self.waiting.remove(&id)?;
        if self.waiting.is_empty() && self.order.len() > ROOM_KEPT {
            *self = Self::default();
        }
        Some(item)
    }

    /// The one with this id.
    pub fn get_mut(&mut self, id: K) -> Option<&mut T> {
        self.waiting.get_mut(&id).map(|(_, item)| item)
    }

    /// Visits all that wait.
    pub fn for_each_mut(&mut self, visit: impl FnMut(&mut T)) {
        self.waiting.values_mut().map(|(_, item)| item).for_each(visit);
    }

    /// Visits all that wait, with their ids.
    pub fn for_each_entry_mut(&mut self, mut visit: impl FnMut(K, &mut T)) {
        self.waiting.iter_mut().for_each(|(id, (_, item))| visit(*id, item));
    }

    /// Takes the oldest one, when it fulfils the condition: for time-outs and for the end of a connection.
    pub fn pop_oldest_if(&mut self, condition: impl Fn(&T) -> bool) -> Option<T> {
        while let Some(&(sequence, id)) = self.order.front() {
            match self.waiting.get(&id) {
                Some((of, item)) if *of == sequence => {
                    if !condition(item) {
                        return None;
                    }
                    self.order.pop_front();
                    return self.remove(id);
                }
                _ => self.order.pop_front(),
            };
        }
        None
    }

    /// Takes all that fulfil the condition, in the order in which they came.
    pub fn take_all_if(&mut self, condition: impl Fn(&T) -> bool) -> Vec<(K, T)> {
        let fulfil = self.waiting.iter().filter(|(_, (_, item))| condition(item));
        let mut ids: Vec<(u64, K)> = fulfil.map(|(id, (sequence, _))| (*sequence, *id)).collect();
        ids.sort_unstable_by_key(|(sequence, _)| *sequence);
        ids.into_iter().filter_map(|(_, id)| Some((id, self.remove(id)?))).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_request_does_not_shift_the_others() {
        let mut fifo = Fifo::default();
        assert_eq!(fifo.push('a', 2), None);
        assert_eq!(fifo.push('b', 2), None);
        assert_eq!(fifo.push('c', 2), Some('a'));
        assert_eq!(fifo.len(), 3);
        assert_eq!(fifo.pop(), Some(Next::Forgotten));
        assert_eq!(fifo.pop(), Some(Next::Waiting('b')));
        assert_eq!(fifo.pop(), Some(Next::Waiting('c')));
        assert_eq!(fifo.pop(), None);
    }

    #[test]
    fn by_id_is_bounded_and_forgets_the_oldest() {
        let mut by_id = ById::default();
        for id in 0..10_000_u32 {
            let evicted = by_id.insert(id, id, 4);
            assert_eq!(evicted, id.checked_sub(4));
        }
        assert_eq!(by_id.len(), 4);
        assert_eq!(by_id.remove(9_998), Some(9_998));
        assert_eq!(by_id.pop_oldest_if(|_| true), Some(9_996));
        assert_eq!(by_id.pop_oldest_if(|item| *item == 0), None);
        assert_eq!(by_id.len(), 2);
        assert_eq!(by_id.take_all_if(|_| true), [(9_997, 9_997), (9_999, 9_999)]);
    }

    #[test]
    fn what_is_used_is_not_forgotten() {
        let mut by_id = ById::default();
        by_id.insert(u32::MAX, u32::MAX, 4);
        for id in 0..10_000_u32 {
            by_id.insert(id, id, 4);
            assert_eq!(by_id.get_used(u32::MAX).copied(), Some(u32::MAX), "{id}");
            assert!(by_id.order.len() < 64);
        }
        assert_eq!(by_id.len(), 4);
    }

    #[test]
    fn ids_of_late_responses_are_bounded() {
        let mut late = Late::default();
        for id in 0..3 * LATE_MAX {
            late.push(id);
        }
        assert!(late.ids.len() <= LATE_MAX && late.remove(&(3 * LATE_MAX - 1)) && !late.remove(&0));
        assert!(!late.remove(&(3 * LATE_MAX - 1)), "answered once");
    }

    #[test]
    fn the_order_does_not_grow_with_answered_requests() {
        let mut by_id = ById::default();
        by_id.insert(u32::MAX, 0, 64);
        for id in 0..100_000_u32 {
            by_id.insert(id, id, 64);
            by_id.remove(id);
        }
        assert!(by_id.order.len() < 64, "{}", by_id.order.len());
    }
}
