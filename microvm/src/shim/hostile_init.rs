//! An init under a hostile guest's control: it never answers, answers late, answers calls that were not made, and sends
//! without end.
//!
//! There is no guest: [`StandIn`] takes the place of the vsock device and of the init behind it. Time is the runtime's
//! and stands still while something can happen, so that deadlines cost no time and are exact.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use containerd_shim::{ExitSignal, protos::protobuf::Message};
use porthole_inspection::{
    responses::RESPONSE_BYTES_MAX,
    stream::{BYTES_AT_ONCE, BYTES_PER_SECOND},
};
use porthole_registry::channel::Channel;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    time::Instant,
};

use super::{
    container::{Container, Exit, KILLED, Process, Status},
    control::SIGNAL_TIMEOUT,
    events::{Events, Kept},
    sandbox::{CALL_TIMEOUT, Running, Sandbox},
    stdio::StdioPaths,
};
use crate::{
    config::Microvm,
    vm::{
        Machine,
        init::{self, UNANSWERED_MAX},
        record::Record,
        share::ContainerFiles,
    },
    wire::{CONTROL_PORT, STREAM_ACCEPTED, STREAM_PORT, guest},
};

/// The sandbox and its own container.
const ID: &str = "s1";

/// What the init does with a request. `Reply`s are whole frames or parts of them.
type Behaviour = fn(&str, u32) -> Reply;

enum Reply {
    /// Nothing, ever.
    Nothing,
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes, one in each second.
    Slowly(Vec<u8>),
    /// These bytes again and again.
    Endlessly(Vec<u8>),
    /// The end of the connection.
    Close,
}

/// ttrpc's frames: length, stream, type, flags, message.
fn frame(stream: u32, kind: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("small");
    [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], message].concat()
}

const RESPONSE: u8 = 2;

fn response(stream: u32, message: &impl Message) -> Vec<u8> {
    let payload = message.write_to_bytes().expect("encoded");
    let response = ttrpc::Response { payload, ..Default::default() };
    frame(stream, RESPONSE, &response.write_to_bytes().expect("encoded"))
}

fn refusal(stream: u32, text: String) -> Vec<u8> {
    let status = ttrpc::get_status(ttrpc::Code::UNKNOWN, text);
    let response = ttrpc::Response { status: Some(status).into(), ..Default::default() };
    frame(stream, RESPONSE, &response.write_to_bytes().expect("encoded"))
}

fn empty(stream: u32) -> Reply {
    Reply::Bytes(response(stream, &guest::Empty::new()))
}

/// The stand-in of the device and the init, with what the shim has of it.
struct StandIn {
    _scratch: tempfile::TempDir,
    sandbox: Arc<Sandbox>,
    running: Arc<Running>,
    events: Kept,
    /// Connections so far.
    connections: Arc<AtomicUsize>,
    /// Bytes that the shim took.
    taken: Arc<AtomicU64>,
}

impl StandIn {
    /// A sandbox whose own container runs.
    async fn new(behaviour: Behaviour) -> Self {
        let scratch = tempfile::tempdir().expect("directory");
        let channel = Channel::Hybrid { path: scratch.path().join("vm.vsock"), port: CONTROL_PORT };
        let (connections, taken) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        device(&scratch.path().join("vm.vsock"), behaviour, Arc::clone(&connections), Arc::clone(&taken));
        let machine = Machine::stand_in(scratch.path(), channel);
        let guest = init::Init::connect(machine.channel().clone()).await.expect("connected");
        let running = Arc::new(Running {
            machine,
            guest,
            monitor: super::monitor::Monitor::default(),
            record: Record::default().into(),
        });
        let (events, kept) = Events::kept();
        let config = Microvm { state_directory: scratch.path().to_owned(), ..Microvm::default() };
        let key = format!("acme@{ID}").parse().expect("key");
        let sandbox = Arc::new(Sandbox::new(key, config, events, Arc::<ExitSignal>::default()));
        sandbox.set_machine(Some(Arc::clone(&running)));
        let init = Process::new(ID, "", StdioPaths::default(), Vec::new());
        init.set(Status::Running);
        let files = ContainerFiles::stand_in(scratch.path());
        let container = Container::new(ID, scratch.path().to_owned(), init, files, true);
        sandbox.containers().insert(ID.to_owned(), Arc::new(container));
        Self { _scratch: scratch, sandbox, running, events: kept, connections, taken }
    }

    fn process(&self) -> Arc<Process> {
        self.sandbox.process(ID, "").expect("a process")
    }

    /// Follows the container's process to its end.
    fn follow(&self) {
        self.sandbox.follow(&self.running, self.process(), true);
    }

    /// Makes the calls that containerd makes of a running container; the errors, with their texts.
    async fn calls(&self) -> Vec<String> {
        let sandbox = &self.sandbox;
        let mut refused = Vec::new();
        let mut keep = |result: Result<(), super::ShimError>| {
            refused.extend(result.err().map(|error| error.to_string()));
        };
        keep(sandbox.kill(ID, "", 15, true).await);
        keep(sandbox.resize(ID, "", 80, 25).await);
        keep(sandbox.update(ID, b"{}").await);
        keep(sandbox.pause(ID).await);
        self.process().set(Status::Paused);
        keep(sandbox.resume(ID).await);
        self.process().set(Status::Running);
        keep(sandbox.pids(ID).await.map(drop));
        keep(sandbox.stats(ID).await.map(drop));
        sandbox.add_process(ID, "e", b"{}", StdioPaths::default()).expect("added");
        keep(sandbox.start(ID, "e").await.map(drop));
        sandbox.container(ID).expect("there").remove("e");
        refused
    }
}

const CALLS: usize = 8;

/// Bytes after which a shim that reads on and on is not waited for any more.
const ENDLESS: u64 = 1 << 30;

/// What a [`Behaviour`] gets in place of a method when a stream is opened.
const STREAM: &str = "stream";

fn device(path: &Path, behaviour: Behaviour, connections: Arc<AtomicUsize>, taken: Arc<AtomicU64>) {
    let listener = UnixListener::bind(path).expect("listening");
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::Relaxed);
            let taken = Arc::clone(&taken);
            tokio::spawn(async move {
                // The shim may go at any time.
                let _ = serve(connection, behaviour, &taken).await;
            });
        }
    });
}

async fn serve(mut connection: UnixStream, behaviour: Behaviour, taken: &AtomicU64) -> std::io::Result<()> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(connection.read_u8().await?);
    }
    connection.write_all(b"OK 1\n").await?;
    if line == format!("CONNECT {STREAM_PORT}\n").as_bytes() {
        connection.read_u64().await?;
        if let Reply::Bytes(bytes) = behaviour(STREAM, 0) {
            connection.write_all(&bytes).await?;
            // Until the shim closes.
            connection.read_to_end(&mut Vec::new()).await?;
        }
        return Ok(());
    }
    loop {
        let (length, stream) = (connection.read_u32().await?, connection.read_u32().await?);
        let (_kind, _flags) = (connection.read_u8().await?, connection.read_u8().await?);
        let mut message = vec![0; usize::try_from(length).expect("small")];
        connection.read_exact(&mut message).await?;
        let request = ttrpc::Request::parse_from_bytes(&message).expect("a request");
        match behaviour(&request.method, stream) {
            Reply::Nothing => {}
            Reply::Bytes(bytes) => connection.write_all(&bytes).await?,
            Reply::Slowly(bytes) => {
                for byte in bytes {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    connection.write_u8(byte).await?;
                }
            }
            Reply::Endlessly(bytes) => {
                while taken.load(Ordering::Relaxed) < ENDLESS {
                    taken.fetch_add(connection.write(&bytes).await? as u64, Ordering::Relaxed);
                }
            }
            Reply::Close => return Ok(()),
        }
    }
}

/// What a future gives, and the time that it takes.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let begin = Instant::now();
    let result = tokio::time::timeout(Duration::from_hours(24), work).await.expect("it ends at all");
    (result, begin.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_answered_ends_by_its_deadline() {
    let stand_in = StandIn::new(|_, _| Reply::Nothing).await;
    let (refused, elapsed) = timed(stand_in.calls()).await;
    // The signal counts as sent.
    assert_eq!(refused.len(), CALLS - 1, "{refused:#?}");
    assert!(
        elapsed <= CALL_TIMEOUT * u32::try_from(CALLS).expect("small") + Duration::from_secs(1),
        "{elapsed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_byte_by_byte_comes_too_late_and_hurts_no_later_call() {
    let stand_in = StandIn::new(|method, stream| match method {
        "Pids" => {
            let pids = guest::PidsResponse { pids: vec![1; 64], ..Default::default() };
            Reply::Slowly(response(stream, &pids))
        }
        _ => empty(stream),
    })
    .await;
    let (late, elapsed) = timed(stand_in.sandbox.pids(ID)).await;
    late.expect_err("too late");
    assert!(elapsed <= CALL_TIMEOUT + Duration::from_secs(1), "{elapsed:?}");
    // The rest arrives meanwhile.
    tokio::time::sleep(Duration::from_mins(2)).await;
    stand_in.sandbox.stats(ID).await.expect("answered");
}

#[tokio::test(start_paused = true)]
async fn an_init_that_does_not_read_stops_no_call_from_ending() {
    // It reads nothing behind the first request.
    let stand_in = StandIn::new(|_, _| Reply::Slowly(vec![0; 1 << 20])).await;
    let resources = format!("{{\"unified\": {{\"a\": \"{}\"}}}}", "x".repeat(64 << 10));
    let calls = (0..300).map(|_| {
        let (sandbox, resources) = (Arc::clone(&stand_in.sandbox), resources.clone());
        tokio::spawn(async move { sandbox.update(ID, resources.as_bytes()).await })
    });
    let calls: Vec<_> = calls.collect();
    let (results, elapsed) = timed(async {
        let mut results = Vec::new();
        for call in calls {
            results.push(call.await.expect("no panic"));
        }
        results
    })
    .await;
    assert!(results.iter().all(Result::is_err));
    assert!(elapsed <= CALL_TIMEOUT + Duration::from_secs(1), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_not_answered_do_not_pile_up() {
    let stand_in = StandIn::new(|_, _| Reply::Nothing).await;
    for _ in 0..=UNANSWERED_MAX {
        stand_in.sandbox.pids(ID).await.expect_err("no answer");
    }
    assert_eq!(stand_in.connections.load(Ordering::Relaxed), 2, "the first connection was given up");
}

#[tokio::test(start_paused = true)]
async fn what_is_killed_ends_though_the_init_does_not_kill_it() {
    for behaviour in [(|_, _| Reply::Nothing) as Behaviour, |method, stream| match method {
        "Wait" => Reply::Nothing,
        _ => empty(stream),
    }] {
        let mut stand_in = StandIn::new(behaviour).await;
        stand_in.follow();
        let (exit, elapsed) = timed(async {
            stand_in.sandbox.kill(ID, "", 9, true).await.expect("no fault of the caller's");
            stand_in.process().ended().await
        })
        .await;
        assert_eq!(exit.status, KILLED);
        assert!(elapsed <= CALL_TIMEOUT, "{elapsed:?}");
        assert!(*stand_in.running.machine.gone().borrow(), "the machine was not switched off");
        assert_eq!(stand_in.events.topics(), ["/tasks/exit"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_signal_to_a_guest_that_does_not_answer_counts_as_sent_and_the_one_that_kills_may_follow() {
    let mut stand_in = StandIn::new(|_, _| Reply::Nothing).await;
    stand_in.follow();
    let (sent, elapsed) = timed(stand_in.sandbox.kill(ID, "", 15, true)).await;
    sent.expect("it is on its way");
    assert!(elapsed <= SIGNAL_TIMEOUT, "{elapsed:?}");
    tokio::time::sleep(CALL_TIMEOUT * 2).await;
    assert_eq!(stand_in.process().status(), Status::Running, "only the signal that kills ends a guest");
    stand_in.sandbox.kill(ID, "", 9, true).await.expect("killed");
    assert_eq!(stand_in.process().ended().await.status, KILLED);
    assert_eq!(stand_in.events.topics(), ["/tasks/exit"]);
}

#[tokio::test(start_paused = true)]
async fn a_signal_with_which_the_guest_ends_is_no_error() {
    for signal in [15, 9] {
        let stand_in = StandIn::new(|method, _| match method {
            "Signal" => Reply::Close,
            _ => Reply::Nothing,
        })
        .await;
        let process = stand_in.process();
        let kill = stand_in.sandbox.kill(ID, "", signal, true);
        // Its end is seen later than the connection's.
        let ends = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            process.set(Status::Stopped(Exit { status: KILLED, at: SystemTime::now() }));
        };
        let (killed, ()) = tokio::join!(kill, ends);
        killed.expect("it ended");
    }
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_the_guest_refuses_is_an_error() {
    let stand_in = StandIn::new(|_, stream| Reply::Bytes(refusal(stream, "no".to_owned()))).await;
    stand_in.sandbox.kill(ID, "", 15, true).await.expect_err("refused");
}

#[tokio::test(start_paused = true)]
async fn an_init_that_closes_in_the_middle_of_a_call_ends_the_call_and_what_it_was_to_report() {
    let mut stand_in = StandIn::new(|method, _| match method {
        "Pids" => Reply::Close,
        _ => Reply::Nothing,
    })
    .await;
    stand_in.follow();
    let (closed, elapsed) = timed(stand_in.sandbox.pids(ID)).await;
    closed.expect_err("closed");
    assert!(elapsed < CALL_TIMEOUT, "{elapsed:?}");
    assert_eq!(stand_in.process().ended().await.status, KILLED);
    assert_eq!(stand_in.events.topics(), ["/tasks/exit"]);
}

#[tokio::test(start_paused = true)]
async fn answers_to_calls_that_nobody_made_are_of_no_effect() {
    let stand_in = StandIn::new(|method, stream| {
        if method != "Pids" {
            return empty(stream);
        }
        let mut bytes = Vec::new();
        for other in 0..2000 {
            bytes.extend(frame(stream + 2 + other, RESPONSE, b""));
        }
        for kind in (0..6).filter(|kind| *kind != RESPONSE) {
            bytes.extend(frame(stream + 2, kind, b"x"));
            bytes.extend(frame(stream, kind, b"x"));
        }
        bytes.extend(response(stream, &guest::PidsResponse { pids: vec![7], ..Default::default() }));
        Reply::Bytes(bytes)
    })
    .await;
    assert_eq!(stand_in.sandbox.pids(ID).await.expect("answered").len(), 1);
    stand_in.sandbox.stats(ID).await.expect("answered");
}

#[tokio::test(start_paused = true)]
async fn what_an_init_sends_without_end_is_read_at_a_bounded_rate() {
    let stand_in = StandIn::new(|_, _| {
        let answer = guest::ContainerRequest { id: "x".repeat(4096), ..Default::default() };
        Reply::Endlessly(response(4711, &answer))
    })
    .await;
    let mut next = Box::pin(stand_in.sandbox.pids(ID));
    let minutes = 10;
    tokio::select! {
        result = &mut next => drop(result),
        () = tokio::time::sleep(CALL_TIMEOUT * 2) => panic!("the call does not end"),
    }
    // Beside the time of the call.
    tokio::time::sleep(Duration::from_mins(minutes - 1)).await;
    let taken = stand_in.taken.load(Ordering::Relaxed);
    // What is in the socket is on its way.
    let bound = u64::from(BYTES_AT_ONCE) + u64::from(BYTES_PER_SECOND) * 60 * minutes + (2 << 20);
    assert!(taken <= bound, "{taken} of at most {bound} bytes");
    assert!(taken > u64::from(BYTES_AT_ONCE), "{taken}");
}

#[tokio::test(start_paused = true)]
async fn notices_of_missing_memory_are_few_and_of_known_containers() {
    let mut stand_in = StandIn::new(|_, stream| {
        // Two of three name what containerd does not know.
        let id = if stream % 3 == 0 { ID.to_owned() } else { format!("{}-{stream}", "x".repeat(1 << 10)) };
        Reply::Bytes(response(stream, &guest::ContainerRequest { id, ..Default::default() }))
    })
    .await;
    stand_in.sandbox.follow_memory(&stand_in.running);
    let mut all = 0;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let topics = stand_in.events.topics();
        assert!(topics.len() <= 10, "{} in ten seconds", topics.len());
        assert!(topics.iter().all(|topic| topic == "/tasks/oom"), "{topics:?}");
        all += topics.len();
    }
    assert!(all > 0);
    // No caller takes them any more.
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(stand_in.events.topics().len() <= super::events::WAITING_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_guests_texts_are_cut_and_escaped() {
    let stand_in = StandIn::new(|_, stream| {
        Reply::Bytes(refusal(stream, "level=info\n\u{1b}[2J\u{202e}".repeat(1 << 12)))
    })
    .await;
    for text in stand_in.calls().await {
        assert!(text.len() <= 1024, "{} bytes", text.len());
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn wild_values_are_brought_into_bounds() {
    let mut stand_in = StandIn::new(|method, stream| match method {
        "Wait" => {
            let wait =
                guest::WaitResponse { status: u32::MAX, exited_unix_nanos: u64::MAX, ..Default::default() };
            Reply::Bytes(response(stream, &wait))
        }
        "Pids" => Reply::Bytes(response(
            stream,
            &guest::PidsResponse { pids: vec![1; 100_000], ..Default::default() },
        )),
        "Stats" => {
            let mut stats = guest::StatsResponse { memory_current: u64::MAX, ..Default::default() };
            stats.memory = (0..900).map(|n| (n.to_string(), u64::MAX)).collect();
            Reply::Bytes(response(stream, &stats))
        }
        // Neither a response nor anything else.
        _ => Reply::Bytes(frame(stream, RESPONSE, &[0xff; 64])),
    })
    .await;
    let pids = stand_in.sandbox.pids(ID).await.expect("answered");
    assert!((1..=32 << 10).contains(&pids.len()));
    assert!(pids.iter().all(|pid| *pid == stand_in.sandbox.pid()), "the guest names processes of the host");
    stand_in.sandbox.stats(ID).await.expect("answered");
    stand_in.sandbox.resize(ID, "", 80, 25).await.expect_err("no response");
    stand_in.follow();
    assert!(stand_in.process().ended().await.status <= 255);
    assert_eq!(stand_in.events.topics(), ["/tasks/exit"]);
}

/// What it takes of memory otherwise is measured in `libs/inspection/tests/memory.rs`.
#[tokio::test(start_paused = true)]
async fn answers_that_would_grow_are_not_decoded_and_hurt_no_later_call() {
    let behaviours: [Behaviour; 3] = [
        // Entries of a map.
        |method, stream| growing(method, stream, &[0x6a, 0].repeat(30_000)),
        // Fields that the contract does not have.
        |method, stream| growing(method, stream, &[0x78, 1].repeat(30_000)),
        // Groups in groups.
        |method, stream| growing(method, stream, &[0x0b].repeat(60_000)),
    ];
    for behaviour in behaviours {
        let stand_in = StandIn::new(behaviour).await;
        let (refused, elapsed) = timed(stand_in.sandbox.stats(ID)).await;
        refused.expect_err("not decoded");
        assert!(elapsed <= CALL_TIMEOUT + Duration::from_secs(1), "{elapsed:?}");
        assert_eq!(stand_in.sandbox.pids(ID).await.expect("answered").len(), 1);
    }
}

/// Answers `Stats` with this, and the rest as it should be.
fn growing(method: &str, stream: u32, payload: &[u8]) -> Reply {
    match method {
        "Stats" => {
            let response = ttrpc::Response { payload: payload.to_vec(), ..Default::default() };
            Reply::Bytes(frame(stream, RESPONSE, &response.write_to_bytes().expect("encoded")))
        }
        _ => Reply::Bytes(response(stream, &guest::PidsResponse { pids: vec![7], ..Default::default() })),
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_long_ends_the_connection_and_what_it_was_to_report() {
    let stand_in = StandIn::new(|method, stream| match method {
        "Pids" => Reply::Bytes(frame(stream, RESPONSE, &vec![0; RESPONSE_BYTES_MAX + 1])),
        _ => Reply::Nothing,
    })
    .await;
    stand_in.follow();
    let (refused, elapsed) = timed(stand_in.sandbox.pids(ID)).await;
    refused.expect_err("not read");
    assert!(elapsed < CALL_TIMEOUT, "{elapsed:?}");
    assert_eq!(stand_in.process().ended().await.status, KILLED);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_accepted_is_none() {
    let behaviours: [(Behaviour, bool); 4] = [
        (|_, _| Reply::Bytes(Vec::new()), false),
        (|_, _| Reply::Bytes(vec![STREAM_ACCEPTED + 1]), false),
        (|_, _| Reply::Close, false),
        (|_, _| Reply::Bytes(vec![STREAM_ACCEPTED]), true),
    ];
    for (behaviour, accepted) in behaviours {
        let stand_in = StandIn::new(behaviour).await;
        let (stream, elapsed) = timed(stand_in.running.machine.open_stream(7)).await;
        assert_eq!(stream.is_ok(), accepted);
        assert!(elapsed <= Duration::from_secs(31), "{elapsed:?}");
    }
}

/// A start ends although a device, or an init, accepts connections and sends nothing.
#[tokio::test(start_paused = true)]
async fn a_start_ends_in_time_without_a_word_from_the_guest() {
    let scratch = tempfile::tempdir().expect("directory");
    let path = scratch.path().join("vm.vsock");
    let listener = UnixListener::bind(&path).expect("listening");
    let machine = Machine::stand_in(scratch.path(), Channel::Hybrid { path, port: CONTROL_PORT });
    let (silent, elapsed) = timed(machine.connect(Duration::from_mins(1), Duration::ZERO)).await;
    assert!(silent.is_err() && elapsed <= Duration::from_mins(2), "{elapsed:?}");
    drop(listener);

    let stand_in = StandIn::new(|_, _| Reply::Nothing).await;
    let (silent, elapsed) =
        timed(stand_in.running.machine.connect(Duration::from_mins(1), Duration::ZERO)).await;
    assert!(silent.is_err() && elapsed <= Duration::from_mins(2), "{elapsed:?}");
}

/// Methods that the init was called with.
static CALLED: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

#[tokio::test(start_paused = true)]
async fn a_container_whose_creation_failed_or_was_not_answered_is_removed_in_the_guest() {
    let refused: Behaviour = |method, stream| {
        CALLED.lock().expect("no test panics here").push(method.to_owned());
        match method {
            "CreateContainer" => Reply::Bytes(refusal(stream, "no".to_owned())),
            _ => empty(stream),
        }
    };
    let unanswered: Behaviour = |method, stream| {
        CALLED.lock().expect("no test panics here").push(method.to_owned());
        match method {
            "CreateContainer" => Reply::Nothing,
            _ => empty(stream),
        }
    };
    for behaviour in [refused, unanswered] {
        CALLED.lock().expect("no test panics here").clear();
        let stand_in = StandIn::new(behaviour).await;
        let request = guest::CreateContainerRequest { id: "c1".to_owned(), ..Default::default() };
        stand_in.running.make(&request).await.expect_err("not made");
        assert_eq!(*CALLED.lock().expect("no test panics here"), ["CreateContainer", "Remove"]);
    }
}
