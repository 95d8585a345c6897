//! Which hooks the programs are attached to: the one core runs behind the kind that the kernel allows.
//!
//! Measured on Linux 6.1 under emulation, which is about ten times slower than a processor, in nanoseconds per call:
//!
//! | hooks | `getppid` | `epoll_wait` | `write` to `/dev/null` | each of HTTP over TCP | loading |
//! |---|---|---|---|---|---|
//! | none | 420 | 430 | 720 | 8700 | |
//! | raw tracepoint `sys_exit` | 650 | 650 | 1370 | 12500 | 144 ms |
//! | exits of the calls' functions | 420 | 430 | 1350 | 12400 | 245 ms |
//!
//! So exits of functions are better than the raw tracepoint, where they can be had: calls that are not looked at cost
//! nothing, the others the same. The raw tracepoint sends every call the slow way out of the kernel. Attaching to a function
//! takes 5 ms each; detaching takes far longer, which is why their closing is deferred ([`super::deferred_close`]).
//!
//! What sockets report themselves is better still: nothing but sockets costs anything, and the way from a descriptor to its
//! socket, four reads of kernel memory, falls away. Measured on Linux 6.18, nginx under wrk with both ends followed: 2900 to
//! 3200 ns of programs per request, where the raw tracepoint takes 3400 to 4100.

use std::{
    cell::RefCell,
    ffi::{CStr, CString},
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::mpsc,
    thread::ScopedJoinHandle,
    time::{Duration, Instant},
};

use aya_obj::{Function, ProgramSection};

use super::{
    ProbeError,
    bpf::{self, Hook, Runs},
    btf::{CallFunction, Kernel, SocketTracepoints},
    deferred_close::DeferredClose,
    object::{self, Linker},
    packet_probes, preemption,
};

/// The program on every system call's end.
const ANY_CALL: &str = "sys_exit";
/// The stub on the end of one system call's function.
const CALL_STUB: &str = "call_exit";
/// The program that the stubs go on with.
const CALL_CORE: &str = "call_core";
/// The system calls that make connections and move nothing.
const OPENING_CALLS: [&str; 3] = ["accept", "accept4", "connect"];
/// The system call that is the rarest of them on sockets.
const RARE_CALL: &str = "splice";
/// The stubs on what sockets report, and the program that they go on with.
const SOCKET_SENT: &str = "socket_sent";
const SOCKET_RECEIVED: &str = "socket_received";
const SOCKET_CORE: &str = "socket_core";
/// The program on the beginnings of TCP connections.
const SOCKET_MADE: &str = "socket_made";
/// The programs that learn from whom sockets of datagrams receive, where sockets report what moves.
const SENDERS: [(&str, Hook); 2] =
    [("datagram_from_v4", Hook::DatagramsV4), ("datagram_from_v6", Hook::DatagramsV6)];
/// How long the first attachment to a function may take before the core is loaded beside it: several times what it takes where
/// it need not wait for other threads.
const FIRST_LINK: Duration = Duration::from_millis(20);
/// The array in which stubs look for what they go on with.
pub const CORE_MAP: &str = "CORE";

/// Which hooks on system calls to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum HookChoice {
    /// The best that the kernel allows
    #[default]
    Auto,
    /// The tracepoints on what sockets send and receive (Linux 6.3)
    Sockets,
    /// The exits of the functions of the system calls that are looked at
    Fexit,
    /// The raw tracepoint on every system call's exit
    RawTracepoint,
}

/// The hooks in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// The tracepoints of sockets.
    Sockets,
    /// The exits of functions.
    FunctionExits,
    /// The raw tracepoint, and why not the others, if they were tried.
    RawTracepoint(Option<String>),
}

impl fmt::Display for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sockets => "tracepoints of sockets",
            Self::FunctionExits => "exits of the system calls' functions",
            Self::RawTracepoint(_) => "raw tracepoint",
        })
    }
}

/// What keeps a program running while it is open.
enum Open {
    /// Its attachment, or the array in which other programs look for it, which the kernel empties when no descriptor of
    /// it is open.
    Descriptor(#[expect(dead_code, reason = "held open")] OwnedFd),
    /// Where the attachments of several programs are kept.
    DeferredClose(#[expect(dead_code, reason = "held open")] Box<DeferredClose>),
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The programs that learn who sends datagrams, held open; or why they cannot be had.
pub type Senders = Result<Vec<OwnedFd>, String>;

/// A loaded and attached program.
#[allow(missing_debug_implementations)]
pub struct Attached {
    /// What it is on.
    pub name: String,
    program: OwnedFd,
    /// What must be open as long as the program is to run.
    open: Option<Open>,
}

impl Attached {
    /// The kernel's account of its runs; none where the kernel keeps none.
    pub fn runs(&self) -> Runs {
        bpf::runs(self.program.as_fd()).unwrap_or_default()
    }
}

/// The object's programs, and what loading takes.
#[derive(Clone, Copy)]
pub struct Programs<'a> {
    /// The object's programs.
    pub linker: &'a RefCell<Linker>,
    /// Its type information in the kernel.
    pub types: BorrowedFd<'a>,
    /// The root of the control groups, if there is one.
    pub cgroups: Option<BorrowedFd<'a>>,
}

impl Programs<'_> {
    /// Loads and attaches what runs whatever the hooks, then those, the best first.
    pub fn attach(
        self,
        choice: HookChoice,
        kernel: &Kernel,
        core: BorrowedFd<'_>,
    ) -> Result<(Vec<Attached>, Hooks), ProbeError> {
        let mut attached = Vec::new();
        let names = self.linker.borrow().names(|section| matches!(section, ProgramSection::RawTracePoint));
        for name in names.iter().filter(|name| *name != ANY_CALL) {
            attached.push(self.raw_tracepoint(name)?);
        }
        // With them records begin to come, so they are last.
        let mut why = None;
        for (kind, hooks) in
            [(HookChoice::Sockets, Hooks::Sockets), (HookChoice::Fexit, Hooks::FunctionExits)]
        {
            if choice != HookChoice::Auto && choice != kind {
                continue;
            }
            match self.attach_kind(kind, choice, kernel, core) {
                Ok(programs) => {
                    attached.extend(programs);
                    return Ok((attached, hooks));
                }
                Err(reason) => {
                    tracing::debug!(reason, "hooks that cannot be had");
                    // What follows is the verifier's log.
                    why = reason.lines().next().map(str::to_owned);
                }
            }
        }
        match why {
            Some(why) if choice != HookChoice::Auto => Err(ProbeError::Hooks(why)),
            why => {
                attached.push(self.raw_tracepoint(ANY_CALL)?);
                Ok((attached, Hooks::RawTracepoint(why)))
            }
        }
    }

    /// All programs of a kind of hooks; or why it cannot be had.
    fn attach_kind(
        self,
        kind: HookChoice,
        choice: HookChoice,
        kernel: &Kernel,
        core: BorrowedFd<'_>,
    ) -> Result<Vec<Attached>, String> {
        let core = core.try_clone_to_owned().map_err(|error| error.to_string())?;
        if kind == HookChoice::Sockets {
            return self.sockets(kernel.sockets.clone()?, core).map_err(|error| error.to_string());
        }
        if choice == HookChoice::Auto && preemption::may_preempt() {
            return Err("this kernel may preempt programs on functions".to_owned());
        }
        let calls = kernel.calls.as_deref().map_err(Clone::clone)?;
        // Where the tracepoint shows how TCP connections begin, these functions need no program.
        let made = kernel.state_changes.map(|tracepoint| self.made(tracepoint));
        let (calls, made): (Vec<_>, _) = match made {
            Some(Ok(made)) => {
                (calls.iter().filter(|call| !OPENING_CALLS.contains(&call.name)).collect(), Some(made))
            }
            _ => (calls.iter().collect(), None),
        };
        let mut attached = self.function_exits(calls, core).map_err(|error| error.to_string())?;
        attached.extend(made);
        Ok(attached)
    }

    /// All or none.
    fn sockets(self, tracepoints: SocketTracepoints, array: OwnedFd) -> Result<Vec<Attached>, ProbeError> {
        let core = self.load(SOCKET_CORE, Hook::Tracepoint(tracepoints.sent))?;
        bpf::put_program(array.as_fd(), core.as_fd()).map_err(Self::no_array)?;
        let core =
            Attached { name: SOCKET_CORE.to_owned(), program: core, open: Some(Open::Descriptor(array)) };
        let mut attached = vec![core, self.made(tracepoints.state)?];
        let stubs = [(SOCKET_RECEIVED, tracepoints.received), (SOCKET_SENT, tracepoints.sent)];
        for (name, tracepoint) in stubs {
            let program = self.load(name, Hook::Tracepoint(tracepoint))?;
            attached.push(Self::attached(name, program, None)?);
        }
        Ok(attached)
    }

    /// What else the hooks of sockets take. Without it who sends to a socket that is not connected is not known.
    pub fn attach_senders(self) -> Senders {
        let cgroups = self.cgroups.ok_or("no cgroup2 file system is mounted")?;
        let mut open = Vec::new();
        for (name, hook) in SENDERS {
            let attached = packet_probes::attach(&mut self.linker.borrow_mut(), name, hook, cgroups);
            open.extend(attached.map_err(|error| error.to_string())?);
        }
        Ok(open)
    }

    fn raw_tracepoint(self, name: &str) -> Result<Attached, ProbeError> {
        let program = self.load(name, Hook::RawTracepoint)?;
        let tracepoint = CString::new(name).map_err(|error| ProbeError::Object(error.to_string()))?;
        Self::attached(name, program, Some(&tracepoint))
    }

    fn link(name: &str, program: &OwnedFd, tracepoint: Option<&CStr>) -> Result<OwnedFd, ProbeError> {
        let link = bpf::attach(program.as_fd(), tracepoint)
            .map_err(|source| ProbeError::Attach { name: name.to_owned(), source })?;
        tracing::debug!(name, "a program is attached");
        Ok(link)
    }

    fn attached(name: &str, program: OwnedFd, tracepoint: Option<&CStr>) -> Result<Attached, ProbeError> {
        let link = Self::link(name, &program, tracepoint)?;
        Ok(Attached { name: name.to_owned(), program, open: Some(Open::Descriptor(link)) })
    }

    /// The program on the beginnings of TCP connections.
    fn made(self, tracepoint: u32) -> Result<Attached, ProbeError> {
        let program = self.load(SOCKET_MADE, Hook::Tracepoint(tracepoint))?;
        Self::attached(SOCKET_MADE, program, None)
    }

    /// All or none.
    fn function_exits(
        self,
        mut calls: Vec<&CallFunction>,
        array: OwnedFd,
    ) -> Result<Vec<Attached>, ProbeError> {
        let deferred = DeferredClose::new().map_err(ProbeError::DeferredClose)?;
        let mut cores: Vec<(OwnedFd, &CallFunction)> = Vec::new();
        let mut stubs = Vec::with_capacity(calls.len());
        let (mut stub, license) = self.function(CALL_STUB)?;
        let mut aimed_at = array.as_raw_fd();
        let mut array = Some(array);
        calls.sort_by_key(|call| call.prototype);
        for call in calls {
            if cores.last().is_none_or(|(_, first)| first.prototype != call.prototype) {
                let array = match array.take() {
                    Some(array) => array,
                    None => bpf::create_program_array().map_err(Self::no_array)?,
                };
                bpf::retarget(&mut stub, aimed_at, array.as_raw_fd());
                aimed_at = array.as_raw_fd();
                cores.push((array, call));
            }
            stubs.push((
                call.name,
                Self::load_function(self.types, &stub, &license, call.name, Hook::FunctionExit(call.number))?,
            ));
        }
        // The first attachment replaces the kernel's table of such functions and waits until no task uses the one before
        // (`register_ftrace_direct` in `kernel/trace/ftrace.c`). The kernel waits for the threads that it finds running, and
        // looks at them again every 100 ms (`rcu_tasks_wait_gp` in `kernel/rcu/tasks.h`). So this thread sleeps until it has
        // looked, and the core is loaded by a thread that begins afterwards: the other functions are attached meanwhile, or need
        // not wait. What ends in the first stub before the core is there is not seen.
        if let Some(rare) = stubs.iter().position(|(name, _)| *name == RARE_CALL) {
            stubs.swap(0, rare);
        }
        let core = self.function(CALL_CORE)?;
        let types = self.types;
        let (others, first) = std::thread::scope(|scope| {
            let (linked, has_linked) = mpsc::channel();
            let first = stubs.first().map(|(name, stub)| {
                scope.spawn(move || {
                    let link = Self::link(name, stub, None);
                    let _ = linked.send(());
                    link
                })
            });
            let _ = has_linked.recv_timeout(FIRST_LINK);
            let cores = join(scope.spawn(|| Self::load_cores(types, &core, cores)));
            let others = cores.and_then(|cores| {
                let links = stubs.iter().skip(1).map(|(name, stub)| {
                    // The kernel may wait for this thread too, until it has given way.
                    std::thread::yield_now();
                    Self::link(name, stub, None)
                });
                Ok((cores, links.collect::<Result<Vec<_>, _>>()?))
            });
            (others, first.map(join))
        });
        let (mut attached, mut links) = others?;
        links.extend(first.transpose()?);
        attached.extend(stubs.into_iter().map(|(name, program)| Attached {
            name: name.to_owned(),
            program,
            open: None,
        }));
        deferred.keep(&links).map_err(ProbeError::DeferredClose)?;
        if let Some(last) = attached.last_mut() {
            last.open = Some(Open::DeferredClose(Box::new(deferred)));
        }
        Ok(attached)
    }

    /// Loads the core once for each prototype, and puts it where the stubs of that prototype look for it.
    fn load_cores(
        types: BorrowedFd<'_>,
        (function, license): &object::Program,
        cores: Vec<(OwnedFd, &CallFunction)>,
    ) -> Result<Vec<Attached>, ProbeError> {
        let load = |(array, call): (OwnedFd, &CallFunction)| {
            let core =
                Self::load_function(types, function, license, CALL_CORE, Hook::FunctionExit(call.number))?;
            bpf::put_program(array.as_fd(), core.as_fd()).map_err(Self::no_array)?;
            Ok(Attached { name: CALL_CORE.to_owned(), program: core, open: Some(Open::Descriptor(array)) })
        };
        cores.into_iter().map(load).collect()
    }

    fn no_array(source: io::Error) -> ProbeError {
        ProbeError::Map { name: CORE_MAP.to_owned(), source }
    }

    /// A program's code and license.
    fn function(self, program: &str) -> Result<object::Program, ProbeError> {
        self.linker.borrow_mut().get(program).cloned()
    }

    fn load(self, program: &str, hook: Hook) -> Result<OwnedFd, ProbeError> {
        let (function, license) = self.function(program)?;
        Self::load_function(self.types, &function, &license, program, hook)
    }

    fn load_function(
        types: BorrowedFd<'_>,
        function: &Function,
        license: &CStr,
        name: &str,
        hook: Hook,
    ) -> Result<OwnedFd, ProbeError> {
        let started = Instant::now();
        let loaded = bpf::load_program(function, name, hook, license, Some(types))
            .map_err(|(source, log)| ProbeError::Load { name: name.to_owned(), source, log })?;
        let microseconds = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let verified = bpf::verified(loaded.as_fd()).unwrap_or_default();
        tracing::debug!(
            name,
            instructions = function.instructions.len(),
            verified,
            microseconds,
            "a program is loaded"
        );
        Ok(loaded)
    }
}
