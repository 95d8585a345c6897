//! `porthole-agent`: see the library for how it works.

use std::{
    borrow::Cow,
    os::fd::RawFd,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use aya::include_bytes_aligned;
use clap::Parser;
use porthole_agent::{
    capture::cpu_limiter::CpuLimiter,
    enrolment::{Credential, Enrolment},
    kernel::{HookChoice, ProbeLimits},
    milestones::Milestones,
    notice::Notices,
    privileges,
    recorder::spans::{FAILURES_INTERVAL_NS, SpanPolicy},
    report::{
        epochs::Epoch,
        listen::{self, ListenAddress},
        service::{Identity, Service},
        state::Shared,
    },
    resources::Sampler,
    secret,
    sources::{Loading, RouteOptions, Source, SourceChoice},
    supervisor, unattached, usage,
};
use porthole_agent_api::{
    agent::{Counters, Placement},
    agent_ttrpc::create_agent,
};
use porthole_config::LOG_ENV;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The eBPF object that was embedded at build time; empty without one.
static EMBEDDED_OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/porthole.bpf.o"));

/// Monitors what the processes of this kernel send and receive on sockets, and reports to the host.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// How this agent came into the guest; the host shows it
    #[arg(long, value_enum)]
    placement: Option<AgentPlacement>,
    /// Inherited file in memory that keeps the secret which the host hands over; the supervisor makes it
    #[arg(long, value_name = "NUMBER")]
    secret_fd: Option<RawFd>,
    /// Inherited descriptor that gets a byte when the probes are attached, and one when the host has handed the secret over
    #[arg(long, value_name = "NUMBER")]
    ready_fd: Option<RawFd>,
    /// When the agent ended that this one replaces, since boot
    #[arg(long, value_name = "NANOSECONDS")]
    replaces_ended_at: Option<u64>,
    /// Where to listen: `vsock://:PORT` (only the host gets through), `vsock-fd://NUMBER` (the same, an inherited
    /// descriptor) or `unix:///PATH`
    #[arg(long, value_name = "ADDRESS")]
    listen: ListenAddress,
    /// The procfs of the outermost pid namespace
    #[arg(long, value_name = "DIRECTORY", default_value = "/proc")]
    proc: PathBuf,
    /// eBPF object to load instead of the embedded one
    #[arg(long, value_name = "FILE")]
    bpf_object: Option<PathBuf>,
    /// What to capture
    #[arg(long, value_enum, default_value_t)]
    capture: SourceChoice,
    /// Hooks on system calls
    #[arg(long, value_enum, default_value_t)]
    hooks: HookChoice,
    /// Size of the ring buffer between kernel and agent, KiB; a power of two. 1024 unless it is given, 2048 for packets
    #[arg(long, value_name = "KIB", value_parser = ring_kib)]
    ring_kib: Option<u32>,
    /// Connections that the kernel keeps
    #[arg(long, value_name = "NUMBER", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    connections: u32,
    /// Parse all traffic in the agent, and aggregate nothing in the kernel
    #[arg(long)]
    no_offload: bool,
    /// Route that wins over routes found in the traffic: `/users/{id}`, `/static/*`; may be repeated
    #[arg(long = "route", value_name = "TEMPLATE")]
    routes: Vec<String>,
    /// Give names to the routes of `--route` alone; every other path is `other`
    #[arg(long)]
    strict_routes: bool,
    /// From this duration on an exchange is slow, and more often sampled as a span
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1000)]
    slow_ms: u32,
    /// Least time between two spans of one operation and outcome that is neither slow nor failed
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 10_000)]
    span_interval_ms: u32,
    /// Most spans in a second, in the long run; 0 for none
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    spans_per_second: u32,
    /// Share of one CPU, percent, beyond which capture pauses; 0 for no limit
    #[arg(long, value_name = "PERCENT", default_value_t = 90)]
    cpu_share: u32,
}

/// How the agent came into the guest.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum AgentPlacement {
    /// In the guest's image, started by the guest's first process
    BuiltIn,
    /// As a further container of the sandbox
    Sidecar,
}

impl From<AgentPlacement> for Placement {
    fn from(placement: AgentPlacement) -> Self {
        match placement {
            AgentPlacement::BuiltIn => Self::PLACEMENT_BUILT_IN,
            AgentPlacement::Sidecar => Self::PLACEMENT_SIDECAR,
        }
    }
}

/// How long the last batches may take when the agent has to end. A sandbox's end waits for it.
const FLUSH_MAX: Duration = Duration::from_millis(500);

/// How long the last bytes may take from the server's queue to the channel.
const LINGER: Duration = Duration::from_millis(20);

const EXAMPLES: &str = "\
Examples:
  In a guest, as a sidecar container:
    porthole-agent --listen vsock://:1000 --proc /host/proc --placement sidecar
  In a guest whose image carries it, started by the first process:
    porthole-agent supervise
  On an ordinary host, for development:
    porthole-agent --listen unix:///run/porthole-agent.sock
  With other probes, saying more:
    PORTHOLE_LOG=debug porthole-agent --listen unix:///run/a.sock --bpf-object target/dist/bpf/porthole.bpf.o

The log filter is read from PORTHOLE_LOG, for example `info` or `porthole_agent=debug`.";

fn ring_kib(text: &str) -> Result<u32, String> {
    let kib: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if kib.is_power_of_two() && (4..=1 << 18).contains(&kib) {
        Ok(kib)
    } else {
        Err("must be a power of two from 4 to 262144".to_owned())
    }
}

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = supervisor::run_if_called() {
        return Ok(code);
    }
    let started = Instant::now();
    let start_unix_ns = usage::unix_ns();
    let secret = secret::take()?;
    let arguments = Arguments::parse();
    // SAFETY: the process that started this one passed the descriptor to it alone.
    let notices = unsafe { Notices::inherit(arguments.ready_fd) };
    let credential = match (arguments.secret_fd, secret) {
        (Some(file), _) => {
            // SAFETY: the supervisor opened the descriptor for this process, and nothing else here owns it.
            let enrolment = unsafe { Enrolment::inherit(file, notices.clone()) };
            Credential::Enrolled(enrolment.context("the secret's file")?)
        }
        (None, Some(secret)) => Credential::Given(secret),
        (None, None) => Credential::None,
    };
    let filter = EnvFilter::try_from_env(LOG_ENV).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    tracing::debug!("started");
    let object = object(&arguments)?;
    let release = privileges::kernel_release();
    let ns = |ms: u32| u64::from(ms) * 1_000_000;
    let spans = SpanPolicy {
        slow_ns: ns(arguments.slow_ms),
        // An interval of its own shorter than that of failures is meant for these, too.
        failures_interval_ns: FAILURES_INTERVAL_NS.min(ns(arguments.span_interval_ms)),
        interval_ns: ns(arguments.span_interval_ms),
        per_second: arguments.spans_per_second,
    };
    let limits = ProbeLimits {
        ring_bytes: arguments.ring_kib.map(|kib| kib * 1024),
        connections: arguments.connections,
        offload: !arguments.no_offload,
        spans,
    };
    let loading = Loading {
        object: &object,
        proc: &arguments.proc,
        hooks: arguments.hooks,
        self_tgid: own_tgid(&arguments),
        limits,
    };
    let source = Source::load(arguments.capture, loading)?;
    let load_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    // Before the start of containers continues: what is started from now on was not missed.
    let mut counters = Counters::default();
    let replaced = arguments.replaces_ended_at.map(Duration::from_nanos);
    unattached::count(&mut counters, &arguments.proc, unattached::since_boot(), replaced);
    usage::take_usual_priority();
    notices.attached();
    drop(object);
    usage::give_back_memory();
    tracing::info!(milliseconds = load_ns / 1_000_000, kernel = release, hooks = %source, "the probes run");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shared = Arc::new(Shared::default());
        shared.lock().milestones = Milestones::since_attached(&counters, replaced.is_some());
        shared.lock().counters = counters;
        shared.lock().recorder.spans.set_policy(spans);
        let capture_mode = source.mode();
        let limiter = CpuLimiter::new(arguments.cpu_share);
        let routes = RouteOptions { templates: &arguments.routes, templates_only: arguments.strict_routes };
        let mut capture = source.capture(shared.clone(), limiter, routes)?;
        capture.measure(Sampler::open(&arguments.proc));
        let identity = Identity {
            epoch: Epoch::beginning_at(start_unix_ns),
            kernel_release: release.clone(),
            capture_mode,
            load_ns,
            placement: arguments.placement.map_or(Placement::PLACEMENT_UNSPECIFIED, Placement::from),
            proc: arguments.proc.clone(),
            credential,
        };
        let (listener, _listening) = listen::listen(&arguments.listen)
            .with_context(|| format!("listening on {:?}", arguments.listen))?;
        let mut server = ttrpc::r#async::Server::new()
            .add_listener(listener)
            .register_service(create_agent(Arc::new(Service::new(shared.clone(), identity))));
        server.start().await.context("serving")?;
        privileges::give_up(privileges::kernel_version(&release))?;
        tracing::debug!("listening, without capabilities");
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            ended = capture.run() => ended.context("capturing")?,
            _ = term.recv() => tracing::info!("terminated"),
            _ = int.recv() => tracing::info!("interrupted"),
        }
        // What came since the last batch must not be lost with the sandbox.
        capture.finish();
        if tokio::time::timeout(FLUSH_MAX, shared.streams_closed()).await.is_err() {
            tracing::warn!("a host does not read: the last batches are lost");
        }
        tokio::time::sleep(LINGER).await;
        anyhow::Ok(())
    })?;
    // Streams to a host that does not read must not hold the exit up.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// The eBPF object to load.
fn object(arguments: &Arguments) -> anyhow::Result<Cow<'static, [u8]>> {
    if let Some(path) = &arguments.bpf_object {
        let read = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
        return Ok(read.into());
    }
    if EMBEDDED_OBJECT.is_empty() {
        bail!(
            "this agent was built without probes: `cargo xtask build` builds and embeds them, \
             --bpf-object FILE loads others"
        );
    }
    Ok(EMBEDDED_OBJECT.into())
}

/// This process's id in the outermost pid namespace, as far as the given procfs shows it.
fn own_tgid(arguments: &Arguments) -> u32 {
    let own = procfs::process::Process::new_with_root(arguments.proc.join("self"));
    own.ok().and_then(|own| u32::try_from(own.pid()).ok()).unwrap_or_else(std::process::id)
}
