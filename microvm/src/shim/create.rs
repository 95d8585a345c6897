//! Create: the first container makes the sandbox's machine, further ones join it.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
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
    sandbox::{Running, Sandbox},
    spec::{Role, Spec},
    stdio::{Stdio, StdioPaths},
};
use crate::{
    vm::{
        Machine, cgroup, cleanup, privileges,
        process::ProcessRef,
        qemu,
        record::Record,
        sandbox_environment::Environment,
        share::{self, RootFileSystem},
        state_directory,
        system::{FileSystem, Linux},
    },
    wire::guest,
};

/// What containerd, or a companion, requests.
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
            if let Err(error) = privileges::confine_running_shim() {
                tracing::warn!(%error, "the shim keeps privileges that it no longer needs");
            }
            Ok(pid)
        };
        let made: Result<u32, ShimError> = made.await;
        if let Err(error) = &made {
            tracing::error!(%error, "the sandbox was not made");
            self.set_machine(None);
            self.ended().send_replace(true);
            self.leave_groups();
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
        state_directory::create(&directory).map_err(ShimError::io("create", &directory))?;
        let own = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
        let mut record =
            Record { sandbox: self.key.to_string(), shim: ProcessRef::of("shim", own), ..Record::default() };
        record.save(&directory).map_err(ShimError::io("write the record in", &directory))?;
        let groups = self.planned_groups(spec);
        record.control_groups.clone_from(&groups.missing);
        record.save(&directory).map_err(ShimError::io("write the record in", &directory))?;
        let environment = Environment {
            sandbox: self.key.to_string(),
            directory: directory.clone(),
            // No two shims that run have one process number.
            user: self.config.user_base.saturating_add(std::process::id()),
            members: self.members(&groups),
            oom_score: spec.oom_score(),
        };
        self.enter_groups(&groups, &environment.members);
        let namespace = spec.network_namespace();
        let machine = Machine::start(&self.config, &environment, namespace.as_deref(), &mut record).await?;
        record.save(&directory).map_err(ShimError::io("write the record in", &directory))?;
        let agent_wait = self.config.agent_wait(qemu::use_kvm(self.config.accelerator));
        let guest = machine.connect(self.config.boot_timeout(), agent_wait).await?;
        // Not before the guest is up: a client that learns the address dials it at once, and vhost-device-vsock can
        // lose connections that are opened before the guest has its device.
        let socket = directory.join(monitor::FILE);
        let monitor = monitor::serve(&socket, machine.channel().to_string())
            .map_err(ShimError::io("listen on", &socket))?;
        let running = Arc::new(Running { machine, guest, monitor, record: Mutex::new(record) });
        self.set_machine(Some(Arc::clone(&running)));
        Ok(running)
    }

    /// The control groups of the sandbox's programs, which are on record before they are made.
    fn planned_groups(&self, spec: &Spec) -> cgroup::Plan {
        let path = spec.control_group().unwrap_or_else(|| format!("/{}/{}", self.key.namespace, self.key.id));
        cgroup::plan(&Linux, &path).unwrap_or_else(|error| {
            self.warn_of_groups(&error);
            cgroup::Plan::default()
        })
    }

    fn members(&self, groups: &cgroup::Plan) -> Vec<OwnedFd> {
        groups.make(&Linux).unwrap_or_else(|error| {
            self.warn_of_groups(&error);
            Vec::new()
        })
    }

    /// Has what the guest makes the shim do accounted and limited with the rest of the sandbox.
    fn enter_groups(&self, groups: &cgroup::Plan, members: &[OwnedFd]) {
        match cgroup::Stay::begin(&Linux, groups, members) {
            Ok(stay) => *self.stay.lock().unwrap_or_else(PoisonError::into_inner) = Some(stay),
            Err(error) => {
                tracing::warn!(%error, sandbox = %self.key, "the shim is not in the sandbox's control group");
            }
        }
    }

    /// Leaves the sandbox's groups, which can then be removed.
    pub(super) fn leave_groups(&self) {
        if let Some(stay) = self.stay.lock().unwrap_or_else(PoisonError::into_inner).take() {
            stay.end(&Linux);
        }
    }

    /// A host on which the groups cannot be made runs the sandbox all the same.
    fn warn_of_groups(&self, error: &std::io::Error) {
        tracing::warn!(%error, sandbox = %self.key, "the sandbox is in no control group of its own");
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
        running.make(&guest_request).await?;

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

impl Running {
    /// Has the guest make a container. When the call fails, nothing of the container stays there, also if only the response was lost.
    pub(super) async fn make(&self, request: &guest::CreateContainerRequest) -> Result<(), ShimError> {
        let made = self.call(async |guest, context| guest.create_container(context, request).await).await;
        if made.is_err() {
            self.forget(&request.id, "").await;
        }
        Ok(made.map(drop)?)
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
