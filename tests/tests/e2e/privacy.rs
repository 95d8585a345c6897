//! Does any value that a workload sends leave the agent, or the exporter?
//!
//! Conversations of every protocol, with a marker in each position that holds a value, go over sockets of this machine. The
//! agent of the sidecar observes them, and the environment's exporter dials it, through a relay that keeps every byte.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use porthole_l7::{
    Direction, Transport,
    values::{Conversation, conversations},
};
use porthole_registry::{
    AgentSecret, ContainerRecord, SandboxId, SandboxKey, SandboxRecord, SandboxState, channel::Channel,
    lock_path, record_path,
};
use porthole_testbed::{daemon::Daemon, environment::Environment, exposition::Sample, http, wait};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[("privacy::no_value_is_on_the_channel_in_a_log_or_in_an_answer", no_value)];

/// Values as users have them. Each is long and strange enough that nothing has it by accident.
const MARKERS: [&str; 4] = ["swordfish-hunter2", "Bob.Smithers", "ghp_abcdefghijkl", "AKIAIOSFODNN7EXAMPLE"];

/// A command of one of the conversations, which is no value.
const COMMAND: &str = "LRANGE";

/// The sandbox, its tenant and its application.
const NAME: &str = "privacy";

/// Begins the name of its record's file.
const NAME_OF_RECORD: &str = "privacy@privacy";

/// The requests to the exporter: each path, and the forms of the exposition.
const ANSWERS: [(&str, &str); 7] = [
    ("/", ""),
    ("/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n"),
    ("/metrics", "Accept: text/plain\r\n"),
    (
        "/metrics",
        "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited\r\n",
    ),
    ("/api/v1/sandboxes", ""),
    ("/api/v1/applications", ""),
    ("/api/v1/spans?limit=10000", ""),
];

fn no_value(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let directory = environment.directory().join(NAME);
    fs::create_dir(&directory).context("make a directory")?;
    let secret = AgentSecret::random().context("random numbers")?;
    let (socket, log) = (directory.join("agent"), directory.join("agent.log"));
    let mut command = Command::new(environment.dist.sidecar().join("porthole-agent"));
    command.args(["--listen", &format!("unix://{}", socket.display()), "--slow-ms", "0"]);
    command.args(["--spans-per-second", "1000"]);
    command.env("PORTHOLE_LOG", "trace").env("PORTHOLE_AGENT_SECRET", secret.expose());
    let mut agent = Daemon::spawn("porthole-agent", &mut command, &log)?;
    wait::until("the agent listens", wait::SOON, || {
        agent.check()?;
        Ok(UnixStream::connect(&socket).ok())
    })?;
    let relay = Relay::start(&directory.join("relay"), socket)?;
    let companion = enter(&environment, &directory.join("relay"), &secret)?;
    wait::until("the exporter hears the agent", wait::SOON, || {
        let sandbox = environment.exporter()?.sandbox(NAME)?;
        Ok(sandbox.is_some_and(|sandbox| sandbox["connection"]["state"] == "connected").then_some(()))
    })?;
    for marker in MARKERS {
        // A user comes again, and again.
        for conversation in [marker; 3].iter().flat_map(|marker| conversations(marker, marker.as_bytes())) {
            play(&conversation).with_context(|| format!("{:?}", conversation.protocol))?;
        }
    }
    wait::until("every protocol is counted", wait::SOON, || {
        let counted = counted(&environment.exporter()?.samples()?);
        let missing: Vec<_> = EXPECTED.iter().filter(|name| !counted.contains(**name)).collect();
        ensure!(missing.is_empty(), "not counted: {missing:?}; counted: {counted:?}");
        Ok(Some(()))
    })?;
    // Each comes in a batch after its series.
    wait::until("spans of what was counted, and a command that the search looks for", wait::SOON, || {
        let spans = environment.exporter()?.spans(&format!("service_name={NAME}&limit=10000"))?;
        ensure!(spans.len() > EXPECTED.len(), "{} spans", spans.len());
        Ok(environment.exporter()?.text()?.contains(COMMAND).then_some(()))
    })?;
    agent.stop()?;
    let mut places = vec![("the channel".to_owned(), relay.bytes())];
    ensure!(places[0].1.len() > 10_000, "{} bytes on the channel", places[0].1.len());
    let address = environment.exporter()?.address;
    for (path, headers) in ANSWERS {
        let mut connection = http::Connection::open(address)?;
        connection.send("GET", path, &format!("{headers}Connection: close\r\n"))?;
        let answer = connection.receive("GET")?;
        ensure!(answer.status == 200, "{path} answered {}", answer.status);
        places.push((path.to_owned(), answer.body));
    }
    for top in [&directory, &environment.registry(), &environment.directory().join("exporter")] {
        files(top, &mut places)?;
    }
    files(&environment.directory().join("log"), &mut places)?;
    // What is no value is there: the search looks at the right bytes.
    for place in ["the channel", "/metrics"] {
        let bytes = &places.iter().find(|(name, _)| name == place).context("a place")?.1;
        ensure!(String::from_utf8_lossy(bytes).contains(COMMAND), "no command in {place}");
    }
    for (place, bytes) in &places {
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        for part in parts() {
            ensure!(!text.contains(&part), "{part:?} is in {place}: {}", around(&text, &part));
        }
        // The record has it, and nothing else.
        let shown = text.contains(&secret.expose()) && !place.contains(NAME_OF_RECORD);
        ensure!(!shown, "the agent's secret is in {place}");
    }
    drop((relay, companion));
    fs::remove_dir_all(&directory).context("remove the directory")
}

/// What must not be seen of the markers, in lower case.
fn parts() -> BTreeSet<String> {
    let words = MARKERS.iter().flat_map(|marker| marker.split(['-', '.', '_']));
    words.filter(|word| word.len() > 4).map(str::to_ascii_lowercase).collect()
}

fn around<'a>(text: &'a str, part: &str) -> &'a str {
    let at = text.find(part).unwrap_or_default();
    let mut ends = [at.saturating_sub(120), (at + 120).min(text.len())];
    for end in &mut ends {
        while !text.is_char_boundary(*end) {
            *end -= 1;
        }
    }
    &text[ends[0]..ends[1]]
}

/// What shows that a protocol is counted: the value of a label, or the first words of an instrument.
const EXPECTED: [&str; 12] = [
    "http_server",
    "grpc",
    "mysql",
    "postgresql",
    "redis",
    "memcached",
    "mongodb",
    "kafka",
    "rabbitmq",
    "nats",
    "dns_server",
    "tls_server",
];

/// The labels that name a protocol.
const LABELS: [&str; 3] = ["rpc_system_name", "db_system_name", "messaging_system"];

fn counted(samples: &[Sample]) -> BTreeSet<String> {
    let mut counted = BTreeSet::new();
    for sample in samples.iter().filter(|sample| sample.has(&[("service_name", NAME)])) {
        counted.insert(sample.name.splitn(3, '_').take(2).collect::<Vec<_>>().join("_"));
        counted.extend(LABELS.iter().filter_map(|label| sample.labels.get(*label).cloned()));
    }
    counted
}

/// The record and the lock of the agent's sandbox, which go with this.
struct Companion([PathBuf; 2], #[allow(dead_code, reason = "held")] Flock<File>);

impl Drop for Companion {
    fn drop(&mut self) {
        for path in &self.0 {
            // The environment's directory goes as a whole.
            let _ = fs::remove_file(path);
        }
    }
}

fn enter(environment: &Environment, socket: &Path, secret: &AgentSecret) -> Result<Companion> {
    let id: SandboxId = NAME.parse().context("an id")?;
    let record = SandboxRecord {
        containers: [(id.clone(), ContainerRecord { name: NAME.to_owned() })].into(),
        channel: Some(Channel::Unix { path: socket.to_owned() }),
        secret: Some(secret.clone()),
        state: SandboxState::Watching,
        ..SandboxRecord::new(
            SandboxKey { namespace: NAME.parse().context("a namespace")?, id },
            NAME,
            NAME,
            NAME,
            1,
        )
    };
    let registry = environment.registry();
    let paths = [record_path(&registry, &record.key()), lock_path(&registry, &record.key())];
    let lock = File::create(&paths[1]).context("make a lock")?;
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
    record.write(&registry).context("write a record")?;
    Ok(Companion(paths, lock))
}

/// Lets both ends send in turn, each step read to its end by the other.
fn play(conversation: &Conversation) -> Result<()> {
    match conversation.transport {
        Transport::Stream => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
            let mut client = TcpStream::connect(listener.local_addr()?).context("connect")?;
            let (mut server, _) = listener.accept().context("accept")?;
            for end in [&client, &server] {
                end.set_read_timeout(Some(wait::SOON))?;
                end.set_nodelay(true)?;
            }
            for (direction, bytes) in &conversation.steps {
                let (from, to) = match direction {
                    Direction::Ingress => (&mut client, &mut server),
                    Direction::Egress => (&mut server, &mut client),
                };
                from.write_all(bytes).context("send")?;
                to.read_exact(&mut vec![0; bytes.len()]).context("receive")?;
            }
            client.shutdown(Shutdown::Both).context("end")
        }
        Transport::Datagram => {
            let ends = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
            let [client, server] = ends;
            let (client, server) = (client?, server?);
            client.connect(server.local_addr()?)?;
            server.connect(client.local_addr()?)?;
            for (direction, bytes) in &conversation.steps {
                let (from, to) = match direction {
                    Direction::Ingress => (&client, &server),
                    Direction::Egress => (&server, &client),
                };
                to.set_read_timeout(Some(wait::SOON))?;
                from.send(bytes).context("send")?;
                to.recv(&mut vec![0; bytes.len() + 1]).context("receive")?;
            }
            Ok(())
        }
    }
}

/// Passes on what exporter and agent send each other, and keeps it.
struct Relay {
    at: PathBuf,
    kept: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Relay {
    fn start(at: &Path, agent: PathBuf) -> Result<Self> {
        let listener = UnixListener::bind(at).with_context(|| format!("listen on {}", at.display()))?;
        let (kept, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (keeping, stopped) = (Arc::clone(&kept), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for exporter in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(agent) = UnixStream::connect(&agent) else { continue };
                let (Ok(one), Ok(other)) = (exporter.try_clone(), agent.try_clone()) else { continue };
                for (from, to) in [(one, agent), (other, exporter)] {
                    let keeping = Arc::clone(&keeping);
                    thread::spawn(move || pass_on(from, to, &keeping));
                }
            }
        });
        Ok(Self { at: at.to_owned(), kept, stop, thread: Some(thread) })
    }

    fn bytes(&self) -> Vec<u8> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It waits for a connection.
        if UnixStream::connect(&self.at).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn pass_on(mut from: UnixStream, mut to: UnixStream, kept: &Mutex<Vec<u8>>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // The other end learns that this one has gone.
    let _ = to.shutdown(Shutdown::Write);
}

/// All files below a directory, with their contents.
fn files(top: &Path, places: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    for entry in fs::read_dir(top).with_context(|| format!("list {}", top.display()))?.flatten() {
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            files(&path, places)?;
        } else if kind.is_file() {
            places.push((path.display().to_string(), fs::read(&path).unwrap_or_default()));
        }
    }
    Ok(())
}
