//! What ttrpc's client takes of memory for answers that were made to grow, with the inspection and without it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use porthole_inspection::{responses, stream::InspectedStream};
use protobuf::{Message as _, well_known_types::empty::Empty};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};
use ttrpc::r#async::{Client, transport::Socket};

/// Counts what is allocated, and its peak.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most that one hostile answer may take beyond what the test itself holds, bytes.
const GROWTH_MAX: usize = 4 << 20;

/// Answers of less than ttrpc's largest frame.
fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let payload = |payload: Vec<u8>| {
        ttrpc::Response { payload, ..Default::default() }.write_to_bytes().expect("encoded")
    };
    // Numbers of two bytes each, so that fields of many numbers are kept each in its own place.
    let numbers = (16..500_000_u32).flat_map(|number| {
        let tag = number << 3;
        let mut bytes: Vec<u8> = (0..5).map(|at| (tag >> (7 * at)).to_le_bytes()[0] | 0x80).collect();
        bytes[4] &= 0x7f;
        bytes.push(1);
        bytes
    });
    let mut details = vec![0x0a, 0x80, 0x80, 0x80, 0x01];
    details.extend([0x1a, 0].repeat(1 << 20));
    vec![
        ("a large text", payload([&[0x0a, 0x80, 0x80, 0xc0, 0x01][..], &vec![b'x'; 3 << 20]].concat())),
        ("fields that nobody knows", payload(numbers.collect())),
        ("one field again and again", payload([0x78, 1].repeat(1 << 20))),
        ("groups in groups", payload(vec![0x0b; 1 << 20])),
        ("details of an error", details),
    ]
}

/// The growth while one call gets such an answer.
async fn growth(answer: &[u8], inspected: bool) -> usize {
    let (host, mut guest) = UnixStream::pair().expect("a pair");
    let client = if inspected {
        Client::new(Socket::new(InspectedStream::new(Box::pin(host), responses::INSPECTION)))
    } else {
        Client::new(Socket::new(host))
    };
    let serve = async {
        let mut header = [0; 10];
        guest.read_exact(&mut header).await.expect("a request");
        let length = u32::try_from(answer.len()).expect("small").to_be_bytes();
        // The client may have given the connection up.
        let _ = guest.write_all(&length).await;
        let _ = guest.write_all(&header[4..8]).await;
        let _ = guest.write_all(&[2, 0]).await;
        let _ = guest.write_all(answer).await;
        // Until the client has what it takes, or gives up.
        let _ = guest.read_to_end(&mut Vec::new()).await;
    };
    let request = ttrpc::Request { service: "s".into(), method: "m".into(), ..Default::default() };
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let call = async move {
        // A refused answer is none.
        let answer = tokio::time::timeout(Duration::from_secs(2), client.request(request)).await;
        if let Ok(Ok(answer)) = answer {
            // As generated clients do.
            let _ = Empty::parse_from_bytes(&answer.payload);
        }
    };
    tokio::join!(serve, call);
    PEAK.load(Ordering::Relaxed) - before
}

#[tokio::test]
async fn an_answer_that_was_made_to_grow_takes_no_memory() {
    let mut largest = 0;
    for (what, answer) in answers() {
        let grown = growth(&answer, true).await;
        assert!(grown <= GROWTH_MAX, "{what}: {grown} bytes for {}", answer.len());
        largest = largest.max(growth(&answer, false).await);
    }
    assert!(largest > 8 * GROWTH_MAX, "without the inspection no answer takes more than {largest} bytes");
}
