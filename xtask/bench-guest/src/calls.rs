//! System calls on something that is no socket.

use std::{
    fs::File,
    io::{PipeReader, PipeWriter, Read, Write},
};

use anyhow::{Context, Result};
use porthole_bench_guest::Calls;

/// What is called on.
pub enum Caller {
    /// Writes go nowhere.
    Null(File),
    /// Writes come back as reads.
    Pipe(PipeReader, PipeWriter),
    /// Writes go to the end of a file in memory.
    File(File),
}

impl Caller {
    /// Opens what is called on.
    pub fn new(calls: Calls) -> Result<Self> {
        Ok(match calls {
            Calls::Null => Self::Null(File::options().write(true).open("/dev/null").context("/dev/null")?),
            Calls::Pipe => {
                let (read, write) = std::io::pipe().context("a pipe")?;
                Self::Pipe(read, write)
            }
            Calls::File => Self::File(File::create("/run/file").context("make a file")?),
        })
    }

    /// Makes this many system calls.
    pub fn run(&mut self, calls: u64) -> Result<()> {
        let mut byte = [1];
        match self {
            Self::Null(file) | Self::File(file) => (0..calls).try_for_each(|_| file.write_all(&byte)),
            Self::Pipe(read, write) => (0..calls / 2)
                .try_for_each(|_| write.write_all(&byte).and_then(|()| read.read_exact(&mut byte))),
        }
        .context("a system call")
    }
}
