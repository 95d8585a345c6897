//! What the host shares with a guest.
//!
//! The host works in a private directory, a small file system in memory ([`PRIVATE`]). The guest sees a read-only copy
//! of it ([`EXPOSED`]) in which the host's later mounts appear: there only the root file systems and volumes of
//! containers can be written, and nothing that the guest writes is a name that the host resolves. Containers have
//! random names, and every mount forbids set-user-id programs and device nodes on the host.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::system::{FileSystem, Linux, MemoryBounds, System};

/// The host's directory, below a sandbox's state directory.
const PRIVATE: &str = "share";

/// The guest's view of it.
const EXPOSED: &str = "guest";

/// Where root file systems are put together before the guest sees them.
const STAGING: &str = "staging";

/// A directory or an empty file for each mount, and nothing else.
const BOUNDS: MemoryBounds = MemoryBounds { bytes: 1 << 20, inodes: 8192 };

/// A file or directory of the host that a container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Path on the host.
    pub source: PathBuf,
    /// Name among the container's volumes.
    pub name: String,
    /// Whether the guest must not write to it.
    pub read_only: bool,
}

/// A root file system.
#[derive(Clone, Debug)]
pub struct RootFileSystem<'a> {
    /// The file systems that make it; none for the directory alone.
    pub mounts: &'a [FileSystem],
    /// The directory, where there are no mounts.
    pub directory: &'a Path,
    /// Whether the guest must not write to it.
    pub read_only: bool,
}

/// The files that a sandbox's containers share with the host.
#[derive(Debug)]
pub struct SharedFiles<S: System = Linux> {
    system: Arc<S>,
    directory: PathBuf,
    private: S::Handle,
}

impl SharedFiles<Linux> {
    /// Prepares what virtiofsd serves, below a sandbox's state directory.
    pub fn prepare(directory: &Path) -> io::Result<Self> {
        Self::prepare_with(Arc::new(Linux), directory)
    }

    /// The directory that the guest sees, below a sandbox's state directory.
    pub fn exposed(directory: &Path) -> PathBuf {
        directory.join(EXPOSED)
    }
}

#[cfg(test)]
impl SharedFiles<Linux> {
    /// A stand-in, of which nothing is mounted.
    pub fn stand_in(directory: &Path) -> Self {
        let private = Linux.open_directory(directory).expect("a directory");
        Self { system: Arc::new(Linux), directory: directory.to_owned(), private }
    }
}

#[cfg(test)]
impl ContainerFiles<Linux> {
    /// A stand-in, of which nothing is mounted.
    pub fn stand_in(directory: &Path) -> Self {
        let system = Arc::new(Linux);
        Self { system, directory: directory.join("none"), staging: directory.join("nothing") }
    }
}

impl<S: System> SharedFiles<S> {
    fn prepare_with(system: Arc<S>, directory: &Path) -> io::Result<Self> {
        let (private, exposed) = (directory.join(PRIVATE), directory.join(EXPOSED));
        for path in [&private, &exposed, &directory.join(STAGING)] {
            system.create_directory(path)?;
        }
        system.mount_memory(&private, BOUNDS)?;
        system.bind_slave(&private, &exposed)?;
        let opened = system.open_directory(&private)?;
        Ok(Self { system, directory: directory.to_owned(), private: opened })
    }

    /// Mounts a container's files under a new name. When it fails nothing of the container remains.
    pub fn add_container(
        &self,
        name: &str,
        root: &RootFileSystem<'_>,
        volumes: &[Volume],
    ) -> io::Result<ContainerFiles<S>> {
        let directory = self.system.create_directory_in(&self.private, name)?;
        // Undoes what follows when it is dropped.
        let files = ContainerFiles {
            system: Arc::clone(&self.system),
            directory: self.directory.join(PRIVATE).join(name),
            staging: self.directory.join(STAGING).join(name),
        };
        let target = self.system.create_directory_in(&directory, "rootfs")?;
        if root.mounts.is_empty() {
            self.bind(root.directory, &target, root.read_only)?;
        } else {
            self.system.create_directory(&files.staging)?;
            for file_system in root.mounts {
                self.system.mount(file_system, &files.staging)?;
            }
            self.bind(&files.staging, &target, root.read_only)?;
            self.system.detach_below(&files.staging)?;
        }
        let volumes_directory = self.system.create_directory_in(&directory, "mounts")?;
        for volume in volumes {
            let target = if self.system.is_directory(&volume.source)? {
                self.system.create_directory_in(&volumes_directory, &volume.name)?
            } else {
                self.system.create_file_in(&volumes_directory, &volume.name)?
            };
            self.bind(&volume.source, &target, volume.read_only)?;
        }
        Ok(files)
    }

    fn bind(&self, source: &Path, target: &S::Handle, read_only: bool) -> io::Result<()> {
        let tree = self
            .system
            .clone_tree(source)
            .map_err(|error| io::Error::new(error.kind(), format!("bind {}: {error}", source.display())))?;
        self.system.restrict_tree(&tree, read_only)?;
        self.system.attach_tree(&tree, target)
    }
}

/// A name for a container's directory that a guest cannot know in advance.
pub fn random_name() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// What the host has mounted for a container; removed when dropped.
#[derive(Debug)]
pub struct ContainerFiles<S: System = Linux> {
    system: Arc<S>,
    directory: PathBuf,
    staging: PathBuf,
}

impl<S: System> Drop for ContainerFiles<S> {
    fn drop(&mut self) {
        for directory in [&self.staging, &self.directory] {
            let removed = self.system.detach_below(directory);
            // Nothing is mounted in there any more, so that nothing of a container can be removed.
            if let Err(error) = removed.and_then(|()| self.system.remove_directory(directory)) {
                tracing::warn!(%error, directory = %directory.display(), "a container's mounts remain");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::system::recorded::Recorded;

    fn overlay() -> Vec<FileSystem> {
        vec![FileSystem { kind: "overlay".into(), ..FileSystem::default() }]
    }

    fn add(system: Recorded, mounts: &[FileSystem]) -> (Vec<String>, io::Result<Vec<String>>) {
        let shared = SharedFiles::prepare_with(Arc::new(system), Path::new("/s")).expect("prepared");
        let before = shared.system.lines().len();
        let root = RootFileSystem { mounts, directory: Path::new("/b/rootfs"), read_only: true };
        let volume =
            |source: &str, name: &str| Volume { source: source.into(), name: name.into(), read_only: false };
        let made = shared.add_container("n", &root, &[volume("/v", "0"), volume("/etc/f.conf", "1")]);
        let at_return = shared.system.lines().len();
        let result = made.map(drop);
        let lines = shared.system.lines();
        (lines[before..at_return].to_vec(), result.map(|()| lines[at_return..].to_vec()))
    }

    #[test]
    fn the_guests_view_is_made_read_only_before_anything_is_in_it() {
        let shared =
            SharedFiles::prepare_with(Arc::new(Recorded::default()), Path::new("/s")).expect("prepared");
        assert_eq!(
            shared.system.lines(),
            [
                "create_directory /s/share",
                "create_directory /s/guest",
                "create_directory /s/staging",
                "mount_memory /s/share",
                "bind_slave /s/share /s/guest",
                "open_directory /s/share",
            ]
        );
    }

    #[test]
    fn a_tree_is_restricted_before_it_is_attached() {
        let (made, removed) = add(Recorded::default(), &overlay());
        assert_eq!(
            made,
            [
                "create_directory_in /s/share/n",
                "create_directory_in /s/share/n/rootfs",
                "create_directory /s/staging/n",
                "mount overlay /s/staging/n",
                "clone_tree /s/staging/n",
                "restrict_tree /s/staging/n read-only",
                "attach_tree /s/staging/n /s/share/n/rootfs",
                "detach_below /s/staging/n",
                "create_directory_in /s/share/n/mounts",
                "create_directory_in /s/share/n/mounts/0",
                "clone_tree /v",
                "restrict_tree /v writable",
                "attach_tree /v /s/share/n/mounts/0",
                "create_file_in /s/share/n/mounts/1",
                "clone_tree /etc/f.conf",
                "restrict_tree /etc/f.conf writable",
                "attach_tree /etc/f.conf /s/share/n/mounts/1",
            ]
        );
        assert_eq!(removed.expect("made"), REMOVED);
    }

    const REMOVED: [&str; 4] = [
        "detach_below /s/staging/n",
        "remove_directory /s/staging/n",
        "detach_below /s/share/n",
        "remove_directory /s/share/n",
    ];

    #[test]
    fn whatever_fails_nothing_of_the_container_remains() {
        for step in [
            "create_directory_in /s/share/n/rootfs",
            "create_directory /s/staging/n",
            "mount overlay",
            "clone_tree /s/staging/n",
            "restrict_tree /s/staging/n",
            "attach_tree /s/staging/n",
            "create_directory_in /s/share/n/mounts/0",
            "clone_tree /v",
            "attach_tree /v",
            "create_file_in",
            "restrict_tree /etc/f.conf",
        ] {
            let (lines, result) = add(Recorded::failing_at(step), &overlay());
            result.expect_err(step);
            assert!(lines.ends_with(&REMOVED.map(str::to_owned)), "{step}: {lines:#?}");
        }
    }

    #[test]
    fn what_cannot_be_detached_is_not_removed() {
        let (_, removed) = add(Recorded::failing_at("detach_below /s/share/n"), &[]);
        let removed = removed.expect("made");
        assert!(!removed.iter().any(|line| line == "remove_directory /s/share/n"), "{removed:?}");
    }

    #[test]
    fn names_are_long_and_never_the_same() {
        let (one, other) = (random_name().expect("name"), random_name().expect("name"));
        assert!(one != other && one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
    }
}
