//! The shim's records of containers and their processes.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::vm::share::ContainerFiles;

use super::{
    ShimError,
    stdio::{Stdio, StdioPaths},
};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 and the signal's number.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

/// Status of a process whose machine was killed, or that was killed itself.
pub const KILLED: u32 = 137;

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Stopped where it was.
    Paused,
    /// Ended.
    Stopped(Exit),
}

/// A process of a container.
pub struct Process {
    /// The container.
    pub container: String,
    /// Its exec id; empty for the container's first.
    pub exec_id: String,
    /// Its streams, from containerd's request.
    pub paths: StdioPaths,
    /// The OCI `process` object of a further process.
    pub spec: Vec<u8>,
    status: watch::Sender<Status>,
    /// The open streams.
    pub stdio: AsyncMutex<Option<Stdio>>,
}

impl Process {
    /// A process that is yet to be started.
    pub fn new(container: &str, exec_id: &str, paths: StdioPaths, spec: Vec<u8>) -> Self {
        Self {
            container: container.to_owned(),
            exec_id: exec_id.to_owned(),
            paths,
            spec,
            status: watch::Sender::new(Status::Created),
            stdio: AsyncMutex::default(),
        }
    }

    /// Where it is in its life.
    pub fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// Moves on; an end is final.
    pub fn set(&self, status: Status) {
        self.status.send_if_modified(|current| {
            let ended = matches!(current, Status::Stopped(_));
            if !ended {
                *current = status;
            }
            !ended
        });
    }

    /// Waits for its end.
    pub async fn ended(&self) -> Exit {
        let mut status = self.status.subscribe();
        loop {
            if let Status::Stopped(exit) = *status.borrow_and_update() {
                return exit;
            }
            if status.changed().await.is_err() {
                return Exit { status: KILLED, at: SystemTime::now() };
            }
        }
    }

    /// Its name for people.
    pub fn name(&self) -> String {
        if self.exec_id.is_empty() {
            format!("container {}", self.container)
        } else {
            format!("process {} of container {}", self.exec_id, self.container)
        }
    }

    /// Waits until its output is with containerd, at most so long, and closes its streams.
    pub async fn drain(&self, timeout: Duration) {
        if let Some(stdio) = self.stdio.lock().await.take() {
            stdio.drain(timeout).await;
        }
    }
}

/// A container.
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its first process.
    pub init: Arc<Process>,
    /// Whether containerd made it; what a companion makes is none of containerd's business.
    pub known_to_containerd: bool,
    /// Its files on the host; gone when taken.
    pub files: Mutex<Option<ContainerFiles>>,
    execs: Mutex<HashMap<String, Arc<Process>>>,
}

impl Container {
    /// A container that was just made.
    pub fn new(
        id: &str,
        bundle: PathBuf,
        init: Process,
        files: ContainerFiles,
        known_to_containerd: bool,
    ) -> Self {
        Self {
            id: id.to_owned(),
            bundle,
            init: Arc::new(init),
            known_to_containerd,
            files: Mutex::new(Some(files)),
            execs: Mutex::default(),
        }
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process with that exec id.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>, ShimError> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let found = self.execs().get(exec_id).cloned();
        found.ok_or_else(|| ShimError::NotFound(format!("process {exec_id} of container {}", self.id)))
    }

    /// Every process.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        let mut all = vec![Arc::clone(&self.init)];
        all.extend(self.execs().values().cloned());
        all
    }

    /// Adds a process that is yet to be started.
    pub fn add(&self, process: Process) -> Result<(), ShimError> {
        let mut execs = self.execs();
        if execs.contains_key(&process.exec_id) {
            return Err(ShimError::Exists(process.name()));
        }
        execs.insert(process.exec_id.clone(), Arc::new(process));
        Ok(())
    }

    /// Forgets a process.
    pub fn remove(&self, exec_id: &str) {
        self.execs().remove(exec_id);
    }

    /// Unmounts the container's files.
    pub fn release_files(&self) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_final() {
        let process = Process::new("c", "", StdioPaths::default(), Vec::new());
        let exit = Exit { status: 3, at: SystemTime::UNIX_EPOCH };
        process.set(Status::Running);
        process.set(Status::Stopped(exit));
        process.set(Status::Running);
        assert_eq!(process.status(), Status::Stopped(exit));
        assert_eq!(process.ended().await, exit);
    }
}
