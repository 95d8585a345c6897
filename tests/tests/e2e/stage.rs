//! What the tests share: the environment, and the demo's applications once a test needs them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use porthole_testbed::{
    container::PORTHOLE,
    dist::Dist,
    environment::{Environment, Settings},
    scenario::{NAMESPACES, Running},
    starts,
};

use crate::Test;

/// The last one: nothing may be left when all sandboxes are gone.
pub const LAST: &[Test] = &[("teardown::nothing_is_left_of_the_whole_run", take_down)];

fn take_down(stage: &Stage) -> Result<()> {
    // Alone, it takes down an environment in which nothing ran.
    stage.environment()?;
    stage.take_down()
}

/// Names of tenants and applications that only quoting gets into an exposition.
pub const ODD_TENANT: &str = "Ümläut \"quoted\\\" {tenant}, 日本";

/// How long the exporter keeps the row and the series of a sandbox that has ended: longer than a test on a busy machine stalls
/// before it looks. What waits for them to go waits longer.
pub const ENDED_KEPT: Duration = Duration::from_mins(1);

/// containerd namespace of the tenant with the odd name.
pub const ODD_NAMESPACE: &str = "odd";

/// Made when the first test needs it. Each part has its own lock, so that work with the applications can use the
/// environment.
#[derive(Clone, Debug, Default)]
pub struct Stage(Arc<Parts>);

#[derive(Debug, Default)]
struct Parts {
    applications: Mutex<Option<Running>>,
    environment: Mutex<Option<Arc<Environment>>>,
}

impl Stage {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The environment.
    pub fn environment(&self) -> Result<Arc<Environment>> {
        let mut made = lock(&self.0.environment);
        if let Some(environment) = &*made {
            return Ok(Arc::clone(environment));
        }
        let settings = Settings::default()
            .with("tenants.by_namespace", ODD_NAMESPACE, ODD_TENANT)
            // On a busy machine an emulated guest attaches the agent later than on others.
            .with("microvm", "agent_wait_ms", 20_000)
            // So that a test sees the row of a sandbox that has ended; otherwise two scrapes, a second each, take it away.
            .with("exporter", "ended_keep_at_least_seconds", ENDED_KEPT.as_secs_f64());
        let begin = Instant::now();
        let namespaces = [&NAMESPACES[..], &[ODD_NAMESPACE, starts::NAMESPACE]].concat();
        let environment = Environment::start(Dist::from_env()?, &settings, &namespaces, true, &|_| {})?;
        eprintln!("environment after {:.1} s", begin.elapsed().as_secs_f64());
        let environment = Arc::new(environment);
        *made = Some(Arc::clone(&environment));
        Ok(environment)
    }

    /// Works with the demo's applications, which are started by the first test that needs them.
    pub fn with_applications(&self, work: impl FnOnce(&mut Running) -> Result<()>) -> Result<()> {
        let environment = self.environment()?;
        let mut applications = lock(&self.0.applications);
        if applications.is_none() {
            *applications = Some(Running::start(&environment, PORTHOLE, &|line| eprintln!("{line}"))?);
        }
        work(applications.as_mut().context("the applications")?)
    }

    /// Takes everything down; it is an error if anything is left. A second time there is nothing to do.
    pub fn take_down(&self) -> Result<()> {
        *lock(&self.0.applications) = None;
        let environment = lock(&self.0.environment).take();
        match environment {
            Some(environment) => {
                Arc::into_inner(environment).context("a test still has the environment")?.finish()
            }
            None => Ok(()),
        }
    }

    /// The end of the shim's and containerd's logs, for a failed test.
    pub fn last_words(&self) -> String {
        let environment = lock(&self.0.environment);
        let Some(environment) = &*environment else { return String::new() };
        let tail = |text: &str| {
            let lines: Vec<_> = text.lines().rev().take(15).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        let exporter = environment.exporter().map(|exporter| exporter.log_text()).unwrap_or_default();
        format!(
            "--- shim\n{}\n--- containerd\n{}\n--- exporter\n{}",
            tail(&environment.shim_log()),
            tail(&environment.containerd.log()),
            tail(&exporter)
        )
    }
}

fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked leaves parts that can be taken down all the same.
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
