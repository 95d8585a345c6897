//! Where things are, and how the tools are called there.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use porthole_testbed::dist::Dist;

/// The workspace and its target directory.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The repository's top.
    pub root: PathBuf,
    /// cargo's target directory, wherever the user's configuration puts it.
    pub target: PathBuf,
    /// The machine's target triple, for which static programs are built too.
    pub triple: String,
}

impl Workspace {
    /// Reads `cargo metadata`.
    pub fn find() -> Result<Self> {
        let metadata = output(cargo().args(["metadata", "--format-version=1", "--no-deps", "--offline"]))?;
        let metadata: serde_json::Value = serde_json::from_str(&metadata).context("read cargo metadata")?;
        let path = |key: &str| metadata[key].as_str().map(PathBuf::from).with_context(|| format!("no {key}"));
        let version = output(Command::new("rustc").arg("-vV"))?;
        let triple = version.lines().find_map(|line| line.strip_prefix("host: "));
        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
            triple: triple.context("rustc prints no host")?.to_owned(),
        })
    }

    /// Where the built parts go.
    pub fn dist(&self) -> Dist {
        Dist::in_target(&self.target)
    }

    /// `cargo` at the top, with this target directory.
    pub fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// A path as it is shown: relative to the top where it is below it.
    pub fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

/// The cargo that runs this, without what it set for this very program: it would leak into other builds.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST") || text == "CARGO_BIN_NAME" {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command whose output the user sees.
pub fn run(command: &mut Command) -> Result<()> {
    let line = porthole_testbed::command::shown(command);
    let status = command.status().with_context(|| format!("run `{line}`"))?;
    ensure!(status.success(), "`{line}`: {status}");
    Ok(())
}

/// Runs a command for its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let line = porthole_testbed::command::shown(command);
    let output = command.output().with_context(|| format!("run `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}`: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{line}`"))
}

/// An error with the command for root, unless we are root.
pub fn require_root(why: &str) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "{why} needs root: run it with `sudo -E env PATH=$PATH cargo xtask …`"
    );
    Ok(())
}
