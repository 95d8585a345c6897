//! The environment's directory, and taking away whatever bears its name: the last resort of a teardown, and what
//! the next run does for one that was killed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{command, footprint, network, wait};

/// Short, because the paths of unix sockets below it have at most 107 bytes.
const PREFIX: &str = "/run/porthole-test-";

/// Names of network namespaces begin with this and the directory's own suffix.
const TAG_PREFIX: &str = "pt-";

/// A directory of our own with a lock that is held while its owner lives.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Scratch {
    /// Sweeps what killed runs left, and makes a new directory.
    pub fn create() -> Result<Self> {
        sweep_abandoned()?;
        let since_epoch =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("read the clock")?;
        let unique = (u64::from(since_epoch.subsec_nanos()) << 16) ^ u64::from(std::process::id());
        let directory = PathBuf::from(format!("{PREFIX}{:06x}", unique & 0xff_ffff));
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        for part in ["log", "registry"] {
            fs::create_dir(directory.join(part)).with_context(|| format!("make {part}"))?;
        }
        let lock = lock(&directory)?.context("another process has the lock of a new directory")?;
        Ok(Self { directory, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The directory as text: the mark that everything of this environment bears.
    pub fn mark(&self) -> &str {
        self.directory.to_str().unwrap_or(PREFIX)
    }

    /// Prefix of the names of network namespaces.
    pub fn tag(&self) -> String {
        tag(&self.directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match sweep(&self.directory) {
            Ok(swept) => {
                for line in swept {
                    eprintln!("teardown: had to take away {line}");
                }
            }
            Err(error) => eprintln!("teardown: {error:#}"),
        }
    }
}

fn tag(directory: &Path) -> String {
    let suffix = directory.to_string_lossy();
    format!("{TAG_PREFIX}{}", suffix.strip_prefix(PREFIX).unwrap_or_default())
}

/// The directory's lock, unless its owner has it.
fn lock(directory: &Path) -> Result<Option<Flock<File>>> {
    let path = directory.join("owner.lock");
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

fn sweep_abandoned() -> Result<()> {
    for entry in fs::read_dir("/run").context("list /run")? {
        let path = entry.context("list /run")?.path();
        if !path.to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        if let Some(_lock) = lock(&path)? {
            eprintln!("taking away what an earlier run left in {}", path.display());
            sweep(&path)?;
        }
    }
    Ok(())
}

/// Ends every process, unmounts every mount and removes every namespace and file that bears the directory's name.
/// Returns the processes and mounts, which an orderly teardown would not have left.
fn sweep(directory: &Path) -> Result<Vec<String>> {
    let mark = directory.to_str().context("a directory in UTF-8")?;
    let (mut swept, start) = (Vec::new(), std::time::Instant::now());
    for attempt in 0.. {
        let left = footprint::processes(&[mark])?;
        if left.is_empty() {
            break;
        }
        anyhow::ensure!(start.elapsed() < wait::SOON, "processes that do not end: {left:?}");
        for process in left {
            match kill(Pid::from_raw(process.id), Signal::SIGKILL) {
                Ok(()) if attempt == 0 => {
                    swept.push(format!("process {} {}", process.id, process.command_line));
                }
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("kill {}", process.id)),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for point in footprint::mount_points(&[mark])?.iter().rev() {
        let mut unmount = Command::new("umount");
        unmount.arg("--lazy").arg(point);
        if command::try_quietly(&mut unmount, wait::SOON)?.status.success() {
            swept.push(format!("mount {}", point.display()));
        }
    }
    for entry in fs::read_dir(network::NETNS_DIRECTORY).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{}-", tag(directory))) {
            network::remove(&name);
        }
    }
    remove_directory(directory)?;
    Ok(swept)
}

/// Removes the directory; something that just ended may still be letting go of it.
fn remove_directory(directory: &Path) -> Result<()> {
    let what = format!("remove {}", directory.display());
    let start = std::time::Instant::now();
    loop {
        match fs::remove_dir_all(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if start.elapsed() > wait::SOON => return Err(error).context(what),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Waits until only this environment's own daemons bear its mark.
pub fn wait_until_quiet(mark: &str, own: &[i32], deadline: Duration) -> Result<()> {
    wait::until("every process of the environment's sandboxes ends", deadline, || {
        let left = footprint::processes(&[mark])?;
        let left: Vec<_> = left.into_iter().filter(|process| !own.contains(&process.id)).collect();
        if left.is_empty() { Ok(Some(())) } else { Err(anyhow::anyhow!("still there: {left:?}")) }
    })
}
