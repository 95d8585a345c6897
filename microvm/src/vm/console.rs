//! The guest's console: kept in a bounded file, for finding the reason of a failure, and watched for the line by
//! which the init reports that it listens.

use std::path::PathBuf;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::watch,
};

use super::log::BoundedFile;
use crate::wire::READY_LINE;

/// The file's name in the sandbox's state directory.
pub const FILE: &str = "console.log";

/// Longest line of which the beginning is looked at.
const MAX_LINE_BYTES: usize = 512;

/// Reads the console until the machine has gone. The receiver turns true when the init listens.
pub fn capture(
    mut console: impl AsyncRead + Unpin + Send + 'static,
    path: PathBuf,
    bound: u64,
) -> watch::Receiver<bool> {
    let (ready, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let mut state = Console { file: BoundedFile::create(&path, bound), line: Vec::new() };
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = console.read(&mut buffer).await {
            if state.take(&buffer[..count]) {
                ready.send_replace(true);
            }
        }
    });
    receiver
}

struct Console {
    file: BoundedFile,
    line: Vec<u8>,
}

impl Console {
    /// Keeps what fits; whether the init has reported that it listens.
    fn take(&mut self, bytes: &[u8]) -> bool {
        self.file.write(bytes);
        let mut ready = false;
        for byte in bytes {
            match byte {
                b'\n' => {
                    // The firmware may have left its own bytes on the line.
                    ready |= self.line.windows(READY_LINE.len()).any(|part| part == READY_LINE.as_bytes());
                    self.line.clear();
                }
                byte if self.line.len() < MAX_LINE_BYTES => self.line.push(*byte),
                _ => {}
            }
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn readiness_is_seen_across_reads_and_the_file_stays_bounded() {
        let scratch = tempfile::tempdir().expect("directory");
        let path = scratch.path().join("console");
        let mut state = Console { file: BoundedFile::create(&path, 10), line: Vec::new() };
        assert!(!state.take(b"booting\r\n\x1b[cporthole-in"));
        assert!(state.take(b"it: ready\r\n"));
        assert!(!state.take(b"more\n"));
        assert_eq!(std::fs::read(&path).expect("read"), b"booting\r\n\x1b");
    }

    #[test]
    fn an_endless_line_takes_no_memory() {
        let mut state =
            Console { file: BoundedFile::create(Path::new("/nonexistent/console"), 0), line: Vec::new() };
        for _ in 0..100 {
            assert!(!state.take(&[b'x'; 4096]));
        }
        assert_eq!(state.line.len(), MAX_LINE_BYTES);
    }
}
