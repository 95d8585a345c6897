//! Programs: where they are, and what they print.

use std::{
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Longest that a program may take to print its version or its configuration.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of its output that are kept.
const OUTPUT_BYTES_MAX: u64 = 4 << 20;

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// It ended with exit code 0.
    pub success: bool,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

/// The first of the usual places where the program is, else where `PATH` has it.
pub fn find(name: &str, usual: &[&str]) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| is_executable(path));
    }
    let usual = usual.iter().map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let searched: Vec<_> = std::env::split_paths(&path).map(|directory| directory.join(name)).collect();
    usual.chain(searched).find(|path| is_executable(path))
}

/// Whether it is a file that may be executed.
pub fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Runs a program to its end, with a deadline.
pub fn run(command: &mut Command) -> Result<Finished> {
    tracing::debug!(?command, "running");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start it")?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let output = scope.spawn(|| read(stdout));
        let errors = scope.spawn(|| read(stderr));
        let deadline = Instant::now() + TIMEOUT;
        let status = loop {
            if let Some(status) = child.try_wait().context("wait for it")? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill().context("end it")?;
                child.wait().context("wait for it")?;
                bail!("it did not end in {} s", TIMEOUT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = |thread: std::thread::ScopedJoinHandle<'_, String>| thread.join().unwrap_or_default();
        Ok(Finished { success: status.success(), output: text(output), errors: text(errors) })
    })
}

fn read(source: Option<impl std::io::Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(source) = source {
        // What was read before an error is still worth showing.
        let _ = source.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The first line that the program prints with `--version`.
pub fn version(path: &Path) -> Result<String> {
    let finished = run(Command::new(path).arg("--version"))?;
    if !finished.success {
        bail!("--version fails: {}", finished.errors.lines().next().unwrap_or("no output"));
    }
    let said = if finished.output.trim().is_empty() { finished.errors } else { finished.output };
    Ok(said.lines().next().unwrap_or_default().trim().to_owned())
}
