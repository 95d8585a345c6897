//! Alerts about applications that use up what their objectives allow to fail, for those who run no Prometheus: posted to a
//! webhook in the form of Alertmanager's.
//!
//! Each application and objective is a group of its own, so that what is posted about one tenant never has a word about
//! another. What could not be posted is posted again after the next step, for an hour; there is one alert at most for
//! each objective of the applications, whose number is bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    STEP,
    alert::{Alert, Burning},
    webhook::Webhook,
};
use crate::{clock, identity::Application};

/// How long an end that cannot be posted is kept.
const UNPOSTED: Duration = Duration::from_hours(1);

/// Which objective of which application.
type Key = (Application, &'static str);

/// The alerts that fire, and those whose end was not posted yet.
#[derive(Debug, Default)]
struct Alerts(BTreeMap<Key, Alert>);

impl Alerts {
    /// Takes what burns now.
    fn update(&mut self, burning: Vec<Burning>, now_ms: u64) {
        let mut seen = BTreeSet::new();
        for burning in burning {
            let key = (burning.application.clone(), burning.burn.objective);
            seen.insert(key.clone());
            let begun = Alert {
                burning: burning.clone(),
                starts_unix_ms: now_ms,
                ends_unix_ms: None,
                posted_unix_ms: None,
            };
            let alert = self.0.entry(key).or_insert_with(|| begun.clone());
            if alert.ends_unix_ms.is_some() {
                *alert = begun;
            }
            alert.burning = burning;
        }
        for (key, alert) in &mut self.0 {
            if !seen.contains(key) && alert.ends_unix_ms.is_none() {
                alert.ends_unix_ms = Some(now_ms);
                alert.posted_unix_ms = None;
            }
        }
    }

    /// Those that are to be posted now: what changed, and what fires since it was last posted so long ago.
    fn due(&self, now_ms: u64, repeat: Duration) -> Vec<Key> {
        let repeat = u64::try_from(repeat.as_millis()).unwrap_or(u64::MAX);
        let due = |alert: &Alert| match alert.posted_unix_ms {
            None => true,
            Some(posted) => alert.ends_unix_ms.is_none() && posted.saturating_add(repeat) <= now_ms,
        };
        self.0.iter().filter(|(_, alert)| due(alert)).map(|(key, _)| key.clone()).collect()
    }

    fn posted(&mut self, key: &Key, now_ms: u64) {
        if let Some(alert) = self.0.get_mut(key) {
            alert.posted_unix_ms = Some(now_ms);
        }
    }

    /// Forgets ends that were posted, or that could not be for too long.
    fn forget(&mut self, now_ms: u64) {
        let unposted = u64::try_from(UNPOSTED.as_millis()).unwrap_or(u64::MAX);
        self.0.retain(|_, alert| {
            alert
                .ends_unix_ms
                .is_none_or(|ended| alert.posted_unix_ms.is_none() && ended.saturating_add(unposted) > now_ms)
        });
    }
}

/// Posts what fires and what has ended until stopped. `burning` changes with every step.
pub async fn post(
    webhook: Webhook,
    repeat: Duration,
    mut burning: watch::Receiver<Vec<Burning>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut alerts = Alerts::default();
    loop {
        tokio::select! {
            changed = burning.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let now = clock::unix_ms();
        alerts.update(burning.borrow_and_update().clone(), now);
        let posting = async {
            for key in alerts.due(now, repeat) {
                let Some(alert) = alerts.0.get(&key) else { continue };
                match webhook.post(alert).await {
                    Ok(()) => alerts.posted(&key, now),
                    // It is down: the next step tries again.
                    Err(error) => {
                        let (Application { tenant, service_name }, objective) = &key;
                        tracing::warn!(%error, tenant, service_name, objective, "an alert was not posted");
                        return;
                    }
                }
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(STEP, posting) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        alerts.forget(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::burn::Burn;

    fn burning(tenant: &str) -> Burning {
        Burning {
            application: Application { tenant: tenant.to_owned(), service_name: "shop".to_owned() },
            burn: Burn {
                objective: "availability",
                share: 0.99,
                missed_5m: Some(0.5),
                missed_1h: Some(0.5),
                burns_fast: true,
            },
        }
    }

    const REPEAT: Duration = Duration::from_millis(100);

    fn due(alerts: &Alerts, now: u64) -> Vec<(String, bool)> {
        let due = alerts.due(now, REPEAT).into_iter();
        due.map(|key| (key.0.tenant.clone(), alerts.0[&key].ends_unix_ms.is_none())).collect()
    }

    #[test]
    fn an_alert_is_posted_when_it_begins_again_after_a_while_and_when_it_ends() {
        let mut alerts = Alerts::default();
        alerts.update(vec![burning("acme"), burning("globex")], 10);
        assert_eq!(due(&alerts, 10), [("acme".to_owned(), true), ("globex".to_owned(), true)]);
        for key in alerts.due(10, REPEAT) {
            alerts.posted(&key, 10);
        }
        alerts.update(vec![burning("acme"), burning("globex")], 20);
        assert_eq!(due(&alerts, 20), []);
        assert_eq!(due(&alerts, 110).len(), 2, "repeated");
        alerts.update(vec![burning("globex")], 30);
        assert_eq!(due(&alerts, 30), [("acme".to_owned(), false)]);
        let [ended] = alerts.due(30, REPEAT).try_into().unwrap();
        alerts.posted(&ended, 30);
        alerts.forget(30);
        assert_eq!(alerts.0.len(), 1);
        assert_eq!(alerts.0.values().next().unwrap().starts_unix_ms, 10);
    }

    #[test]
    fn what_was_not_posted_is_kept_for_an_hour_after_its_end() {
        let mut alerts = Alerts::default();
        alerts.update(vec![burning("acme")], 10);
        alerts.update(Vec::new(), 20);
        alerts.forget(20);
        assert_eq!(due(&alerts, 20), [("acme".to_owned(), false)]);
        alerts.update(vec![burning("acme")], 30);
        assert_eq!(due(&alerts, 30), [("acme".to_owned(), true)], "it begins anew");
        alerts.update(Vec::new(), 40);
        alerts.forget(40 + 3_600_000);
        assert!(alerts.0.is_empty());
    }
}
