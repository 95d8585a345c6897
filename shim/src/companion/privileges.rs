//! What the companion may do. It executes nothing, mounts nothing, and talks to unix and vsock sockets; so it gives up the
//! rest before it connects to a shim or a guest.

use std::{os::unix::fs::MetadataExt, path::Path};

use nix::sys::resource::Resource;
use porthole_confinement::{
    ConfinementError,
    capabilities::{self, DAC_OVERRIDE, Named, SYS_ADMIN, bits},
    limit_resources,
    system_calls::{self, MOUNTING, NAMESPACES, NEVER, PROGRAMS},
};
use porthole_registry::channel::Channel;

/// The sockets of virtual machines may not belong to root (Kata's rootless ones do not), and connecting takes the right to write.
const DIALLING: u64 = bits(&[DAC_OVERRIDE]);

/// Delegates mount the sidecar's root file system in its bundle, and leave it mounted. In effect only while such a mount is
/// taken away ([`crate::state::remove_tree`]).
const WITH_SIDECAR: u64 = DIALLING | bits(&[SYS_ADMIN]);

/// The companion takes some 10 MiB, its few threads' stacks included that are never touched.
const LIMITS: &[(Resource, u64)] = &[
    (Resource::RLIMIT_CORE, 0),
    (Resource::RLIMIT_DATA, 256 << 20),
    (Resource::RLIMIT_NOFILE, 256),
    (Resource::RLIMIT_MEMLOCK, 0),
];

/// Confines the companion; called before it has a second thread.
pub fn confine() {
    let confined = [
        limit_resources(LIMITS),
        capabilities::keep_only(WITH_SIDECAR),
        capabilities::suspend(Named::CAP_SYS_ADMIN),
        filter(),
    ];
    for error in confined.into_iter().filter_map(Result::err) {
        tracing::warn!(%error, "the companion keeps privileges that it does not need");
    }
}

fn filter() -> Result<(), ConfinementError> {
    let families = [libc::AF_UNIX, libc::AF_VSOCK];
    let filter = system_calls::filter(&[NEVER, MOUNTING, NAMESPACES, PROGRAMS], Some(&families))?;
    system_calls::apply(&filter)
}

fn is_roots(socket: &Path) -> bool {
    std::fs::metadata(socket).is_ok_and(|found| found.uid() == 0)
}

/// Gives up what only a sidecar takes: the guest has an agent of its own.
pub fn without_sidecar(channel: &Channel) {
    let kept = match channel {
        Channel::Vsock { .. } => 0,
        Channel::Hybrid { path, .. } | Channel::Unix { path } if is_roots(path) => 0,
        Channel::Hybrid { .. } | Channel::Unix { .. } => DIALLING,
    };
    if let Err(error) = capabilities::reduce_to(kept) {
        tracing::warn!(%error, "the companion keeps capabilities that it does not need");
    }
}
