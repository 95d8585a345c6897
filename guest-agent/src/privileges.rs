//! What the agent gives up once its probes run.

use caps::{CapSet, Capability, CapsHashSet};

/// What could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The capabilities.
    #[error("dropping capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The promise never to gain any again.
    #[error("setting no_new_privs: {0}")]
    NoNewPrivileges(nix::Error),
}

/// Gives up every capability and the way to any new one. Must be called before other threads are started: each
/// thread has its own.
///
/// Maps are used through descriptors, which takes no capability from Linux 5.19 on
/// (`kernel/bpf/syscall.c`, `unprivileged_bpf_disabled`); on older kernels `CAP_BPF` stays.
pub fn give_up(kernel: (u32, u32)) -> Result<(), PrivilegeError> {
    let mut keep = CapsHashSet::new();
    if kernel < (5, 19) && caps::has_cap(None, CapSet::Permitted, Capability::CAP_BPF)? {
        keep.insert(Capability::CAP_BPF);
    }
    // Needs CAP_SETPCAP, which a sidecar does not have; without a permitted one the bounding set is of no use to us.
    if let Err(error) = caps::clear(None, CapSet::Bounding) {
        tracing::debug!(%error, "the bounding set stays");
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    nix::sys::prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivileges)
}

/// Major and minor version in a kernel's release.
pub fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The running kernel's release.
pub fn kernel_release() -> String {
    let names = nix::sys::utsname::uname();
    names.map_or_else(|_| String::new(), |names| names.release().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_whatever_follows() {
        assert_eq!(kernel_version("6.1.0-56-cloud-amd64"), (6, 1));
        assert_eq!(kernel_version("6.18.44-fc-v657"), (6, 18));
        assert_eq!(kernel_version(""), (0, 0));
        assert!(kernel_version(&kernel_release()) > (2, 6));
    }
}
