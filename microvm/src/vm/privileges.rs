//! What each program of a sandbox may do: capabilities, limits, system calls.

use nix::sys::resource::Resource;
use porthole_confinement::{
    ConfinementError,
    capabilities::{
        self, CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, KILL, MKNOD, NET_ADMIN, SETFCAP, SETGID,
        SETPCAP, SETUID, SYS_ADMIN, SYS_NICE, SYS_RESOURCE, bits,
    },
    system_calls::{self, MOUNTING, NAMESPACES, NEVER, PROGRAMS, UNMOUNTING},
};
use seccompiler::BpfProgram;

/// Of virtiofsd, which acts on files for every user of a guest and makes its own namespaces first. Not MKNOD.
pub const VIRTIOFSD: u64 = bits(&[
    CHOWN,
    DAC_OVERRIDE,
    DAC_READ_SEARCH,
    FOWNER,
    FSETID,
    KILL,
    SETGID,
    SETUID,
    SETPCAP,
    SYS_ADMIN,
    SYS_RESOURCE,
    SETFCAP,
]);

/// Of the shim. It mounts and enters network namespaces (`SYS_ADMIN`, `NET_ADMIN`), starts programs as other users
/// (`SETUID`, `SETGID`, `SETPCAP`, `SYS_RESOURCE`) and ends them (`KILL`). The file capabilities are those of overlay file
/// systems: the kernel works on their layers with the capabilities of the process that mounted them.
/// `SYS_NICE` is for leaving a cpuset group of version 1 when a thread that is not gone yet has more capabilities.
pub const SHIM: u64 = VIRTIOFSD | bits(&[MKNOD, NET_ADMIN, SYS_NICE]);

/// Of the shim when its machine runs: it starts no programs any more.
pub const RUNNING_SHIM: u64 = SHIM & !bits(&[SETUID, SETGID, SETPCAP, SYS_RESOURCE]);

/// Open files of a program that serves one guest.
const OPEN_FILES: u64 = 4096;

/// Threads of a program that serves one guest.
const THREADS: u64 = 512;

/// Limits of the machine, whose memory is a file in memory to the kernel.
pub fn machine_limits(memory_mib: u32) -> Vec<(Resource, u64)> {
    let mut limits = device_limits();
    limits.retain(|(resource, _)| *resource != Resource::RLIMIT_FSIZE);
    limits.push((Resource::RLIMIT_FSIZE, u64::from(memory_mib) << 20));
    limits
}

/// Limits of a device's program, which writes no files.
pub fn device_limits() -> Vec<(Resource, u64)> {
    vec![
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_NOFILE, OPEN_FILES),
        (Resource::RLIMIT_NPROC, THREADS),
    ]
}

/// Open files of virtiofsd. It has one for each file that the guest remembers, for which a kernel takes a KiB of the guest's
/// memory at least; a hostile one remembers nothing and takes as many as it gets from the host's table.
pub fn served_files(memory_mib: u32) -> u64 {
    const FOR_EACH_MIB: u64 = 1024;
    const BOUNDS: (u64, u64) = (1 << 16, 1 << 20);
    (u64::from(memory_mib) * FOR_EACH_MIB).clamp(BOUNDS.0, BOUNDS.1)
}

/// Limits of virtiofsd: it writes what the guest writes, and sets the number of open files itself.
pub fn file_server_limits() -> Vec<(Resource, u64)> {
    vec![(Resource::RLIMIT_CORE, 0)]
}

/// The filter of a device's program: sockets of its own machine only, no mounts, no namespaces.
pub fn device_filter() -> Result<BpfProgram, ConfinementError> {
    system_calls::filter(&[NEVER, MOUNTING, UNMOUNTING, NAMESPACES], Some(&[libc::AF_UNIX]))
}

/// Confines the shim when its machine runs. It still mounts for further containers, and enters the pod's network
/// namespace at the end.
pub fn confine_running_shim() -> Result<(), ConfinementError> {
    let kept = capabilities::keep_only(RUNNING_SHIM);
    system_calls::apply(&system_calls::filter(&[NEVER, PROGRAMS], None)?)?;
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_filter_compiles() {
        let refused = [NEVER, MOUNTING, UNMOUNTING, NAMESPACES].concat().len();
        assert!(device_filter().expect("compiled").len() > refused);
    }

    #[test]
    fn only_the_shim_may_have_device_nodes_made_and_nobody_loads_modules() {
        const SYS_MODULE: u32 = 16;
        assert_eq!(VIRTIOFSD & bits(&[MKNOD, NET_ADMIN, SYS_MODULE]), 0);
        assert_eq!(SHIM & bits(&[SYS_MODULE]), 0);
    }
}
