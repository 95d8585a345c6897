//! The dashboards' bundle: TypeScript of `host-exporter/web`, which Node.js makes into the files that the exporter serves.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};

use crate::{
    report,
    setup::{self, Need},
    workspace::{Workspace, run},
};

/// For `--help` of `screenshots`.
pub const EXAMPLES: &str = "\
Examples:
  sudo -E cargo xtask demo                             prints the address of its dashboards
  cargo xtask screenshots http://127.0.0.1:PORT        once its traffic ran for a minute, in another terminal";

/// Where the pictures of README and docs/dashboards.md are, from the top.
const PICTURES: &str = "docs/images";

/// Options of `cargo xtask screenshots`.
#[derive(clap::Args)]
pub struct Screenshots {
    /// Address of the dashboards of a running demo
    address: String,
}

/// Takes the pictures of README and docs/dashboards.md.
pub fn screenshots(workspace: &Workspace, options: &Screenshots) -> Result<ExitCode> {
    packages(workspace)?;
    let address = options.address.trim_end_matches('/');
    run(node(workspace).args(["browser/screenshots.mjs", address]).arg(workspace.root.join(PICTURES)))?;
    Ok(ExitCode::SUCCESS)
}

/// Names the bundle's folder to the exporter's build script.
pub const BUNDLE_ENV: &str = "PORTHOLE_WEB_BUNDLE";

/// Major version of Node.js that is needed at least: that of Debian 12.
const NODE_MIN: u32 = 18;

/// Where the sources are, from the top.
const FOLDER: &str = "host-exporter/web";

/// The bundle's folder.
pub fn folder(workspace: &Workspace) -> PathBuf {
    workspace.dist().root.join("web")
}

/// Makes the bundle; gives its folder.
pub fn bundle(workspace: &Workspace) -> Result<PathBuf> {
    packages(workspace)?;
    let bundle = folder(workspace);
    report::step("build the dashboards", || {
        let made = workspace.target.join("web/bundle");
        run(node(workspace).arg("build.mjs").arg("--out").arg(&made))?;
        replace_if_changed(&made, &bundle)
    })?;
    Ok(bundle)
}

/// Types, lints and unit tests of the dashboards.
pub fn check(workspace: &Workspace) -> Result<()> {
    packages(workspace)?;
    let tests = workspace.target.join("web/tests");
    run(npm(workspace).args(["run", "--silent", "types"]))?;
    run(npm(workspace).args(["run", "--silent", "lint"]))?;
    run(node(workspace).args(["build.mjs", "--tests", "--out"]).arg(&tests))?;
    let built = fs::read_dir(&tests).with_context(|| format!("read {}", tests.display()))?;
    let built = built.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    ensure!(!built.is_empty(), "no unit tests were built");
    run(node(workspace).arg("--test").args(built))
}

/// Installs what the lock file lists, from the cache in `target` once it is there. No package runs a script.
fn packages(workspace: &Workspace) -> Result<()> {
    setup::packages(Need::WEB)?;
    let folder = workspace.root.join(FOLDER);
    let stamp = folder.join("node_modules/.installed-from");
    let wanted = fs::read_to_string(folder.join("package-lock.json")).context("read package-lock.json")?;
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    node_is_new_enough(workspace)?;
    report::step("install the dashboards' packages", || {
        run(npm(workspace).args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
            "--silent",
        ]))
        .context("without a registry, the packages have to be in target/cache/npm")?;
        fs::write(&stamp, &wanted).with_context(|| format!("write {}", stamp.display()))
    })
}

fn node_is_new_enough(workspace: &Workspace) -> Result<()> {
    let version = crate::workspace::output(node(workspace).arg("--version"))?;
    let major =
        version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    ensure!(
        major.is_some_and(|major| major >= NODE_MIN),
        "Node.js {} is too old: the dashboards need {NODE_MIN}",
        version.trim()
    );
    Ok(())
}

fn node(workspace: &Workspace) -> Command {
    let mut command = Command::new("node");
    command.current_dir(workspace.root.join(FOLDER));
    command
}

fn npm(workspace: &Workspace) -> Command {
    let mut command = Command::new("npm");
    command
        .current_dir(workspace.root.join(FOLDER))
        .env("npm_config_cache", workspace.dist().cache.join("npm"))
        .env("npm_config_update_notifier", "false");
    command
}

/// Leaves a folder with the same files as it is: the times of its files decide what is built again.
fn replace_if_changed(made: &Path, bundle: &Path) -> Result<()> {
    if files(bundle).is_ok_and(|old| files(made).is_ok_and(|new| old == new)) {
        return Ok(());
    }
    if bundle.exists() {
        fs::remove_dir_all(bundle).with_context(|| format!("remove {}", bundle.display()))?;
    }
    let parent = bundle.parent().context("a folder in a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    fs::rename(made, bundle).with_context(|| format!("write {}", bundle.display()))
}

/// Names and contents of a folder's files, sorted.
fn files(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let read = |path: PathBuf| Ok((path.file_name().map(PathBuf::from).unwrap_or_default(), fs::read(path)?));
    let mut files =
        fs::read_dir(folder)?.map(|entry| read(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}
