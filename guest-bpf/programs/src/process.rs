//! Exits of processes, and the names of their control groups.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_cgroup_id, bpf_ktime_get_ns, bpf_probe_read_kernel_str},
    },
};
use porthole_bpf_types::record::{CGROUP_DEPTH_MAX, CGROUP_NAME_MAX, Exit, kind};

use crate::{
    kernel::{current, load, read},
    maps::{CGROUP, CGROUPS, MEMORY, memory, offset},
    ring,
};

/// Index of the system call's program in [`CGROUP`].
pub const BY_CALL: u32 = 0;
/// Index of the exit's program in [`CGROUP`].
pub const BY_EXIT: u32 = 1;

/// Least time between two wake-ups of the agent for processes that are not a container's first, in nanoseconds.
const WAKE_INTERVAL_NS: u64 = 20_000_000;

/// Whether no other thread of the running one's process is left.
#[inline(always)]
pub fn is_last_thread() -> bool {
    // SAFETY: typed pointers, checked against null; the verifier makes loads from them safe.
    unsafe {
        let signal: *const u8 = load(current().cast(), offset!(task_signal));
        !signal.is_null() && load::<i32>(signal, offset!(signal_live)) <= 0
    }
}

/// The last thread of a process exits: sends a record.
#[inline(always)]
pub fn exited() {
    let init = is_namespace_init();
    // SAFETY: a helper without preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // The agent has no use for the exits of processes that never used a socket.
    if !init && CGROUPS.get_ptr(cgroup).is_none() {
        return;
    }
    announce_cgroup(BY_EXIT);
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let last = is_last_of_cgroup();
    let exit = Exit {
        kind: kind::EXIT,
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        cgroup,
        timestamp: now,
        made: made(),
        init: u8::from(init),
        last: u8::from(last),
        reserved: [0; 6],
    };
    ring::send_exit(&exit, init || last || may_wake(now));
}

/// Whether the last wake-up is long enough ago; then this is the last one.
#[inline(always)]
fn may_wake(now: u64) -> bool {
    let Some(last) = MEMORY.get_ptr_mut(memory::EXIT_WAKE) else { return false };
    // SAFETY: a value that a look-up gave (see `maps`); of two CPUs at once both may wake, which does no harm.
    unsafe {
        if now.wrapping_sub(read_volatile(last)) < WAKE_INTERVAL_NS {
            return false;
        }
        write_volatile(last, now);
    }
    true
}

/// Whether the process is the first one of a pid namespace other than the outermost.
#[inline(always)]
fn is_namespace_init() -> bool {
    // SAFETY: typed pointers, checked against null; the verifier makes loads from them safe.
    let (pid, level) = unsafe {
        let pid: *const u8 = load(current().cast(), offset!(task_thread_pid));
        if pid.is_null() {
            return false;
        }
        (pid as u64, load::<u32>(pid, offset!(pid_level)))
    };
    if level == 0 {
        return false;
    }
    // `struct upid` is an int and a pointer; its number comes first.
    let number: Option<i32> = read(pid + offset!(pid_numbers) as u64 + u64::from(level) * 16);
    number == Some(1)
}

/// When the running task's process was made, nanoseconds of `CLOCK_BOOTTIME`.
#[inline(always)]
fn made() -> u64 {
    // SAFETY: typed pointers, checked against null; the verifier makes loads from them safe.
    unsafe {
        let leader: *const u8 = load(current().cast(), offset!(task_group_leader));
        if leader.is_null() { 0 } else { load(leader, offset!(task_start_boottime)) }
    }
}

/// Whether no other task shares the running one's control groups.
#[inline(always)]
fn is_last_of_cgroup() -> bool {
    // SAFETY: typed pointers, checked against null; the verifier makes loads from them safe.
    unsafe {
        let set: *const u8 = load(current().cast(), offset!(task_cgroups));
        !set.is_null() && load::<i32>(set, offset!(css_set_nr_tasks)) <= 1
    }
}

/// Sends the name of the running task's control group to user space, once. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn announce_cgroup(by: u32) -> u64 {
    // SAFETY: a helper without preconditions.
    let id = unsafe { bpf_get_current_cgroup_id() };
    if CGROUPS.get_ptr(id).is_some() {
        return 0;
    }
    let Some(cgroup) = CGROUP.get_ptr_mut(by) else { return 0 };
    // SAFETY: a value that a look-up gave (see `maps`), which only the program `by` uses.
    let cgroup = unsafe { &mut *cgroup };
    cgroup.kind = kind::CGROUP;
    cgroup.cgroup = id;
    // SAFETY: typed pointers, checked against null; the verifier makes loads from them safe.
    let mut node: u64 = unsafe {
        let set: *const u8 = load(current().cast(), offset!(task_cgroups));
        if set.is_null() {
            return 0;
        }
        let group: *const u8 = load(set, offset!(css_set_dfl_cgrp));
        if group.is_null() {
            return 0;
        }
        load::<*const u8>(group, offset!(cgroup_kn)) as u64
    };
    let mut depth = 0;
    while depth < CGROUP_DEPTH_MAX {
        cgroup.names[depth][0] = 0;
        let name: u64 = read(node + offset!(kernfs_name) as u64).unwrap_or(0);
        // SAFETY: within the array; the source is checked by the helper.
        unsafe {
            bpf_probe_read_kernel_str(
                cgroup.names[depth].as_mut_ptr().cast(),
                CGROUP_NAME_MAX as u32,
                name as *const _,
            )
        };
        node = read(node + offset!(kernfs_parent) as u64).unwrap_or(0);
        depth += 1;
    }
    if ring::send_cgroup(cgroup) {
        let _ = CGROUPS.insert(id, 1, u64::from(BPF_ANY));
    }
    0
}
