//! Which programs run: on system calls where the kernel allows it, otherwise on packets.

use std::{fmt, io, path::Path, sync::Arc};

use porthole_agent_api::agent::CaptureMode;
use porthole_l7::{Limits, ParserContext, TemplateError};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    capture::{CaptureLoop, cpu_limiter::CpuLimiter, event_source::EventSource},
    cgroups::Tree,
    kernel::{
        HookChoice, Hooks, ProbeError, ProbeLimits, Records,
        btf::{self, BtfError},
        packet_probes::PacketProbes,
        probes::Probes,
    },
    packets::{
        self,
        source::{PacketFlows, PacketSource},
    },
    report::state::Shared,
    syscalls::{source::SyscallSource, tracker::Tracker},
};

/// Which source to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SourceChoice {
    /// System calls if the kernel allows it, packets otherwise
    #[default]
    Auto,
    /// System calls on sockets
    SystemCalls,
    /// Packets of sockets
    Packets,
}

/// A kernel that cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Its type information lacks the arguments of system calls.
    #[error("this kernel's system calls cannot be watched: {0}")]
    Kernel(#[from] BtfError),
    /// Programs cannot be loaded.
    #[error(
        "loading the probes; this takes root, or CAP_BPF and CAP_PERFMON, and CAP_NET_ADMIN for packets: {0}"
    )]
    Probes(#[from] ProbeError),
    /// The control groups, on which the programs for packets hang, are not found.
    #[error("the root of the control groups: {0}")]
    ControlGroups(io::Error),
    /// Neither way works.
    #[error("neither system calls can be watched ({calls}) nor packets ({packets})")]
    Neither {
        /// Why not system calls.
        calls: String,
        /// Why not packets.
        packets: String,
    },
}

impl SourceError {
    /// Why, in one line; what follows in programs that are refused is the verifier's log.
    fn reason(&self) -> String {
        let whole = match self {
            Self::Probes(error) => error.to_string(),
            other => other.to_string(),
        };
        whole.lines().next().unwrap_or_default().to_owned()
    }
}

/// What loading takes.
#[derive(Clone, Copy, Debug)]
pub struct Loading<'a> {
    /// The eBPF object.
    pub object: &'a [u8],
    /// The procfs of the outermost pid namespace.
    pub proc: &'a Path,
    /// Which hooks on system calls.
    pub hooks: HookChoice,
    /// This process in the outermost pid namespace.
    pub self_tgid: u32,
    /// Bounds of what the programs may use.
    pub limits: ProbeLimits,
}

/// Programs that run, and where their records come out.
#[allow(missing_debug_implementations)]
pub struct Source {
    kind: Kind,
    records: Records,
}

enum Kind {
    Calls(Box<Probes>),
    Packets {
        probes: Box<PacketProbes>,
        tree: Tree,
        /// Why not system calls, if these were tried.
        why: Option<String>,
    },
}

impl Source {
    /// Loads the programs.
    pub fn load(choice: SourceChoice, loading: Loading<'_>) -> Result<Self, SourceError> {
        match choice {
            SourceChoice::SystemCalls => Self::calls(loading),
            SourceChoice::Packets => Self::packets(loading, None),
            SourceChoice::Auto => Self::calls(loading).or_else(|error| {
                let calls = error.reason();
                tracing::info!(why = calls, "system calls cannot be watched");
                tracing::debug!(%error, "the kernel's whole answer");
                Self::packets(loading, Some(calls.clone()))
                    .map_err(|packets| SourceError::Neither { calls, packets: packets.reason() })
            }),
        }
    }

    fn calls(loading: Loading<'_>) -> Result<Self, SourceError> {
        let kernel = btf::kernel()?;
        tracing::debug!("the kernel's types are read");
        let Loading { object, hooks, self_tgid, limits, .. } = loading;
        let tree = Tree::open(loading.proc).ok();
        let cgroups = tree.as_ref().map(Tree::as_fd);
        let (probes, records) = Probes::load(object, &kernel, hooks, self_tgid, cgroups, limits)?;
        if let Hooks::RawTracepoint(Some(why)) = probes.hooks() {
            tracing::info!(why, "every system call is hooked: better hooks are not available");
        }
        Ok(Self { kind: Kind::Calls(Box::new(probes)), records })
    }

    fn packets(loading: Loading<'_>, why: Option<String>) -> Result<Self, SourceError> {
        let tree = Tree::open(loading.proc).map_err(SourceError::ControlGroups)?;
        let (probes, records) = PacketProbes::load(loading.object, tree.as_fd(), loading.limits)?;
        Ok(Self { kind: Kind::Packets { probes: Box::new(probes), tree, why }, records })
    }

    /// The fields of `Hello`.
    pub fn mode(&self) -> CaptureMode {
        match &self.kind {
            Kind::Packets { .. } => CaptureMode::CAPTURE_MODE_PACKET,
            Kind::Calls(probes) => match probes.hooks() {
                Hooks::Sockets => CaptureMode::CAPTURE_MODE_SOCKET,
                Hooks::FunctionExits => CaptureMode::CAPTURE_MODE_SYSCALL_FENTRY,
                Hooks::RawTracepoint(_) => CaptureMode::CAPTURE_MODE_SYSCALL_RAW_TRACEPOINT,
            },
        }
    }

    /// The loop that reads the records. Must be called within a runtime.
    pub fn capture(
        self,
        shared: Arc<Shared>,
        limiter: CpuLimiter,
        routes: RouteOptions<'_>,
    ) -> Result<CaptureLoop, CaptureError> {
        let mut context = ParserContext::new(Limits::default());
        context.set_route_templates(routes.templates)?;
        context.set_configured_routes_only(routes.templates_only);
        // SAFETY: the ring buffer gives the same descriptor as long as it lives, and keeps it open.
        let records = unsafe { AsyncFd::register_with_interest(self.records, Interest::READABLE) }
            .map_err(io::Error::from)?;
        let (source, limitations): (Box<dyn EventSource>, _) = match self.kind {
            Kind::Calls(probes) => {
                let limitations = limitations(probes.hooks(), probes.why_no_senders());
                (Box::new(SyscallSource::new(*probes, Tracker::new(context))), limitations)
            }
            Kind::Packets { probes, tree, why } => {
                let flows = PacketFlows::new(context, tree);
                (Box::new(PacketSource::new(*probes, flows)), packets::limitations(why.as_deref()))
            }
        };
        Ok(CaptureLoop::new(records, source, shared, limiter, limitations))
    }
}

/// Which routes have names.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteOptions<'a> {
    /// Route templates that win over routes found in the traffic.
    pub templates: &'a [String],
    /// Routes that no template matches have no names.
    pub templates_only: bool,
}

/// A loop that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A route template is none.
    #[error("--route: {0}")]
    Route(#[from] TemplateError),
    /// The ring buffer cannot be waited for.
    #[error("waiting for the ring buffer: {0}")]
    Records(#[from] io::Error),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Calls(probes) => probes.hooks().fmt(f),
            Kind::Packets { .. } => f.write_str("packets"),
        }
    }
}

/// What capture by system calls cannot see on this kernel.
fn limitations(hooks: &Hooks, why_no_senders: Option<&str>) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut say = |sentence: &str| sentences.push(sentence.to_owned());
    if *hooks == Hooks::Sockets {
        say(
            "Of bytes that io_uring moves the number is seen, and that is not what they say: exchanges that it carries \
             are counted as unparsed.",
        );
    } else {
        say(
            "Bytes that io_uring moves are not seen: the ends of system calls show its completions without sockets \
             and buffers.",
        );
    }
    match hooks {
        Hooks::Sockets => {
            say("Of socket calls of 32-bit programs the number of bytes is seen, and not what they say.");
        }
        Hooks::FunctionExits => {
            say("Socket calls of 32-bit programs are not looked at, and not counted.");
        }
        Hooks::RawTracepoint(Some(why)) => {
            say(&format!("Every system call pays a little, not only those on sockets: {why}."));
        }
        Hooks::RawTracepoint(None) => {}
    }
    if let Some(why) = why_no_senders {
        say(&format!(
            "Who sends to a datagram socket that is not connected is not known, and answers are paired by id and question: \
             {why}."
        ));
    }
    if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
        && std::path::Path::new("/sys/fs/cgroup/unified").exists()
    {
        sentences.push(
            "This kernel's containers live in cgroup v1 hierarchies: they are told apart only if they have a \
             group of their own in the unified one."
                .to_owned(),
        );
    }
    sentences
}
