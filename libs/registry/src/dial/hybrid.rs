//! Connections over a hybrid vsock: a unix socket that takes `CONNECT <port>\n` and answers `OK <port of the host>\n`
//! (Firecracker: docs/vsock.md).
//!
//! vhost-device-vsock 0.3.0, which a guest has where the host's kernel has no vsock, keeps a connection and its descriptor until the
//! guest ends it, and does not report every end to the guest:
//!
//! - a connection that is closed before the guest has accepted it stays for ever, and the device panics when it cannot write `OK`;
//! - of a connection that is closed while there are bytes to read (`ECONNRESET`) the guest learns nothing.
//!
//! So a handshake goes on when its caller has given up, and a connection that is dropped is read to its end. A guest may never answer:
//! the next caller takes over the handshake of one that has given up. The device can also lose a request that came before the guest
//! had its device: a handshake that was not answered within a minute stays open, and the next caller begins another one, up to a limit.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::UnixStream,
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout},
};

/// Longest answer to the handshake: `OK 4294967295\n`.
const ANSWER_MAX: usize = 16;

/// How long a dropped connection is read. The device reads its end at once, unless the guest takes nothing.
const DRAINED: Duration = Duration::from_mins(1);

/// How many bytes of a dropped connection are read: more than the device and its sockets hold, and than a guest may send before
/// it learns of the end.
const DRAINED_BYTES: u64 = 4 << 20;

/// How many dropped connections of a device are read at one time; beyond that they are closed unread. A guest that ends none of them
/// takes no more descriptors than that.
const DRAINING_MAX: usize = 8;

/// From this age on the device may have lost a handshake that it has not answered: the next caller begins another one.
const LOST_AFTER: Duration = Duration::from_mins(1);

/// How many handshakes without a caller a port of a device has before the youngest of them is taken over at any age.
const GIVEN_UP_MAX: usize = 8;

/// A connection that is read to its end when it is dropped.
pub struct HybridStream {
    /// The device's socket.
    path: PathBuf,
    /// Taken when it is dropped only.
    stream: Option<UnixStream>,
    /// Whether the end was read: the device has forgotten it.
    ended: bool,
}

impl HybridStream {
    fn new(path: &Path, stream: UnixStream) -> Self {
        Self { path: path.to_owned(), stream: Some(stream), ended: false }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut UnixStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for HybridStream {
    fn drop(&mut self) {
        // Without a runtime the process ends, and the guest closes what it gets no answer on.
        if let (Some(stream), false, Ok(runtime)) = (self.stream.take(), self.ended, Handle::try_current())
            && let Some(draining) = Draining::of(std::mem::take(&mut self.path))
        {
            runtime.spawn(async move {
                drain(stream).await;
                drop(draining);
            });
        }
    }
}

/// The devices whose dropped connections are read, one entry a connection.
static DRAINING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A dropped connection's place among those that are read.
struct Draining(PathBuf);

impl Draining {
    /// None if the device has [`DRAINING_MAX`].
    fn of(path: PathBuf) -> Option<Self> {
        let mut draining = DRAINING.lock().unwrap_or_else(PoisonError::into_inner);
        if draining.iter().filter(|other| **other == path).count() >= DRAINING_MAX {
            return None;
        }
        draining.push(path.clone());
        Some(Self(path))
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        let mut draining = DRAINING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = draining.iter().position(|other| *other == self.0) {
            draining.swap_remove(index);
        }
    }
}

/// Ends the direction to the device, and reads until the device ends the other.
async fn drain(mut stream: UnixStream) {
    let rest = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(DRAINED_BYTES), &mut tokio::io::sink()).await
    };
    // Beyond the limits it is the guest that does not end the connection.
    let _ = timeout(DRAINED, rest).await;
}

impl AsyncRead for HybridStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining() > 0);
        let read = self.stream()?.poll_read(context, buffer);
        if room && matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before {
            self.ended = true;
        }
        read
    }
}

impl AsyncWrite for HybridStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(context)
    }
}

type Caller = oneshot::Sender<io::Result<HybridStream>>;

/// Handshakes that the device has not answered.
struct Unanswered {
    /// The number of the next one.
    next: u64,
    handshakes: Vec<Handshake>,
}

struct Handshake {
    number: u64,
    path: PathBuf,
    port: u32,
    begun: Instant,
    /// Who waits for it; closed once that one has given up.
    caller: Caller,
}

static UNANSWERED: Mutex<Unanswered> = Mutex::new(Unanswered { next: 0, handshakes: Vec::new() });

fn unanswered() -> MutexGuard<'static, Unanswered> {
    UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handshake's place among the unanswered ones, which it leaves also when its runtime ends.
struct Place(u64);

impl Place {
    fn leave(&self) -> Option<Handshake> {
        let handshakes = &mut unanswered().handshakes;
        let index = handshakes.iter().position(|handshake| handshake.number == self.0)?;
        Some(handshakes.swap_remove(index))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The stream after its handshake; `connect` opens the socket.
pub async fn connected(
    path: &Path,
    port: u32,
    connect: impl Future<Output = io::Result<UnixStream>>,
) -> io::Result<HybridStream> {
    let (caller, answer) = oneshot::channel();
    if let Some(caller) = take_over(path, port, caller) {
        let mut stream = connect.await?;
        let place = enter(path, port, caller);
        let path = path.to_owned();
        tokio::spawn(async move {
            let result = handshake(&mut stream, port).await.map(|()| HybridStream::new(&path, stream));
            if let Some(handshake) = place.leave() {
                // Without a caller the connection is dropped.
                let _ = handshake.caller.send(result);
            }
        });
    }
    answer.await.map_err(io::Error::other)?
}

/// Makes the caller that of the youngest handshake that another one has given up; gives it back if there is none, or if the device may
/// have lost it.
fn take_over(path: &Path, port: u32, caller: Caller) -> Option<Caller> {
    let handshakes = &mut unanswered().handshakes;
    let given_up = handshakes
        .iter_mut()
        .filter(|handshake| handshake.caller.is_closed() && handshake.port == port && handshake.path == path);
    let mut given_up: Vec<_> = given_up.collect();
    let is_full = given_up.len() >= GIVEN_UP_MAX;
    match given_up.iter_mut().max_by_key(|handshake| handshake.number) {
        Some(youngest) if is_full || youngest.begun.elapsed() < LOST_AFTER => {
            youngest.caller = caller;
            None
        }
        _ => Some(caller),
    }
}

fn enter(path: &Path, port: u32, caller: Caller) -> Place {
    let mut unanswered = unanswered();
    let number = unanswered.next;
    unanswered.next += 1;
    unanswered.handshakes.push(Handshake {
        number,
        path: path.to_owned(),
        port,
        begun: Instant::now(),
        caller,
    });
    Place(number)
}

/// Sends the request and takes the answer.
async fn handshake(stream: &mut UnixStream, port: u32) -> io::Result<()> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(ANSWER_MAX);
    // Byte by byte: what follows the newline belongs to ttrpc.
    while answer.last() != Some(&b'\n') {
        if answer.len() == ANSWER_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no answer to CONNECT in its first 16 bytes",
            ));
        }
        answer.push(stream.read_u8().await?);
    }
    if !answer.starts_with(b"OK ") {
        let answer = String::from_utf8_lossy(&answer).trim_end().to_owned();
        return Err(io::Error::other(format!("CONNECT {port} was answered by {answer:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn handshake_answered_by(answer: &'static [u8]) -> io::Result<()> {
        let (mut host, mut guest) = UnixStream::pair().expect("pair");
        let peer = tokio::spawn(async move {
            let mut request = [0; 14];
            guest.read_exact(&mut request).await.expect("request");
            assert_eq!(&request, b"CONNECT 10260\n");
            guest.write_all(answer).await.expect("answered");
        });
        let result = handshake(&mut host, 10_260).await;
        peer.await.expect("peer");
        result
    }

    #[tokio::test]
    async fn the_handshake_takes_only_ok() {
        handshake_answered_by(b"OK 1073741824\n").await.expect("connected");
        assert!(handshake_answered_by(b"NO such port\n").await.is_err());
        assert!(handshake_answered_by(b"OK 1").await.is_err(), "closed before the newline");
        assert!(handshake_answered_by(&[b'O'; 4096]).await.is_err());
    }

    /// Gives a caller's connection up that the device has not answered.
    async fn give_up(path: &Path, host: UnixStream) {
        let dialled = timeout(Duration::from_millis(1), connected(path, 10_260, async { Ok(host) })).await;
        assert!(dialled.is_err(), "there was no answer");
    }

    #[tokio::test]
    async fn a_device_that_answers_late_can_still_write_its_answer() {
        let (host, mut guest) = UnixStream::pair().expect("pair");
        give_up(Path::new("late"), host).await;
        let mut request = [0; 14];
        guest.read_exact(&mut request).await.expect("request");
        guest.write_all(b"OK 5\n").await.expect("answered");
        assert_eq!(guest.read(&mut request).await.expect("read"), 0, "then it is closed");
    }

    fn none() -> impl Future<Output = io::Result<UnixStream>> {
        std::future::poll_fn(|_| panic!("there is one already"))
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_caller_takes_an_unanswered_handshake_over() {
        let (host, mut guest) = UnixStream::pair().expect("pair");
        let path = Path::new("taken-over");
        give_up(path, host).await;
        tokio::time::sleep(LOST_AFTER / 2).await;
        for _ in 0..3 {
            let dialled = timeout(Duration::from_millis(1), connected(path, 10_260, none())).await;
            assert!(dialled.is_err(), "there was no answer");
        }
        let (another, _guest) = UnixStream::pair().expect("pair");
        give_up(Path::new("another"), another).await;
        guest.write_all(b"OK 5\n!").await.expect("answered");
        let mut stream = connected(path, 10_260, none()).await.expect("connected");
        assert_eq!(stream.read_u8().await.expect("read"), b'!');
        let mut request = [0; 15];
        drop(stream);
        assert_eq!(guest.read(&mut request).await.expect("one request"), 14);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_the_device_may_have_lost_stays_open_beside_another_one() {
        let path = Path::new("lost");
        let mut guests = Vec::new();
        for _ in 0..GIVEN_UP_MAX {
            let (host, guest) = UnixStream::pair().expect("pair");
            give_up(path, host).await;
            guests.push(guest);
            tokio::time::sleep(LOST_AFTER).await;
        }
        // Now there are enough: the youngest is taken over, at any age.
        tokio::time::sleep(Duration::from_hours(1)).await;
        let mut youngest = guests.pop().expect("guests");
        youngest.write_all(b"OK 5\n!").await.expect("answered");
        let mut stream = connected(path, 10_260, none()).await.expect("connected");
        assert_eq!(stream.read_u8().await.expect("read"), b'!');
        let mut request = [0; 14];
        for guest in &mut guests {
            guest.read_exact(&mut request).await.expect("request");
            let more = timeout(Duration::from_millis(1), guest.read(&mut request)).await;
            assert!(more.is_err(), "it is still open");
        }
    }

    #[tokio::test]
    async fn a_dropped_stream_is_read_to_its_end() {
        let (host, mut guest) = UnixStream::pair().expect("pair");
        guest.write_all(b"unread").await.expect("written");
        drop(HybridStream::new(Path::new("unread"), host));
        assert_eq!(guest.read(&mut [0]).await.expect("no reset"), 0);
        guest.write_all(b"unread").await.expect("it is still read");
    }

    #[tokio::test(start_paused = true)]
    async fn of_connections_that_the_guest_does_not_end_a_few_are_read() {
        let dropped = async |path: &str| {
            let (host, mut guest) = UnixStream::pair().expect("pair");
            drop(HybridStream::new(Path::new(path), host));
            tokio::task::yield_now().await;
            let is_read = guest.write_all(b"more").await.is_ok();
            (is_read, guest)
        };
        let mut guests = Vec::new();
        for _ in 0..DRAINING_MAX {
            let (is_read, guest) = dropped("kept").await;
            assert!(is_read);
            guests.push(guest);
        }
        assert!(!dropped("kept").await.0, "one too many");
        assert!(dropped("other").await.0, "another device's");
        tokio::time::sleep(2 * DRAINED).await;
        assert!(dropped("kept").await.0, "there is room again");
    }

    #[tokio::test]
    async fn bytes_after_the_handshake_stay_in_the_stream() {
        let (mut host, mut guest) = UnixStream::pair().expect("pair");
        guest.write_all(b"OK 5\nrest").await.expect("written");
        handshake(&mut host, 1).await.expect("connected");
        let mut rest = [0; 4];
        host.read_exact(&mut rest).await.expect("rest");
        assert_eq!(&rest, b"rest");
    }
}
