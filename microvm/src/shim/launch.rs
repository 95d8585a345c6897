//! What containerd executes: `start` leaves a shim behind or finds the sandbox's, `delete` removes what a shim has left,
//! `-info` describes the runtime; without a verb it is the shim itself.

use std::{
    io::{self, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use containerd_shim::{
    Config, DeleteResponse, Error, ExitSignal, Flags, Shim, StartOpts,
    asynchronous::spawn,
    protos::{
        protobuf::{Message as _, MessageField},
        types::introspection::{RuntimeInfo, RuntimeVersion},
    },
    publisher::RemotePublisher,
    socket_address,
};
use porthole_config::ConfigFile;
use porthole_confinement::capabilities;
use porthole_registry::{InvalidId, SandboxKey};

use super::{
    container::KILLED,
    ending,
    events::Events,
    logs,
    sandbox::{Sandbox, timestamp},
    service::TaskService,
    spec::{Role, Spec},
};
use crate::{
    config::Microvm,
    vm::{VmError, cleanup, privileges, record::Record},
};

/// The runtime's name in containerd's terms.
pub const RUNTIME: &str = "io.containerd.porthole-microvm.v2";

/// How long `delete` waits for a shim that is still there: containerd may call it while the shim is ending. containerd
/// itself waits 5 seconds.
const SHIM_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a shim may take to send its last events.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(2);

/// The program.
pub async fn run() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match containerd_shim::parse(&arguments) {
        Ok(flags) if flags.info => info(),
        Ok(flags) if flags.version => println!("{RUNTIME} {}", env!("CARGO_PKG_VERSION")),
        _ => {
            // Each child is waited for where it was started.
            let config =
                Config { no_setup_logger: true, no_reaper: true, no_sub_reaper: true, ..Config::default() };
            containerd_shim::run::<Launcher>(RUNTIME, Some(config)).await;
        }
    }
}

fn info() {
    let info = RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let bytes = info.write_to_bytes().expect("a message in memory serialises");
    // containerd has gone if the pipe has no reader.
    let _ = std::io::stdout().write_all(&bytes);
}

/// One call of the program.
struct Launcher {
    id: String,
    namespace: String,
    /// Address of containerd's socket; with namespace and sandbox it gives that of the shim's.
    containerd: String,
    socket: String,
    config: Result<Microvm, String>,
    exit: Arc<ExitSignal>,
    events: std::sync::OnceLock<Events>,
}

fn load_config() -> Result<Microvm, String> {
    ConfigFile::load(None).and_then(|file| file.section()).map_err(|error| error.to_string())
}

impl Launcher {
    fn sandbox(&self) -> Result<SandboxKey, Error> {
        let invalid = |error: InvalidId| Error::Other(error.to_string());
        let namespace = self.namespace.parse().map_err(invalid)?;
        Ok(SandboxKey { namespace, id: self.id.parse().map_err(invalid)? })
    }

    fn config(&self) -> Result<Microvm, Error> {
        self.config.clone().map_err(Error::Other)
    }
}

#[async_trait]
impl Shim for Launcher {
    type T = TaskService;

    async fn new(_: &str, flags: &Flags, _: &mut Config) -> Self {
        if flags.action.is_empty() {
            // The shim itself: a session of its own, so that no signal meant for containerd's reaches it.
            let _ = nix::unistd::setsid();
            logs::start(Path::new("."));
            // Before any thread starts, so that all have the same.
            if let Err(error) = capabilities::keep_only(privileges::SHIM) {
                tracing::warn!(%error, "the shim keeps privileges that it does not need");
            }
        }
        Self {
            id: flags.id.clone(),
            namespace: flags.namespace.clone(),
            containerd: flags.address.clone(),
            socket: flags.socket.clone(),
            config: load_config(),
            exit: Arc::new(ExitSignal::default()),
            events: std::sync::OnceLock::new(),
        }
    }

    async fn start_shim(&mut self, options: StartOpts) -> Result<String, Error> {
        self.config()?;
        self.sandbox()?;
        let bundle = std::env::current_dir().map_err(|error| Error::Other(error.to_string()))?;
        let spec = Spec::load(&bundle).map_err(|error| Error::Other(error.to_string()))?;
        let address = match spec.role() {
            Role::Member(sandbox) if sandbox != options.id => {
                socket_address(&options.address, &options.namespace, &sandbox)
            }
            _ => {
                let group = options.id.clone();
                spawn(options, &group, Vec::new()).await?
            }
        };
        // containerd finds the shim by it after a restart.
        std::fs::write("address", &address).map_err(|error| Error::Other(error.to_string()))?;
        Ok(address)
    }

    async fn delete_shim(&mut self) -> Result<DeleteResponse, Error> {
        let directory = self.config()?.sandbox_directory(&self.sandbox()?);
        // A container that joined a sandbox has no directory of its own: its sandbox cares for what it leaves.
        if !self.id.is_empty() && directory.is_dir() {
            remove_sandbox(&directory).map_err(|error| Error::Other(error.to_string()))?;
        }
        // A shim that was killed has left it.
        remove_socket(&socket_address(&self.containerd, &self.namespace, &self.id));
        Ok(DeleteResponse {
            exit_status: KILLED,
            exited_at: timestamp(SystemTime::now()),
            ..Default::default()
        })
    }

    async fn wait(&mut self) {
        self.exit.wait().await;
        if let Some(events) = self.events.get() {
            events.flush(EVENTS_TIMEOUT).await;
        }
        // While containerd is still connected: when it no longer is, it removes the bundle, and with it the file from which
        // the shim's library reads what to remove.
        if let Some(socket) = socket_path(&self.socket) {
            let _ = std::fs::remove_file(socket);
        }
    }

    async fn create_task_service(&self, publisher: RemotePublisher) -> TaskService {
        let events = Events::start(publisher.address.clone(), self.namespace.clone());
        // Called once; the first is kept.
        let _ = self.events.set(events.clone());
        let config = self.config.clone().unwrap_or_else(|error| {
            // `start` has refused a configuration like this one; it must have changed since.
            tracing::error!(error, "the configuration cannot be used; going on with the defaults");
            Microvm::default()
        });
        let sandbox = self.sandbox().unwrap_or_else(|error| {
            // `start` has refused such a name, so no shim of it was started.
            tracing::error!(%error, "the sandbox has no usable name");
            std::process::exit(1)
        });
        let sandbox = Arc::new(Sandbox::new(sandbox, config, events, Arc::clone(&self.exit)));
        match std::fs::File::open(".") {
            Ok(bundle) => ending::watch_unused(&sandbox, bundle),
            Err(error) => tracing::warn!(%error, "the bundle cannot be watched"),
        }
        TaskService::new(sandbox)
    }
}

/// Removes what a sandbox has left when its shim has gone; one that still ends is waited for.
fn remove_sandbox(directory: &Path) -> Result<(), VmError> {
    let record =
        Record::load(directory).map_err(VmError::io("read the record in", directory))?.unwrap_or_default();
    if let Some(shim) = &record.shim {
        shim.wait_gone(SHIM_TIMEOUT);
    }
    cleanup::sweep(directory)
}

/// The file of a shim's socket; none of an empty address.
fn socket_path(address: &str) -> Option<&Path> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    (!path.is_empty()).then(|| Path::new(path))
}

/// Removes the socket of a shim that has gone.
fn remove_socket(address: &str) {
    let Some(path) = socket_path(address) else { return };
    let refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
    if UnixStream::connect(path).is_err_and(refused) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_is_removed_once_its_shim_has_gone() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let address = format!("unix://{}", path.display());
        remove_socket(&address);
        let listener = UnixListener::bind(&path).expect("listening");
        remove_socket(&address);
        assert!(path.exists(), "its shim is there");
        drop(listener);
        remove_socket(&address);
        assert!(!path.exists());
    }
}
