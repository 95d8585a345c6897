//! The agent's supervisor in a guest whose image carries the agent: `porthole-agent supervise`.
//!
//! It listens on the agent's port from the guest's boot on, starts the agent with the listener and with the file that keeps
//! the sandbox's secret, and starts it again when it ends. So neither the port nor the secret is lost with an agent.
//!
//! - [`first_process`]: how it is started in a guest whose first process is not ours.
//! - [`kernel_parameters`]: the guest's kernel parameters for the agent.
//!
//! Invariants: it keeps running whatever the agent does; every wait for it has a limit.

mod first_process;
mod kernel_parameters;
mod signals;

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode},
    time::Duration,
};

use clap::Parser;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
        socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, listen, socket},
    },
    unistd::Pid,
};
use porthole_agent_api::limits::AGENT_VSOCK_PORT;
use rustix::process::setpriority_process;

use self::{
    kernel_parameters::KernelParameters,
    signals::{Signals, Woken},
};
use crate::{
    enrolment,
    notice::{self, Notices},
    report::listen::CONNECTIONS_MAX,
    unattached::since_boot,
};

pub use first_process::NAME as FIRST_PROCESS_NAME;

/// Wait before an agent that ended is started again, the first time; twice as long each further time.
const BACKOFF: Duration = Duration::from_millis(100);

/// The longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// An agent that ran for so long was a good one: the next one is started soon.
const GOOD_RUN: Duration = Duration::from_mins(1);

/// Of all processes of the guest but the first, the last to be killed when memory runs out.
const OOM_SCORE_ADJ: &str = "-999";

/// Priority of an agent while it loads its programs; afterwards it has the usual one.
const LOADING_NICE: i32 = 10;

/// Keeps the agent running in a guest whose image carries it.
#[derive(Debug, Parser)]
#[command(name = "porthole-agent supervise", version)]
struct Arguments {
    /// Descriptor that gets a byte for each step: `l` listening, `a` attached, `e` enrolled, `x` the agent ended
    #[arg(long, value_name = "NUMBER")]
    ready_fd: Option<RawFd>,
    /// Control group to make and to run in
    #[arg(long, value_name = "DIRECTORY")]
    cgroup: Option<PathBuf>,
    /// Further arguments of the agent
    #[arg(last = true, value_name = "ARGUMENTS")]
    agent: Vec<OsString>,
}

/// Runs as the supervisor, or as the first process that starts it, if that is what this process was started for.
pub fn run_if_called() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if std::process::id() == 1 && Path::new(&name).ends_with(FIRST_PROCESS_NAME) {
        return Some(first_process::run());
    }
    if arguments.next()? != "supervise" {
        return None;
    }
    let arguments = Arguments::parse_from(std::env::args_os().skip(1));
    // SAFETY: the process that starts the supervisor passes the descriptor to it alone, so nothing else in it owns it.
    let notices = unsafe { Notices::inherit(arguments.ready_fd) };
    Some(
        match (Supervisor { notices, cgroup: arguments.cgroup, arguments: arguments.agent, listener: None })
            .run()
        {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("porthole-agent: {error}");
                ExitCode::FAILURE
            }
        },
    )
}

/// Opens the agent's port.
fn listen_on_port() -> io::Result<OwnedFd> {
    let listener = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, AGENT_VSOCK_PORT))?;
    listen(&listener, Backlog::new(i32::try_from(CONNECTIONS_MAX).unwrap_or(1)).unwrap_or(Backlog::MAXCONN))?;
    Ok(listener)
}

/// What the supervisor keeps from one agent to the next.
struct Supervisor {
    notices: Notices,
    cgroup: Option<PathBuf>,
    arguments: Vec<OsString>,
    listener: Option<OwnedFd>,
}

impl Supervisor {
    /// Runs until it is terminated.
    fn run(mut self) -> io::Result<()> {
        let parameters = KernelParameters::read();
        if !parameters.agent {
            return Ok(());
        }
        self.arguments.extend(parameters.arguments);
        let signals = Signals::block()?;
        let Some(listener) = self.listener(&signals) else { return Ok(()) };
        self.notices.listening();
        notice::systemd();
        let secret = enrolment::create_file()?;
        self.settle();
        let (mut backoff, mut replaced) = (BACKOFF, None);
        loop {
            let started = since_boot();
            let status = match self.start(&listener, &secret, replaced) {
                Ok(mut agent) => match signals.wait_for(&mut agent)? {
                    Some(status) => status.to_string(),
                    None => return end(agent),
                },
                Err(error) => error.to_string(),
            };
            self.notices.ended();
            let now = since_boot();
            replaced = Some(now);
            if now.saturating_sub(started) >= GOOD_RUN {
                backoff = BACKOFF;
            }
            eprintln!("porthole-agent: the agent ended ({status}); starting it again in {backoff:?}");
            if signals.wait(Some(backoff)) == Woken::Terminated {
                return Ok(());
            }
            backoff = (2 * backoff).min(BACKOFF_MAX);
        }
    }

    /// The listener; none when the supervisor is terminated before there is any. A guest's vsock may come late, with a module.
    fn listener(&mut self, signals: &Signals) -> Option<OwnedFd> {
        let mut backoff = BACKOFF;
        if let Some(listener) = self.listener.take() {
            return Some(listener);
        }
        loop {
            match listen_on_port() {
                Ok(listener) => return Some(listener),
                Err(error) => eprintln!("porthole-agent: listening on vsock {AGENT_VSOCK_PORT}: {error}"),
            }
            if signals.wait(Some(backoff)) == Woken::Terminated {
                return None;
            }
            backoff = (2 * backoff).min(BACKOFF_MAX);
        }
    }

    /// Takes its place in the guest. A guest in which this fails runs all the same.
    fn settle(&self) {
        let complain = |what: &str, result: io::Result<()>| {
            if let Err(error) = result {
                eprintln!("porthole-agent: {what}: {error}");
            }
        };
        complain(
            "protection from running out of memory",
            std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ),
        );
        if let Some(cgroup) = &self.cgroup {
            let joined = std::fs::create_dir_all(cgroup)
                .and_then(|()| std::fs::write(cgroup.join("cgroup.procs"), "0"));
            complain("its control group", joined);
        }
    }

    /// Starts an agent with what outlives it.
    fn start(&self, listener: &OwnedFd, secret: &OwnedFd, replaced: Option<Duration>) -> io::Result<Child> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("porthole-agent");
        command.arg("--listen").arg(format!("vsock-fd://{}", listener.as_raw_fd()));
        command.arg("--secret-fd").arg(secret.as_raw_fd().to_string());
        command.args(["--placement", "built-in"]);
        let mut inherited = vec![listener.as_raw_fd(), secret.as_raw_fd()];
        if let Some(ready) = self.notices.descriptor() {
            command.arg("--ready-fd").arg(ready.as_raw_fd().to_string());
            inherited.push(ready.as_raw_fd());
        }
        if let Some(replaced) = replaced {
            command.arg("--replaces-ended-at").arg(replaced.as_nanos().to_string());
        }
        command.args(&self.arguments);
        // SAFETY: between fork and exec the closure only makes system calls, and allocates nothing. The descriptors are the
        // child's copies, which stay open until then.
        unsafe {
            command.pre_exec(move || {
                for descriptor in &inherited {
                    fcntl(BorrowedFd::borrow_raw(*descriptor), FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                // An agent does not outlive its supervisor, which holds its port.
                set_pdeathsig(Signal::SIGTERM)?;
                // Loading its programs takes a CPU for a while, which others may want more.
                let _ = setpriority_process(None, LOADING_NICE);
                signals::unblock();
                Ok(())
            });
        }
        command.spawn()
    }
}

/// Ends an agent and waits until it has sent what it has.
fn end(mut agent: Child) -> io::Result<()> {
    let pid = libc::pid_t::try_from(agent.id()).map_err(io::Error::other)?;
    // A child that was not waited for yet, so that the number is still its own. It can always be sent a signal.
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    agent.wait().map(drop)
}
