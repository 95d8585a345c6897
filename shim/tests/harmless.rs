//! Whatever the companion does or fails to do, what the delegate answers containerd, and the workload's life, are as
//! without it.
//!
//! Each case is a life of a sandbox with a fault or without, on each kind of shim: once without Porthole, once through
//! it. The answers must be the same, and so must the calls that the workload's container saw; nothing of the companion may
//! be left. No answer may be later by more than [`LATER_MAX`], a deadline that is far above what an idle host takes, and
//! below every deadline that the companion keeps for itself.

mod support;

use std::time::{Duration, Instant};

use porthole_registry::SandboxState;
use support::{
    PROGRAM, Setup,
    containerd::{Containerd, Reply},
    task::{Behaviour, Flavour, Model, TaskDouble},
    wait,
};

const ID: &str = "shop-1";

/// How much later an answer may be than without Porthole, on a host that other tests load.
const LATER_MAX: Duration = Duration::from_secs(2);

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
    steps: &'static [Step],
    /// The state that the record reaches at [`Step::Settle`].
    settled: SandboxState,
}

const WHOLE_LIFE: &[Step] = &[Create, Start, Settle, Kill, Delete, Shutdown, Cleanup];

const fn case(
    name: &'static str,
    prepare: fn(&mut Model),
    steps: &'static [Step],
    settled: SandboxState,
) -> Case {
    Case { name, prepare, steps, settled }
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

/// Lives a case and returns what containerd saw of it: each step with its answer and time, and what the workload's
/// container was called for.
fn live(case: &Case, flavour: Flavour, with_porthole: bool) -> (Vec<(Step, Reply, Duration)>, Vec<String>) {
    let setup = Setup::new();
    setup.configure(&setup.configuration("call_deadline_s = 1"));
    let (socket, monitor) = (setup.path("task.sock"), setup.path(format!("{ID}.monitor")));
    let mut double = TaskDouble::listen(&socket, Some(&monitor));
    {
        let mut model = double.model();
        model.flavour = flavour;
        model.ends_after_shutdown = true;
        (case.prepare)(&mut model);
    }
    let bundle = setup.bundle(ID, &[]);
    setup.delegate_says(format!("unix://{}", socket.display()).as_bytes(), b"", 0);
    let delegate = setup.path("delegate");
    let program = if with_porthole { PROGRAM.as_ref() } else { delegate.as_path() };
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
                if with_porthole {
                    setup.reaches(ID, case.settled);
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
        setup.nothing_remains(ID);
    }
    let workload = |call: &String| call.ends_with(&format!(" {ID}")) && !call.starts_with("Shutdown");
    let calls = double.calls().into_iter().filter(workload).collect();
    (seen, calls)
}

fn harmless_in_front_of(flavour: Flavour) {
    for case in CASES {
        let (plain, plain_calls) = live(case, flavour, false);
        let (with, with_calls) = live(case, flavour, true);
        let answers = |seen: &[(Step, Reply, Duration)]| -> Vec<_> {
            seen.iter().map(|(step, answer, _)| (*step, answer.clone())).collect()
        };
        assert_eq!(answers(&plain), answers(&with), "{}, {flavour:?}: answers", case.name);
        assert_eq!(plain_calls, with_calls, "{}, {flavour:?}: calls about the workload", case.name);
        for ((step, _, without), (_, _, with)) in plain.iter().zip(&with) {
            assert!(
                *with <= *without + LATER_MAX,
                "{}, {flavour:?}: {step:?} took {with:?}, {without:?} without Porthole",
                case.name
            );
        }
    }
}

#[test]
fn an_ordinary_shim_answers_as_without_a_companion() {
    harmless_in_front_of(Flavour::Plain);
}

#[test]
fn katas_go_shim_answers_as_without_a_companion() {
    harmless_in_front_of(Flavour::KataGo);
}

#[test]
fn katas_rust_shim_answers_as_without_a_companion() {
    harmless_in_front_of(Flavour::RuntimeRs);
}
