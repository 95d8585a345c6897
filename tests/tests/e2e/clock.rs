//! Does a count survive that the wall clock is set while the exporter runs? The clock is a guest's: this machine's stays as it is.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    container::{Launch, MICROVM},
    environment::Settings,
};
use serde_json::Value;

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[("clock::a_clock_that_is_set_forward_and_back_loses_no_count", steps)];

/// What runs in the guest.
const SCRIPT: &str = include_str!("clock.py");

/// How often it sets the clock while the sandbox lives.
const STEPS: usize = 6;

fn steps(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let id = environment.unique("clock");
    // The agent is beside the exporter, as its only client.
    let settings = Settings::default().with("microvm", "kernel_parameters", "porthole.agent=off");
    let output = environment.directory().join(&id);
    fs::create_dir(&output).context("make a directory for the report")?;
    let mount = |source: &std::path::Path, target: &str, how: &str| {
        format!("type=bind,src={},dst={target},options=rbind:{how}", source.display())
    };
    let mounts = [mount(&environment.dist.root, "/dist", "ro"), mount(&output, "/output", "rw")];
    let options = ["--mount", &mounts[0], "--mount", &mounts[1]];
    let command = ["/usr/bin/python3", "-c", SCRIPT, "/dist", "/output"];
    let container = environment.with_settings(&settings, || {
        let launch = Launch::new("acme", &id, MICROVM, &command).with_options(&options);
        launch.privileged().start(&environment.containerd)
    })?;
    container.wait_stopped(Duration::from_mins(6))?;
    let log = fs::read_to_string(output.join("log")).unwrap_or_default();
    let report = fs::read(output.join("report")).with_context(|| format!("no report; the log:\n{log}"))?;
    let report: Value = serde_json::from_slice(&report).context("a report in JSON")?;
    ensure!(report["steps"].as_array().is_some_and(|steps| steps.len() == STEPS), "{report}");
    container.remove()?;
    fs::remove_dir_all(&output).context("remove the report")
}
