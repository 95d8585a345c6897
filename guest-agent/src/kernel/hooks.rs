//! Which hooks the programs are attached to: the one core runs behind the kind that the kernel allows.
//!
//! Measured on Linux 6.1 under emulation, which is about ten times slower than a processor, in nanoseconds per call:
//!
//! | hooks | `getppid` | `epoll_wait` | `write` to `/dev/null` | each of HTTP over TCP | loading |
//! |---|---|---|---|---|---|
//! | none | 420 | 430 | 720 | 8700 | |
//! | raw tracepoint `sys_exit` | 650 | 650 | 1370 | 12500 | 144 ms |
//! | exits of the calls' functions | 420 | 430 | 1350 | 12400 | 266 ms |
//!
//! So exits of functions are better than the raw tracepoint, where they can be had: calls that are not looked at cost
//! nothing, the others the same. The raw tracepoint sends every call the slow way out of the kernel. Attaching to a function
//! takes 5 ms each; detaching takes far longer, which is why their closing is deferred ([`super::deferred_close`]).
//!
//! What sockets report themselves is better still: nothing but sockets costs anything, and the way from a descriptor to its
//! socket, four reads of kernel memory, falls away. Measured on Linux 6.18, nginx under wrk with both ends followed: 2900 to
//! 3200 ns of programs per request, where the raw tracepoint takes 3400 to 4100.

use std::{
    ffi::{CStr, CString},
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use aya_obj::{Function, Object, ProgramSection};

use super::{
    ProbeError,
    bpf::{self, Hook, Runs},
    btf::{CallFunction, Kernel, SocketTracepoints},
    deferred_close::DeferredClose,
    preemption,
};

/// The program on every system call's end.
const ANY_CALL: &str = "sys_exit";
/// The stub on the end of one system call's function.
const CALL_STUB: &str = "call_exit";
/// The program that the stubs go on with.
const CALL_CORE: &str = "call_core";
/// The stubs on what sockets report, and the program that they go on with.
const SOCKET_SENT: &str = "socket_sent";
const SOCKET_RECEIVED: &str = "socket_received";
const SOCKET_CORE: &str = "socket_core";
/// The program on the beginnings of TCP connections.
const SOCKET_MADE: &str = "socket_made";
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
    /// Its attachment, or the array in which other programs look for it, which the kernel empties when nobody has it open.
    Descriptor(#[expect(dead_code, reason = "held open")] OwnedFd),
    /// Where the attachments of several programs are kept.
    DeferredClose(#[expect(dead_code, reason = "held open")] Box<DeferredClose>),
}

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
    /// What the kernel says of its runs; nothing where the kernel does not say.
    pub fn runs(&self) -> Runs {
        bpf::runs(self.program.as_fd()).unwrap_or_default()
    }
}

/// The object's programs, and what loading takes.
#[derive(Clone, Copy)]
pub struct Programs<'a> {
    /// The object, relocated.
    pub object: &'a Object,
    /// Its type information in the kernel.
    pub types: BorrowedFd<'a>,
}

impl<'a> Programs<'a> {
    /// Loads and attaches what runs whatever the hooks, then those, the best first.
    pub fn attach(
        self,
        choice: HookChoice,
        kernel: &Kernel,
        core: BorrowedFd<'_>,
    ) -> Result<(Vec<Attached>, Hooks), ProbeError> {
        let mut attached = Vec::new();
        for (name, program) in &self.object.programs {
            if matches!(program.section, ProgramSection::RawTracePoint) && name != ANY_CALL {
                attached.push(self.raw_tracepoint(name)?);
            }
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
        self.function_exits(calls, core).map_err(|error| error.to_string())
    }

    /// All or none.
    fn sockets(self, tracepoints: SocketTracepoints, array: OwnedFd) -> Result<Vec<Attached>, ProbeError> {
        let core = self.load(SOCKET_CORE, Hook::Tracepoint(tracepoints.sent))?;
        bpf::put_program(array.as_fd(), core.as_fd()).map_err(Self::no_array)?;
        let mut attached = vec![Attached {
            name: SOCKET_CORE.to_owned(),
            program: core,
            open: Some(Open::Descriptor(array)),
        }];
        let stubs = [
            (SOCKET_MADE, tracepoints.state),
            (SOCKET_RECEIVED, tracepoints.received),
            (SOCKET_SENT, tracepoints.sent),
        ];
        for (name, tracepoint) in stubs {
            let program = self.load(name, Hook::Tracepoint(tracepoint))?;
            attached.push(Self::attached(name, program, None)?);
        }
        Ok(attached)
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

    /// All or none.
    fn function_exits(self, calls: &[CallFunction], array: OwnedFd) -> Result<Vec<Attached>, ProbeError> {
        let deferred = DeferredClose::new().map_err(ProbeError::DeferredClose)?;
        let mut cores: Vec<(OwnedFd, &CallFunction)> = Vec::new();
        let mut stubs = Vec::with_capacity(calls.len());
        let (stub, license) = self.function(CALL_STUB)?;
        let mut stub = stub.clone();
        let mut aimed_at = array.as_raw_fd();
        let mut array = Some(array);
        let mut by_prototype: Vec<&CallFunction> = calls.iter().collect();
        by_prototype.sort_by_key(|call| call.prototype);
        for call in by_prototype {
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
                self.load_function(&stub, license, call.name, Hook::FunctionExit(call.number))?,
            ));
        }
        let mut attached = Vec::with_capacity(stubs.len() + cores.len() + 1);
        for (array, call) in cores {
            let core = self.load(CALL_CORE, Hook::FunctionExit(call.number))?;
            bpf::put_program(array.as_fd(), core.as_fd()).map_err(Self::no_array)?;
            attached.push(Attached {
                name: CALL_CORE.to_owned(),
                program: core,
                open: Some(Open::Descriptor(array)),
            });
        }
        let mut links = Vec::with_capacity(stubs.len());
        for (name, stub) in stubs {
            links.push(Self::link(name, &stub, None)?);
            attached.push(Attached { name: name.to_owned(), program: stub, open: None });
        }
        deferred.keep(&links).map_err(ProbeError::DeferredClose)?;
        if let Some(last) = attached.last_mut() {
            last.open = Some(Open::DeferredClose(Box::new(deferred)));
        }
        Ok(attached)
    }

    fn no_array(source: io::Error) -> ProbeError {
        ProbeError::Map { name: CORE_MAP.to_owned(), source }
    }

    /// A program's code and license.
    fn function(self, program: &str) -> Result<(&'a Function, &'a CStr), ProbeError> {
        let missing = || ProbeError::Object(format!("no program {program}"));
        let found = self.object.programs.get(program).ok_or_else(missing)?;
        let function = self.object.functions.get(&found.function_key()).ok_or_else(missing)?;
        Ok((function, &found.license))
    }

    fn load(self, program: &str, hook: Hook) -> Result<OwnedFd, ProbeError> {
        let (function, license) = self.function(program)?;
        self.load_function(function, license, program, hook)
    }

    fn load_function(
        self,
        function: &Function,
        license: &CStr,
        name: &str,
        hook: Hook,
    ) -> Result<OwnedFd, ProbeError> {
        let loaded = bpf::load_program(function, name, hook, license, Some(self.types))
            .map_err(|(source, log)| ProbeError::Load { name: name.to_owned(), source, log })?;
        tracing::debug!(name, "a program is loaded");
        Ok(loaded)
    }
}
