//! Makes containers, in a process of its own: libcontainer forks, and a process may fork safely only while it has one
//! thread and no runtime. The init executes this same program with a verb; the answer comes back as one JSON line on
//! descriptor [`ANSWER_FD`]; the standard streams are those that the container's process is to have.

use std::{
    fs::File,
    io::Write as _,
    os::fd::{AsRawFd as _, FromRawFd as _},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use serde::{Deserialize, Serialize};

use super::{
    GuestError,
    reaper::{Ending, Reaper},
};

/// libcontainer's state, a directory for each container.
pub const STATE: &str = "/run/containers";

/// This program's file in the guest.
const PROGRAM: &str = "/init";

const ANSWER_FD: i32 = 3;

/// What a helper is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The container.
    pub id: String,
    /// What to make.
    pub make: Make,
    /// Socket that takes the terminal, if there is to be one.
    pub console: Option<PathBuf>,
}

/// What a helper makes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Make {
    /// A container from the bundle in this directory.
    Container(PathBuf),
    /// A further process in it, from this file with an OCI `process` object.
    Process(PathBuf),
}

/// A helper's answer.
type Answer = Result<i32, String>;

/// Standard streams for a new process.
pub struct StandardStreams {
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
}

/// Runs a helper; answers the new process' number and how it will end.
pub async fn run(
    order: &Order,
    streams: StandardStreams,
    reaper: &Reaper,
) -> Result<(i32, Ending), GuestError> {
    let (answer, answer_write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(GuestError::errno("make a pipe"))?;
    let order_json =
        serde_json::to_string(order).map_err(|source| GuestError::Json { what: "helper's order", source })?;
    let mut command = Command::new(PROGRAM);
    command.arg(order_json).stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
    let descriptor = answer_write.as_raw_fd();
    // SAFETY: dup2 is all that happens between fork and exec, and it is async-signal-safe.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
            if libc::dup2(descriptor, ANSWER_FD) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            if descriptor == ANSWER_FD {
                libc::fcntl(descriptor, libc::F_SETFD, 0);
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(GuestError::io("start a helper"))?;
    drop((command, answer_write));
    let mut ended = reaper.watch(i32::try_from(child.id()).expect("process numbers are positive and small"));
    let mut pipe =
        tokio::net::unix::pipe::Receiver::from_owned_fd(answer).map_err(GuestError::io("use a pipe"))?;
    let text = answer_line(&mut pipe, &mut ended).await?;
    // What the helper made becomes this process' child when the helper has gone.
    let exit = ended.wait().await;
    match serde_json::from_slice::<Answer>(&text) {
        Ok(Ok(pid)) => Ok((pid, reaper.watch(pid))),
        Ok(Err(reason)) => Err(GuestError::Container(reason)),
        Err(_) => {
            Err(GuestError::Container(format!("the container helper ended without an answer: {exit:?}")))
        }
    }
}

/// A helper's answer. The pipe's own end would come too late: the container's first process holds a
/// copy of it until it is started.
async fn answer_line(
    pipe: &mut tokio::net::unix::pipe::Receiver,
    ended: &mut Ending,
) -> Result<Vec<u8>, GuestError> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        tokio::select! {
            biased;
            read = tokio::io::AsyncReadExt::read_buf(pipe, &mut line) => {
                if read.map_err(GuestError::io("read a helper's answer"))? == 0 {
                    break;
                }
            }
            // Ended, and nothing more in the pipe.
            _ = ended.wait() => break,
        }
    }
    Ok(line)
}

/// The helper's main.
pub fn main() -> ExitCode {
    let answer: Answer = std::env::args()
        .nth(1)
        .ok_or_else(|| "porthole-init is a guest's first process; it is of no use elsewhere".to_owned())
        .and_then(|order| serde_json::from_str(&order).map_err(|error| error.to_string()))
        .and_then(|order: Order| make(&order));
    let failed = answer.is_err();
    let mut text = serde_json::to_string(&answer).expect("an answer is a number or a text");
    text.push('\n');
    // SAFETY: the init has put its pipe there, and nothing here has opened or closed that descriptor. Run by hand it is
    // not open, and the write fails.
    let mut pipe = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(ANSWER_FD) });
    if pipe.write_all(text.as_bytes()).is_err() {
        eprintln!("{text}");
    }
    ExitCode::from(u8::from(failed))
}

fn make(order: &Order) -> Answer {
    // The answer's pipe must not reach what runs in the container.
    // SAFETY: setting a flag of a descriptor touches no memory.
    unsafe { libc::fcntl(ANSWER_FD, libc::F_SETFD, libc::FD_CLOEXEC) };
    let text = |error: libcontainer::error::LibcontainerError| explain(&error);
    let builder = ContainerBuilder::new(order.id.clone(), SyscallType::default())
        .with_root_path(STATE)
        .map_err(text)?
        .with_console_socket(order.console.clone())
        .validate_id()
        .map_err(text)?;
    match &order.make {
        Make::Container(bundle) => {
            let container =
                builder.as_init(bundle).with_systemd(false).with_detach(true).build().map_err(text)?;
            container.pid().map(nix_pid).ok_or_else(|| "the container has no process".to_owned())
        }
        Make::Process(process) => {
            let pid =
                builder.as_tenant().with_detach(true).with_process(Some(process)).build().map_err(text)?;
            Ok(nix_pid(pid))
        }
    }
}

/// libcontainer has another version of nix than this crate.
fn nix_pid(pid: impl std::fmt::Display) -> i32 {
    pid.to_string().parse().expect("a process number is a number")
}

/// An error with all its causes in one line: the outer ones alone rarely say what went wrong.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
