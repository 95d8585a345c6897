//! Can an unprivileged user of the host reach anything of a sandbox?

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use porthole_testbed::{command, wait};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[("users::a_local_user_reaches_nothing_of_a_sandbox", nothing_to_reach)];

/// Whom nothing belongs to.
const NOBODY: &str = "65534";

/// State of the embedded runtime, the companions and the registry, outside the environment's directory.
const STATE: &str = "/run/porthole";

/// With sandboxes running, a user looks for whatever he may read, write, connect to, or run.
fn nothing_to_reach(stage: &Stage) -> Result<()> {
    stage.with_applications(|_| {
        let environment = stage.environment()?;
        let directory = environment.directory();
        let (registry, companions) = (environment.registry(), environment.companions());
        let exporter = directory.join("exporter");
        let log = directory.join("log/shim.log");
        let places = [Path::new(STATE), &registry, &companions, &exporter, &log];
        for place in places {
            ensure!(place.exists(), "{} does not exist", place.display());
        }
        let mut find = Command::new("setpriv");
        find.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "find"]).args(places);
        // The environment's own directories are not checked, only what is in them.
        find.args([
            "-mindepth",
            "0",
            "(",
            "-readable",
            "-o",
            "-writable",
            "-o",
            "-executable",
            ")",
            "-print",
        ]);
        let found = command::run(&mut find, wait::SOON)?;
        let text = found.text();
        let own =
            |line: &&str| ![&registry, &exporter].iter().any(|place| Path::new(line) == place.as_path());
        let reached: Vec<_> = text.lines().filter(own).collect();
        ensure!(reached.is_empty(), "a local user reaches {reached:#?}");
        Ok(())
    })
}
