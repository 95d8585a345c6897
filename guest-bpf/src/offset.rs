//! Where the programs find things in the kernel's structs.
//!
//! aya-ebpf has no CO-RE relocations. So the agent looks the offsets up in the running kernel's BTF and hands them
//! to the programs as read-only globals, which the verifier takes for constants.

/// Declares [`KernelOffsets`] and, from the same list, where each of its fields comes from.
macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident = $structure:literal $member:literal $(| $other:literal)?;)*) => {
        /// Offsets in bytes, all resolved for one kernel.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct KernelOffsets {
            $($(#[$doc])* pub $field: u32,)*
        }

        /// The fields of [`KernelOffsets`] in their order: the struct, the member, and the name that the member has
        /// in other kernels.
        pub const SOURCES: &[Source] = &[
            $(Source {
                structure: $structure,
                member: $member,
                other: { let other: &[&str] = &[$($other)?]; other },
            },)*
        ];

        impl KernelOffsets {
            /// Puts one offset for each of [`SOURCES`] in its field.
            pub fn from_array(offsets: [u32; SOURCES.len()]) -> Self {
                let [$($field),*] = offsets;
                Self { $($field),* }
            }
        }
    };
}

/// A member of one of the kernel's structs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The struct's name.
    pub structure: &'static str,
    /// The member's name; members of anonymous structs and unions inside count as the struct's own.
    pub member: &'static str,
    /// Its names in other kernels.
    pub other: &'static [&'static str],
}

offsets! {
    /// Open files of a task.
    task_files = "task_struct" "files";
    /// What the threads of a process share.
    task_signal = "task_struct" "signal";
    /// The task's control groups.
    task_cgroups = "task_struct" "cgroups";
    /// The first thread of the task's process.
    task_group_leader = "task_struct" "group_leader";
    /// When the task was made, nanoseconds of `CLOCK_BOOTTIME`.
    task_start_boottime = "task_struct" "start_boottime";
    /// The task's id, in all namespaces.
    task_thread_pid = "task_struct" "thread_pid";
    /// Threads that have not exited.
    signal_live = "signal_struct" "live";
    /// Depth of the namespace in which the id was made.
    pid_level = "pid" "level";
    /// The ids, from the outermost namespace inwards.
    pid_numbers = "pid" "numbers";
    /// The descriptor table in use.
    files_fdt = "files_struct" "fdt";
    /// Number of descriptors that the table has room for.
    fdt_max_fds = "fdtable" "max_fds";
    /// The table's array of files.
    fdt_fd = "fdtable" "fd";
    /// The file's operations: the same for all sockets.
    file_f_op = "file" "f_op";
    /// A socket's `struct socket`.
    file_private_data = "file" "private_data";
    /// The file's inode.
    file_f_inode = "file" "f_inode";
    /// Type and permissions.
    inode_i_mode = "inode" "i_mode";
    /// Number; sockets' numbers are not soon reused.
    inode_i_ino = "inode" "i_ino";
    /// The socket's protocol half.
    socket_sk = "socket" "sk";
    /// The socket's file; null for sockets that the kernel uses itself.
    socket_file = "socket" "file";
    /// `SOCK_STREAM`, `SOCK_DGRAM`, ….
    sock_type = "sock" "sk_type";
    /// The socket's other half.
    sock_socket = "sock" "sk_socket";
    /// Directions in which the stream has ended.
    sock_shutdown = "sock" "sk_shutdown";
    /// `IPPROTO_TCP`, ….
    sock_protocol = "sock" "sk_protocol";
    /// Why the connection cannot go on, an `errno`.
    sock_err = "sock" "sk_err";
    /// `AF_INET`, ….
    sock_family = "sock_common" "skc_family";
    /// `TCP_ESTABLISHED`, ….
    sock_state = "sock_common" "skc_state";
    /// Remote IPv4 address, network byte order.
    sock_daddr = "sock_common" "skc_daddr";
    /// Local IPv4 address, network byte order.
    sock_rcv_saddr = "sock_common" "skc_rcv_saddr";
    /// Remote port, network byte order.
    sock_dport = "sock_common" "skc_dport";
    /// Local port, host byte order.
    sock_num = "sock_common" "skc_num";
    /// Remote IPv6 address.
    sock_v6_daddr = "sock_common" "skc_v6_daddr";
    /// Local IPv6 address.
    sock_v6_rcv_saddr = "sock_common" "skc_v6_rcv_saddr";
    /// What takes bytes on their way between process and TCP, such as TLS in the kernel.
    tcp_ulp = "inet_connection_sock" "icsk_ulp_ops";
    /// TCP's sequence number of the next byte that the process reads.
    tcp_copied_seq = "tcp_sock" "copied_seq";
    /// TCP's sequence number of the next byte that the process writes.
    tcp_write_seq = "tcp_sock" "write_seq";
    /// TCP's sequence number of the first byte that the peer has not acknowledged.
    tcp_snd_una = "tcp_sock" "snd_una";
    /// How many were acknowledged, the connection's start among them.
    tcp_bytes_acked = "tcp_sock" "bytes_acked";
    /// Smoothed time of a round trip, microseconds times eight.
    tcp_srtt_us = "tcp_sock" "srtt_us";
    /// Segments that were sent again.
    tcp_total_retrans = "tcp_sock" "total_retrans";
    /// The name to which a unix socket is bound.
    unix_addr = "unix_sock" "addr";
    /// The unix socket at the other end.
    unix_peer = "unix_sock" "peer";
    /// Length of the name's `struct sockaddr_un`.
    unix_address_len = "unix_address" "len";
    /// The name's `struct sockaddr_un`.
    unix_address_name = "unix_address" "name";
    /// Tasks in this set of control groups.
    css_set_nr_tasks = "css_set" "nr_tasks";
    /// The control group of the unified hierarchy.
    css_set_dfl_cgrp = "css_set" "dfl_cgrp";
    /// The control group's directory.
    cgroup_kn = "cgroup" "kn";
    /// The directory's id, which `bpf_get_current_cgroup_id` gives.
    kernfs_id = "kernfs_node" "id";
    /// The directory's name.
    kernfs_name = "kernfs_node" "name";
    /// The directory above.
    kernfs_parent = "kernfs_node" "parent" | "__parent";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_and_the_struct_have_the_same_fields() {
        assert_eq!(size_of::<KernelOffsets>(), SOURCES.len() * 4);
        let mut offsets = [0; SOURCES.len()];
        offsets[0] = 11;
        offsets[SOURCES.len() - 1] = 22;
        let all = KernelOffsets::from_array(offsets);
        assert_eq!((all.task_files, all.kernfs_parent), (11, 22));
    }
}
