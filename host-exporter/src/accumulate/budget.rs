//! Budgets, so that the series, labels and batches of one tenant take no memory, no part of a scrape and no CPU time of
//! another one.
//!
//! | budget | of a tenant | of all | what exceeds it |
//! |---|---|---|---|
//! | resident bytes | `memory_mib_per_tenant` | half of `memory_mib` | overflow series; then refused |
//! | exposed bytes | `exposed_mib_per_tenant` | `exposed_mib` | overflow series |
//! | series | `series_per_tenant` | | overflow series |
//! | ingest bytes | `ingest_mb_per_second_per_tenant` | `ingest_mb_per_second` | slowed |
//! | CPU time of batches | `ingest_cores_per_tenant` | `ingest_cores` | slowed |
//! | bytes of frames at one time | a quarter of all | a sixteenth of `memory_mib` | waits |

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::pool::{Holding, Pool, Pressure};
use crate::{
    metering::{Rate, SharedRate, TenantRate},
    rejection::Rejections,
};

/// How many seconds of a rate may be spent at once: full states come after a restart of the exporter.
const TENANT_CPU_SECONDS: f64 = 20.0;
const NODE_CPU_SECONDS: f64 = 10.0;
const TENANT_INGEST_SECONDS: f64 = 8.0;
const NODE_INGEST_SECONDS: f64 = 4.0;

/// For each exposed series a tenant may have this many series ids tracked behind it: ids of overflow series still
/// need their last value remembered, or their counts could not be added exactly once.
const TRACKED_PER_EXPOSED: usize = 4;

/// Frames are counted in units of so many bytes.
const FRAME_UNIT: usize = 1 << 10;

/// What the configuration allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the whole process.
    pub memory: usize,
    /// Resident bytes of one tenant.
    pub memory_per_tenant: usize,
    /// Bytes of a scrape as text.
    pub exposed: usize,
    /// Those of one tenant.
    pub exposed_per_tenant: usize,
    /// Series that one tenant may expose.
    pub series_per_tenant: usize,
    /// Bytes of all tenants' agents per second, beyond which those above their share wait.
    pub ingest: f64,
    /// Bytes that the agents of one tenant may send per second.
    pub ingest_per_tenant: f64,
    /// CPU time of all tenants' batches, seconds per second, beyond which those above their share wait.
    pub cores: f64,
    /// CPU time that the batches of one tenant may take.
    pub cores_per_tenant: f64,
}

#[cfg(test)]
impl Limits {
    /// Limits of which only that of series is ever reached.
    pub fn of_series(series_per_tenant: usize) -> Self {
        let plenty = 1 << 30;
        Self {
            memory: plenty,
            memory_per_tenant: plenty,
            exposed: plenty,
            exposed_per_tenant: plenty,
            series_per_tenant,
            ingest: 32e6,
            ingest_per_tenant: 8e6,
            cores: 0.6,
            cores_per_tenant: 0.25,
        }
    }
}

/// The budget of all tenants together.
#[derive(Debug)]
pub struct NodeBudget {
    limits: Limits,
    resident: Arc<Pool>,
    exposed: Arc<Pool>,
    cpu: Arc<SharedRate>,
    ingest: Arc<SharedRate>,
    frames: Arc<Semaphore>,
}

impl NodeBudget {
    /// A budget of which nothing is used.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            resident: Pool::new(limits.memory / 2, limits.memory_per_tenant),
            exposed: Pool::new(limits.exposed, limits.exposed_per_tenant),
            cpu: SharedRate::new(Rate::lasting(limits.cores, NODE_CPU_SECONDS)),
            ingest: SharedRate::new(Rate::lasting(limits.ingest, NODE_INGEST_SECONDS)),
            frames: Arc::new(Semaphore::new(limits.memory / 16 / FRAME_UNIT)),
        }
    }

    /// What the configuration allows.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes that tenants hold, by account.
    pub fn resident(&self) -> &Pool {
        &self.resident
    }

    /// Bytes of a scrape as text, by account.
    pub fn exposed(&self) -> &Pool {
        &self.exposed
    }

    /// How near the whole process is to its ceiling.
    pub fn set_pressure(&self, pressure: Pressure) {
        self.resident.set_pressure(pressure);
    }
}

/// What a tenant has taken of its budget.
#[derive(Debug)]
pub struct TenantBudget {
    series_max: usize,
    exposed_series: AtomicUsize,
    tracked: AtomicUsize,
    /// Bytes of memory.
    pub resident: Holding,
    /// Bytes of a scrape as text.
    pub exposed: Holding,
    cpu: TenantRate,
    cpu_ns: AtomicU64,
    ingest: TenantRate,
    ingested: AtomicU64,
    node_frames: Arc<Semaphore>,
    frames: Arc<Semaphore>,
    throttled_ns: AtomicU64,
    /// What the tenant's agents sent that was not counted.
    pub rejections: Rejections,
}

impl TenantBudget {
    /// The budget of one more tenant.
    pub fn new(node: &NodeBudget) -> Self {
        Self {
            series_max: node.limits.series_per_tenant,
            exposed_series: AtomicUsize::new(0),
            tracked: AtomicUsize::new(0),
            resident: Holding::new(&node.resident),
            exposed: Holding::new(&node.exposed),
            cpu: TenantRate::new(&node.cpu, Rate::lasting(node.limits.cores_per_tenant, TENANT_CPU_SECONDS)),
            cpu_ns: AtomicU64::new(0),
            ingest: TenantRate::new(
                &node.ingest,
                Rate::lasting(node.limits.ingest_per_tenant, TENANT_INGEST_SECONDS),
            ),
            ingested: AtomicU64::new(0),
            node_frames: Arc::clone(&node.frames),
            frames: Arc::new(Semaphore::new(node.limits.memory / 64 / FRAME_UNIT)),
            throttled_ns: AtomicU64::new(0),
            rejections: Rejections::default(),
        }
    }

    /// CPU time was spent on the tenant's behalf; the time until more may be spent.
    pub fn spend_cpu(&self, spent: Duration) -> Duration {
        self.cpu_ns.fetch_add(nanoseconds(spent), Ordering::Relaxed);
        self.cpu.spend(spent.as_secs_f64())
    }

    /// CPU time that the batches of the tenant's agents took.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Ordering::Relaxed))
    }

    /// Bytes came from one of the tenant's agents.
    #[allow(clippy::cast_precision_loss)]
    pub fn spend_ingest(&self, bytes: usize) {
        self.ingested.fetch_add(bytes as u64, Ordering::Relaxed);
        self.ingest.spend(bytes as f64);
    }

    /// The time until more bytes may come.
    pub fn ingest_wait(&self) -> Duration {
        self.ingest.wait()
    }

    /// Bytes that came from the tenant's agents.
    pub fn ingested(&self) -> u64 {
        self.ingested.load(Ordering::Relaxed)
    }

    /// Waits for room for a frame of so many bytes, of which there are two copies while it is decoded.
    pub fn frame_room(&self, bytes: usize) -> impl Future<Output = FrameRoom> + Send + use<> {
        let units = u32::try_from(2 * bytes / FRAME_UNIT).unwrap_or(u32::MAX);
        let (own, all) = (Arc::clone(&self.frames), Arc::clone(&self.node_frames));
        async move {
            // Semaphores are never closed; without a permit a frame would only be less bounded.
            let own = own.acquire_many_owned(units).await.ok();
            let all = all.acquire_many_owned(units).await.ok();
            FrameRoom { _permits: [own, all] }
        }
    }

    /// An agent of the tenant is held back for so long.
    pub fn throttled_for(&self, wait: Duration) {
        self.throttled_ns.fetch_add(nanoseconds(wait), Ordering::Relaxed);
    }

    /// For how long the tenant's agents were held back.
    pub fn throttled(&self) -> Duration {
        Duration::from_nanos(self.throttled_ns.load(Ordering::Relaxed))
    }

    /// Series that the tenant may expose.
    pub fn series_max(&self) -> usize {
        self.series_max
    }

    /// Series that the tenant exposes.
    pub fn exposed_series(&self) -> usize {
        self.exposed_series.load(Ordering::Relaxed)
    }

    /// Takes one exposed series; false when the budget is used up.
    #[must_use]
    pub fn take_exposed(&self) -> bool {
        take(&self.exposed_series, self.series_max)
    }

    /// Takes one exposed series in any case: for `other`, of which a sandbox has a bounded number.
    pub fn take_exposed_for_other(&self) {
        self.exposed_series.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one tracked series id; false when the budget is used up.
    #[must_use]
    pub fn take_tracked(&self) -> bool {
        take(&self.tracked, self.series_max.saturating_mul(TRACKED_PER_EXPOSED))
    }

    /// Gives exposed series back.
    pub fn release_exposed(&self, count: usize) {
        self.exposed_series.fetch_sub(count, Ordering::Relaxed);
    }

    /// Gives tracked series ids back.
    pub fn release_tracked(&self, count: usize) {
        self.tracked.fetch_sub(count, Ordering::Relaxed);
    }
}

/// A time as the counts of times are kept.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn take(counter: &AtomicUsize, limit: usize) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < limit).then_some(taken + 1))
        .is_ok()
}

/// Room for a frame; free again when it goes.
#[derive(Debug)]
pub struct FrameRoom {
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

/// Bytes that something holds of its tenant's budget; they are given back when it goes.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<TenantBudget>,
    resident: usize,
    exposed: usize,
}

impl Charge {
    /// A charge of nothing.
    pub fn new(budget: Arc<TenantBudget>) -> Self {
        Self { budget, resident: 0, exposed: 0 }
    }

    /// Whose budget it is.
    pub fn budget(&self) -> &Arc<TenantBudget> {
        &self.budget
    }

    /// Bytes of memory.
    pub fn resident(&self) -> usize {
        self.resident
    }

    /// Bytes of a scrape as text.
    pub fn exposed(&self) -> usize {
        self.exposed
    }

    /// Charges so many bytes of memory from now on.
    pub fn set_resident(&mut self, bytes: usize) {
        set(&self.budget.resident, &mut self.resident, bytes);
    }

    /// Charges so many bytes of a scrape from now on.
    pub fn set_exposed(&mut self, bytes: usize) {
        set(&self.budget.exposed, &mut self.exposed, bytes);
    }
}

fn set(holding: &Holding, held: &mut usize, bytes: usize) {
    if bytes > *held {
        holding.take(bytes - *held);
    } else {
        holding.give_back(*held - bytes);
    }
    *held = bytes;
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set_resident(0);
        self.set_exposed(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(limits: Limits) -> [TenantBudget; 2] {
        let node = NodeBudget::new(limits);
        [TenantBudget::new(&node), TenantBudget::new(&node)]
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenants_rates_are_those_of_the_configuration_and_each_tenants_own() {
        let limits = Limits { cores_per_tenant: 0.1, ingest_per_tenant: 1_000.0, ..Limits::of_series(1) };
        let [greedy, other] = tenants(Limits { cores: 1e3, ingest: 1e9, ..limits });
        assert_eq!(greedy.spend_cpu(Duration::from_secs(2)), Duration::ZERO, "twenty seconds of the rate");
        assert_eq!(greedy.spend_cpu(Duration::from_millis(50)), Duration::from_millis(500));
        greedy.spend_ingest(8_000);
        assert_eq!(greedy.ingest_wait(), Duration::ZERO, "eight seconds of the rate");
        greedy.spend_ingest(3_000);
        assert_eq!(greedy.ingest_wait(), Duration::from_secs(3));
        assert_eq!((other.spend_cpu(Duration::from_millis(1)), other.ingest_wait()), Default::default());
        assert_eq!(
            (greedy.cpu_time(), other.cpu_time()),
            (Duration::from_millis(2_050), Duration::from_millis(1))
        );
        assert_eq!((greedy.ingested(), other.ingested()), (11_000, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_rate_of_all_only_tenants_above_an_equal_share_wait() {
        let limits = Limits { cores: 0.1, ingest: 1_000.0, ..Limits::of_series(1) };
        let [greedy, modest] = tenants(Limits { cores_per_tenant: 1e3, ingest_per_tenant: 1e9, ..limits });
        assert!(greedy.spend_cpu(Duration::from_secs(2)) > Duration::ZERO);
        greedy.spend_ingest(10_000);
        assert!(greedy.ingest_wait() > Duration::ZERO);
        assert_eq!(modest.spend_cpu(Duration::from_millis(100)), Duration::ZERO);
        modest.spend_ingest(100);
        assert_eq!(modest.ingest_wait(), Duration::ZERO);
    }
}
