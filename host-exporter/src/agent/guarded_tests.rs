use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::accumulate::budget::{Limits, NodeBudget, TenantBudget};

/// The parts of a policy that bounds nothing.
macro_rules! unbounded {
    () => {
        fn received(&mut self, _: usize) {}

        fn wait(&mut self) -> Duration {
            Duration::ZERO
        }

        fn room(&self, bytes: usize) -> Pin<Box<dyn Future<Output = FrameRoom> + Send + Sync>> {
            Box::pin(tenant().frame_room(bytes))
        }
    };
}

struct Everything;

impl Policy for Everything {
    fn admit(&mut self, _: u8, _: &[u8]) -> Admission {
        Admission::Pass
    }

    unbounded!();
}

/// Drops frames whose body begins with this byte.
struct NotBeginningWith(u8);

impl Policy for NotBeginningWith {
    fn admit(&mut self, kind: u8, body: &[u8]) -> Admission {
        assert_eq!(kind, 3);
        if body.first() == Some(&self.0) { Admission::Drop } else { Admission::Pass }
    }

    unbounded!();
}

/// Gives room to one frame at a time.
struct OneAtATime(TenantBudget);

impl Policy for OneAtATime {
    fn admit(&mut self, _: u8, _: &[u8]) -> Admission {
        Admission::Pass
    }

    fn received(&mut self, bytes: usize) {
        self.0.spend_ingest(bytes);
    }

    fn wait(&mut self) -> Duration {
        self.0.ingest_wait()
    }

    fn room(&self, bytes: usize) -> Pin<Box<dyn Future<Output = FrameRoom> + Send + Sync>> {
        Box::pin(self.0.frame_room(bytes))
    }
}

fn tenant() -> TenantBudget {
    let limits = Limits {
        // A quarter of a sixteenth: two copies of one frame of the longest.
        memory: 64 * 2 * FRAME_BYTES_MAX,
        ingest_per_tenant: 1_000.0,
        ..Limits::of_series(1)
    };
    TenantBudget::new(&NodeBudget::new(limits))
}

fn guarded() -> (GuardedStream<DuplexStream>, DuplexStream) {
    let (host, guest) = duplex(1 << 16);
    (GuardedStream::new(Box::pin(host), Box::new(Everything)), guest)
}

async fn received(stream: &mut GuardedStream<DuplexStream>) -> Frame {
    stream.next().await.expect("received").expect("a frame")
}

fn frame(length: u32) -> Vec<u8> {
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend([0, 0, 0, 1, 3, 0]);
    frame.resize(HEADER + length as usize, 7);
    frame
}

#[tokio::test]
async fn frames_pass_unchanged() {
    let (mut stream, mut guest) = guarded();
    for length in [0, 1, 20_000] {
        guest.write_all(&frame(length)).await.expect("sent");
        let received = received(&mut stream).await;
        assert_eq!((received.stream, received.kind, received.flags), (1, 3, 0));
        assert_eq!(received.body(), &frame(length)[HEADER..]);
    }
    drop(guest);
    assert!(stream.next().await.expect("the end").is_none());
}

#[tokio::test]
async fn a_giant_frame_is_refused_by_its_header() {
    let (mut stream, mut guest) = guarded();
    guest.write_all(&u32::try_from(FRAME_BYTES_MAX + 1).expect("small").to_be_bytes()).await.expect("sent");
    guest.write_all(&[0; 6]).await.expect("sent");
    assert_eq!(stream.next().await.expect_err("refused").kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_frame_that_was_given_up_half_way_is_whole_the_next_time() {
    let (mut stream, mut guest) = guarded();
    let whole = frame(100);
    guest.write_all(&whole[..50]).await.expect("sent");
    assert!(futures_util::FutureExt::now_or_never(stream.next()).is_none());
    guest.write_all(&whole[50..]).await.expect("sent");
    assert_eq!(received(&mut stream).await.body(), &whole[HEADER..]);
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_held_to_its_rate() {
    let (mut stream, mut guest) = guarded();
    let flood = tokio::spawn(async move { while guest.write_all(&frame(60_000)).await.is_ok() {} });
    let began = Instant::now();
    let mut bytes = 0;
    while began.elapsed() < Duration::from_secs(20) {
        bytes += (HEADER + received(&mut stream).await.body().len()) as u64;
    }
    let allowed = u64::from(BYTES_BURST) + 21 * u64::from(BYTES_PER_SECOND);
    assert!(bytes <= allowed, "{bytes} of {allowed}");
    drop(stream);
    flood.await.expect("the guest sees the end");
}

#[tokio::test]
async fn a_frame_that_is_refused_is_dropped_and_the_next_passes() {
    let (host, mut guest) = duplex(1 << 16);
    let mut stream = GuardedStream::new(Box::pin(host), Box::new(NotBeginningWith(7)));
    guest.write_all(&frame(100)).await.expect("sent");
    let mut good = frame(3);
    good[HEADER] = 1;
    guest.write_all(&good).await.expect("sent");
    assert_eq!(received(&mut stream).await.body(), &good[HEADER..]);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_never_finished_ends_the_connection() {
    let (mut stream, mut guest) = guarded();
    guest.write_all(&frame(100)[..50]).await.expect("sent");
    assert_eq!(stream.next().await.expect_err("given up").kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_long_frame_is_read_when_there_is_room_for_it() {
    let tenant = tenant();
    let room = tenant.frame_room(FRAME_BYTES_MAX).await;
    let (host, mut guest) = duplex(1 << 20);
    let mut stream = GuardedStream::new(Box::pin(host), Box::new(OneAtATime(tenant)));
    let short = u32::try_from(FRAME_BYTES_FREE).expect("small");
    for length in [short, short + 1, u32::try_from(FRAME_BYTES_MAX).expect("small")] {
        guest.write_all(&frame(length)).await.expect("sent");
    }
    received(&mut stream).await;
    let waiting = tokio::time::timeout(2 * FRAME_TIME, stream.next()).await;
    assert!(waiting.is_err(), "a long one waits, and its time does not run out meanwhile");
    drop(room);
    let long = received(&mut stream).await;
    let waiting = tokio::time::timeout(2 * FRAME_TIME, stream.next()).await;
    assert!(waiting.is_err(), "the room of a frame is taken as long as there is the frame");
    drop(long);
    received(&mut stream).await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_is_held_to_its_rate_over_all_its_agents() {
    let tenant = tenant();
    // What it may send at once, and in one second more.
    tenant.spend_ingest(9_000);
    let (host, mut guest) = duplex(1 << 16);
    let mut stream = GuardedStream::new(Box::pin(host), Box::new(OneAtATime(tenant)));
    guest.write_all(&frame(4)).await.expect("sent");
    let early = tokio::time::timeout(Duration::from_millis(900), stream.next()).await;
    assert!(early.is_err(), "another agent of the tenant has sent all that it may");
    received(&mut stream).await;
}
