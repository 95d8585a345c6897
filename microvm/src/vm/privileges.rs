//! What each program of a sandbox may do: capabilities, limits, system calls.

use std::collections::BTreeMap;

use nix::sys::resource::Resource;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Capabilities as bits; the numbers are those of `linux/capability.h`.
const fn bits(numbers: &[u32]) -> u64 {
    let (mut bits, mut index) = (0, 0);
    while index < numbers.len() {
        bits |= 1 << numbers[index];
        index += 1;
    }
    bits
}

const CHOWN: u32 = 0;
const DAC_OVERRIDE: u32 = 1;
const DAC_READ_SEARCH: u32 = 2;
const FOWNER: u32 = 3;
const FSETID: u32 = 4;
const KILL: u32 = 5;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const SETPCAP: u32 = 8;
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const SYS_RESOURCE: u32 = 24;
const MKNOD: u32 = 27;
const SETFCAP: u32 = 31;

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
/// systems: the kernel works on their layers with the capabilities of whoever mounted them.
pub const SHIM: u64 = VIRTIOFSD | bits(&[MKNOD, NET_ADMIN]);

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

/// Limits of virtiofsd: it writes what the guest writes, and raises the number of open files itself.
pub fn file_server_limits() -> Vec<(Resource, u64)> {
    vec![(Resource::RLIMIT_CORE, 0)]
}

/// System calls that a device's program never makes and that have led out of sandboxes before.
const DENIED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// The filter of a device's program: sockets of its own machine only, and none of [`DENIED`].
pub fn device_filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let domain = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![domain])?]);
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture)?.try_into()
}

/// Gives up, for this process and all that it starts, what the shim never needs.
pub fn limit_shim() -> Result<(), String> {
    let failed = |error: caps::errors::CapsError| error.to_string();
    let kept: caps::CapsHashSet =
        caps::all().into_iter().filter(|capability| SHIM & capability.bitmask() != 0).collect();
    for capability in caps::runtime::procfs_all_supported(None).map_err(failed)? {
        if !kept.contains(&capability)
            && caps::has_cap(None, caps::CapSet::Bounding, capability).map_err(failed)?
        {
            caps::drop(None, caps::CapSet::Bounding, capability).map_err(failed)?;
        }
    }
    for set in [caps::CapSet::Ambient, caps::CapSet::Inheritable] {
        caps::clear(None, set).map_err(failed)?;
    }
    for set in [caps::CapSet::Effective, caps::CapSet::Permitted] {
        let now = caps::read(None, set).map_err(failed)?;
        caps::set(None, set, &now.intersection(&kept).copied().collect()).map_err(failed)?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(|errno| errno.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_filter_compiles() {
        assert!(device_filter().expect("compiled").len() > DENIED.len());
    }

    #[test]
    fn only_the_shim_may_have_device_nodes_made_and_nobody_loads_modules() {
        const SYS_MODULE: u32 = 16;
        assert_eq!(VIRTIOFSD & bits(&[MKNOD, NET_ADMIN, SYS_MODULE]), 0);
        assert_eq!(SHIM & bits(&[SYS_MODULE]), 0);
    }
}
