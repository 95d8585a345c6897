//! The sidecar's root filesystem: the agent, and the places on which its container's mounts go.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::ImageError;

/// Empty directories on which the sidecar's container mounts something. The root filesystem is read-only in the
/// guest, so that a runtime cannot make them.
pub const MOUNT_POINTS: &[&str] = &[
    "dev",
    "etc",
    "host/proc",
    "proc",
    "run",
    "sys",
    "sys/fs/bpf",
    "sys/fs/cgroup",
    "sys/kernel/tracing",
    "tmp",
];

/// Name of the agent in the root filesystem.
pub const AGENT: &str = "porthole-agent";

/// Lays out `<out>/sidecar/rootfs` with the agent's binary; answers its path.
pub fn build_sidecar(agent: &Path, out: &Path) -> Result<PathBuf, ImageError> {
    let rootfs = out.join("sidecar/rootfs");
    for directory in MOUNT_POINTS {
        let path = rootfs.join(directory);
        std::fs::create_dir_all(&path).map_err(ImageError::io("create", &path))?;
    }
    let bytes = std::fs::read(agent).map_err(ImageError::io("read", agent))?;
    let binary = rootfs.join(AGENT);
    crate::write_whole(&binary, &bytes)?;
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755))
        .map_err(ImageError::io("make executable", &binary))?;
    Ok(rootfs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_at_the_top_and_executable_beside_its_mount_points() {
        let scratch = tempfile::tempdir().expect("directory");
        let agent = scratch.path().join("agent");
        std::fs::write(&agent, b"binary").expect("written");
        let rootfs = build_sidecar(&agent, scratch.path()).expect("built");
        // A second build over the first replaces it.
        assert_eq!(build_sidecar(&agent, scratch.path()).expect("built again"), rootfs);
        let mode = std::fs::metadata(rootfs.join("porthole-agent")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        for directory in ["host/proc", "sys/kernel/tracing", "sys/fs/bpf", "proc", "dev", "tmp"] {
            assert!(rootfs.join(directory).is_dir(), "{directory}");
        }
    }
}
