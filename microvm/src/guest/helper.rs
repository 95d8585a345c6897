//! Makes containers, in a process of its own: libcontainer forks, and a process may fork safely only while it has one
//! thread and no runtime. The init executes this same program with a verb; the answer comes back as one JSON line on
//! descriptor [`ANSWER_FD`]; the standard streams are those that the container's process is to have.

use std::{
    fs::File,
    io::Write as _,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    GuestError,
    reaper::{Ending, Reaper},
    seccomp::{self, Filter, execute::Confined},
};

/// libcontainer's state, a directory for each container.
pub const STATE: &str = "/run/containers";

/// A container's specification in its bundle.
pub const CONFIG: &str = "config.json";

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
    // SAFETY: one system call is all that happens between fork and exec; the descriptor is open until then.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
            let descriptor = BorrowedFd::borrow_raw(descriptor);
            if descriptor.as_raw_fd() == ANSWER_FD {
                fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
            } else {
                // For the program: it stays open.
                let _ = nix::unistd::dup2_raw(descriptor, ANSWER_FD)?.into_raw_fd();
            }
            Ok(())
        });
    }
    let since = Instant::now();
    let child = command.spawn().map_err(GuestError::io("start a helper"))?;
    drop((command, answer_write));
    let mut ended =
        reaper.watch(i32::try_from(child.id()).expect("process numbers are positive and small"), since);
    let mut pipe =
        tokio::net::unix::pipe::Receiver::from_owned_fd(answer).map_err(GuestError::io("use a pipe"))?;
    let text = answer_line(&mut pipe, &mut ended).await?;
    // What the helper made becomes this process' child when the helper has gone.
    let exit = ended.wait().await;
    match serde_json::from_slice::<Answer>(&text) {
        Ok(Ok(pid)) => Ok((pid, reaper.watch(pid, since))),
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
    let filter = filter(&order.make)?;
    // The answer's pipe must not reach what runs in the container.
    // SAFETY: the init has put its pipe there, and nothing here closes that descriptor.
    let answer = unsafe { BorrowedFd::borrow_raw(ANSWER_FD) };
    // Run by hand there is none.
    let _ = fcntl(answer, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    let text = |error: libcontainer::error::LibcontainerError| explain(&error);
    let builder = ContainerBuilder::new(order.id.clone(), SyscallType::default())
        .with_root_path(STATE)
        .map_err(text)?
        .with_console_socket(order.console.clone())
        .with_executor(Confined::by(filter))
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

/// The filter of what is to be made. What libcontainer reads is changed so that the filter can be installed.
fn filter(make: &Make) -> Result<Option<Filter>, String> {
    let read = |path: &Path| -> Result<Value, String> {
        let failed = |error: &dyn std::error::Error| format!("read {}: {error}", path.display());
        let bytes = std::fs::read(path).map_err(|error| failed(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| failed(&error))
    };
    let (path, specification) = match make {
        Make::Container(bundle) => (bundle.join(CONFIG), None),
        Make::Process(file) => (file.clone(), Some(read(&file.with_file_name(CONFIG))?)),
    };
    let mut value = read(&path)?;
    let profile = specification.as_ref().unwrap_or(&value).pointer("/linux/seccomp").cloned();
    let process = match make {
        Make::Container(_) => value.get_mut("process"),
        Make::Process(_) => Some(&mut value),
    };
    let filter = seccomp::prepare(profile.as_ref(), process).map_err(|error| error.to_string())?;
    if filter.is_some() {
        std::fs::write(&path, value.to_string())
            .map_err(|error| format!("write {}: {error}", path.display()))?;
    }
    Ok(filter)
}

/// libcontainer has another version of nix than this crate.
fn nix_pid(pid: impl std::fmt::Display) -> i32 {
    pid.to_string().parse().expect("a process number is a number")
}

/// An error with all its causes in one line: the outer ones alone rarely name the fault.
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
