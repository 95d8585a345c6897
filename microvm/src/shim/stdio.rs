//! Standard streams between containerd's FIFOs and the guest.

use std::{
    io,
    os::unix::fs::FileTypeExt as _,
    path::Path,
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::unix::pipe,
    task::JoinHandle,
};

use super::ShimError;
use crate::{
    frames,
    vm::{Machine, vsock::Connection},
    wire::guest::Streams,
};

/// Paths of a process' streams, as containerd gives them; empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StdioPaths {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error; with a terminal there is none.
    pub stderr: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// The streams of a running process.
#[derive(Default)]
pub struct Stdio {
    outputs: Mutex<Vec<JoinHandle<()>>>,
    input: Mutex<Option<JoinHandle<()>>>,
    /// Keeps the FIFO open while it has no other writer; closing standard input closes this.
    input_holder: Mutex<Option<pipe::Sender>>,
}

/// Numbers of stream connections; unique in this shim, and so in its guest.
static NEXT_STREAM: AtomicU64 = AtomicU64::new(1);

type Sink = Pin<Box<dyn AsyncWrite + Send>>;
type Source = Pin<Box<dyn AsyncRead + Send>>;

impl Stdio {
    /// Opens the FIFOs and as many connections to the guest; returns their numbers.
    pub async fn open(machine: &Machine, paths: &StdioPaths) -> Result<(Self, Streams), ShimError> {
        let stdio = Self::default();
        let mut streams = Streams { terminal: paths.terminal, ..Default::default() };
        if !paths.stdin.is_empty() {
            let (source, holder) =
                open_input(Path::new(&paths.stdin)).map_err(ShimError::io("open", &paths.stdin))?;
            let (number, connection) = connect(machine).await?;
            streams.stdin = number;
            *stdio.input_holder.lock().unwrap_or_else(PoisonError::into_inner) = holder;
            let task = tokio::spawn(carry_in(source, connection));
            *stdio.input.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        }
        let stderr = if paths.terminal { "" } else { &paths.stderr };
        for (path, slot) in [(paths.stdout.as_str(), &mut streams.stdout), (stderr, &mut streams.stderr)] {
            if path.is_empty() {
                continue;
            }
            let sink = open_output(path).await.map_err(ShimError::io("open", path))?;
            let (number, connection) = connect(machine).await?;
            *slot = number;
            let task = tokio::spawn(carry_out(connection, sink));
            stdio.outputs.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        }
        Ok((stdio, streams))
    }

    /// Ends standard input once what is in the FIFO has gone to the process.
    pub fn close_input(&self) {
        self.input_holder.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// When the process has ended: waits until its output is with containerd, at most so long, and closes everything.
    pub async fn drain(&self, timeout: Duration) {
        self.close_input();
        if let Some(input) = self.input.lock().unwrap_or_else(PoisonError::into_inner).take() {
            input.abort();
        }
        let outputs = std::mem::take(&mut *self.outputs.lock().unwrap_or_else(PoisonError::into_inner));
        let deadline = tokio::time::Instant::now() + timeout;
        for mut output in outputs {
            if tokio::time::timeout_at(deadline, &mut output).await.is_err() {
                tracing::warn!("output was not taken in time");
                output.abort();
            }
        }
    }
}

async fn connect(machine: &Machine) -> Result<(u64, Box<dyn Connection>), ShimError> {
    let number = NEXT_STREAM.fetch_add(1, Ordering::Relaxed);
    let connection =
        machine.open_stream(number).await.map_err(ShimError::io("open a stream to", "the guest"))?;
    Ok((number, connection))
}

async fn carry_in(mut source: Source, mut connection: Box<dyn Connection>) {
    if let Err(error) = frames::send(&mut source, &mut connection).await {
        tracing::debug!(%error, "standard input ended early");
    }
}

async fn carry_out(mut connection: Box<dyn Connection>, mut sink: Sink) {
    let mut buffer = Vec::new();
    loop {
        match frames::receive(&mut connection, &mut buffer).await {
            Ok([]) => return,
            Ok(frame) => {
                // The FIFO has no reader any more: the process must not block for it.
                let _ = sink.write_all(frame).await;
                let _ = sink.flush().await;
            }
            Err(error) => {
                tracing::debug!(%error, "standard output broke off");
                return;
            }
        }
    }
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.file_type().is_fifo())
}

/// A FIFO's reading end, with a writing end of our own that keeps it from ending between two writers.
fn open_input(path: &Path) -> io::Result<(Source, Option<pipe::Sender>)> {
    if is_fifo(path) {
        let source = pipe::OpenOptions::new().open_receiver(path)?;
        let holder = pipe::OpenOptions::new().open_sender(path)?;
        return Ok((Box::pin(source), Some(holder)));
    }
    Ok((Box::pin(tokio::fs::File::from_std(std::fs::File::open(path)?)), None))
}

/// A FIFO's writing end, open for reading too: it neither waits for a reader nor fails when one goes, since containerd
/// may restart. `file://` appends to a file.
async fn open_output(path: &str) -> io::Result<Sink> {
    let file = match path.split_once("://") {
        None => path,
        Some(("file", file)) => file,
        Some((scheme, _)) => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("{scheme}:// streams are not supported"),
            ));
        }
    };
    if is_fifo(Path::new(file)) {
        return Ok(Box::pin(pipe::OpenOptions::new().read_write(true).open_sender(file)?));
    }
    Ok(Box::pin(tokio::fs::OpenOptions::new().append(true).create(true).open(file).await?))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn fifo() -> (tempfile::TempDir, std::path::PathBuf) {
        let scratch = tempfile::tempdir().expect("directory");
        let path = scratch.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("fifo");
        (scratch, path)
    }

    #[tokio::test]
    async fn an_output_fifo_opens_without_a_reader_and_ends_when_closed() {
        let (_scratch, path) = fifo();
        let mut sink = open_output(path.to_str().expect("text")).await.expect("opened");
        sink.write_all(b"early").await.expect("written");
        let mut reader = pipe::OpenOptions::new().open_receiver(&path).expect("opened");
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "early");
    }

    #[tokio::test]
    async fn standard_input_ends_when_it_is_closed_and_not_between_writers() {
        let (_scratch, path) = fifo();
        let (mut source, holder) = open_input(&path).expect("opened");
        for word in ["one ", "two"] {
            let mut writer = pipe::OpenOptions::new().open_sender(&path).expect("opened");
            writer.write_all(word.as_bytes()).await.expect("written");
        }
        drop(holder);
        let mut text = String::new();
        source.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "one two");
    }

    #[tokio::test]
    async fn another_scheme_is_refused_by_name() {
        let error = open_output("binary:///usr/bin/logger").await.err().expect("refused");
        assert!(error.to_string().contains("binary://"), "{error}");
    }
}
