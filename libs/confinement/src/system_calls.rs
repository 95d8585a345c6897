//! System calls that a process of ours never makes, refused by a filter (seccomp(2)): EPERM, so that what was overlooked
//! fails and ends nothing.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::ConfinementError;

/// Calls that no program of ours makes and that have led out of sandboxes before.
pub const NEVER: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_userfaultfd,
];

/// Changing mounts, but for taking them away.
pub const MOUNTING: &[libc::c_long] = &[
    libc::SYS_chroot,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
];

/// Taking mounts away.
pub const UNMOUNTING: &[libc::c_long] = &[libc::SYS_umount2];

/// Making and entering namespaces by themselves.
pub const NAMESPACES: &[libc::c_long] = &[libc::SYS_setns, libc::SYS_unshare];

/// Executing programs.
pub const PROGRAMS: &[libc::c_long] = &[libc::SYS_execve, libc::SYS_execveat];

/// A filter that refuses these calls, and sockets of other families than these; without families all are allowed.
pub fn filter(
    refused: &[&[libc::c_long]],
    families: Option<&[libc::c_int]>,
) -> Result<BpfProgram, ConfinementError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        refused.iter().copied().flatten().map(|call| (*call, Vec::new())).collect();
    if let Some(families) = families {
        let others = families.iter().map(|family| {
            let family = u64::from(family.unsigned_abs());
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
        });
        let others = others.collect::<Result<Vec<_>, _>>()?;
        rules.insert(libc::SYS_socket, vec![SeccompRule::new(others)?]);
    }
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture)?.try_into()?)
}

/// Puts all threads of this process under a filter, and what they start. It takes `no_new_privs`.
pub fn apply(filter: &BpfProgram) -> Result<(), ConfinementError> {
    Ok(seccompiler::apply_filter_all_threads(filter)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_refuses_what_it_names_and_other_sockets_and_lets_the_rest_be() {
        let refused = filter(&[PROGRAMS], Some(&[libc::AF_UNIX, libc::AF_VSOCK])).expect("compiled");
        std::thread::scope(|scope| {
            let attempts = scope.spawn(|| {
                nix::sys::prctl::set_no_new_privs().expect("no new privileges");
                // For this thread: the other tests go on without it.
                seccompiler::apply_filter(&refused).expect("applied");
                let run = std::process::Command::new("/bin/true").status().map_err(|error| error.kind());
                let inet = std::net::UdpSocket::bind("127.0.0.1:0").map_err(|error| error.kind());
                let unix =
                    std::os::unix::net::UnixDatagram::unbound().map(drop).map_err(|error| error.kind());
                (run.map(drop), inet.map(drop), unix)
            });
            let denied = Err(std::io::ErrorKind::PermissionDenied);
            assert_eq!(attempts.join().expect("no panic"), (denied, denied, Ok(())));
        });
    }

    #[test]
    fn no_call_is_in_two_lists() {
        let all = [NEVER, MOUNTING, UNMOUNTING, NAMESPACES, PROGRAMS].concat();
        assert_eq!(all.len(), all.iter().collect::<std::collections::BTreeSet<_>>().len());
    }
}
