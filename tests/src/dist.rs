//! The built parts, as `cargo xtask build` leaves them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

/// Environment variable that names the directory with the built parts.
pub const DIST_ENV: &str = "PORTHOLE_DIST";

/// Environment variable that names the directory in which images and other downloads are kept between runs.
pub const CACHE_ENV: &str = "PORTHOLE_CACHE";

/// Where the built parts and what is kept between runs are.
#[derive(Clone, Debug)]
pub struct Dist {
    /// `target/dist`.
    pub root: PathBuf,
    /// `target/tools/bin`: vhost-device-vsock.
    pub tools: PathBuf,
    /// `target/cache`: container images, Python packages.
    pub cache: PathBuf,
}

impl Dist {
    /// The layout below cargo's target directory.
    pub fn in_target(target: &Path) -> Self {
        Self { root: target.join("dist"), tools: target.join("tools/bin"), cache: target.join("cache") }
    }

    /// What the environment variables name.
    pub fn from_env() -> Result<Self> {
        let Some(root) = std::env::var_os(DIST_ENV).map(PathBuf::from) else {
            bail!("{DIST_ENV} is not set: `cargo xtask test` builds the parts and sets it");
        };
        let target = root.parent().unwrap_or(Path::new("/")).to_owned();
        let mut dist = Self::in_target(&target);
        dist.root = root;
        if let Some(cache) = std::env::var_os(CACHE_ENV) {
            dist.cache = cache.into();
        }
        Ok(dist)
    }

    /// A host program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// The sidecar's root filesystem.
    pub fn sidecar(&self) -> PathBuf {
        self.root.join("sidecar/rootfs")
    }

    /// The guest's kernel.
    pub fn kernel(&self) -> PathBuf {
        self.root.join("guest/vmlinuz")
    }

    /// The guest's initrd.
    pub fn initrd(&self) -> PathBuf {
        self.root.join("guest/initrd.img")
    }

    /// `PATH` with our programs first.
    pub fn search_path(&self) -> OsString {
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let ours = [self.root.join("bin"), self.tools.clone()];
        // The system directories hold containerd, ip and qemu even where the caller's PATH has none of them.
        let system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .map(PathBuf::from);
        let all = ours.into_iter().chain(std::env::split_paths(&inherited)).chain(system);
        // Only a path with a colon in it cannot be joined, and such a directory cannot be in a PATH.
        std::env::join_paths(all).unwrap_or(inherited)
    }
}
