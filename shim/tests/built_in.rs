//! The agent that a guest's image carries: it is found by a connection, gets the sandbox's secret, and then no further
//! call goes to the delegate; where there is none the sidecar comes, unless the configuration has another value.

mod support;

use containerd_shim_protos::api::Status;
use porthole_agent_api::agent::Kept;
use porthole_registry::{
    SandboxRecord, SandboxState,
    last_state::{self, LastState},
};
use support::{
    Setup,
    agent::{AgentDouble, Enrolment},
    task::TaskDouble,
    wait,
};

const ID: &str = "shop-1";

/// A sandbox whose agent would be at `agent.sock`, after its `start` through the wrapper.
fn sandbox(setup: &Setup) -> TaskDouble {
    support::sandbox::start(setup, ID, true, |double| {
        double.model().agent_url = Some(format!("unix://{}", setup.path("agent.sock").display()));
    })
}

fn end(setup: &Setup, double: &TaskDouble) {
    support::sandbox::end(setup, ID, double);
}

#[test]
fn the_guests_own_agent_gets_the_secret_before_the_workload_runs_and_the_delegate_is_asked_for_nothing() {
    let setup = Setup::new();
    let double = sandbox(&setup);
    // The guest is up before the delegate has made the sandbox.
    let agent = AgentDouble::listen(&setup.path("agent.sock"), Enrolment::Takes);
    let record = setup.reaches(ID, SandboxState::Watching);
    assert_eq!(agent.secret().as_ref(), record.secret.as_ref().map(porthole_registry::AgentSecret::bytes));
    assert!(record.channel.expect("channel").to_string().ends_with("agent.sock"));
    double.set(ID, Status::CREATED);
    double.set(ID, Status::RUNNING);
    end(&setup, &double);
    assert!(double.calls().is_empty(), "{:?}", double.calls());
}

#[test]
fn where_nobody_listens_the_sidecar_comes_or_the_configuration_forbids_it() {
    let setup = Setup::new();
    let double = sandbox(&setup);
    double.set(ID, Status::RUNNING);
    setup.reaches(ID, SandboxState::Watching);
    assert_eq!((double.count("Create"), double.count("Start")), (1, 1));
    end(&setup, &double);

    let setup = Setup::new();
    setup.configure(&setup.configuration("agent = \"built-in\""));
    let double = sandbox(&setup);
    double.set(ID, Status::RUNNING);
    let reason = setup.reaches(ID, SandboxState::Unmonitored).reason.expect("reason");
    assert_eq!(reason.code, "agent_missing");
    end(&setup, &double);
    assert!(double.calls().is_empty());
}

#[test]
fn with_the_sidecar_configured_the_guest_is_not_asked() {
    let setup = Setup::new();
    setup.configure(&setup.configuration("agent = \"sidecar\""));
    let agent = AgentDouble::listen(&setup.path("agent.sock"), Enrolment::Takes);
    let double = sandbox(&setup);
    double.set(ID, Status::RUNNING);
    wait("Start(sidecar)", || (double.count("Start") == 1).then_some(()));
    setup.reaches(ID, SandboxState::Watching);
    assert_eq!(agent.secret(), None);
    end(&setup, &double);
}

#[test]
fn one_that_does_not_take_the_secret_or_hangs_is_not_the_agent_and_no_other_is_started() {
    for (enrolment, code) in [
        (Enrolment::Refuses, "enrolment_refused"),
        (Enrolment::Pretends, "enrolment_refused"),
        (Enrolment::Hangs, "enrolment_timeout"),
    ] {
        let setup = Setup::new();
        setup.configure(&setup.configuration("call_deadline_s = 1"));
        let _agent = AgentDouble::listen(&setup.path("agent.sock"), enrolment);
        let double = sandbox(&setup);
        double.set(ID, Status::RUNNING);
        let reason = setup.reaches(ID, SandboxState::Unmonitored).reason.expect("reason");
        assert_eq!(reason.code, code, "{}", reason.message);
        end(&setup, &double);
        assert!(double.calls().is_empty());
    }
}

#[test]
fn a_sandbox_that_ends_while_its_agent_is_asked_leaves_nothing() {
    let setup = Setup::new();
    let _agent = AgentDouble::listen(&setup.path("agent.sock"), Enrolment::Hangs);
    let double = sandbox(&setup);
    double.set(ID, Status::RUNNING);
    wait("the sandbox is looked at", || (double.questions() >= 2).then_some(()));
    end(&setup, &double);
}

fn part(epoch: u64, batch: &[u8]) -> Kept {
    Kept { epoch, whole: true, batch: batch.to_vec(), ..Kept::default() }
}

/// What is left of a sandbox whose agent sent these parts last.
fn left_after(parts: Vec<Kept>) -> LastState {
    let setup = Setup::new();
    let agent = AgentDouble::listen(&setup.path("agent.sock"), Enrolment::Takes);
    let double = sandbox(&setup);
    double.set(ID, Status::RUNNING);
    setup.reaches(ID, SandboxState::Watching);
    agent.keep(parts);
    double.stop_all();
    let ended = setup.reaches(ID, SandboxState::Ended);
    let registry = setup.path("registry");
    // It is there before the record has that state.
    let names = last_state::list(&registry).expect("listed");
    let [name] = &names[..] else { panic!("{names:?}; log:\n{}", setup.log()) };
    let state = LastState::read(&registry, name).expect("read");
    assert_eq!(SandboxRecord { secret: None, ..ended }, state.record);
    last_state::remove(&registry, name).expect("removed");
    double.remove(ID);
    setup.nothing_remains(ID);
    state
}

#[test]
fn what_the_agent_reported_last_is_left_beside_the_record_and_an_end_that_it_did_not_report_is_abrupt() {
    let batches = |state: &LastState| {
        state.batches.iter().map(|batch| (batch.epoch, batch.bytes.clone())).collect::<Vec<_>>()
    };
    let exited = Kept { whole: false, exited_container_id: ID.to_owned(), ..part(7, b"last") };
    let state = left_after(vec![part(7, b"first"), exited]);
    let mut left = batches(&state);
    // ttrpc may hand over the parts in another order.
    left.sort();
    assert_eq!(left, [(7, b"first".to_vec()), (7, b"last".to_vec())]);
    assert!(!state.record.abrupt_end);

    let state = left_after(vec![part(7, b"first")]);
    assert_eq!(batches(&state), [(7, b"first".to_vec())]);
    assert!(state.record.abrupt_end);
}
