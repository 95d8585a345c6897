//! Create: the first container makes the sandbox's machine, further ones join it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use containerd_shim::protos::{
    events::task::{TaskCreate, TaskIO},
    protobuf::MessageField,
    types::mount::Mount,
};

use super::{
    ShimError,
    container::{Container, Process},
    ending, monitor,
    sandbox::{Running, Sandbox, soon},
    spec::{Role, Spec},
    stdio::{Stdio, StdioPaths},
};
use crate::{
    vm::{
        Machine,
        cgroup::{self, ControlGroups},
        cleanup,
        process::ProcessRef,
        record::Record,
        sandbox_environment::Environment,
        share::{self, RootFileSystem},
        system::{FileSystem, Linux, System as _},
    },
    wire::guest,
};

/// What containerd, or a companion, wants made.
#[derive(Clone, Debug)]
pub struct Request {
    /// The container's id.
    pub id: String,
    /// Directory with its `config.json`.
    pub bundle: PathBuf,
    /// Mounts that make its root file system.
    pub rootfs: Vec<Mount>,
    /// Its streams.
    pub stdio: StdioPaths,
}

impl Sandbox {
    /// Makes a container; answers the process number that stands for it.
    pub async fn create(self: &Arc<Self>, request: Request) -> Result<u32, ShimError> {
        let _one_at_a_time = self.creating.lock().await;
        if self.containers().contains_key(&request.id) {
            return Err(ShimError::Exists(format!("container {}", request.id)));
        }
        let spec = Spec::load(&request.bundle)?;
        match (spec.role(), self.machine()) {
            (Role::Sandbox, None) => self.create_sandbox(request, spec).await,
            (Role::Member(sandbox), Some(running)) if sandbox == self.id => {
                self.add(&running, &request, spec, false).await
            }
            (Role::Member(sandbox), _) => Err(ShimError::State(format!("sandbox {sandbox} is not here"))),
            (Role::Sandbox, Some(_)) => {
                Err(ShimError::State(format!("cannot create another sandbox in sandbox: {}", self.id)))
            }
        }
    }

    async fn create_sandbox(self: &Arc<Self>, request: Request, spec: Spec) -> Result<u32, ShimError> {
        if *self.ended().borrow() || request.id != self.id {
            return Err(ShimError::State(format!("sandbox {} has ended", self.id)));
        }
        let made = async {
            let running = self.boot(&spec).await?;
            let pid = self.add(&running, &request, spec, true).await?;
            self.follow_memory(&running);
            ending::watch(self);
            Ok(pid)
        };
        let made: Result<u32, ShimError> = made.await;
        if let Err(error) = &made {
            tracing::error!(%error, "the sandbox was not made");
            self.set_machine(None);
            self.ended().send_replace(true);
            let directory = self.directory();
            if let Err(error) = cleanup::sweep(&directory) {
                tracing::error!(%error, "the sandbox leaves something behind");
            }
        }
        made
    }

    async fn boot(self: &Arc<Self>, spec: &Spec) -> Result<Arc<Running>, ShimError> {
        let directory = self.directory();
        // What a sandbox of the same id has left would be mistaken for this one's.
        cleanup::sweep(&directory)?;
        self.config
            .create_state_directory()
            .map_err(ShimError::io("create", &self.config.state_directory))?;
        Linux.create_directory(&directory).map_err(ShimError::io("create", &directory))?;
        let own = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
        let mut record = Record {
            sandbox: self.key.to_string(),
            shim: ProcessRef::of("shim", own),
            socket: self.socket.clone(),
            ..Record::default()
        };
        record.save(&directory).map_err(ShimError::io("write the record in", &directory))?;
        let groups = self.control_groups(spec);
        record.control_groups = groups.made;
        record.save(&directory).map_err(ShimError::io("write the record in", &directory))?;
        let environment = Environment {
            sandbox: self.key.to_string(),
            directory: directory.clone(),
            // No two shims that run have one process number.
            user: self.config.user_base.saturating_add(std::process::id()),
            members: groups.members,
        };
        let namespace = spec.network_namespace();
        let machine = Machine::start(&self.config, &environment, namespace.as_deref(), &mut record).await?;
        record.save(&directory).map_err(ShimError::io("write the record in", &directory))?;
        let socket = directory.join(monitor::FILE);
        monitor::serve(&socket, machine.channel().to_string())
            .map_err(ShimError::io("listen on", &socket))?;
        let guest = machine.connect(self.config.boot_timeout()).await?;
        let running = Arc::new(Running { machine, guest, record: Mutex::new(record) });
        self.set_machine(Some(Arc::clone(&running)));
        Ok(running)
    }

    /// The control groups of the sandbox's programs. A host on which they cannot be made runs the sandbox all the same.
    fn control_groups(&self, spec: &Spec) -> ControlGroups {
        let path = spec.control_group().unwrap_or_else(|| format!("/{}/{}", self.key.namespace, self.key.id));
        cgroup::make(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, path, "the sandbox is in no control group of its own");
            ControlGroups::default()
        })
    }

    async fn add(
        self: &Arc<Self>,
        running: &Arc<Running>,
        request: &Request,
        spec: Spec,
        first: bool,
    ) -> Result<u32, ShimError> {
        let failed = || ShimError::io("mount the files of", &request.id);
        let name = share::random_name().map_err(failed())?;
        let (directory, read_only) = spec.root(&request.bundle);
        let (guest_spec, volumes) = spec.for_guest(&request.id, &name, request.stdio.terminal);
        let mounts: Vec<FileSystem> = request.rootfs.iter().map(file_system).collect();
        let root = RootFileSystem { mounts: &mounts, directory: &directory, read_only };
        let files = running.machine.files().add_container(&name, &root, &volumes).map_err(failed())?;
        let (stdio, streams) = Stdio::open(&running.machine, &request.stdio).await?;
        let guest_request = guest::CreateContainerRequest {
            id: request.id.clone(),
            spec: guest_spec,
            streams: MessageField::some(streams),
            ..Default::default()
        };
        running.guest.create_container(soon(), &guest_request).await?;

        let init = Process::new(&request.id, "", request.stdio.clone(), Vec::new());
        *init.stdio.lock().await = Some(stdio);
        let known = first || self.is_containerds(&request.bundle);
        let container = Arc::new(Container::new(&request.id, request.bundle.clone(), init, files, known));
        self.containers().insert(request.id.clone(), Arc::clone(&container));
        self.follow(running, Arc::clone(&container.init), known);
        if known {
            self.events.publish(TaskCreate {
                container_id: request.id.clone(),
                bundle: request.bundle.to_string_lossy().into_owned(),
                rootfs: request.rootfs.clone(),
                io: MessageField::some(TaskIO {
                    stdin: request.stdio.stdin.clone(),
                    stdout: request.stdio.stdout.clone(),
                    stderr: request.stdio.stderr.clone(),
                    terminal: request.stdio.terminal,
                    ..Default::default()
                }),
                pid: self.pid(),
                ..Default::default()
            });
        }
        Ok(self.pid())
    }

    /// containerd's bundles are beside each other; a companion's is elsewhere.
    fn is_containerds(&self, bundle: &Path) -> bool {
        self.container(&self.id).is_ok_and(|own| own.bundle.parent() == bundle.parent())
    }
}

/// containerd's mount in the terms of [`crate::vm::system`].
fn file_system(mount: &Mount) -> FileSystem {
    FileSystem {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}
