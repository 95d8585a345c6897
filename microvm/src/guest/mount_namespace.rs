//! A container's mount namespace, kept until nothing of it is under way to the host.
//!
//! Each directory of the host that a container sees is a file system of its own in the guest, a submount of virtiofs. With a
//! container's last process its mount namespace would go, and those file systems with it. What the process has read ahead can still
//! be under way then, and holds inodes. Linux 6.1 waits for that only when the whole connection ends, not when a submount goes: it
//! takes the inodes for lost, and stops in the middle of the process' exit ("Busy inodes after unmount", `generic_shutdown_super` in
//! `fs/super.c`). Such a process is dead, but its parent gets no signal, and cannot collect it.
//!
//! So the namespace is kept open until the container is removed, and then until no request to the host is under way.

use std::{fs::File, io, path::Path, time::Duration};

use tokio::time::{Instant, sleep};

/// The connections to file systems outside the kernel, each with a file that has the number of its requests under way
/// (Linux' `Documentation/filesystems/fuse.rst`).
pub const CONNECTIONS: &str = "/sys/fs/fuse/connections";

const REQUESTS: &str = "waiting";

/// Time between two looks at the requests under way.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// The same when the guest has been busy for long.
const LOOK_INTERVAL_MAX: Duration = Duration::from_millis(100);

/// How long the removal of a container waits. The host may wait for it, so it goes on without afterwards.
const WAIT: Duration = Duration::from_secs(1);

/// How long a namespace is held where requests are under way at each look, as those of other containers may be.
const HELD_MAX: Duration = Duration::from_mins(1);

/// A mount namespace, held open.
#[derive(Debug)]
pub struct MountNamespace(File);

impl MountNamespace {
    /// The namespace of a process.
    pub fn of(pid: i32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/ns/mnt")).map(Self)
    }

    /// Gives it up when no request is under way; returns then, or while that is still to come. Its processes have ended, so that
    /// there will be no further requests of theirs.
    pub async fn release(self) {
        let released = tokio::spawn(async move {
            wait_idle(Path::new(CONNECTIONS)).await;
            drop(self.0);
        });
        // It goes on when it is not waited for any longer.
        let _ = tokio::time::timeout(WAIT, released).await;
    }
}

/// Waits until at one moment no request is under way.
async fn wait_idle(connections: &Path) {
    let (begin, mut interval) = (Instant::now(), LOOK_INTERVAL);
    loop {
        match requests(connections) {
            Ok(0) => return,
            Ok(left) if begin.elapsed() >= HELD_MAX => {
                eprintln!(
                    "porthole-init: {left} requests to the host are under way; a container's mounts go all the same"
                );
                return;
            }
            // Without the count, the time in which the host answers.
            Err(error) if begin.elapsed() >= WAIT => {
                eprintln!("porthole-init: read the requests in {}: {error}", connections.display());
                return;
            }
            Ok(_) | Err(_) => {}
        }
        sleep(interval).await;
        if begin.elapsed() >= WAIT {
            interval = LOOK_INTERVAL_MAX;
        }
    }
}

/// Requests that are under way on all connections.
fn requests(connections: &Path) -> io::Result<u64> {
    let mut sum = 0_u64;
    let mut found = false;
    for connection in std::fs::read_dir(connections)? {
        let text = std::fs::read_to_string(connection?.path().join(REQUESTS))?;
        let number: u64 = text.trim().parse().map_err(io::Error::other)?;
        sum = sum.saturating_add(number);
        found = true;
    }
    if found { Ok(sum) } else { Err(io::ErrorKind::NotFound.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_kept_while_requests_are_under_way_on_any_connection() {
        let connections = tempfile::tempdir().expect("directory");
        let set = |name: &str, number: u32| {
            let connection = connections.path().join(name);
            std::fs::create_dir_all(&connection).expect("made");
            std::fs::write(connection.join(REQUESTS), format!("{number}\n")).expect("written");
        };
        set("41", 0);
        set("42", 2);
        let idle = |most| tokio::time::timeout(most, wait_idle(connections.path()));
        idle(HELD_MAX / 2).await.expect_err("two are under way");
        idle(2 * HELD_MAX).await.expect("it is not held for ever");
        set("42", 0);
        idle(LOOK_INTERVAL).await.expect("none is");
    }

    #[tokio::test(start_paused = true)]
    async fn where_requests_are_not_counted_it_is_kept_for_a_while_and_not_for_ever() {
        let nothing = tempfile::tempdir().expect("directory");
        let begin = Instant::now();
        wait_idle(nothing.path()).await;
        assert!(begin.elapsed() >= WAIT, "{:?}", begin.elapsed());
    }
}
