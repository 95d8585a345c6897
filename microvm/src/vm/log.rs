//! Bounded files for what programs write: a guest can make QEMU, virtiofsd and its own console write without end.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Most bytes that are kept of a program's log.
pub const PROGRAM_LOG_BYTES: u64 = 64 << 10;

/// A file that takes its first bytes and drops the rest.
#[derive(Debug)]
pub struct BoundedFile {
    file: Option<File>,
    left: u64,
}

impl BoundedFile {
    /// A new file; one that cannot be made takes nothing.
    pub fn create(path: &Path, bytes: u64) -> Self {
        Self { file: File::create(path).ok(), left: bytes }
    }

    /// Keeps what fits.
    pub fn write(&mut self, bytes: &[u8]) {
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        if let Some(file) = &mut self.file
            && file.write_all(&bytes[..fits]).is_err()
        {
            self.file = None;
        }
        self.left -= fits as u64;
    }
}

/// Reads a program's output to its end, in the background, and keeps its beginning.
pub fn keep(mut output: impl AsyncRead + Unpin + Send + 'static, path: PathBuf) {
    tokio::spawn(async move {
        let mut file = BoundedFile::create(&path, PROGRAM_LOG_BYTES);
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer).await {
            file.write(&buffer[..count]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stays_within_its_bound() {
        let scratch = tempfile::tempdir().expect("directory");
        let path = scratch.path().join("log");
        let mut file = BoundedFile::create(&path, 10);
        for _ in 0..100 {
            file.write(b"1234567");
        }
        assert_eq!(std::fs::read(&path).expect("read"), b"1234567123");
    }
}
