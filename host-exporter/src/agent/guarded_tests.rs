use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

struct Everything;

impl Inspect for Everything {
    fn admit(&mut self, _: u8, _: &[u8]) -> Admission {
        Admission::Pass
    }
}

/// Drops frames whose body begins with this byte.
struct NotBeginningWith(u8);

impl Inspect for NotBeginningWith {
    fn admit(&mut self, kind: u8, body: &[u8]) -> Admission {
        assert_eq!(kind, 3);
        if body.first() == Some(&self.0) { Admission::Drop } else { Admission::Pass }
    }
}

fn guarded() -> (GuardedStream<DuplexStream>, Control, DuplexStream) {
    let (host, guest) = duplex(1 << 16);
    let (stream, control) = GuardedStream::new(Box::pin(host), Box::new(Everything));
    (stream, control, guest)
}

fn frame(length: u32) -> Vec<u8> {
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend([0, 0, 0, 1, 3, 0]);
    frame.resize(HEADER + length as usize, 7);
    frame
}

#[tokio::test]
async fn frames_pass_unchanged() {
    let (mut stream, control, mut guest) = guarded();
    for length in [0, 1, 20_000] {
        guest.write_all(&frame(length)).await.expect("sent");
        let mut received = vec![0; HEADER + length as usize];
        stream.read_exact(&mut received).await.expect("received");
        assert_eq!(received, frame(length));
        control.release();
    }
}

#[tokio::test]
async fn a_giant_frame_is_refused_by_its_header() {
    let (mut stream, _control, mut guest) = guarded();
    guest.write_all(&u32::try_from(FRAME_BYTES_MAX + 1).expect("small").to_be_bytes()).await.expect("sent");
    guest.write_all(&[0; 6]).await.expect("sent");
    let error = stream.read_exact(&mut [0; HEADER]).await.expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_until_the_frame_before_is_worked_off_not_even_the_end() {
    let (mut stream, control, mut guest) = guarded();
    for _ in 0..2 {
        guest.write_all(&frame(4)).await.expect("sent");
    }
    drop(guest);
    for _ in 0..2 {
        let mut received = vec![0; HEADER + 4];
        stream.read_exact(&mut received).await.expect("received");
        let mut next = [0; 1];
        let blocked = tokio::time::timeout(Duration::from_hours(1), stream.read(&mut next)).await;
        assert!(blocked.is_err(), "what follows must wait");
        control.release();
    }
    assert_eq!(stream.read(&mut [0; 1]).await.expect("the end"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_held_to_its_rate() {
    let (mut stream, control, mut guest) = guarded();
    let flood = tokio::spawn(async move { while guest.write_all(&frame(60_000)).await.is_ok() {} });
    let began = Instant::now();
    let mut received = 0_u64;
    let mut piece = vec![0; HEADER + 60_000];
    while began.elapsed() < Duration::from_secs(20) {
        received += stream.read_exact(&mut piece).await.expect("received") as u64;
        control.release();
    }
    let allowed = u64::from(BYTES_BURST) + 21 * u64::from(BYTES_PER_SECOND);
    assert!(received <= allowed, "{received} of {allowed}");
    drop(stream);
    flood.await.expect("the guest sees the end");
}

#[tokio::test]
async fn dropping_the_control_ends_both_directions() {
    let (stream, control, _guest) = guarded();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = tokio::spawn(async move { reader.read_u8().await.expect_err("ended").kind() });
    let writing = tokio::spawn(async move {
        loop {
            // The guest takes nothing: this hangs until the control goes.
            if let Err(error) = writer.write_all(&[0; 4096]).await {
                return error.kind();
            }
        }
    });
    tokio::task::yield_now().await;
    drop(control);
    assert_eq!(reading.await.expect("joined"), io::ErrorKind::ConnectionAborted);
    assert_eq!(writing.await.expect("joined"), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn a_frame_that_is_refused_is_dropped_and_the_next_passes() {
    let (host, mut guest) = duplex(1 << 16);
    let (mut stream, _control) = GuardedStream::new(Box::pin(host), Box::new(NotBeginningWith(7)));
    guest.write_all(&frame(100)).await.expect("sent");
    let mut good = frame(3);
    good[HEADER] = 1;
    guest.write_all(&good).await.expect("sent");
    let mut received = vec![0; good.len()];
    stream.read_exact(&mut received).await.expect("received");
    assert_eq!(received, good);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_never_finished_ends_the_connection() {
    let (mut stream, _control, mut guest) = guarded();
    guest.write_all(&frame(100)[..50]).await.expect("sent");
    let error = stream.read_exact(&mut [0; HEADER]).await.expect_err("given up");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}
