//! What waits for a destination: bounded in requests and in bytes, of which each tenant can have an equal share.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Spans or points to be sent, as an encoded request: its length is the memory that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    pub request: Bytes,
    /// Spans or points in it.
    pub items: u64,
}

/// Requests of all tenants, which take turns.
pub(super) struct Queue {
    bytes_max: usize,
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Default)]
struct Waiting {
    requests_max: usize,
    /// What is added is dropped.
    is_closed: bool,
    by_tenant: BTreeMap<String, OfTenant>,
    requests: usize,
    bytes: usize,
    /// The tenant whose turn was last.
    last: String,
}

/// Never empty.
#[derive(Default)]
struct OfTenant {
    requests: VecDeque<Queued>,
    bytes: usize,
}

impl Queue {
    /// An empty one.
    pub fn new(requests_max: usize, bytes_max: usize) -> Self {
        let waiting = Waiting { requests_max, ..Waiting::default() };
        Self { bytes_max, waiting: Mutex::new(waiting), added: Notify::new() }
    }

    /// Has room for so many requests from now on. Those beyond are dropped when the next one is added.
    pub fn set_requests_max(&self, requests_max: usize) {
        self.waiting.lock().requests_max = requests_max;
    }

    /// Adds a request of a tenant. Returns the number of spans or points for which there was no room: those of the newest requests of
    /// the tenant that has the most, so that no other one loses its share.
    pub fn add(&self, tenant: &str, queued: Queued) -> u64 {
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            return queued.items;
        }
        waiting.add(tenant, queued);
        let mut dropped = 0;
        loop {
            let excess = if waiting.requests > waiting.requests_max {
                waiting.drop_newest(tenant, |of| of.requests.len())
            } else if waiting.bytes > self.bytes_max {
                waiting.drop_newest(tenant, |of| of.bytes)
            } else {
                None
            };
            let Some(excess) = excess else { break };
            dropped += excess.items;
        }
        drop(waiting);
        self.added.notify_one();
        dropped
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.waiting.lock().bytes
    }

    /// Drops the newest requests of the tenants that have the most until it has so many bytes. Returns the number of their spans or points.
    pub fn shrink(&self, bytes_max: usize) -> u64 {
        let mut waiting = self.waiting.lock();
        let mut dropped = 0;
        while waiting.bytes > bytes_max {
            let Some(excess) = waiting.drop_newest("", |of| of.bytes) else { break };
            dropped += excess.items;
        }
        dropped
    }

    /// Takes the next request, if there is one. Else it is closed.
    pub fn take_or_close(&self) -> Option<Queued> {
        let mut waiting = self.waiting.lock();
        let next = waiting.take();
        waiting.is_closed |= next.is_none();
        next
    }

    /// Takes the next request, as soon as there is one.
    pub async fn take(&self) -> Queued {
        loop {
            let next = self.waiting.lock().take();
            if let Some(next) = next {
                return next;
            }
            self.added.notified().await;
        }
    }
}

impl Waiting {
    fn add(&mut self, tenant: &str, queued: Queued) {
        self.requests += 1;
        self.bytes += queued.request.len();
        let of = self.by_tenant.entry(tenant.to_owned()).or_default();
        of.bytes += queued.request.len();
        of.requests.push_back(queued);
    }

    /// The oldest request of the tenant after the last one's.
    fn take(&mut self) -> Option<Queued> {
        let after = (Bound::Excluded(self.last.as_str()), Bound::Unbounded);
        let next = self.by_tenant.range::<str, _>(after).next().or_else(|| self.by_tenant.iter().next());
        let tenant = next?.0.clone();
        let queued = self.remove(&tenant, VecDeque::pop_front);
        self.last = tenant;
        queued
    }

    /// Removes the newest request of the tenant that has the most; of equals, that of the one that adds: it does not displace others.
    fn drop_newest(&mut self, adding: &str, most: impl Fn(&OfTenant) -> usize) -> Option<Queued> {
        let all = self.by_tenant.iter();
        let (tenant, _) = all.max_by_key(|(tenant, of)| (most(of), *tenant == adding))?;
        let tenant = tenant.clone();
        self.remove(&tenant, VecDeque::pop_back)
    }

    fn remove(
        &mut self,
        tenant: &str,
        end: impl Fn(&mut VecDeque<Queued>) -> Option<Queued>,
    ) -> Option<Queued> {
        let of = self.by_tenant.get_mut(tenant)?;
        let queued = end(&mut of.requests)?;
        self.requests -= 1;
        self.bytes -= queued.request.len();
        of.bytes -= queued.request.len();
        if of.requests.is_empty() {
            self.by_tenant.remove(tenant);
        }
        Some(queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request of one span, which has a mark.
    fn queued(mark: u8, bytes: usize) -> Queued {
        Queued { request: vec![mark; bytes].into(), items: 1 }
    }

    /// The marks of what waits, in the order in which it is taken.
    fn marks(queue: &Queue) -> Vec<u8> {
        std::iter::from_fn(|| queue.waiting.lock().take()).map(|queued| queued.request[0]).collect()
    }

    #[test]
    fn a_queue_is_closed_when_its_last_request_was_taken() {
        let queue = Queue::new(3, 100);
        queue.add("acme", queued(1, 1));
        assert!(queue.take_or_close().is_some());
        assert_eq!(queue.add("acme", queued(2, 1)), 0, "it is open");
        assert!(queue.take_or_close().is_some() && queue.take_or_close().is_none());
        assert_eq!((queue.add("acme", queued(3, 1)), marks(&queue).len()), (1, 0), "dropped, and counted");
    }

    #[test]
    fn one_tenant_alone_has_all_places_and_loses_its_newest() {
        let queue = Queue::new(3, 100);
        let dropped = (0..5).map(|mark| queue.add("acme", queued(mark, 1))).sum::<u64>();
        assert_eq!((dropped, marks(&queue)), (2, vec![0, 1, 2]));
    }

    #[test]
    fn a_tenant_that_fills_the_queue_leaves_others_their_share_of_places() {
        let queue = Queue::new(4, 100);
        for _ in 0..9 {
            queue.add("busy", queued(0, 1));
        }
        assert_eq!((1..=3).map(|mark| queue.add("calm", queued(mark, 1))).sum::<u64>(), 3);
        assert_eq!(queue.add("late", queued(9, 1)), 1, "of one of the others");
        assert_eq!(queue.add("busy", queued(0, 1)), 1, "it has its share already");
        let marks = marks(&queue);
        let of = |wanted: &[u8]| marks.iter().filter(|mark| wanted.contains(mark)).count();
        assert!(marks.len() == 4 && of(&[0]) >= 1 && of(&[1, 2]) >= 1 && of(&[9]) == 1, "{marks:?}");
    }

    #[test]
    fn a_tenant_that_fills_the_queue_leaves_others_their_share_of_bytes() {
        let queue = Queue::new(100, 40);
        for _ in 0..9 {
            queue.add("busy", queued(0, 10));
        }
        assert_eq!((1..=3).map(|mark| queue.add("calm", queued(mark, 10))).sum::<u64>(), 3);
        assert_eq!(queue.waiting.lock().bytes, 40);
        assert_eq!(marks(&queue), [0, 1, 0, 2]);
        assert_eq!(queue.waiting.lock().bytes, 0);
        assert_eq!(queue.add("calm", queued(4, 41)), 1, "larger than all of it");
        assert!(marks(&queue).is_empty());
    }

    #[test]
    fn tenants_take_turns() {
        let queue = Queue::new(9, 100);
        for (tenant, mark) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("c", 6)] {
            queue.add(tenant, queued(mark, 1));
        }
        assert_eq!(marks(&queue), [1, 4, 5, 2, 6, 3]);
    }

    #[test]
    fn a_queue_that_shrinks_keeps_the_oldest_of_each_tenant() {
        let queue = Queue::new(9, 100);
        for (tenant, mark) in [("a", 1), ("a", 2), ("a", 3), ("b", 4)] {
            queue.add(tenant, queued(mark, 10));
        }
        assert_eq!((queue.bytes(), queue.shrink(20)), (40, 2 * queued(1, 10).items));
        assert_eq!((queue.bytes(), queue.shrink(20)), (20, 0));
        assert_eq!(marks(&queue), [1, 4]);
    }

    #[tokio::test]
    async fn a_request_is_taken_as_soon_as_it_is_added() {
        let queue = Queue::new(1, 100);
        let (taken, dropped) = tokio::join!(queue.take(), async { queue.add("acme", queued(7, 1)) });
        assert_eq!((taken, dropped), (queued(7, 1), 0));
    }
}
