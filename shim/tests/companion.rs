//! The companion's life with a delegate that succeeds, refuses, hangs and dies: the workload is only looked at, each
//! change is tried once, the reason can be read, and nothing is left.

mod support;

use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::Status;
use porthole_registry::SandboxState;
use support::{
    Setup,
    task::{Behaviour, TaskDouble},
    wait,
};

const ID: &str = "shop-1";

/// A sandbox whose delegate is the double, after its `start` through the wrapper.
fn sandbox(setup: &Setup, monitor: bool, prepare: impl FnOnce(&TaskDouble)) -> TaskDouble {
    support::sandbox::start(setup, ID, monitor, prepare)
}

fn end(setup: &Setup, double: &TaskDouble) {
    support::sandbox::end(setup, ID, double);
}

#[test]
fn the_agent_follows_the_workload_from_created_to_its_end() {
    let setup = Setup::new();
    let double = sandbox(&setup, true, |_| {});
    let record = setup.reaches(ID, SandboxState::Injecting);
    assert_eq!((record.tenant.as_str(), record.service_name.as_str()), ("acme", "shop"));
    assert!(double.calls().is_empty(), "nothing is asked for before the sandbox is there");

    double.set(ID, Status::CREATED);
    let asked = double.questions();
    wait("the created sandbox is looked at", || (double.questions() >= asked + 5).then_some(()));
    assert!(double.calls().is_empty(), "nothing is asked for before the sandbox is RUNNING");

    double.set(ID, Status::RUNNING);
    let sidecar = wait("Create(sidecar)", || double.sidecar());
    let config = double.bundle(&sidecar);
    assert_eq!(config["annotations"]["io.kubernetes.cri.sandbox-id"], ID);
    assert_eq!(config["root"]["path"], setup.path("sidecar").to_str().expect("path"));
    let record = setup.reaches(ID, SandboxState::Watching);
    assert_eq!(record.channel.expect("channel").to_string(), "vsock://7:1000");
    assert!(record.watching_unix_ms.is_some_and(|reached| reached >= record.created_unix_ms));
    assert_eq!(
        record.containers.keys().map(porthole_registry::ContainerId::as_str).collect::<Vec<_>>(),
        [ID]
    );

    double.model().passing_delete_failures = 3;
    double.stop_all();
    setup.reaches(ID, SandboxState::Ended);
    double.remove(ID);
    wait("Shutdown", || double.is_shut_down().then_some(()));
    setup.nothing_remains(ID);
    assert_eq!(double.count("Delete"), 4);
    let touched = double.calls().into_iter().find(|call| call.ends_with(ID) && !call.starts_with("Shutdown"));
    assert_eq!(touched, None, "the workload's container is only looked at");
    assert_eq!(double.count("Create") + double.count("Start"), 2);
}

#[test]
fn a_refused_creation_is_not_repeated_and_its_reason_stays_until_the_end() {
    let setup = Setup::new();
    let double = sandbox(&setup, true, |double| {
        double.model().create = Behaviour::Refuse;
        double.set(ID, Status::RUNNING);
    });
    let reason = setup.reaches(ID, SandboxState::Unmonitored).reason.expect("reason");
    assert_eq!(reason.code, "create_refused");
    assert!(reason.message.contains("refused by policy"), "{}", reason.message);
    assert!(setup.log().contains("refused by policy"));
    end(&setup, &double);
    assert_eq!((double.count("Create"), double.count("Start")), (1, 0));
}

#[test]
fn a_refused_start_is_not_repeated_and_the_sidecar_is_deleted_at_the_end() {
    let setup = Setup::new();
    let double = sandbox(&setup, true, |double| {
        double.model().start = Behaviour::Refuse;
        double.set(ID, Status::RUNNING);
    });
    let reason = setup.reaches(ID, SandboxState::Unmonitored).reason.expect("reason");
    assert_eq!(reason.code, "start_refused");
    end(&setup, &double);
    assert_eq!((double.count("Create"), double.count("Start"), double.count("Delete")), (1, 1, 1));
    assert_eq!(double.sidecar(), None);
}

#[test]
fn calls_that_hang_are_given_up_at_their_deadline() {
    for (behaviour_of_create, code) in [(true, "create_timeout"), (false, "start_timeout")] {
        let setup = Setup::new();
        setup.configure(&setup.configuration("call_deadline_s = 1"));
        let double = sandbox(&setup, true, |double| {
            let mut model = double.model();
            *(if behaviour_of_create { &mut model.create } else { &mut model.start }) = Behaviour::Hang;
            drop(model);
            double.set(ID, Status::RUNNING);
        });
        let reason = setup.reaches(ID, SandboxState::Unmonitored).reason.expect("reason");
        assert_eq!(reason.code, code);
        end(&setup, &double);
        assert_eq!(double.count("Create"), 1);
    }
}

#[test]
fn a_shim_that_dies_takes_the_companion_with_it() {
    let setup = Setup::new();
    let mut double = sandbox(&setup, true, |double| double.set(ID, Status::RUNNING));
    setup.reaches(ID, SandboxState::Watching);
    double.die();
    setup.nothing_remains(ID);
}

#[test]
fn a_shim_that_dies_while_it_is_asked_takes_the_companion_with_it() {
    let setup = Setup::new();
    let mut double = sandbox(&setup, true, |double| {
        double.model().create = Behaviour::Hang;
        double.set(ID, Status::RUNNING);
    });
    wait("Create(sidecar)", || (double.count("Create") == 1).then_some(()));
    double.die();
    setup.nothing_remains(ID);
}

#[test]
fn a_sandbox_that_ends_before_it_runs_leaves_nothing() {
    let setup = Setup::new();
    let double = sandbox(&setup, true, |double| double.set(ID, Status::CREATED));
    wait("the created sandbox is looked at", || (double.questions() >= 5).then_some(()));
    double.set(ID, Status::STOPPED);
    setup.reaches(ID, SandboxState::Ended);
    double.remove(ID);
    setup.nothing_remains(ID);
    assert!(double.calls().is_empty());
}

#[test]
fn a_sandbox_that_is_deleted_between_two_looks_is_seen_to_end() {
    let setup = Setup::new();
    let double = sandbox(&setup, true, |double| double.set(ID, Status::CREATED));
    wait("the created sandbox is looked at", || (double.questions() >= 5).then_some(()));
    double.remove(ID);
    setup.reaches(ID, SandboxState::Ended);
    setup.nothing_remains(ID);
}

#[test]
fn without_an_agent_or_a_channel_nothing_is_asked_for() {
    let setup = Setup::new();
    std::fs::remove_file(setup.path("sidecar/porthole-agent")).expect("removed");
    let double = sandbox(&setup, true, |double| double.set(ID, Status::RUNNING));
    let reason = setup.reaches(ID, SandboxState::Unmonitored).reason.expect("reason");
    assert_eq!(reason.code, "sidecar_missing");
    end(&setup, &double);
    assert!(double.calls().is_empty());

    let setup = Setup::new();
    let double = sandbox(&setup, false, |double| double.set(ID, Status::RUNNING));
    let reason = setup.reaches(ID, SandboxState::Unmonitored).reason.expect("reason");
    assert_eq!(reason.code, "no_channel");
    end(&setup, &double);
    assert!(double.calls().is_empty());
}

#[test]
fn a_broken_configuration_is_the_reason() {
    let setup = Setup::new();
    let configuration = setup.configuration("") + "[tenants]\ncolour = 1\n";
    setup.configure(&configuration);
    let double = sandbox(&setup, true, |double| double.set(ID, Status::RUNNING));
    let reason = setup.reaches(ID, SandboxState::Unmonitored).reason.expect("reason");
    assert_eq!(reason.code, "configuration_invalid");
    assert!(reason.message.contains("colour"), "{}", reason.message);
    end(&setup, &double);
    assert!(double.calls().is_empty());
}

#[test]
fn a_sandbox_that_is_still_being_made_is_not_taken_for_one_that_ended() {
    let setup = Setup::new();
    setup.configure(&(setup.configuration("") + "[tenants]\ncolour = 1\n"));
    // The shim answers, and knows nothing of the sandbox yet.
    let double = sandbox(&setup, true, |_| {});
    setup.reaches(ID, SandboxState::Unmonitored);
    wait("the shim is asked again", || (double.questions() >= 3).then_some(()));
    double.set(ID, Status::RUNNING);
    let asked = double.questions();
    wait("the shim is asked once more", || (double.questions() > asked).then_some(()));
    assert_eq!(setup.record(ID).expect("a record").state, SandboxState::Unmonitored);
    end(&setup, &double);
}

#[test]
fn an_agent_that_ends_is_reported_and_brought_back_under_another_id() {
    let setup = Setup::new();
    setup.configure(&setup.configuration("agent_restarts = 1\nagent_restart_interval_s = 10"));
    let double = sandbox(&setup, true, |double| double.set(ID, Status::RUNNING));
    setup.reaches(ID, SandboxState::Watching);
    let first = double.sidecar().expect("sidecar");
    double.sidecar_exits(3);
    let reason = setup.reaches(ID, SandboxState::Unmonitored).reason.expect("reason");
    assert_eq!((reason.code.as_str(), reason.message.as_str()), ("agent_exited", "exit status 3"));
    setup.reaches(ID, SandboxState::Watching);
    let second = double.sidecar().expect("sidecar");
    assert_ne!(first, second);
    assert!(double.calls().contains(&format!("Delete {first}")));
    double.sidecar_exits(3);
    setup.reaches(ID, SandboxState::Unmonitored);
    wait("the second is deleted", || double.sidecar().is_none().then_some(()));
    end(&setup, &double);
    assert_eq!(double.count("Create"), 2, "no more restarts than configured");
}

#[test]
fn further_containers_of_the_sandbox_are_named_in_the_record() {
    let setup = Setup::new();
    let double = sandbox(&setup, true, |double| double.set(ID, Status::RUNNING));
    setup.reaches(ID, SandboxState::Watching);
    let member = [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.sandbox-id", ID),
        ("io.kubernetes.cri.container-name", "web"),
    ];
    setup.bundle("c1", &member);
    setup.bundle("stranger", &[]);
    let output = setup.start("c1");
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(setup.companion("c1"), None, "a further container has no companion of its own");
    let named = |id: &str| {
        let record = setup.record(ID)?;
        record.containers.get(id).map(|container| container.name.clone())
    };
    assert_eq!(wait("c1 is in the record", || named("c1")), "web");
    // containerd from 1.7 on does not call `start` for it.
    setup.bundle("c2", &member);
    assert_eq!(wait("c2 is in the record", || named("c2")), "web");
    assert_eq!(named("stranger"), None);
    end(&setup, &double);
}

#[test]
fn a_changed_configuration_names_sandbox_and_containers_anew_and_a_broken_one_changes_nothing() {
    let setup = Setup::new();
    let double = sandbox(&setup, true, |double| double.set(ID, Status::RUNNING));
    let before = setup.reaches(ID, SandboxState::Watching);
    let member = [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.sandbox-id", ID),
        ("io.kubernetes.cri.container-name", "web"),
    ];
    setup.bundle("c1", &member);
    let names_of = |record: &porthole_registry::SandboxRecord| {
        let containers = record.containers.values().map(|container| container.name.clone());
        let names = [record.tenant.clone(), record.service_name.clone()].into_iter().chain(containers);
        names.collect::<Vec<_>>().join(" ")
    };
    let named = |wanted: &str| {
        wait(wanted, || setup.record(ID).map(|record| names_of(&record)).filter(|found| found == wanted));
    };
    named("acme shop web shop-1");
    let configure = |text: &str| setup.configure(&(setup.configuration("") + text));
    configure(
        "[names]\ncontainer = [\"{container}-x\", \"{id}-y\"]\n[names.applications]\n\"acme/shop\" = \"store\"\n",
    );
    named("acme store web-x shop-1-y");
    configure("[names]\ntenant = [\"{colour}\"]\n");
    wait("the key is in the log", || setup.log().contains("{colour}").then_some(()));
    assert!(setup.log().contains("[names]"), "{}", setup.log());
    named("acme store web-x shop-1-y");
    // The wrapper's container is gone: its name stays.
    std::fs::remove_dir_all(setup.path("bundles/acme/c1")).expect("removed");
    configure("[tenants.by_namespace]\nacme = \"Acme\"\n");
    named("Acme shop web-x shop-1");
    // On demand it is read again, which changes nothing here and ends nothing.
    let companion = nix::unistd::Pid::from_raw(setup.companion(ID).expect("companion"));
    nix::sys::signal::kill(companion, nix::sys::signal::SIGHUP).expect("signalled");
    setup.bundle("c2", &member);
    named("Acme shop web-x web shop-1");
    let after = setup.record(ID).expect("a record");
    assert_eq!((after.state, after.secret, after.channel), (before.state, before.secret, before.channel));
    end(&setup, &double);
}

/// Neither does a wrapper call for them, nor are they there when the directory is looked at each second. Where the host is busy,
/// some of them are gone before the companion runs; with a look each second nearly all of them would be.
#[test]
fn containers_that_are_there_for_a_moment_are_named_in_the_record_until_the_sandbox_ends() {
    /// How long such a container lives.
    const MOMENT: Duration = Duration::from_millis(100);
    const NAMED: usize = 8;
    let setup = Setup::new();
    let double = sandbox(&setup, true, |double| double.set(ID, Status::RUNNING));
    setup.reaches(ID, SandboxState::Watching);
    let annotations = [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.sandbox-id", ID),
        ("io.kubernetes.cri.container-name", "worker"),
    ];
    let named = || {
        let containers = setup.record(ID).map(|record| record.containers).unwrap_or_default();
        containers.values().filter(|container| container.name == "worker").count()
    };
    let mut started = 0;
    // On a busy machine the companion may have no time within a moment: then there is another container.
    wait("containers that were there are in the record", || {
        let bundle = setup.bundle(&format!("worker-{started}"), &annotations);
        started += 1;
        std::thread::sleep(MOMENT);
        std::fs::remove_dir_all(bundle).expect("removed");
        (named() >= NAMED).then_some(())
    });
    end(&setup, &double);
}

#[test]
fn told_to_go_the_companion_leaves_the_sandbox_alone_and_delete_cleans_up() {
    let setup = Setup::new();
    let mut double = sandbox(&setup, true, |double| double.set(ID, Status::RUNNING));
    for signal in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGKILL] {
        setup.reaches(ID, SandboxState::Watching);
        let calls = double.count("Kill") + double.count("Delete");
        let pid = nix::unistd::Pid::from_raw(setup.companion(ID).expect("companion"));
        nix::sys::signal::kill(pid, signal).expect("signalled");
        wait("the companion goes", || setup.companion(ID).is_none().then_some(()));
        assert_eq!(double.count("Kill") + double.count("Delete"), calls, "the sidecar is left alone");
        let sidecar = double.sidecar().expect("sidecar");

        // The sandbox ends; containerd deletes its container, to no effect on the shim, and calls `delete`.
        double.stop_all();
        double.remove(ID);
        let hand_over = std::thread::scope(|scope| {
            let delete = scope.spawn(|| setup.delete(ID));
            wait("Shutdown has an effect", || double.is_shut_down().then_some(()));
            double.die();
            delete.join().expect("delete")
        });
        assert!(hand_over.status.success() && hand_over.stderr.is_empty());
        assert_eq!(double.sidecar(), None, "{sidecar} is deleted");
        setup.nothing_remains(ID);
        if signal == nix::sys::signal::SIGTERM {
            std::fs::remove_file(setup.path("task.sock")).expect("socket");
            std::fs::remove_file(setup.path(format!("{ID}.monitor"))).expect("socket");
            double = sandbox(&setup, true, |double| double.set(ID, Status::RUNNING));
        }
    }
}

#[test]
fn delete_waits_for_the_companion_and_the_shim() {
    let setup = Setup::new();
    let mut double = sandbox(&setup, true, |double| double.set(ID, Status::RUNNING));
    setup.reaches(ID, SandboxState::Watching);
    std::fs::remove_dir_all(setup.path("recorded")).expect("removed");
    let begin = SystemTime::now();
    std::thread::scope(|scope| {
        let delete = scope.spawn(|| setup.delete(ID));
        double.model().passing_delete_failures = 10;
        double.stop_all();
        double.remove(ID);
        wait("Shutdown", || double.is_shut_down().then_some(()));
        let died = SystemTime::now();
        double.die();
        assert!(delete.join().expect("delete").status.success());
        let ran =
            setup.path("recorded/arguments").metadata().and_then(|file| file.modified()).expect("it ran");
        // A busy host may let the shim live for longer than it is waited for, which is a second at least.
        let waited = ran.duration_since(begin).is_ok_and(|waited| waited >= Duration::from_secs(1));
        assert!(ran >= died || waited, "the delegate's delete does not run while its shim is there");
    });
    setup.nothing_remains(ID);
}

#[test]
fn a_new_sandbox_of_the_same_name_does_not_wait_for_the_old_record() {
    let setup = Setup::new();
    for _ in 0..3 {
        let mut double = sandbox(&setup, true, |double| double.set(ID, Status::RUNNING));
        setup.reaches(ID, SandboxState::Watching);
        double.stop_all();
        double.remove(ID);
        wait("Shutdown", || double.is_shut_down().then_some(()));
        double.die();
        wait("the state directory goes", || {
            (!setup.path("state").join(format!("acme@{ID}")).exists()).then_some(())
        });
        for socket in ["task.sock".to_owned(), format!("{ID}.monitor")] {
            let _ = std::fs::remove_file(setup.path(socket));
        }
    }
    setup.nothing_remains(ID);
}
