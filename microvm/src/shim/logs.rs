//! The shim's log: the FIFO `log` in the bundle, which containerd copies into its own log. Nothing goes to standard
//! output or standard error, since containerd reads those as answers.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Mutex,
};

use porthole_config::LOG_ENV;
use tracing_subscriber::EnvFilter;

/// containerd's FIFO in the bundle.
const FIFO: &str = "log";

/// Writes that fail are lost: a log must not hold up a container.
struct Lossy(Option<std::fs::File>);

impl Write for Lossy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = &mut self.0 {
            // A full or abandoned FIFO takes nothing.
            let _ = file.write(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends the log to the bundle's FIFO.
pub fn start(bundle: &Path) {
    // Opened for reading too, which never waits for a reader.
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(bundle.join(FIFO)).ok();
    let filter = EnvFilter::try_from_env(LOG_ENV).unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Mutex::new(Lossy(file)));
    // A second start would come from a test.
    let _ = subscriber.try_init();
}
