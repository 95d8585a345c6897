//! Bytes that all tenants share. Each has a limit of its own; when the bytes become scarce, each has an equal share.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

/// How scarce the bytes are, by what the process really takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// There is room.
    #[default]
    None,
    /// Only tenants below their share take more.
    Near,
    /// No tenant takes more.
    Full,
}

/// Bytes that all tenants share.
#[derive(Debug)]
pub struct Pool {
    limit: usize,
    tenant_limit: usize,
    taken: AtomicUsize,
    /// Tenants that hold some.
    tenants: AtomicUsize,
    pressure: AtomicU8,
}

impl Pool {
    /// A pool of `limit` bytes, of which one tenant holds `tenant_limit` at most.
    pub fn new(limit: usize, tenant_limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            tenant_limit: tenant_limit.min(limit),
            taken: AtomicUsize::new(0),
            tenants: AtomicUsize::new(0),
            pressure: AtomicU8::new(0),
        })
    }

    /// Bytes in all.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// The process takes more, or less, than the bytes that are known.
    pub fn set_pressure(&self, pressure: Pressure) {
        self.pressure.store(pressure as u8, Ordering::Relaxed);
    }

    /// What each tenant may hold once three quarters are taken. The last quarter is for tenants below their share.
    fn share(&self) -> usize {
        self.scarce_from() / self.tenants.load(Ordering::Relaxed).max(1)
    }

    fn scarce_from(&self) -> usize {
        self.limit / 4 * 3
    }
}

/// What one tenant holds of a pool.
#[derive(Debug)]
pub struct Holding {
    pool: Arc<Pool>,
    taken: AtomicUsize,
}

impl Holding {
    /// A holding of nothing.
    pub fn new(pool: &Arc<Pool>) -> Self {
        Self { pool: Arc::clone(pool), taken: AtomicUsize::new(0) }
    }

    /// Most that the tenant may hold.
    pub fn tenant_limit(&self) -> usize {
        self.pool.tenant_limit
    }

    /// What the tenant holds.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether the tenant may take so many bytes more.
    pub fn admits(&self, more: usize) -> bool {
        let own = self.taken().saturating_add(more);
        let all = self.pool.taken().saturating_add(more);
        let pressure = self.pool.pressure.load(Ordering::Relaxed);
        if own > self.pool.tenant_limit || all > self.pool.limit || pressure == Pressure::Full as u8 {
            return false;
        }
        let scarce = all > self.pool.scarce_from() || pressure == Pressure::Near as u8;
        !scarce || own <= self.pool.share()
    }

    /// Takes bytes in any case: of what was admitted, or is bounded otherwise.
    pub fn take(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if self.taken.fetch_add(bytes, Ordering::Relaxed) == 0 {
            self.pool.tenants.fetch_add(1, Ordering::Relaxed);
        }
        self.pool.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives bytes back.
    pub fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if self.taken.fetch_sub(bytes, Ordering::Relaxed) == bytes {
            self.pool.tenants.fetch_sub(1, Ordering::Relaxed);
        }
        self.pool.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_a_limit_and_a_share_when_bytes_become_scarce() {
        let pool = Pool::new(400, 250);
        let (greedy, late) = (Holding::new(&pool), Holding::new(&pool));
        assert!(greedy.admits(250) && !greedy.admits(251), "the tenant's own limit");
        greedy.take(250);
        assert!(late.admits(50));
        late.take(50);
        // 300 of 400 are taken, each tenant's share is 150.
        assert!(!greedy.admits(1));
        assert!(late.admits(100), "the last quarter is for those below their share");
        late.take(100);
        assert!(!late.admits(1));
        greedy.give_back(200);
        assert!(late.admits(50) && greedy.admits(100));
        late.give_back(150);
        assert_eq!((pool.taken(), pool.tenants.load(Ordering::Relaxed)), (50, 1));
    }

    #[test]
    fn what_the_process_takes_beyond_the_known_bytes_makes_them_scarce() {
        let pool = Pool::new(400, 400);
        let (one, other) = (Holding::new(&pool), Holding::new(&pool));
        one.take(200);
        other.take(10);
        pool.set_pressure(Pressure::Near);
        assert!(!one.admits(1) && other.admits(100));
        pool.set_pressure(Pressure::Full);
        assert!(!one.admits(1) && !other.admits(1));
        pool.set_pressure(Pressure::None);
        assert!(one.admits(1));
    }
}
