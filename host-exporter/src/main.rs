//! `porthole-exporter`: the command line.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use porthole_config::{ConfigFile, LOG_ENV};
use porthole_exporter::{config, exporter};
use porthole_registry::RegistrySettings;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Exit code for a configuration that cannot be used (sysexits.h, `EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;

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
  porthole-exporter --config ./porthole.toml --listen 0.0.0.0:9464
  porthole-exporter --check-config
  curl http://127.0.0.1:9464/metrics
  curl http://127.0.0.1:9464/api/v1/applications?tenant=acme

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
    let (config, registry) = match load(&arguments) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("porthole-exporter: {error:#}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if arguments.check_config {
        println!("registry = {}\n{config:#?}", registry.directory.display());
        return ExitCode::SUCCESS;
    }
    match run(&config, registry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("porthole-exporter: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn load(arguments: &Arguments) -> anyhow::Result<(config::Exporter, RegistrySettings)> {
    let file = ConfigFile::load(arguments.config.as_deref())?;
    let mut config: config::Exporter = file.section()?;
    if let Some(listen) = arguments.listen {
        config.listen = listen;
    }
    config.validate()?;
    Ok((config, file.section()?))
}

fn run(config: &config::Exporter, registry: RegistrySettings) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let prepared = exporter::prepare(config)?;
    // Before the runtime's threads exist: each thread has capabilities of its own.
    drop_capabilities();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let directory = registry.directory.clone();
        let running = exporter::start(prepared, config, registry.directory)?;
        tracing::info!(listen = %running.address(), registry = %directory.display(), "serving");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
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

/// From here on the uid must be enough: sockets and registry are root's, and root owns them without capabilities.
fn drop_capabilities() {
    use caps::CapSet;
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        if let Err(error) = caps::clear(None, set) {
            tracing::warn!(%error, ?set, "capabilities stay as they are");
        }
    }
}
