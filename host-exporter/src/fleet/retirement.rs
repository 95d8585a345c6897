//! How ended sandboxes leave: first their series, when scrapes had them, and later their memory, when their values are added to the retired
//! totals.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    ENDED_KEEP, Fleet, REMEMBERED_MAX,
    sandbox::{Phase, Sandbox},
};
use crate::clock::unix_ms;

impl Fleet {
    /// A scrape that saw these ended sandboxes went out whole.
    pub fn scraped(&self, ended: &[Arc<Sandbox>]) {
        for sandbox in ended {
            sandbox.scraped();
        }
        self.retire(unix_ms());
    }

    /// The series of sandboxes that ended since this time stay, though scrapes had them: they were not sent yet.
    pub fn hold_ended_since(&self, unix_ms: u64) {
        self.held_since.store(unix_ms, Ordering::Relaxed);
    }

    /// No series stay that scrapes had.
    pub fn hold_no_ended(&self) {
        self.hold_ended_since(u64::MAX);
    }

    /// Lets series, and then memory, of ended sandboxes go when their time has come.
    pub fn retire(&self, now_unix_ms: u64) {
        let held_since = self.held_since.load(Ordering::Relaxed);
        let mut remembered = Vec::new();
        for sandbox in self.sandboxes() {
            match sandbox.phase() {
                Phase::Live => {}
                Phase::Ended { at_unix_ms, scrapes } => {
                    let age = Duration::from_millis(now_unix_ms.saturating_sub(at_unix_ms));
                    let scraped = scrapes >= self.retention.scrapes && age >= self.retention.at_least;
                    if (scraped && at_unix_ms < held_since) || age >= self.retention.at_most {
                        sandbox.forget_series();
                    }
                }
                Phase::Remembered { at_unix_ms } => remembered.push((at_unix_ms, sandbox)),
            }
        }
        remembered.sort_by_key(|(at_unix_ms, _)| *at_unix_ms);
        let surplus = remembered.len().saturating_sub(REMEMBERED_MAX);
        let expired =
            |at_unix_ms: u64| Duration::from_millis(now_unix_ms.saturating_sub(at_unix_ms)) >= ENDED_KEEP;
        for (at, (ended_unix_ms, sandbox)) in remembered.into_iter().enumerate() {
            if at < surplus || expired(ended_unix_ms) {
                self.forget(&sandbox);
            }
        }
        self.age_applications(now_unix_ms);
    }

    /// Forgets a sandbox; its values stay in the retired totals.
    fn forget(&self, sandbox: &Arc<Sandbox>) {
        let mut inner = self.inner.write();
        let key = sandbox.key();
        // It may have come back to life since it was listed.
        if !matches!(sandbox.phase(), Phase::Remembered { .. }) || inner.sandboxes.remove(&key).is_none() {
            return;
        }
        let accumulator = sandbox.accumulator.lock();
        let totals = accumulator.totals();
        let golden = totals.golden();
        if !golden.is_empty() {
            let application = sandbox.application();
            inner.retired.applications.entry(application.clone()).or_default().add(&golden);
            self.dirty.lock().applications.insert(application.clone());
            let tenant = application.tenant.clone();
            self.charge_retired(&mut inner, &tenant);
        }
        self.dirty.lock().tenants.insert(sandbox.identity.tenant.clone());
        inner
            .retired
            .tenant_counters
            .entry(sandbox.identity.tenant.clone())
            .or_default()
            .add(&totals.counters());
        drop(accumulator);
        drop(inner);
        self.changed();
    }
}
