//! A companion's own directory: `<state directory>/<namespace>@<sandbox>/`.
//!
//! - `state.json`: what is needed to clean up if the companion is killed;
//! - `wake`: a FIFO; a byte in it makes the companion look at once for further containers and the sandbox's end;
//! - `<sidecar>/`: the sidecar's bundle.
//!
//! It exists from the companion's start to the end of its cleaning up: the `delete` of the sandbox waits for its end.

use std::{
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::mount::MntFlags;
use porthole_confinement::capabilities::{self, Named};
use porthole_registry::SandboxKey;
use serde::{Deserialize, Serialize};

/// What a cleaner must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The workload's bundle.
    pub bundle: PathBuf,
    /// The delegate's shim, in the form of [`crate::bootstrap::BootstrapAddress`]; empty when it is not known.
    pub address: String,
    /// Sidecars whose creation was requested and that are not yet deleted.
    pub sidecars: Vec<String>,
    /// Whether the creation of a sidecar was ever requested in this sandbox.
    pub injected: bool,
}

/// The directory of one sandbox's companion.
#[derive(Clone, Debug)]
pub struct StateDirectory(PathBuf);

impl StateDirectory {
    /// The directory of a sandbox; it need not exist.
    pub fn of(root: &Path, sandbox: &SandboxKey) -> Self {
        Self(root.join(sandbox.to_string()))
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The FIFO that wakes the companion.
    pub fn wake(&self) -> PathBuf {
        self.0.join("wake")
    }

    /// Makes the companion look at once; it would do so by itself within a second. Nothing happens without one.
    pub fn wake_companion(&self) {
        let fifo = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(self.wake());
        if let Err(error) = fifo.and_then(|mut fifo| io::Write::write_all(&mut fifo, b"\n")) {
            tracing::debug!(directory = %self.0.display(), %error, "no companion listens");
        }
    }

    /// The bundle of a sidecar.
    pub fn sidecar(&self, id: &str) -> PathBuf {
        self.0.join(id)
    }

    /// Whether a companion was here and has not finished.
    pub fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Makes the directory, readable by root only.
    pub fn create(&self) -> io::Result<()> {
        porthole_registry::create_directory(&self.0)
    }

    /// Writes the state so that a reader sees the old or the new one.
    pub fn write(&self, state: &State) -> io::Result<()> {
        let staged = self.0.join(".state.json.new");
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.create(true).write(true).truncate(true).mode(0o600).open(&staged)?;
        io::Write::write_all(&mut file, &serde_json::to_vec(state)?)?;
        std::fs::rename(staged, self.0.join("state.json"))
    }

    /// Reads the state.
    pub fn read(&self) -> io::Result<State> {
        Ok(serde_json::from_slice(&std::fs::read(self.0.join("state.json"))?)?)
    }

    /// Removes the directory with everything in it, after unmounting what is mounted in it.
    pub fn remove(&self) -> io::Result<()> {
        remove_tree(&self.0)
    }
}

/// Removes a directory in which delegates may have mounted something. Nothing is deleted through a mount: while one
/// remains, the tree stays.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mounts = || mounts_below(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), &real);
    // Deepest first; one mount point may carry several mounts.
    for mount in mounts().iter().rev() {
        let unmount = || nix::mount::umount2(mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        if let Err(error) = capabilities::while_effective(Named::CAP_SYS_ADMIN, unmount) {
            tracing::warn!(mount = %mount.display(), %error, "cannot unmount");
        }
    }
    if let Some(mount) = mounts().first() {
        return Err(io::Error::other(format!("{} is still mounted", mount.display())));
    }
    match std::fs::remove_dir_all(&real) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Mount points at or below `root` in a mountinfo (proc(5)), in the order in which they were mounted.
/// procfs leaves spaces in mount points escaped; a mount that is not found would be deleted through.
fn mounts_below(mountinfo: &str, root: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(|point| PathBuf::from(unescape(point))).filter(|point| point.starts_with(root)).collect()
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_other_directories_are_left_alone() {
        let info = "1 0 0:1 / / rw - x x rw\n2 1 0:1 / /run/a rw - x x rw\n3 1 0:1 / /run/a/b\\040c rw - x x rw\n\
                    4 1 0:1 / /run/ab rw - x x rw\n";
        assert_eq!(mounts_below(info, Path::new("/run/a")), ["/run/a", "/run/a/b c"].map(PathBuf::from));
    }

    #[test]
    fn the_state_survives_a_round_trip_and_goes_with_its_directory() {
        let root = tempfile::tempdir().expect("directory");
        let directory = StateDirectory::of(root.path(), &"n@s".parse().expect("key"));
        directory.create().expect("created");
        let state = State {
            bundle: "/b".into(),
            address: "2:unix:///x".into(),
            sidecars: vec!["porthole-s-1".into()],
            injected: true,
        };
        directory.write(&state).expect("written");
        assert_eq!(directory.read().expect("read"), state);
        directory.remove().expect("removed");
        assert!(!directory.exists());
        directory.remove().expect("removing nothing is fine");
    }
}
