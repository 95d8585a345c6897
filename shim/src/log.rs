//! The shim's log: a file that every wrapper and companion appends to, kept small.
//!
//! Nothing may go to stdout or stderr, not even a panic's message: containerd reads both.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use porthole_config::LOG_ENV;
use tracing_subscriber::{filter::Targets, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

/// Size at which the log becomes `<log>.1` and begins anew, in bytes.
pub const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Makes a panic print nothing; [`init`] makes it go to the log.
pub fn silence_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// Sends `tracing` and panics to the file. What cannot be written is lost: there is no other output.
pub fn init(path: &Path) {
    let filter = std::env::var(LOG_ENV).ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .with_writer(BoundedLog { path: path.to_owned() });
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    std::panic::set_hook(Box::new(|panic| tracing::error!(pid = std::process::id(), "{panic}")));
}

/// Appends each line with one write, so that lines of several processes do not mix.
struct BoundedLog {
    path: PathBuf,
}

impl Write for &BoundedLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut file = open(&self.path)?;
        if file.metadata()?.len() >= LOG_BYTES_MAX {
            rotate(&file, &self.path)?;
            file = open(&self.path)?;
        }
        file.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for BoundedLog {
    type Writer = &'a BoundedLog;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

fn open(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().create(true).append(true).mode(0o640).open(path);
    open().or_else(|error| match path.parent() {
        Some(directory) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(directory)?;
            open()
        }
        _ => Err(error),
    })
}

/// Renames the log, unless another process did so between our opening and our locking it.
fn rotate(file: &File, path: &Path) -> io::Result<()> {
    file.lock()?;
    let (mine, current) = (file.metadata()?, std::fs::metadata(path)?);
    if (mine.dev(), mine.ino()) == (current.dev(), current.ino()) {
        let mut previous = path.as_os_str().to_owned();
        previous.push(".1");
        std::fs::rename(path, previous)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_becomes_the_previous_one() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("deep/shim.log");
        let log = BoundedLog { path: path.clone() };
        (&log).write_all(b"first\n").expect("written");
        File::options().write(true).open(&path).and_then(|file| file.set_len(LOG_BYTES_MAX)).expect("grown");
        (&log).write_all(b"second\n").expect("written");
        assert_eq!(std::fs::read(&path).expect("log"), b"second\n");
        let previous = std::fs::metadata(dir.path().join("deep/shim.log.1")).expect("previous");
        assert_eq!(previous.len(), LOG_BYTES_MAX);
    }

    #[test]
    fn a_log_that_cannot_be_written_is_an_error_and_no_panic() {
        let log = BoundedLog { path: "/proc/nonexistent/shim.log".into() };
        assert!((&log).write_all(b"x").is_err());
    }
}
