//! A container's files on the host: its root file system and its bind mounts, mounted where the guest sees them.

use std::path::{Path, PathBuf};

use containerd_shim::{mount::mount_rootfs, protos::types::mount::Mount};

use super::{ShimError, spec::HostMount};
use crate::vm::mounts;

/// What the host has mounted for a container; gone when dropped.
#[derive(Debug)]
pub struct ContainerFiles {
    directory: PathBuf,
}

impl ContainerFiles {
    /// Makes the container's directory.
    pub fn make(directory: PathBuf) -> Result<Self, ShimError> {
        let rootfs = directory.join("rootfs");
        std::fs::create_dir_all(&rootfs).map_err(ShimError::io("create", &rootfs))?;
        let mounts = directory.join("mounts");
        std::fs::create_dir_all(&mounts).map_err(ShimError::io("create", &mounts))?;
        Ok(Self { directory })
    }

    /// Mounts the root file system: what containerd says, or a bind of a directory where it says nothing.
    pub fn mount_root(&self, containerd: &[Mount], root: &Path, read_only: bool) -> Result<(), ShimError> {
        let target = self.directory.join("rootfs");
        if containerd.is_empty() {
            let failed = |errno: nix::Error| ShimError::io("bind", root)(errno.into());
            return mounts::bind(root, &target, read_only).map_err(failed);
        }
        let containerd = containerd.to_vec();
        // Long overlay options make the call change the thread's working directory, so it has a thread of its own.
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn(move || {
            for mount in containerd {
                let (kind, source) = (Some(mount.type_.as_str()), Some(mount.source.as_str()));
                mount_rootfs(kind, source, &mount.options, target.join(&mount.target))?;
            }
            Ok::<(), containerd_shim::Error>(())
        });
        let joined = thread.map_err(ShimError::io("mount", &self.directory))?.join();
        joined.map_err(|_| ShimError::Internal("the mounting thread panicked"))?.map_err(ShimError::Shim)
    }

    /// Binds the host's files and directories.
    pub fn bind(&self, wanted: &[HostMount]) -> Result<(), ShimError> {
        for mount in wanted {
            let source = &mount.source;
            let target = self.directory.join("mounts").join(&mount.name);
            let metadata = std::fs::metadata(source).map_err(ShimError::io("bind", source))?;
            let made =
                if metadata.is_dir() { std::fs::create_dir(&target) } else { std::fs::write(&target, b"") };
            made.map_err(ShimError::io("create", &target))?;
            mounts::bind(source, &target, mount.read_only)
                .map_err(|errno| ShimError::io("bind", source)(errno.into()))?;
        }
        Ok(())
    }
}

impl Drop for ContainerFiles {
    fn drop(&mut self) {
        if let Err(error) = mounts::detach_below(&self.directory) {
            tracing::warn!(%error, directory = %self.directory.display(), "mounts remain");
            return;
        }
        // Only empty directories and the files that stood for mounts are left.
        if let Err(error) = std::fs::remove_dir_all(&self.directory)
            // With the sandbox's end everything below its directory has gone already.
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, directory = %self.directory.display(), "a container's directory remains");
        }
    }
}
