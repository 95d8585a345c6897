//! Devices of the host.

use std::fs::OpenOptions;

/// Whether a device can be used by this process.
pub fn usable(path: &str) -> std::io::Result<()> {
    OpenOptions::new().read(true).write(true).open(path).map(drop)
}
