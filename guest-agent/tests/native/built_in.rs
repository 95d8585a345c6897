//! The agent of a guest's image: it is enrolled once, its secret outlives it, and its supervisor starts it again.

use std::{
    io::Read,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use porthole_agent_api::{
    agent::{EnrollRequest, HelloRequest, StatsRequest},
    agent_ttrpc::AgentClient,
    limits::CONTRACT_VERSION,
    proof,
};
use porthole_trials::{Outcome, Trial, trials};

use crate::harness::{object, wait_for};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        an_agent_is_enrolled_once_and_the_one_after_it_proves_the_same,
        a_supervisor_starts_the_agent_again_and_ends_with_it,
    ]
}

/// A process of the program under test; ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program with descriptors for it.
fn start(arguments: &[&str], inherited: &[&OwnedFd]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_porthole-agent"));
    command.args(arguments).stdin(Stdio::null());
    let numbers: Vec<_> = inherited.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    // SAFETY: between fork and exec the closure only makes system calls.
    unsafe {
        command.pre_exec(move || {
            numbers.iter().try_for_each(|number| match libc::fcntl(*number, libc::F_SETFD, 0) {
                0.. => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        });
    }
    Running(command.spawn().expect("started"))
}

fn code(answer: Result<impl std::fmt::Debug, ttrpc::Error>) -> ttrpc::Code {
    match answer.expect_err("refused") {
        ttrpc::Error::RpcStatus(status) => status.code.enum_value().expect("known"),
        other => panic!("{other}"),
    }
}

fn an_agent_is_enrolled_once_and_the_one_after_it_proves_the_same() -> Outcome {
    let object = object()?;
    let directory = tempfile::tempdir().expect("directory");
    let file = porthole_agent::enrolment::create_file().expect("file");
    let socket = directory.path().join("agent.sock");
    let address = format!("unix://{}", socket.display());
    let number = file.as_raw_fd().to_string();
    let object = object.to_str().expect("text");
    let (mut steps, write) = std::io::pipe().expect("pipe");
    let write = OwnedFd::from(write);
    let ready = write.as_raw_fd().to_string();
    let arguments =
        ["--listen", &address, "--secret-fd", &number, "--ready-fd", &ready, "--bpf-object", object];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let context = || ttrpc::context::with_timeout(10_000_000_000);
    let hello = HelloRequest {
        version_min: CONTRACT_VERSION,
        version_max: CONTRACT_VERSION,
        host_nonce: vec![1; 32],
        ..Default::default()
    };
    let enroll = |secret: &[u8]| EnrollRequest { secret: secret.to_vec(), ..Default::default() };
    for first in [true, false] {
        let _agent = start(&arguments, &[&file, &write]);
        wait_for("the agent listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
        runtime.block_on(async {
            let client =
                AgentClient::new(ttrpc::r#async::Client::connect(&address).await.expect("connected"));
            if first {
                assert_eq!(code(client.hello(context(), &hello).await), ttrpc::Code::FAILED_PRECONDITION);
                let stats = client.stats(context(), &StatsRequest::default()).await;
                assert_eq!(code(stats), ttrpc::Code::FAILED_PRECONDITION);
                let short = client.enroll(context(), &enroll(&[7; 31])).await;
                assert_eq!(code(short), ttrpc::Code::INVALID_ARGUMENT);
                client.enroll(context(), &enroll(&[7; 32])).await.expect("enrolled");
            }
            let again = client.enroll(context(), &enroll(&[8; 32])).await;
            assert_eq!(code(again), ttrpc::Code::ALREADY_EXISTS);
            let answer = client.hello(context(), &hello).await.expect("answered");
            assert!(proof::is_proven(&[7; 32], &[1; 32], &answer.agent_nonce, &answer.proof));
        });
    }
    drop(write);
    let mut reported = String::new();
    steps.read_to_string(&mut reported).expect("read");
    assert_eq!(reported, "aea", "attached, enrolled, and another one attached");
    Ok(())
}

/// The agent that a supervisor has started.
fn agent_of(supervisor: &Running) -> i32 {
    let pid = supervisor.0.id();
    let children = format!("/proc/{pid}/task/{pid}/children");
    wait_for("an agent", || std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok())
}

fn a_supervisor_starts_the_agent_again_and_ends_with_it() -> Outcome {
    let object = object()?;
    if !Path::new("/dev/vsock").exists() {
        return Err(porthole_trials::CannotRun::because("there is no vsock").into());
    }
    let (mut read, write) = std::io::pipe().expect("pipe");
    let write = OwnedFd::from(write);
    let number = write.as_raw_fd().to_string();
    let object = object.to_str().expect("text");
    let mut supervisor =
        start(&["supervise", "--ready-fd", &number, "--", "--bpf-object", object], &[&write]);
    drop(write);
    let mut step = || {
        let mut byte = [0];
        read.read_exact(&mut byte).expect("a step");
        char::from(byte[0])
    };
    assert_eq!((step(), step()), ('l', 'a'));
    let first = agent_of(&supervisor);
    // SAFETY: a process that this test has started, by its supervisor.
    unsafe { libc::kill(first, libc::SIGKILL) };
    assert_eq!((step(), step()), ('x', 'a'), "another one is attached");
    assert_ne!(agent_of(&supervisor), first);
    let pid = libc::pid_t::try_from(supervisor.0.id()).expect("a pid");
    // SAFETY: a child that was not waited for.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    assert!(supervisor.0.wait().expect("ended").success());
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).expect("no process holds the pipe: the agent has ended, too");
    Ok(())
}
