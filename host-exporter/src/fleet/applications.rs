//! Which applications there are: their retired totals, what these are charged, and how many a tenant has for how long.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Fleet, Inner, Retired};
use crate::{
    accumulate::{budget::Charge, cost, golden::GoldenTable, series::OTHER},
    identity::Application,
};

/// Memory that an application without values needs, bytes.
const APPLICATION_BYTES: usize = 1 << 10;

impl Fleet {
    /// Puts the retired totals of an earlier run back.
    pub fn restore_retired(&self, retired: Retired) {
        let mut inner = self.inner.write();
        inner.retired = retired;
        let tenants: BTreeSet<String> =
            inner.retired.applications.keys().map(|application| application.tenant.clone()).collect();
        for tenant in tenants {
            self.charge_retired(&mut inner, &tenant);
        }
    }

    /// Charges a tenant for its retired totals.
    pub(super) fn charge_retired(&self, inner: &mut Inner, tenant: &str) {
        let first = Application { tenant: tenant.to_owned(), service_name: String::new() };
        let entry = cost::map_entry::<Application, GoldenTable>();
        let of_tenant = inner
            .retired
            .applications
            .range(first..)
            .take_while(|(application, _)| application.tenant == tenant);
        let bytes = of_tenant
            .map(|(application, table)| {
                entry + cost::text(tenant) + cost::text(&application.service_name) + table.bytes()
            })
            .sum();
        self.application_charge(inner, tenant).set_resident(bytes);
    }

    fn application_charge<'a>(&self, inner: &'a mut Inner, tenant: &str) -> &'a mut Charge {
        let budget = inner.tenant_budget(tenant, &self.budget);
        inner.application_charges.entry(tenant.to_owned()).or_insert_with(|| Charge::new(budget))
    }

    /// Charges each tenant for its applications in a scrape.
    pub fn charge_exposed(&self, applications: &BTreeMap<Application, GoldenTable>) {
        let mut exposed = BTreeMap::<&str, usize>::new();
        for (application, table) in applications {
            let row = cost::exposed_application(&application.tenant, &application.service_name);
            *exposed.entry(&application.tenant).or_default() += table.len() * row;
        }
        let mut inner = self.inner.write();
        for (tenant, charge) in &mut inner.application_charges {
            if !exposed.contains_key(tenant.as_str()) {
                charge.set_exposed(0);
            }
        }
        for (tenant, bytes) in exposed {
            self.application_charge(&mut inner, tenant).set_exposed(bytes);
        }
    }

    /// The application that a new sandbox is counted for: its own, or `other` where its tenant has too many. One that
    /// has had no sandbox for longest makes room. Once decided it stays: totals that moved would be invented requests.
    pub(super) fn admit(&self, inner: &mut Inner, application: Application) -> Application {
        let of_tenant = |known: &&Application| known.tenant == application.tenant;
        let live: BTreeSet<Application> = inner
            .sandboxes
            .values()
            .map(|sandbox| sandbox.application())
            .filter(of_tenant)
            .cloned()
            .collect();
        if live.contains(&application) || inner.retired.applications.contains_key(&application) {
            return application;
        }
        let mut known: BTreeSet<Application> =
            inner.retired.applications.keys().filter(of_tenant).cloned().collect();
        known.extend(live.iter().cloned());
        let budget = inner.tenant_budget(&application.tenant, &self.budget);
        let row = cost::exposed_application(&application.tenant, &application.service_name);
        let admitted = budget.resident.admits(APPLICATION_BYTES) && budget.exposed.admits(row);
        if known.len() < self.applications.per_tenant && admitted {
            return application;
        }
        let idle = known.iter().filter(|known| !live.contains(*known) && known.service_name != OTHER);
        let oldest =
            idle.min_by_key(|known| inner.retired.idle_since.get(*known).copied().unwrap_or(0)).cloned();
        match oldest {
            Some(oldest) => {
                self.forget_application(inner, &oldest);
                application
            }
            None => Application { service_name: OTHER.to_owned(), ..application },
        }
    }

    fn forget_application(&self, inner: &mut Inner, application: &Application) {
        inner.retired.applications.remove(application);
        inner.retired.idle_since.remove(application);
        self.charge_retired(inner, &application.tenant);
        self.dirty.lock().applications.insert(application.clone());
        self.own.applications_forgotten.inc();
        self.changed();
    }

    /// Lets applications go that have had no sandbox for long.
    pub(super) fn age_applications(&self, now_unix_ms: u64) {
        let mut inner = self.inner.write();
        let live: BTreeSet<Application> =
            inner.sandboxes.values().map(|sandbox| sandbox.application().clone()).collect();
        let mut idle = Vec::new();
        for application in inner.retired.applications.keys().filter(|known| !live.contains(*known)) {
            idle.push(application.clone());
        }
        inner.retired.idle_since.retain(|application, _| !live.contains(application));
        for application in idle {
            let since = *inner.retired.idle_since.entry(application.clone()).or_insert_with(|| {
                self.dirty.lock().applications.insert(application.clone());
                self.changed();
                now_unix_ms
            });
            if Duration::from_millis(now_unix_ms.saturating_sub(since)) >= self.applications.idle {
                self.forget_application(&mut inner, &application);
            }
        }
        let known = |application: &Application| {
            live.contains(application) || inner.retired.applications.contains_key(application)
        };
        self.starts.lock().retain(known);
        self.age_tenants(&mut inner, now_unix_ms);
    }

    /// Lets tenants go that have had neither sandbox nor application for long.
    fn age_tenants(&self, inner: &mut Inner, now_unix_ms: u64) {
        let mut present: BTreeSet<&str> =
            inner.sandboxes.values().map(|sandbox| sandbox.identity.tenant.as_str()).collect();
        present.extend(inner.retired.applications.keys().map(|application| application.tenant.as_str()));
        let known = inner.retired.tenant_counters.keys().chain(inner.budgets.keys());
        let absent: BTreeSet<String> =
            known.filter(|tenant| !present.contains(tenant.as_str())).cloned().collect();
        let retired = &mut inner.retired;
        retired.tenants_idle_since.retain(|tenant, _| absent.contains(tenant));
        for tenant in absent {
            let since = *retired.tenants_idle_since.entry(tenant.clone()).or_insert_with(|| {
                if retired.tenant_counters.contains_key(&tenant) {
                    self.dirty.lock().tenants.insert(tenant.clone());
                    self.changed();
                }
                now_unix_ms
            });
            if Duration::from_millis(now_unix_ms.saturating_sub(since)) < self.applications.idle {
                continue;
            }
            retired.tenants_idle_since.remove(&tenant);
            inner.application_charges.remove(&tenant);
            inner.budgets.remove(&tenant);
            if retired.tenant_counters.remove(&tenant).is_some() {
                self.dirty.lock().tenants.insert(tenant);
                self.changed();
            }
        }
    }
}
