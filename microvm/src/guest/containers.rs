//! The guest's containers: what is there, and what may be done to it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use libcgroups::common::{AnyCgroupManager, CgroupConfig, CgroupManager as _, ControllerOpt};
use libcontainer::container::Container as OciContainer;
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio_vsock::VsockStream;

use super::{
    GuestError,
    agent::{Agent, Until},
    being_made::BeingMade,
    cgroup::{self, Group},
    helper::{self, Make, Order, StandardStreams},
    mount_namespace::MountNamespace,
    oom,
    reaper::{Ending, Exit, Reaper},
    streams::{self, Streams},
    terminal::{ConsoleSocket, Terminal},
};
use crate::wire::guest::{StatsResponse, Streams as StreamNumbers};

/// Where bundles are written.
const BUNDLES: &str = "/run/bundles";

/// Out-of-memory events that the host has not fetched yet; more of them add nothing.
const OOM_QUEUE: usize = 64;

/// Longest id; containerd allows 76.
const MAX_ID_BYTES: usize = 128;

struct Process {
    pid: i32,
    ending: Ending,
    terminal: Option<Terminal>,
}

struct Container {
    /// By exec id; the empty one is the container's first.
    processes: HashMap<String, Process>,
    /// Ends with the container.
    _oom: Option<oom::Watch>,
    /// Its mounts, which outlive its processes.
    mounts: Option<MountNamespace>,
}

/// The table of containers.
pub struct Containers {
    reaper: Reaper,
    streams: Arc<Streams>,
    agent: Agent,
    /// How long containers wait for the agent, milliseconds.
    agent_wait_ms: AtomicU64,
    table: Mutex<HashMap<String, Container>>,
    /// Those that are not in the table yet.
    being_made: BeingMade,
    files: AtomicU64,
    oom_sender: mpsc::Sender<String>,
    oom_receiver: AsyncMutex<mpsc::Receiver<String>>,
}

/// What carries a process' streams once it exists.
struct Attachments {
    stdio: StandardStreams,
    console: Option<ConsoleSocket>,
    carriers: Vec<Carrier>,
}

enum Carrier {
    In(VsockStream, tokio::net::unix::pipe::Sender),
    Out(tokio::net::unix::pipe::Receiver, VsockStream),
    TerminalIn(VsockStream),
    TerminalOut(VsockStream),
}

impl Containers {
    /// An empty table.
    pub fn new(reaper: Reaper, streams: Arc<Streams>, agent: Agent) -> Self {
        let (oom_sender, oom_receiver) = mpsc::channel(OOM_QUEUE);
        Self {
            reaper,
            streams,
            agent,
            agent_wait_ms: AtomicU64::new(0),
            table: Mutex::default(),
            being_made: BeingMade::default(),
            files: AtomicU64::new(0),
            oom_sender,
            oom_receiver: AsyncMutex::new(oom_receiver),
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Container>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how long containers wait for the agent.
    pub fn set_agent_wait(&self, milliseconds: u64) {
        self.agent_wait_ms.store(milliseconds, Ordering::Relaxed);
    }

    /// Makes a container, its first process waiting to be started. It is made also when the caller gives up meanwhile, and discarded
    /// when it is removed meanwhile.
    pub async fn create(
        self: &Arc<Self>,
        id: &str,
        spec: Vec<u8>,
        numbers: StreamNumbers,
    ) -> Result<i32, GuestError> {
        check_id(id)?;
        let claim = self.being_made.begin(id).filter(|_| !self.table().contains_key(id));
        let claim = claim.ok_or_else(|| GuestError::State(format!("container {id} exists")))?;
        let [making, keeping] = [Arc::clone(self), Arc::clone(self)];
        let [make_id, keep_id, discard_id] = [id.to_owned(), id.to_owned(), id.to_owned()];
        let made = claim.make(
            async move { making.make(&make_id, &spec, &numbers).await },
            move |(pid, container)| {
                keeping.table().insert(keep_id, container);
                pid
            },
            // The host gets the failure, and removes what it has mounted.
            async move |made: Option<(i32, Container)>| {
                discard_all(discard_id).await;
                if let Some(mounts) = made.and_then(|(_, container)| container.mounts) {
                    mounts.release().await;
                }
            },
        );
        made.await
    }

    async fn make(
        &self,
        id: &str,
        spec: &[u8],
        numbers: &StreamNumbers,
    ) -> Result<(i32, Container), GuestError> {
        let bundle = Path::new(BUNDLES).join(id);
        std::fs::create_dir_all(&bundle).map_err(GuestError::io(format!("create {}", bundle.display())))?;
        std::fs::create_dir_all(helper::STATE).map_err(GuestError::io("create the state directory"))?;
        std::fs::write(bundle.join(helper::CONFIG), spec)
            .map_err(GuestError::io("write the specification"))?;
        let process = self.run(id, Make::Container(bundle), numbers).await?;
        let pid = process.pid;
        // Not there any more if it was killed already.
        let mounts = MountNamespace::of(pid).ok();
        self.agent.listening().await;
        let oom = oom::Watch::start(id, self.oom_sender.clone());
        let processes = HashMap::from([(String::new(), process)]);
        Ok((pid, Container { processes, _oom: oom, mounts }))
    }

    /// Runs a further process in a container.
    pub async fn exec(
        &self,
        id: &str,
        exec_id: &str,
        process: &[u8],
        numbers: &StreamNumbers,
    ) -> Result<i32, GuestError> {
        if exec_id.is_empty() || self.ending(id, exec_id).is_ok() {
            return Err(GuestError::State(format!("process `{exec_id}` of {id} exists")));
        }
        if self.ending(id, "")?.now().is_some() {
            return Err(GuestError::State(format!("container {id} has ended")));
        }
        let file = self.scratch_file(id, "process.json");
        std::fs::write(&file, process).map_err(GuestError::io("write the process"))?;
        let made = self.run(id, Make::Process(file.clone()), numbers).await;
        // It was read or will never be.
        let _ = std::fs::remove_file(&file);
        let process = made?;
        let pid = process.pid;
        let mut table = self.table();
        let container = table.get_mut(id).ok_or_else(|| GuestError::NotFound(format!("container {id}")))?;
        container.processes.insert(exec_id.to_owned(), process);
        Ok(pid)
    }

    fn scratch_file(&self, id: &str, name: &str) -> PathBuf {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        Path::new(BUNDLES).join(id).join(format!("{number}-{name}"))
    }

    async fn run(&self, id: &str, make: Make, numbers: &StreamNumbers) -> Result<Process, GuestError> {
        let attachments = self.attach(id, numbers)?;
        let console = attachments.console.as_ref().map(|console| console.path().to_owned());
        let order = Order { id: id.to_owned(), make, console };
        let (pid, ending) = helper::run(&order, attachments.stdio, &self.reaper).await?;
        let terminal = attachments.console.map(ConsoleSocket::receive).transpose().inspect_err(|_| {
            // No table has it, so that it could not be ended later.
            let _ = send_signal(pid, libc::SIGKILL);
        })?;
        for carrier in attachments.carriers {
            match (carrier, &terminal) {
                (Carrier::In(connection, sink), _) => streams::carry_in(connection, sink),
                (Carrier::Out(source, connection), _) => streams::carry_out(source, connection),
                (Carrier::TerminalIn(connection), Some(terminal)) => {
                    streams::carry_in(connection, terminal.clone());
                }
                (Carrier::TerminalOut(connection), Some(terminal)) => {
                    streams::carry_out(terminal.clone(), connection);
                }
                (Carrier::TerminalIn(_) | Carrier::TerminalOut(_), None) => {}
            }
        }
        Ok(Process { pid, ending, terminal })
    }

    fn attach(&self, id: &str, numbers: &StreamNumbers) -> Result<Attachments, GuestError> {
        let stdin = self.streams.claim(numbers.stdin)?;
        let stdout = self.streams.claim(numbers.stdout)?;
        let stderr = self.streams.claim(numbers.stderr)?;
        let mut carriers = Vec::new();
        let mut standard =
            StandardStreams { stdin: Stdio::null(), stdout: Stdio::null(), stderr: Stdio::null() };
        if numbers.terminal {
            carriers.extend(stdin.map(Carrier::TerminalIn));
            carriers.extend(stdout.map(Carrier::TerminalOut));
            let console = ConsoleSocket::listen(self.scratch_file(id, "console.sock"))?;
            return Ok(Attachments { stdio: standard, console: Some(console), carriers });
        }
        if let Some(connection) = stdin {
            let (read, sink) = streams::input_pipe()?;
            standard.stdin = read.into();
            carriers.push(Carrier::In(connection, sink));
        }
        for (connection, slot) in [(stdout, &mut standard.stdout), (stderr, &mut standard.stderr)] {
            if let Some(connection) = connection {
                let (source, write) = streams::output_pipe()?;
                *slot = write.into();
                carriers.push(Carrier::Out(source, connection));
            }
        }
        Ok(Attachments { stdio: standard, console: None, carriers })
    }

    /// Starts a container's first process, when the agent is there or was waited for long enough.
    pub async fn start(&self, id: &str, until: Until) -> Result<(), GuestError> {
        self.ending(id, "")?;
        let limit = Duration::from_millis(self.agent_wait_ms.load(Ordering::Relaxed));
        self.agent.ready(until, limit).await;
        let failed = |error: libcontainer::error::LibcontainerError| GuestError::Container(error.to_string());
        load(id)?.start().map_err(failed)
    }

    fn ending(&self, id: &str, exec_id: &str) -> Result<Ending, GuestError> {
        self.with_process(id, exec_id, |process| Ok(process.ending.clone()))
    }

    fn with_process<T>(
        &self,
        id: &str,
        exec_id: &str,
        f: impl FnOnce(&Process) -> Result<T, GuestError>,
    ) -> Result<T, GuestError> {
        let table = self.table();
        let container = table.get(id).ok_or_else(|| GuestError::NotFound(format!("container {id}")))?;
        let process = container.processes.get(exec_id);
        f(process.ok_or_else(|| GuestError::NotFound(format!("process `{exec_id}` of {id}")))?)
    }

    /// Waits until a process has ended.
    pub async fn wait(&self, id: &str, exec_id: &str) -> Result<Exit, GuestError> {
        Ok(self.ending(id, exec_id)?.wait().await)
    }

    /// Sends a signal to a process, or to all of its container.
    pub fn signal(&self, id: &str, exec_id: &str, signal: i32, all: bool) -> Result<(), GuestError> {
        if all && signal == libc::SIGKILL {
            self.ending(id, "")?;
            return Group::of(id).kill();
        }
        if all {
            self.ending(id, "")?;
            for pid in Group::of(id).pids() {
                send_signal(i32::try_from(pid).unwrap_or(i32::MAX), signal)?;
            }
            return Ok(());
        }
        self.with_process(id, exec_id, |process| match process.ending.now() {
            Some(_) => Err(GuestError::NotFound(format!("process `{exec_id}` of {id}"))),
            None => send_signal(process.pid, signal),
        })
    }

    /// Sets the size of a process' terminal.
    pub fn resize(&self, id: &str, exec_id: &str, width: u16, height: u16) -> Result<(), GuestError> {
        self.with_process(id, exec_id, |process| match &process.terminal {
            Some(terminal) => terminal.resize(width, height),
            None => Err(GuestError::State(format!("process `{exec_id}` of {id} has no terminal"))),
        })
    }

    /// Forgets a process; with the empty exec id the container, killing what is left of it. Of one that is not in the table, as it was
    /// not made to the end or is being made, nothing stays either.
    pub async fn remove(&self, id: &str, exec_id: &str) -> Result<(), GuestError> {
        if !exec_id.is_empty() {
            if let Some(container) = self.table().get_mut(id) {
                container.processes.remove(exec_id);
            }
            return Ok(());
        }
        check_id(id)?;
        self.being_made.cancel(id).await;
        if !self.table().contains_key(id) {
            // Otherwise another call makes or discards it.
            if let Some(claim) = self.being_made.begin(id) {
                let unknown = id.to_owned();
                let discarding = tokio::spawn(async move {
                    discard_all(unknown).await;
                    drop(claim);
                });
                discarding.await.map_err(|error| GuestError::Container(error.to_string()))?;
            }
            return Ok(());
        }
        let failed = |error: libcontainer::error::LibcontainerError| GuestError::Container(error.to_string());
        load(id)?.delete(true).map_err(failed)?;
        let removed = self.table().remove(id);
        let bundle = Path::new(BUNDLES).join(id);
        let emptied = std::fs::remove_dir_all(&bundle);
        if let Some(mounts) = removed.and_then(|container| container.mounts) {
            mounts.release().await;
        }
        emptied.map_err(GuestError::io(format!("remove {}", bundle.display())))
    }

    /// Stops a container's processes where they are.
    pub async fn pause(&self, id: &str) -> Result<(), GuestError> {
        self.ending(id, "")?;
        Group::of(id).freeze().await
    }

    /// Lets them go on.
    pub fn resume(&self, id: &str) -> Result<(), GuestError> {
        self.ending(id, "")?;
        Group::of(id).thaw()
    }

    /// A container's processes.
    pub fn pids(&self, id: &str) -> Result<Vec<u32>, GuestError> {
        self.ending(id, "")?;
        Ok(Group::of(id).pids())
    }

    /// A container's counters.
    pub fn stats(&self, id: &str) -> Result<StatsResponse, GuestError> {
        self.ending(id, "")?;
        Ok(Group::of(id).stats())
    }

    /// Sets a container's limits, from an OCI `linux.resources` object.
    pub fn update(&self, id: &str, resources: &[u8]) -> Result<(), GuestError> {
        self.ending(id, "")?;
        let resources = serde_json::from_slice(resources)
            .map_err(|source| GuestError::Json { what: "resources", source })?;
        let failed = |error: &dyn std::fmt::Display| GuestError::Container(error.to_string());
        let manager: AnyCgroupManager = libcgroups::common::create_cgroup_manager(CgroupConfig {
            cgroup_path: Path::new("/").join(id),
            systemd_cgroup: false,
            container_name: id.to_owned(),
        })
        .map_err(|error| failed(&error))?;
        let options = ControllerOpt {
            resources: &resources,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        };
        manager.apply(&options).map_err(|error| failed(&error))
    }

    /// Waits until some container has run out of memory.
    pub async fn wait_oom(&self) -> String {
        // The table holds a sender, so that the queue never closes.
        self.oom_receiver.lock().await.recv().await.unwrap_or_default()
    }

    /// Kills everything, has the agent send what it has within a time, and writes back what is dirty.
    pub async fn quiesce(&self, agent: Duration) {
        let ids: Vec<String> = self.table().keys().cloned().collect();
        for id in ids {
            // A container that has ended has nothing to kill.
            let _ = Group::of(&id).kill();
        }
        self.agent.end(agent).await;
        nix::unistd::sync();
    }
}

/// As [`discard`], of the guest's containers, on a thread that may block: libcontainer waits for processes to end.
async fn discard_all(id: String) {
    let discarding = tokio::task::spawn_blocking(move || {
        discard(&id, &Path::new(BUNDLES).join(&id), Path::new(helper::STATE), &Group::of(&id));
    });
    if let Err(error) = discarding.await {
        eprintln!("porthole-init: a container that was not made: {error}");
    }
}

/// Removes what there is of a container that was not made: which of its parts there are depends on where that failed.
fn discard(id: &str, bundle: &Path, states: &Path, group: &Group) {
    let state = states.join(id);
    // Kills its processes, and takes its control group and its state away.
    let deleted = OciContainer::load(state.clone()).and_then(|mut container| container.delete(true));
    if deleted.is_err() {
        group.discard(cgroup::KILLED_WITHIN);
        // What could not be loaded has no more to it than this.
        let _ = std::fs::remove_dir_all(&state);
    }
    let _ = std::fs::remove_dir_all(bundle);
}

fn load(id: &str) -> Result<OciContainer, GuestError> {
    OciContainer::load(Path::new(helper::STATE).join(id))
        .map_err(|error| GuestError::Container(error.to_string()))
}

fn send_signal(pid: i32, signal: i32) -> Result<(), GuestError> {
    let signal = if signal == 0 {
        None
    } else {
        let known = nix::sys::signal::Signal::try_from(signal);
        match known {
            Ok(signal) => Some(signal),
            // Real-time signals have no name in nix.
            Err(_) => return send_raw_signal(pid, signal),
        }
    };
    match kill(Pid::from_raw(pid), signal) {
        Err(Errno::ESRCH) => Err(GuestError::NotFound(format!("process {pid}"))),
        result => result.map_err(GuestError::errno(format!("signal process {pid}"))),
    }
}

fn send_raw_signal(pid: i32, signal: i32) -> Result<(), GuestError> {
    // By libc, because neither nix nor rustix has real-time signals in a safe form.
    // SAFETY: kill touches no memory of this process.
    if unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(());
    }
    Err(GuestError::io(format!("send signal {signal} to process {pid}"))(std::io::Error::last_os_error()))
}

/// An id becomes a directory's name, here and in the control groups.
fn check_id(id: &str) -> Result<(), GuestError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id.len() > MAX_ID_BYTES || id.starts_with('.') || !id.chars().all(allowed) {
        return Err(GuestError::State(format!("`{id}` is no container id")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_of_a_container_that_was_not_made() {
        let scratch = tempfile::tempdir().expect("directory");
        let (bundle, states, group) =
            (scratch.path().join("bundle"), scratch.path().join("states"), scratch.path().join("group"));
        for parts in [&[&bundle][..], &[&bundle, &states.join("c1")], &[&bundle, &states.join("c1"), &group]]
        {
            std::fs::create_dir_all(&states).expect("made");
            for part in parts {
                std::fs::create_dir_all(part).expect("made");
            }
            std::fs::write(bundle.join(helper::CONFIG), "{}").expect("written");
            if states.join("c1").exists() {
                std::fs::write(states.join("c1/state.json"), "{\"cut").expect("written");
            }
            discard("c1", &bundle, &states, &Group::at(group.clone()));
            assert!(parts.iter().all(|part| !part.exists()), "{parts:?}");
            assert!(states.exists(), "those of other containers");
        }
    }

    #[test]
    fn ids_that_would_leave_their_directory_are_refused() {
        for id in ["", ".", "..", "a/b", "../x", ".hidden", "a b"] {
            assert!(check_id(id).is_err(), "{id}");
        }
        check_id("porthole-agent_1.x").expect("a usual id");
    }
}
