//! `porthole-exporter`: the command line.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use porthole_config::{ConfigFile, LOG_ENV, Location};
use porthole_exporter::{config, exporter, http::access::Access, memory, objectives::Objectives, otlp};
use porthole_registry::RegistrySettings;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Exit code for a configuration that cannot be used (sysexits.h, `EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;

/// Threads for encodings, listings, the ledger and the registry.
const BLOCKING_THREADS_MAX: usize = 8;

/// Collects from the agents of all sandboxes on this host and serves their metrics to Prometheus.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Configuration file [default: `$PORTHOLE_CONFIG`, else /etc/porthole/porthole.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Address and port of the HTTP server; goes before `listen` of the file
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// Check the configuration, print what is in force, and exit
    #[arg(long)]
    check_config: bool,
}

const EXAMPLES: &str = "\
Examples:
  porthole-exporter
  porthole-exporter --config ./porthole.toml --listen 0.0.0.0:9464   needs tokens: `porthole token create`
  porthole-exporter --check-config
  curl http://127.0.0.1:9464/metrics
  curl http://127.0.0.1:9464/api/v1/applications?tenant=acme
  curl -H \"Authorization: Bearer $(cat acme.token)\" http://node:9464/tenants/acme/metrics

SIGHUP reads tokens and the destinations of OTLP again; a change of their file does so within a second.

Environment:
  PORTHOLE_CONFIG  configuration file
  PORTHOLE_LOG     log filter, for example `info` or `porthole_exporter=debug`

Exit codes:
  0   stopped by SIGTERM or SIGINT, ledger written
  1   could not start or run
  2   wrong arguments
  78  configuration that cannot be used";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env(LOG_ENV).unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    let configuration = match load(&arguments) {
        Ok(configuration) => configuration,
        Err(error) => {
            eprintln!("porthole-exporter: {error:#}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if arguments.check_config {
        println!("{configuration:#?}");
        return ExitCode::SUCCESS;
    }
    match run(configuration) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("porthole-exporter: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The sections of the configuration that concern the exporter.
#[derive(Debug)]
struct Configuration {
    exporter: config::Exporter,
    objectives: Objectives,
    registry: RegistrySettings,
}

fn load(arguments: &Arguments) -> anyhow::Result<Configuration> {
    let location = Location::new(arguments.config.as_deref());
    let file = ConfigFile::load_at(location.clone())?;
    let mut settings: config::Exporter = file.section()?;
    settings.file = Some(location);
    if let Some(kubernetes) = &mut settings.kubernetes {
        kubernetes.tenants = file.section::<config::kubernetes::Tenants>()?.by_namespace;
    }
    if let Some(listen) = arguments.listen {
        settings.listen = listen;
    }
    settings.validate()?;
    Access::load(&settings)?;
    exporter::load_tls(&settings).context("the TLS files of [exporter] cannot be used")?;
    otlp::check(&settings.otlp).context("a destination of [[exporter.otlp]] cannot be used")?;
    let objectives: Objectives = file.section()?;
    objectives.validate()?;
    Ok(Configuration { exporter: settings, objectives, registry: file.section()? })
}

fn run(Configuration { exporter: config, objectives, registry }: Configuration) -> anyhow::Result<()> {
    memory::limit_arenas();
    raise_descriptor_limit();
    let prepared = exporter::prepare(&config)?;
    // Before the runtime's threads exist: each thread has capabilities of its own.
    drop_capabilities();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let directory = registry.directory.clone();
        let running = exporter::start(prepared, &config, objectives, registry.directory)?;
        tracing::info!(listen = %running.address(), registry = %directory.display(), "serving");
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(()) = hangup.recv() => running.reload(),
            }
        }
        tracing::info!("stopping");
        running.stop().await;
        anyhow::Ok(())
    })?;
    runtime.shutdown_background();
    Ok(())
}

/// One descriptor for each agent and HTTP connection: the hard limit is there to be used.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// What is needed from here on: sockets and records belong to root. Root needs no capability for them; another user needs
/// the one that disregards permissions, and uses it within what its mount namespace shows
/// (`deploy/systemd/porthole-exporter.service`).
fn drop_capabilities() {
    use caps::{CapSet, Capability, CapsHashSet};
    let permitted = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let mut kept = CapsHashSet::new();
    if !nix::unistd::geteuid().is_root() && permitted.contains(&Capability::CAP_DAC_OVERRIDE) {
        kept.insert(Capability::CAP_DAC_OVERRIDE);
    }
    let none = CapsHashSet::new();
    for (set, kept) in [
        (CapSet::Ambient, &none),
        (CapSet::Inheritable, &none),
        (CapSet::Effective, &kept),
        (CapSet::Permitted, &kept),
    ] {
        if let Err(error) = caps::set(None, set, kept) {
            tracing::warn!(%error, ?set, "capabilities stay as they are");
        }
    }
}
