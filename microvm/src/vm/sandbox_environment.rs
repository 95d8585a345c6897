//! What all programs of a sandbox have in common: its directory, user, control groups, and environment variables.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use tokio::process::Command;

/// Where a program without a path is looked for.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names the sandbox in a program's environment, for listings of processes.
const SANDBOX_VARIABLE: &str = "PORTHOLE_SANDBOX";

/// Names its state directory.
const DIRECTORY_VARIABLE: &str = "PORTHOLE_SANDBOX_DIRECTORY";

/// The surroundings of a sandbox's programs.
#[derive(Debug)]
pub struct Environment {
    /// The sandbox, for people.
    pub sandbox: String,
    /// Its state directory.
    pub directory: PathBuf,
    /// The user that its programs run as.
    pub user: u32,
    /// Open `cgroup.procs` files of its control groups.
    pub members: Vec<OwnedFd>,
    /// How readily the kernel ends them when memory runs out, proc(5).
    pub oom_score: i16,
}

impl Environment {
    /// Gives a program these environment variables and no others.
    pub fn apply(&self, command: &mut Command) {
        command.env_clear().env("PATH", SEARCH_PATH);
        command.env(SANDBOX_VARIABLE, &self.sandbox).env(DIRECTORY_VARIABLE, &self.directory);
    }

    /// The control groups for one program.
    pub fn control_groups(&self) -> io::Result<Vec<OwnedFd>> {
        self.members.iter().map(OwnedFd::try_clone).collect()
    }

    /// Makes an empty directory on which a program's root file system is mounted.
    pub fn mount_point(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.directory.join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    }
}

/// The programs and files that a jail has to make visible; a bare name is found in the distribution's directories.
pub fn absolute(paths: &[&Path]) -> Vec<PathBuf> {
    paths.iter().filter(|path| path.is_absolute()).map(|path| (*path).to_owned()).collect()
}
