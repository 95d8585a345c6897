//! What Kata's two shims were seen to do, and what must come of it.

mod support;

use std::time::Duration;

use porthole_registry::SandboxState;
use support::{
    Setup,
    containerd::Containerd,
    task::{Behaviour, Flavour, TaskDouble},
    wait,
};

const ID: &str = "shop-1";

/// A sandbox after its `start` through the wrapper, as containerd goes on with it.
fn sandbox(setup: &Setup, flavour: Flavour, prepare: impl FnOnce(&TaskDouble)) -> (TaskDouble, Containerd) {
    let double = support::sandbox::start(setup, ID, true, |double| {
        double.model().flavour = flavour;
        prepare(double);
    });
    (double, Containerd::connect(&setup.path("task.sock")))
}

/// containerd creates and starts the workload.
fn run(setup: &Setup, containerd: &Containerd) {
    containerd.create(ID, &setup.path("bundles/acme").join(ID)).expect("created");
    containerd.start(ID).expect("started");
}

/// The workload ends and containerd deletes it; the wrapper's `delete` follows, which a companion may delay.
fn end(setup: &Setup, double: &mut TaskDouble, containerd: &Containerd) {
    containerd.kill(ID).expect("killed");
    containerd.delete(ID).expect("deleted");
    containerd.shutdown(ID).expect("shut down");
    wait("Shutdown has an effect", || double.is_shut_down().then_some(()));
    double.die();
    assert!(setup.delete(ID).status.success());
    setup.nothing_remains(ID);
}

#[test]
fn both_flavours_take_the_sidecar_and_leave_nothing() {
    for flavour in [Flavour::KataGo, Flavour::RuntimeRs] {
        let setup = Setup::new();
        let (mut double, containerd) = sandbox(&setup, flavour, |_| {});
        run(&setup, &containerd);
        setup.reaches(ID, SandboxState::Watching);
        assert!(!double.model().panicked, "the Go shim dereferences linux.resources");
        end(&setup, &mut double, &containerd);
    }
}

#[test]
fn the_start_of_the_workload_starts_no_sidecar() {
    let setup = Setup::new();
    let (mut double, containerd) = sandbox(&setup, Flavour::KataGo, |_| {});
    containerd.create(ID, &setup.path("bundles/acme").join(ID)).expect("created");
    let asked = double.questions();
    wait("the created sandbox is looked at", || (double.questions() > asked + 5).then_some(()));
    assert_eq!(double.sidecar(), None, "a sidecar of a created sandbox would be started with it");
    containerd.start(ID).expect("started");
    setup.reaches(ID, SandboxState::Watching);
    end(&setup, &mut double, &containerd);
}

#[test]
fn a_sidecar_that_runs_although_its_start_was_refused_is_watched() {
    let setup = Setup::new();
    let (mut double, containerd) = sandbox(&setup, Flavour::KataGo, |double| {
        double.model().started_by_others = true;
    });
    run(&setup, &containerd);
    setup.reaches(ID, SandboxState::Watching);
    assert_eq!(double.count("Start porthole"), 1, "one try");
    end(&setup, &mut double, &containerd);
}

#[test]
fn a_short_lived_sandbox_whose_injection_failed_ends_when_it_is_deleted() {
    let ended_in_time = |flavour| {
        let setup = Setup::new();
        let (double, containerd) =
            sandbox(&setup, flavour, |double| double.model().create = Behaviour::Refuse);
        run(&setup, &containerd);
        setup.reaches(ID, SandboxState::Unmonitored);
        // From here on the shim does not know it, and lives.
        double.remove(ID);
        setup.delete(ID);
        let in_time = !setup.log().contains("is still there");
        assert!(
            !in_time || !setup.path("state").join(format!("acme@{ID}")).exists(),
            "delete came back after the companion"
        );
        setup.nothing_remains(ID);
        drop(containerd);
        in_time
    };
    for flavour in [Flavour::Plain, Flavour::KataGo, Flavour::RuntimeRs] {
        // A busy host delays one end or another, and not each of them.
        assert!((0..4).any(|_| ended_in_time(flavour)), "{flavour:?}");
    }
}

#[test]
fn an_answer_about_a_closed_connection_is_not_the_end_of_the_shim() {
    let setup = Setup::new();
    let (mut double, containerd) = sandbox(&setup, Flavour::KataGo, |_| {});
    run(&setup, &containerd);
    setup.reaches(ID, SandboxState::Watching);
    double.model().closed_answers = 5;
    end(&setup, &mut double, &containerd);
    assert_eq!(double.sidecar(), None, "Delete is tried until it has an effect");
    assert_eq!(double.count("Delete porthole"), 6);
}

#[test]
fn a_not_found_of_the_guest_does_not_make_the_sidecar_forgotten() {
    let setup = Setup::new();
    let (mut double, containerd) = sandbox(&setup, Flavour::KataGo, |_| {});
    run(&setup, &containerd);
    setup.reaches(ID, SandboxState::Watching);
    double.model().guest_not_found_answers = 3;
    end(&setup, &mut double, &containerd);
    assert_eq!(double.count("Delete porthole"), 4);
}

#[test]
fn a_virtual_machine_that_boots_long_is_waited_for() {
    for flavour in [Flavour::KataGo, Flavour::RuntimeRs] {
        let setup = Setup::new();
        let (mut double, containerd) = sandbox(&setup, flavour, |double| {
            let mut model = double.model();
            model.monitor_held = true;
            // Longer than a monitor socket may be without an answer once the sandbox runs.
            model.boot = Duration::from_secs(12);
        });
        containerd.create(ID, &setup.path("bundles/acme").join(ID)).expect("created");
        assert_eq!(setup.record(ID).expect("record").state, SandboxState::Injecting);
        containerd.start(ID).expect("started");
        setup.reaches(ID, SandboxState::Watching);
        end(&setup, &mut double, &containerd);
    }
}

#[test]
fn running_without_a_bundle_is_no_sandbox() {
    let setup = Setup::new();
    let (double, containerd) = sandbox(&setup, Flavour::RuntimeRs, |_| {});
    wait("the shim is asked", || (double.questions() >= 10).then_some(()));
    assert!(double.calls().is_empty(), "{:?}", double.calls());
    run(&setup, &containerd);
    setup.reaches(ID, SandboxState::Watching);
    // Its shim lives on, and answers RUNNING.
    containerd.kill(ID).expect("killed");
    containerd.delete(ID).expect("deleted");
    setup.reaches(ID, SandboxState::Ended);
    setup.nothing_remains(ID);
}

#[test]
fn a_sandbox_that_ends_while_the_sidecar_starts_has_ended() {
    for flavour in [Flavour::Plain, Flavour::KataGo, Flavour::RuntimeRs] {
        let setup = Setup::new();
        let (double, containerd) = sandbox(&setup, flavour, |double| double.model().ends_during_start = true);
        run(&setup, &containerd);
        setup.reaches(ID, SandboxState::Ended);
        assert!(!setup.log().contains("start_refused"), "{}", setup.log());
        containerd.delete(ID).expect("deleted");
        wait("Shutdown has an effect", || double.is_shut_down().then_some(()));
        setup.nothing_remains(ID);
    }
}

#[test]
fn a_refusal_is_reported_in_words_that_a_person_can_use() {
    let setup = Setup::new();
    let (mut double, containerd) =
        sandbox(&setup, Flavour::RuntimeRs, |double| double.model().create = Behaviour::Refuse);
    run(&setup, &containerd);
    let reason = setup.reaches(ID, SandboxState::Unmonitored).reason.expect("reason");
    assert_eq!(reason.code, "create_refused");
    assert_eq!(
        reason.message,
        "UNKNOWN: failed to handle message handler TaskRequest: do the call: refused by policy"
    );
    assert!(!setup.log().contains("harness::poll"), "no backtrace in the log either");
    end(&setup, &mut double, &containerd);
}

#[test]
fn a_sidecar_that_cannot_be_deleted_leaves_most_of_its_time_to_the_delegates_delete() {
    for behaviour in [Behaviour::Refuse, Behaviour::Hang] {
        let setup = Setup::new();
        let (mut double, containerd) =
            sandbox(&setup, Flavour::KataGo, |double| double.model().delete = behaviour);
        run(&setup, &containerd);
        setup.reaches(ID, SandboxState::Watching);
        containerd.kill(ID).expect("killed");
        containerd.delete(ID).expect("deleted");
        // containerd kills it after 5 s. A busy host delays one call or another, and not each of them.
        let mut taken = Vec::new();
        while taken.len() < 4 && taken.iter().all(|taken| *taken >= Duration::from_secs(5)) {
            let begin = std::time::Instant::now();
            assert!(setup.delete(ID).status.success());
            taken.push(begin.elapsed());
        }
        assert!(taken.last().is_some_and(|taken| *taken < Duration::from_secs(5)), "{taken:?}");
        assert!(setup.log().contains("is still there"), "{}", setup.log());
        double.die();
        setup.nothing_remains(ID);
    }
}
