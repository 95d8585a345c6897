//! The few commands of bpf(2) that loading takes.
//!
//! aya's own loader reads all of the kernel's type information and tries out a dozen features before it loads
//! anything, half a second in an emulated guest during which requests are not captured; so the object is parsed and
//! relocated by aya's `aya-obj` and loaded here.

// The kernel's structs have 32-bit lengths for what is far smaller here.
#![allow(clippy::cast_possible_truncation)]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use aya_obj::generated::{
    BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_MAP_FD, bpf_attach_type, bpf_attr, bpf_btf_info, bpf_cmd,
    bpf_map_type, bpf_prog_info, bpf_prog_type,
};

/// What a program hooks into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A raw tracepoint.
    RawTracepoint,
    /// A tracepoint, whose type has this number in the kernel's type information.
    Tracepoint(u32),
    /// The exit of a kernel's function, which has this number in the kernel's type information.
    FunctionExit(u32),
    /// Packets that the sockets of a control group and of those below it receive.
    PacketsIn,
    /// Packets that they send.
    PacketsOut,
    /// Datagrams over IPv4 that they receive, with their sender.
    DatagramsV4,
    /// The same over IPv6.
    DatagramsV6,
}

impl Hook {
    /// Kind of program, and of attachment where there are several.
    fn kinds(self) -> (bpf_prog_type, u32) {
        match self {
            Self::RawTracepoint => (bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT, 0),
            Self::Tracepoint(_) => {
                (bpf_prog_type::BPF_PROG_TYPE_TRACING, bpf_attach_type::BPF_TRACE_RAW_TP as u32)
            }
            Self::FunctionExit(_) => {
                (bpf_prog_type::BPF_PROG_TYPE_TRACING, bpf_attach_type::BPF_TRACE_FEXIT as u32)
            }
            Self::PacketsIn => {
                (bpf_prog_type::BPF_PROG_TYPE_CGROUP_SKB, bpf_attach_type::BPF_CGROUP_INET_INGRESS as u32)
            }
            Self::PacketsOut => {
                (bpf_prog_type::BPF_PROG_TYPE_CGROUP_SKB, bpf_attach_type::BPF_CGROUP_INET_EGRESS as u32)
            }
            Self::DatagramsV4 => (
                bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
                bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG as u32,
            ),
            Self::DatagramsV6 => (
                bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
                bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG as u32,
            ),
        }
    }
}

/// Calls bpf(2).
///
/// # Safety
///
/// The pointers in `attr` must be valid for what `command` does with them.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the caller guarantees that the pointers in `attr` are valid for this command.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, size_of::<bpf_attr>()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// Calls a command of bpf(2) that gives a descriptor.
///
/// # Safety
///
/// As for [`bpf`], and `command` must be one that gives a new descriptor.
unsafe fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller guarantees what `bpf` requires.
    let fd = unsafe { bpf(command, attr)? };
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the command made a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attr() -> bpf_attr {
    // SAFETY: a union of structs of integers, for which all zero is valid; the kernel requires unused fields to be
    // zero.
    unsafe { std::mem::zeroed() }
}

/// Makes a map.
pub fn create_map(map: &aya_obj::Map) -> io::Result<OwnedFd> {
    let mut attr = attr();
    // SAFETY: every byte of the union is zero, which is valid for each of its variants.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = map.map_type();
    create.key_size = map.key_size();
    create.value_size = map.value_size();
    create.max_entries = map.max_entries();
    create.map_flags = map.map_flags();
    // SAFETY: this command's attributes have no pointers.
    unsafe { bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr) }
}

/// Makes an array of one program.
pub fn create_program_array() -> io::Result<OwnedFd> {
    let mut attr = attr();
    // SAFETY: every byte of the union is zero, which is valid for each of its variants.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY as u32;
    (create.key_size, create.value_size, create.max_entries) = (4, 4, 1);
    // SAFETY: this command's attributes have no pointers.
    unsafe { bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr) }
}

/// Makes a program's code use another map in the place of one that it was relocated to.
pub fn retarget(function: &mut aya_obj::Function, from: RawFd, to: RawFd) {
    for instruction in &mut function.instructions {
        let loads_map = u32::from(instruction.code) == BPF_LD | BPF_IMM | BPF_DW
            && u32::from(instruction.src_reg()) == BPF_PSEUDO_MAP_FD;
        if loads_map && instruction.imm == from {
            instruction.imm = to;
        }
    }
}

/// Sets the first element of an array.
fn set_first(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let key = 0_u32;
    let mut update = attr();
    // SAFETY: every byte of the union is zero, which is valid for each of its variants.
    let element = unsafe { &mut update.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd().cast_unsigned();
    element.key = (&raw const key) as u64;
    element.__bindgen_anon_1.value = value.as_ptr() as u64;
    // SAFETY: key and value live until after the call; the value is as long as the map was made for.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut update) }.map(drop)
}

/// Puts a program into an array of programs. The array forgets it when the last descriptor of the array is closed.
pub fn put_program(array: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    set_first(array, &program.as_raw_fd().to_ne_bytes())
}

/// Puts the contents of a read-only section into its map, for good.
pub fn fill_and_freeze(map: BorrowedFd<'_>, contents: &[u8]) -> io::Result<()> {
    set_first(map, contents)?;
    let mut freeze = attr();
    freeze.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    // SAFETY: this command's attributes have no pointers.
    unsafe { bpf(bpf_cmd::BPF_MAP_FREEZE, &mut freeze)? };
    Ok(())
}

/// Loads type information of programs.
pub fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = attr();
    // SAFETY: every byte of the union is zero, which is valid for each of its variants.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = types.as_ptr() as u64;
    load.btf_size = types.len() as u32;
    // SAFETY: `attr` points to the bytes with their length, and they live until after the call.
    unsafe { bpf_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr) }
}

/// The kernel's own type information: the first that a kernel has (`btf_parse_vmlinux` in `kernel/bpf/btf.c`). It takes
/// `CAP_SYS_ADMIN`.
pub fn kernel_types() -> io::Result<Vec<u8>> {
    const NAME: &[u8] = b"vmlinux\0";
    let mut by_id = attr();
    by_id.__bindgen_anon_6.__bindgen_anon_1.btf_id = 1;
    // SAFETY: this command's attributes have no pointers.
    let types = unsafe { bpf_fd(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut by_id)? };
    let mut name = [0_u8; 16];
    let mut bytes = Vec::new();
    // First the size, then the bytes.
    for _ in 0..2 {
        // SAFETY: a struct of integers, for which all zero is valid.
        let mut about: bpf_btf_info = unsafe { std::mem::zeroed() };
        about.name = name.as_mut_ptr() as u64;
        about.name_len = name.len() as u32;
        about.btf = bytes.as_mut_ptr() as u64;
        about.btf_size = bytes.capacity() as u32;
        let mut attr = attr();
        attr.info.bpf_fd = types.as_raw_fd().cast_unsigned();
        attr.info.info_len = size_of::<bpf_btf_info>() as u32;
        attr.info.info = (&raw mut about) as u64;
        // SAFETY: the struct has the length that is passed, and its buffers those that it has; all live until after the
        // call.
        unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
        if about.kernel_btf == 0 || !name.starts_with(NAME) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let size = about.btf_size as usize;
        if bytes.capacity() >= size {
            // SAFETY: the kernel wrote as many bytes, as there was room for them.
            unsafe { bytes.set_len(size) };
            return Ok(bytes);
        }
        bytes.reserve_exact(size);
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Bytes for the verifier's log of a program that it refuses.
const LOG_BYTES: usize = 1 << 20;

/// Loads a program. One of several functions needs type information with their beginnings. On refusal the error carries
/// the end of the verifier's log.
pub fn load_program(
    function: &aya_obj::Function,
    name: &str,
    hook: Hook,
    license: &CStr,
    types: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, (io::Error, String)> {
    let function_info = function.func_info.func_info_bytes();
    let mut log = Vec::new();
    let load = |log: &mut Vec<u8>| {
        let mut attr = attr();
        // SAFETY: every byte of the union is zero, which is valid for each of its variants.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        let (program, attachment) = hook.kinds();
        load.prog_type = program as u32;
        load.expected_attach_type = attachment;
        if let Hook::Tracepoint(number) | Hook::FunctionExit(number) = hook {
            load.attach_btf_id = number;
        }
        load.insns = function.instructions.as_ptr() as u64;
        load.insn_cnt = function.instructions.len() as u32;
        load.license = license.as_ptr() as u64;
        if let Some(types) = types {
            load.prog_btf_fd = types.as_raw_fd().cast_unsigned();
            load.func_info = function_info.as_ptr() as u64;
            load.func_info_cnt = function.func_info.len() as u32;
            load.func_info_rec_size = function.func_info_rec_size as u32;
        }
        for (to, &from) in load.prog_name.iter_mut().zip(name.as_bytes().iter().take(15)) {
            *to = from.cast_signed();
        }
        if !log.is_empty() {
            load.log_level = 1;
            load.log_buf = log.as_mut_ptr() as u64;
            load.log_size = log.len() as u32;
        }
        // SAFETY: all buffers live until after the call and have the lengths that the attribute gives.
        unsafe { bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) }
    };
    load(&mut log).or_else(|_| {
        // Once more, with a log, for the reason.
        log.resize(LOG_BYTES, 0);
        load(&mut log).map_err(|error| (error, log_end(&log)))
    })
}

/// The last lines of the verifier's log.
fn log_end(log: &[u8]) -> String {
    let text = &log[..log.iter().position(|&byte| byte == 0).unwrap_or(log.len())];
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Attaches a program to a raw tracepoint, or to what it was loaded for; it stays attached as long as the descriptor is
/// open.
pub fn attach(program: BorrowedFd<'_>, tracepoint: Option<&CStr>) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.raw_tracepoint.name = tracepoint.map_or(0, |name| name.as_ptr() as u64);
    attr.raw_tracepoint.prog_fd = program.as_raw_fd().cast_unsigned();
    // SAFETY: the name is a C string that lives until after the call.
    unsafe { bpf_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr) }
}

/// Attaches a program to a control group beside whatever else hangs there, as long as the descriptor is open.
pub fn attach_to_cgroup(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = hook.kinds().1;
    // SAFETY: this command's attributes have no pointers.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// The kernel's account of a program's runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Runs that were left out because the program was running on that CPU already.
    pub skipped: u64,
    /// Runs, while `kernel.bpf_stats_enabled` is set.
    pub count: u64,
    /// Their time, nanoseconds.
    pub ns: u64,
}

/// Reads the kernel's account of a program's runs.
pub fn runs(program: BorrowedFd<'_>) -> io::Result<Runs> {
    let about = about(program)?;
    Ok(Runs { skipped: about.recursion_misses, count: about.run_cnt, ns: about.run_time_ns })
}

/// Instructions that the verifier went through: those of a loop as often as it runs (Linux 5.16).
pub fn verified(program: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(about(program)?.verified_insns)
}

/// The kernel's account of a program.
fn about(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: a struct of integers, for which all zero is valid.
    let mut about: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = attr();
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = (&raw mut about) as u64;
    // SAFETY: the struct has the length that is passed and lives until after the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
    Ok(about)
}
