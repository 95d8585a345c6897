//! The end of every step of the last hour: what applications counted and whom they called is recorded, and held against the
//! objectives.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    clock,
    fleet::Fleet,
    history::{History, STEP, StepNumber, alert::Burning, burn, step_of},
    topology::Topology,
};

/// What is recorded.
#[derive(Clone, Debug)]
pub struct LastHour {
    /// What every application did.
    pub history: Arc<History>,
    /// Who called whom.
    pub topology: Arc<Topology>,
}

impl LastHour {
    /// Records the end of a step; all objectives that burn fast after it.
    fn record_and_judge(&self, step: StepNumber, fleet: &Fleet) -> Vec<Burning> {
        let Self { history, topology } = self;
        let applications = fleet.applications();
        topology.record(step, fleet);
        // The history notifies the pages of the step, which then request both.
        history.record(step, &applications);
        let burning = applications.into_keys().flat_map(|application| {
            let burns = burn::of(history, &application, &fleet.objectives.of(&application));
            let fast = burns.into_iter().filter(|burn| burn.burns_fast);
            fast.map(|burn| Burning { application: application.clone(), burn }).collect::<Vec<_>>()
        });
        burning.collect()
    }

    /// Drops the oldest minutes of the tenants that hold the most.
    pub fn shed(&self) {
        self.history.shed();
        self.topology.shed();
    }
}

/// Records the end of every step until stopped, and sends what burns fast then.
#[derive(Debug)]
pub struct Recorder {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Begins with what is counted now, which is in no step: so before any agent is connected.
    pub fn start(fleet: Arc<Fleet>, hour: LastHour, burning: watch::Sender<Vec<Burning>>) -> Self {
        hour.history.record(step_of(clock::unix_ms()).saturating_sub(1), &fleet.applications());
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: tokio::spawn(keep(fleet, hour, burning, stopped)) }
    }

    /// Records no further step by the clock; one that is being recorded is whole when this returns.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

async fn keep(
    fleet: Arc<Fleet>,
    hour: LastHour,
    burning: watch::Sender<Vec<Burning>>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let running = step_of(clock::unix_ms());
        let end_ms = running.saturating_add(1).saturating_mul(STEP.as_secs() * 1_000);
        let rest = Duration::from_millis(end_ms.saturating_sub(clock::unix_ms()));
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let (fleet, hour) = (Arc::clone(&fleet), hour.clone());
        let recorded = tokio::task::spawn_blocking(move || hour.record_and_judge(running, &fleet));
        match recorded.await {
            Ok(now) => drop(burning.send_replace(now)),
            Err(error) => tracing::error!(%error, "a step of the last hour was not recorded"),
        }
    }
}
