//! Connections over the real vhost-device-vsock, with a guest of the test's own behind it: the device holds no descriptors of
//! connections that are over.

mod guest;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use porthole_registry::{channel::Channel, dial};
use porthole_trials::{CannotRun, Outcome, trials};
use tokio::{io::AsyncReadExt as _, runtime::Runtime};

use guest::{Guest, Manners};

/// Set by `cargo xtask test`: the built parts, beside which the tools are.
const DIST_ENV: &str = "PORTHOLE_DIST";

/// A port of the guest.
const PORT: u32 = 1000;

/// For what should happen soon, on a machine that is busy.
const SOON: Duration = Duration::from_mins(2);

/// How many connections are made.
const CONNECTIONS: usize = 300;

/// Descriptors that the device may have at all: fewer than connections are made.
const LIMIT: usize = 128;

/// How many of these may be unused while the device has none left for a connection.
const SPARE: usize = 2;

/// Descriptors that the device may have beside those at its beginning: of connections that are just ending.
const ENDING: usize = 16;

fn main() -> ExitCode {
    porthole_trials::run(trials![
        connections_that_are_dropped_unread_leave_the_device_no_descriptors,
        connections_whose_end_is_read_leave_the_device_no_descriptors,
        a_guest_that_confirms_no_end_takes_descriptors_of_its_own_device_alone,
        a_device_outlives_callers_that_gave_up_before_the_guest_answered,
    ])
}

/// The device's program, its guest, and how it is dialled.
struct Sandbox {
    program: Child,
    guest: Guest,
    channel: Channel,
    at_first: usize,
    _directory: tempfile::TempDir,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn device() -> Result<PathBuf, CannotRun> {
    let dist = std::env::var_os(DIST_ENV).map(PathBuf::from);
    let program = dist.and_then(|dist| Some(dist.parent()?.join("tools/bin/vhost-device-vsock")));
    program.filter(|program| program.exists()).ok_or_else(|| {
        CannotRun::because("vhost-device-vsock is needed: `sudo -E cargo xtask test` builds it")
    })
}

impl Sandbox {
    fn start(manners: Manners) -> Result<Self> {
        let program = device()?;
        let directory = tempfile::tempdir()?;
        let (socket, path) = (directory.path().join("device"), directory.path().join("vm"));
        // It takes its limit of descriptors from its parent.
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh"])
            .arg(LIMIT.to_string())
            .arg(program);
        command.args(["--guest-cid", "3", "--socket"]).arg(&socket).arg("--uds-path").arg(&path);
        let program = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let connection =
            wait_for("the device listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
        let guest = connection.and_then(|connection| Guest::boot(connection, manners));
        let mut sandbox = Self {
            program,
            guest: guest?,
            channel: Channel::Hybrid { path, port: PORT },
            at_first: 0,
            _directory: directory,
        };
        sandbox.at_first = sandbox.descriptors()?;
        Ok(sandbox)
    }

    fn descriptors(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.program.id());
        Ok(fs::read_dir(Path::new(&path)).context("the device's descriptors")?.count())
    }

    /// Waits until the device has no more descriptors than at its beginning, and a few.
    fn settles(&self) -> Result<()> {
        let few = wait_for("the device gives its descriptors back", || {
            self.descriptors().ok().filter(|now| *now <= self.at_first + ENDING)
        });
        few.map(drop).with_context(|| format!("{:?}, at first {}", self.descriptors(), self.at_first))
    }
}

fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = found() {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn dialled(channel: &Channel) -> Result<std::pin::Pin<Box<dyn dial::ByteStream>>> {
    Ok(tokio::time::timeout(SOON, dial::dial(channel)).await??)
}

fn connections_that_are_dropped_unread_leave_the_device_no_descriptors() -> Outcome {
    let sandbox = Sandbox::start(Manners::Talks)?;
    runtime()?.block_on(async {
        for number in 0..CONNECTIONS {
            let mut stream =
                dialled(&sandbox.channel).await.with_context(|| format!("connection {number}"))?;
            // There is more to read than this.
            stream.read_u8().await?;
        }
        tokio::task::spawn_blocking(move || sandbox.settles()).await?
    })
}

fn connections_whose_end_is_read_leave_the_device_no_descriptors() -> Outcome {
    let sandbox = Sandbox::start(Manners::Ends)?;
    runtime()?.block_on(async {
        for number in 0..CONNECTIONS {
            let mut stream =
                dialled(&sandbox.channel).await.with_context(|| format!("connection {number}"))?;
            let mut received = Vec::new();
            tokio::time::timeout(SOON, stream.read_to_end(&mut received)).await??;
        }
        tokio::task::spawn_blocking(move || sandbox.settles()).await?
    })
}

/// Descriptors of this process.
fn own_descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// How long a caller waits before it looks whether the device has no descriptors left.
const PATIENCE: Duration = Duration::from_secs(2);

fn a_guest_that_confirms_no_end_takes_descriptors_of_its_own_device_alone() -> Outcome {
    let sandbox = Sandbox::start(Manners::Keeps)?;
    runtime()?.block_on(async {
        let own = own_descriptors()?;
        let (mut dials, deadline) = (0, Instant::now() + SOON);
        loop {
            match tokio::time::timeout(PATIENCE, dial::dial(&sandbox.channel)).await {
                Ok(stream) => {
                    stream?;
                    dials += 1;
                    ensure!(dials < CONNECTIONS, "the device's limit was not reached");
                }
                Err(_) if sandbox.descriptors()? + SPARE >= LIMIT => break,
                Err(_) => ensure!(Instant::now() < deadline, "the device answers {dials} dials alone"),
            }
        }
        // What was dropped is given up after a while, whatever the guest does.
        tokio::time::pause();
        tokio::time::sleep(SOON).await;
        tokio::time::resume();
        let now = own_descriptors()?;
        ensure!(now <= own + 2, "{now} descriptors are open in the caller, {own} before");
        Ok(())
    })
}

fn a_device_outlives_callers_that_gave_up_before_the_guest_answered() -> Outcome {
    let sandbox = Sandbox::start(Manners::Sleeps)?;
    runtime()?.block_on(async {
        // Of those that give up later, one begins a handshake of its own: the device may have lost the first one.
        for _ in 0..2 {
            for _ in 0..10 {
                let dialled =
                    tokio::time::timeout(Duration::from_millis(20), dial::dial(&sandbox.channel)).await;
                ensure!(dialled.is_err(), "a guest that sleeps has accepted a connection");
            }
            tokio::time::pause();
            tokio::time::sleep(SOON).await;
            tokio::time::resume();
        }
        sandbox.guest.wake();
        dialled(&sandbox.channel).await?.read_u8().await?;
        tokio::task::spawn_blocking(move || sandbox.settles()).await?
    })
}
