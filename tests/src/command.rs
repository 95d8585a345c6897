//! Commands with a deadline. An error has the command line and the output.

use std::{
    ffi::OsStr,
    fmt,
    io::Read,
    os::unix::process::CommandExt,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{interrupt, wait};

/// What a command that ended left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Its standard error, byte for byte.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Finished {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, stdout `{}`, stderr `{}`",
            self.status,
            self.text().trim_end(),
            self.complaint().trim_end()
        )
    }
}

/// A command line ready to be shown.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs to the end or to the deadline, whatever the exit code. An interrupt ends it too, unless it is part of the
/// teardown (`during_teardown`).
fn finish(command: &mut Command, deadline: Duration, during_teardown: bool) -> Result<Finished> {
    let line = shown(command);
    let start = Instant::now();
    // A process group of its own: Ctrl-C reaches us alone and we decide the order.
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run `{line}`"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let ended = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("wait for `{line}`"))? {
            break Some(status);
        }
        if start.elapsed() > deadline || (!during_teardown && interrupt::check().is_err()) {
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let Some(status) = ended else {
        child.kill().and_then(|()| child.wait().map(drop)).with_context(|| format!("end `{line}`"))?;
        interrupt::check()?;
        bail!("`{line}` did not end within {deadline:?}");
    };
    Ok(Finished { status, stdout: stdout.take(), stderr: stderr.take(), elapsed: start.elapsed() })
}

/// Runs to the end or to the deadline, whatever the exit code.
pub fn run(command: &mut Command, deadline: Duration) -> Result<Finished> {
    finish(command, deadline, false)
}

/// Runs a command; any exit code but 0 is an error.
pub fn succeed(command: &mut Command, deadline: Duration) -> Result<Finished> {
    let finished = run(command, deadline)?;
    if !finished.status.success() {
        bail!("`{}`: {finished}", shown(command));
    }
    Ok(finished)
}

/// For teardown: runs even when interrupted; the outcome is the caller's to look at.
pub fn try_quietly(command: &mut Command, deadline: Duration) -> Result<Finished> {
    finish(command, deadline, true)
}

/// A stream being read beside the process.
struct Collected(thread::JoinHandle<Vec<u8>>, std::sync::mpsc::Receiver<()>);

impl Collected {
    /// What was read. A grandchild may hold the stream open after the command's end: then what came so far is lost to
    /// us, and the wait is bounded.
    fn take(self) -> Vec<u8> {
        match self.1.recv_timeout(wait::SOON) {
            Ok(()) | Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                self.0.join().unwrap_or_default()
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                b"<stream still held open by a child>".to_vec()
            }
        }
    }
}

fn collect(stream: Option<impl Read + Send + 'static>) -> Collected {
    let (done, waiting) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // A broken pipe ends the reading; what came before is what there is.
            let _ = stream.read_to_end(&mut bytes);
        }
        let _ = done.send(());
        bytes
    });
    Collected(reader, waiting)
}
