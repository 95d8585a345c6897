//! Whatever the companion does or fails to do, what the delegate answers containerd, and the workload's life, are as
//! without it.
//!
//! Each case is a life of a sandbox with a fault of the delegate, of Porthole's own, or without, on each kind of shim: once
//! without Porthole, once through it. The answers must be the same, and so must the calls that the workload's container saw; nothing of the companion may
//! be left. No answer may be later by more than [`LATER_MAX`] each time: a deadline that is far above what an idle host takes.

mod support;

use std::{
    any::Any,
    io::Write as _,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use porthole_agent_api::agent::Kept;
use porthole_registry::SandboxState;
use porthole_trials::{Trial, needs};
use support::{
    PROGRAM, Setup,
    agent::{AgentDouble, Enrolment},
    containerd::{Containerd, Reply},
    task::{Behaviour, Flavour, Model, TaskDouble},
    wait,
};

const ID: &str = "shop-1";

const FLAVOURS: [Flavour; 3] = [Flavour::Plain, Flavour::KataGo, Flavour::RuntimeRs];

fn main() -> std::process::ExitCode {
    let harmless = |name, flavours: &'static [Flavour], cases: &'static [Case]| {
        Trial::new(name, move || {
            for flavour in flavours {
                harmless_in_front_of(*flavour, cases);
            }
            Ok(())
        })
    };
    porthole_trials::run([
        harmless("an_ordinary_shim_answers_as_without_a_companion", &FLAVOURS[..1], CASES),
        harmless("katas_go_shim_answers_as_without_a_companion", &FLAVOURS[1..2], CASES),
        harmless("katas_rust_shim_answers_as_without_a_companion", &FLAVOURS[2..], CASES),
        harmless("whatever_is_broken_of_porthole_every_shim_answers_as_without_it", &FLAVOURS, BROKEN),
        harmless(
            "whatever_listens_at_the_agents_port_every_shim_answers_as_without_it",
            &FLAVOURS,
            LISTENING,
        ),
        Trial::new("where_no_companion_can_start_every_shim_answers_as_without_porthole", || {
            // Control groups take root's rights.
            needs::root()?;
            harmless_in_front_of(Flavour::Plain, NO_COMPANION);
            Ok(())
        }),
        Trial::new("whatever_disk_is_full_every_shim_answers_as_without_porthole", || {
            // Mounting takes root's rights.
            needs::root()?;
            for flavour in FLAVOURS {
                harmless_in_front_of(flavour, FULL);
            }
            Ok(())
        }),
    ])
}

/// How much later an answer may be than without Porthole. What the companion waits for is as late in every life of a case; what
/// a busy host delays is not.
const LATER_MAX: Duration = Duration::from_secs(2);

/// Lives of a case in which an answer has to be late for the case to fail.
const LATE_LIVES: usize = 4;

/// What happens to the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Start,
    Pause,
    Resume,
    /// The companion gets to where it can get. Not before a fault that only shows then.
    Settle,
    Kill,
    Delete,
    Shutdown,
    /// The program's `delete`.
    Cleanup,
    /// The shim is killed.
    Die,
}

use Step::{Cleanup, Create, Delete, Die, Kill, Pause, Resume, Settle, Shutdown, Start};

struct Case {
    name: &'static str,
    prepare: fn(&mut Model),
    fault: fn(&Setup) -> Held,
    steps: &'static [Step],
    /// The state that the record reaches at [`Step::Settle`], where a record can be written.
    expected: Option<SandboxState>,
}

/// What makes a fault for as long as it is there.
type Held = Box<dyn Any>;

const WHOLE_LIFE: &[Step] = &[Create, Start, Settle, Kill, Delete, Shutdown, Cleanup];

const fn case(
    name: &'static str,
    prepare: fn(&mut Model),
    steps: &'static [Step],
    expected: SandboxState,
) -> Case {
    Case { name, prepare, fault: |_| Box::new(()), steps, expected: Some(expected) }
}

/// A whole life while something of Porthole's own is broken.
const fn broken(name: &'static str, fault: fn(&Setup) -> Held, expected: Option<SandboxState>) -> Case {
    Case { name, prepare: |_| {}, fault, steps: WHOLE_LIFE, expected }
}

const CASES: &[Case] = &[
    case("a whole life", |_| {}, WHOLE_LIFE, SandboxState::Watching),
    case(
        "created and deleted",
        |_| {},
        &[Create, Settle, Kill, Delete, Shutdown, Cleanup],
        SandboxState::Injecting,
    ),
    case("ended at once", |_| {}, &[Create, Start, Kill, Delete, Shutdown, Cleanup], SandboxState::Watching),
    case("never created", |_| {}, &[Settle, Shutdown, Cleanup], SandboxState::Injecting),
    case(
        "paused while watched",
        |_| {},
        &[Create, Start, Settle, Pause, Resume, Pause, Kill, Delete, Shutdown, Cleanup],
        SandboxState::Watching,
    ),
    case(
        "paused before it was watched",
        |model| model.monitor_held = true,
        &[Create, Start, Pause, Kill, Delete, Shutdown, Cleanup],
        SandboxState::Injecting,
    ),
    case("creation refused", |model| model.create = Behaviour::Refuse, WHOLE_LIFE, SandboxState::Unmonitored),
    case("start refused", |model| model.start = Behaviour::Refuse, WHOLE_LIFE, SandboxState::Unmonitored),
    case("creation timed out", |model| model.create = Behaviour::Hang, WHOLE_LIFE, SandboxState::Unmonitored),
    case("start timed out", |model| model.start = Behaviour::Hang, WHOLE_LIFE, SandboxState::Unmonitored),
    case(
        "ended while the creation hangs",
        |model| model.create = Behaviour::Hang,
        &[Create, Start, Kill, Delete, Shutdown, Cleanup],
        SandboxState::Injecting,
    ),
    case(
        "ends while the sidecar starts",
        |model| model.ends_during_start = true,
        WHOLE_LIFE,
        SandboxState::Ended,
    ),
    case(
        "answers of a guest that goes",
        |model| model.closed_answers = 3,
        WHOLE_LIFE,
        SandboxState::Watching,
    ),
    case("slow boot", |model| model.boot = Duration::from_secs(1), WHOLE_LIFE, SandboxState::Watching),
    case("State is not answered", |model| model.state = Behaviour::Hang, WHOLE_LIFE, SandboxState::Injecting),
    case("State is refused", |model| model.state = Behaviour::Refuse, WHOLE_LIFE, SandboxState::Injecting),
    case("the shim dies", |_| {}, &[Create, Start, Settle, Die, Cleanup], SandboxState::Watching),
    case("the shim dies before the start", |_| {}, &[Create, Die, Cleanup], SandboxState::Injecting),
    case(
        "the shim dies while the creation hangs",
        |model| model.create = Behaviour::Hang,
        &[Create, Start, Die, Cleanup],
        SandboxState::Injecting,
    ),
];

/// A file where a directory should be: nothing can be made there.
fn in_the_way(setup: &Setup, directory: &str) -> Held {
    std::fs::write(setup.path(directory), "").expect("a file");
    Box::new(())
}

const BROKEN: &[Case] = &[
    broken("no registry", |setup| in_the_way(setup, "registry"), None),
    broken("no state directory", |setup| in_the_way(setup, "state"), Some(SandboxState::Unmonitored)),
    broken("no log", |setup| in_the_way(setup, "log"), Some(SandboxState::Watching)),
    broken(
        "no agent",
        |setup| {
            std::fs::remove_dir_all(setup.path("sidecar")).expect("removed");
            Box::new(())
        },
        Some(SandboxState::Unmonitored),
    ),
    broken(
        "a configuration that is wrong",
        |setup| {
            setup.configure(&setup.configuration("colour = 1"));
            Box::new(())
        },
        Some(SandboxState::Unmonitored),
    ),
    broken("an agent that hangs", |setup| agent(setup, Enrolment::Hangs), Some(SandboxState::Unmonitored)),
    broken(
        "an agent that refuses",
        |setup| agent(setup, Enrolment::Refuses),
        Some(SandboxState::Unmonitored),
    ),
];

/// An agent in the guest's image.
fn agent(setup: &Setup, enrolment: Enrolment) -> Held {
    Box::new(AgentDouble::listen(&setup.path("agent.sock"), enrolment))
}

/// What listens at the agent's port in place of an agent, or is one that stops at some point.
const LISTENING: &[Case] = &[
    broken(
        "what accepts and reads nothing",
        |setup| listener(setup, |connection| drop(std::thread::spawn(move || hold(&connection)))),
        Some(SandboxState::Unmonitored),
    ),
    broken("what floods", |setup| listener(setup, flood_with_garbage), Some(SandboxState::Injecting)),
    broken(
        "what floods with frames",
        |setup| listener(setup, flood_with_frames),
        Some(SandboxState::Injecting),
    ),
    broken("what closes at once", |setup| listener(setup, drop), Some(SandboxState::Injecting)),
    broken(
        "an agent that proves nothing",
        |setup| agent(setup, Enrolment::HangsAfterwards),
        Some(SandboxState::Unmonitored),
    ),
    broken(
        "an agent that keeps reporting",
        |setup| {
            let double = AgentDouble::listen(&setup.path("agent.sock"), Enrolment::Takes);
            let batch = vec![0; 64 << 10];
            double.keep(
                (0..1000).map(|_| Kept { epoch: 1, batch: batch.clone(), ..Kept::default() }).collect(),
            );
            Box::new(double)
        },
        Some(SandboxState::Watching),
    ),
];

/// Does the same with every connection to the agent's port.
fn listener(setup: &Setup, serve: fn(UnixStream)) -> Held {
    let listener = UnixListener::bind(setup.path("agent.sock")).expect("bound");
    std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
    Box::new(())
}

/// Waits for the other end to close.
fn hold(connection: &UnixStream) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd as _;
    let mut closed = [PollFd::new(connection.as_fd(), PollFlags::empty())];
    while poll(&mut closed, PollTimeout::NONE).is_err() {}
}

fn flood(connection: UnixStream, bytes: Vec<u8>) {
    std::thread::spawn(move || {
        let mut connection = connection;
        while connection.write_all(&bytes).is_ok() {}
    });
}

fn flood_with_garbage(connection: UnixStream) {
    flood(connection, (0..=u8::MAX).rev().collect::<Vec<_>>().repeat(16));
}

/// Responses to calls that were never made: ttrpc's header is length, stream, type (2 is a response), flags.
fn flood_with_frames(connection: UnixStream) {
    let frame = [&[0, 0, 0, 4, 0, 0, 0, 9, 2, 0][..], &[0x7a, 2, 0, 0]].concat();
    flood(connection, frame.repeat(256));
}

/// The wrapper's own copy in the test's directory, for faults that are made while the delegate runs, by what the hook does
/// to it.
fn wrapper_with(setup: &Setup, hook: &str) {
    std::fs::copy(PROGRAM, setup.path(OWN_WRAPPER)).expect("copied");
    let is_wrapped = format!("[ \"/proc/$PPID/exe\" -ef \"$here/{OWN_WRAPPER}\" ]");
    std::fs::write(setup.path("delegate.hook"), format!("if {is_wrapped}; then\n{hook}\nfi\n"))
        .expect("hook");
}

const OWN_WRAPPER: &str = "wrapper";

/// containerd could not execute the program for its `delete` either.
const WITHOUT_CLEANUP: &[Step] = &[Create, Start, Settle, Kill, Delete, Shutdown];

/// What keeps a companion from starting after the delegate has started.
const NO_COMPANION: &[Case] = &[
    Case {
        steps: WITHOUT_CLEANUP,
        ..broken(
            "a program that cannot be executed any more",
            |setup| {
                wrapper_with(setup, &format!("chmod 0 \"$here/{OWN_WRAPPER}\""));
                Box::new(())
            },
            None,
        )
    },
    Case {
        steps: WITHOUT_CLEANUP,
        ..broken(
            "a program that is gone",
            |setup| {
                wrapper_with(setup, &format!("rm \"$here/{OWN_WRAPPER}\""));
                Box::new(())
            },
            Some(SandboxState::Watching),
        )
    },
    broken(
        "no descriptors",
        |setup| {
            wrapper_with(setup, "prlimit --pid $PPID --nofile=3");
            Box::new(())
        },
        None,
    ),
    broken("no process for the companion's parent", |setup| processes(setup, 1), None),
    broken("no process for the companion", |setup| processes(setup, 2), None),
    broken("no thread for the companion", |setup| processes(setup, 3), Some(SandboxState::Watching)),
];

/// A control group for so many processes, in which the wrapper is once the delegate has begun. Removed when dropped.
struct Processes(PathBuf);

fn processes(setup: &Setup, most: u32) -> Held {
    let name = format!("porthole-harmless-{}", std::process::id());
    // Version 1 has a hierarchy for the controller, version 2 has one for all.
    let group = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].into_iter().find(|root| {
        let controls = std::fs::read_to_string(format!("{root}/cgroup.subtree_control"));
        controls
            .map_or(root.ends_with("pids"), |controls| controls.split(' ').any(|one| one.trim() == "pids"))
    });
    let group = PathBuf::from(group.expect("control groups that limit processes")).join(name);
    std::fs::create_dir_all(&group).expect("a control group");
    std::fs::write(group.join("pids.max"), most.to_string()).expect("limited");
    wrapper_with(setup, &format!("echo $PPID > {}/cgroup.procs", group.display()));
    Box::new(Processes(group))
}

impl Drop for Processes {
    fn drop(&mut self) {
        // Processes of a test that has failed are ended after this.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Disks that take no further file; the first one takes the lock and no record.
const FULL: &[Case] = &[
    broken("a registry that is full", |setup| full(setup, "registry", 2), None),
    broken(
        "a state directory that is full",
        |setup| full(setup, "state", 1),
        Some(SandboxState::Unmonitored),
    ),
    broken("a log's disk that is full", |setup| full(setup, "log", 1), Some(SandboxState::Watching)),
];

/// A file system for so many files, its own directory counted, until it is dropped.
struct Full(PathBuf);

fn full(setup: &Setup, directory: &str, files: u32) -> Held {
    let path = setup.path(directory);
    std::fs::create_dir(&path).expect("directory");
    let options = format!("mode=0700,nr_inodes={files}");
    mount(Some("none"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("mounted");
    Box::new(Full(path))
}

impl Drop for Full {
    fn drop(&mut self) {
        // A test that has failed is to leave no mount.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Lives a case and returns what containerd saw of it: each step with its answer and time, and what the workload's
/// container was called for.
fn live(case: &Case, flavour: Flavour, with_porthole: bool) -> (Vec<(Step, Reply, Duration)>, Vec<String>) {
    let setup = Setup::new();
    // Where calls are to be answered, a busy host may take its time.
    if case.expected != Some(SandboxState::Watching) {
        setup.configure(&setup.configuration("call_deadline_s = 1"));
    }
    let (socket, monitor) = (setup.path("task.sock"), setup.path(format!("{ID}.monitor")));
    let mut double = TaskDouble::listen(&socket, Some(&monitor));
    {
        let mut model = double.model();
        model.flavour = flavour;
        model.ends_after_shutdown = true;
        model.agent_url = Some(format!("unix://{}", setup.path("agent.sock").display()));
        (case.prepare)(&mut model);
    }
    let _held = (case.fault)(&setup);
    let bundle = setup.bundle(ID, &[]);
    setup.delegate_says(format!("unix://{}", socket.display()).as_bytes(), b"", 0);
    let delegate = setup.path("delegate");
    let own = setup.path(OWN_WRAPPER);
    let wrapper = if own.exists() { own.as_path() } else { PROGRAM.as_ref() };
    let program = if with_porthole { wrapper } else { delegate.as_path() };
    let run = |action: &str| {
        let arguments = ["-namespace", "acme", "-id", ID, "-bundle", bundle.to_str().expect("path"), action];
        let output = setup.command(program, &bundle, &arguments).output().expect("run");
        if output.status.success() && output.stderr.is_empty() { Ok(()) } else { Err(format!("{output:?}")) }
    };
    run("start").expect("started");
    let containerd = Containerd::connect(&socket);
    let mut seen = Vec::new();
    for step in case.steps {
        let begin = Instant::now();
        let answer = match step {
            Create => containerd.create(ID, &bundle),
            Start => containerd.start(ID),
            Pause => containerd.pause(ID),
            Resume => containerd.resume(ID),
            Kill => containerd.kill(ID),
            Delete => containerd.delete(ID),
            Shutdown => containerd.shutdown(ID),
            Cleanup => run("delete"),
            Settle => {
                if with_porthole && let Some(expected) = case.expected {
                    setup.reaches(ID, expected);
                }
                continue;
            }
            Die => {
                double.die();
                continue;
            }
        };
        seen.push((*step, answer, begin.elapsed()));
    }
    if with_porthole {
        wait("the shim ends as without Porthole", || double.has_ended().then_some(()));
        std::fs::remove_dir_all(&bundle).expect("containerd removes the bundle");
        collect_last_states(&setup);
        setup.nothing_remains(ID);
    }
    let workload = |call: &String| call.ends_with(&format!(" {ID}")) && !call.starts_with("Shutdown");
    let calls = double.calls().into_iter().filter(workload).collect();
    (seen, calls)
}

/// Removes what a companion leaves for an exporter, as that does.
fn collect_last_states(setup: &Setup) {
    wait("the companion ends", || setup.companion(ID).is_none().then_some(()));
    for entry in std::fs::read_dir(setup.path("registry")).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "last") {
            std::fs::remove_file(entry.path()).expect("removed");
        }
    }
}

fn harmless_in_front_of(flavour: Flavour, cases: &[Case]) {
    for case in cases {
        let mut late = Vec::new();
        while late.len() < LATE_LIVES {
            let Some(answer) = late_answer(case, flavour) else { break };
            late.push(answer);
        }
        assert!(late.len() < LATE_LIVES, "{}, {flavour:?}: {late:?}", case.name);
    }
}

/// Compares a life with Porthole and one without; which answer was late, if one was.
fn late_answer(case: &Case, flavour: Flavour) -> Option<String> {
    let (plain, plain_calls) = live(case, flavour, false);
    let (with, with_calls) = live(case, flavour, true);
    let answers = |seen: &[(Step, Reply, Duration)]| -> Vec<_> {
        seen.iter().map(|(step, answer, _)| (*step, answer.clone())).collect()
    };
    assert_eq!(answers(&plain), answers(&with), "{}, {flavour:?}: answers", case.name);
    assert_eq!(plain_calls, with_calls, "{}, {flavour:?}: calls about the workload", case.name);
    let late = plain.iter().zip(&with).find(|((_, _, without), (_, _, with))| *with > *without + LATER_MAX);
    late.map(|((step, _, without), (_, _, with))| {
        format!("{step:?} took {with:?}, {without:?} without Porthole")
    })
}
