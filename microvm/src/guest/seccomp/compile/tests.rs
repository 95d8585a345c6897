//! Profiles are compiled, and the program is run: by a small machine for every architecture, and by the kernel for its own.

use serde_json::{Value, json};

use super::*;

/// What the kernel hands to a program: number, architecture, instruction pointer, arguments.
fn data(architecture: u32, number: u32, arguments: [u64; 6]) -> Vec<u8> {
    let mut data = [number.to_ne_bytes(), architecture.to_ne_bytes()].concat();
    data.extend(0u64.to_ne_bytes());
    data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
    data
}

/// The machine of bpf(4), as far as these programs need it.
fn run(program: &[sock_filter], data: &[u8]) -> u32 {
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at].clone();
        at += 1;
        let operand = usize::try_from(k).expect("small");
        let holds = match u32::from(code) {
            0x20 => {
                accumulator = u32::from_ne_bytes(data[operand..operand + 4].try_into().expect("a word"));
                continue;
            }
            0x54 => {
                accumulator &= k;
                continue;
            }
            0x05 => {
                at += operand;
                continue;
            }
            0x06 => return k,
            0x15 => accumulator == k,
            0x25 => accumulator > k,
            0x35 => accumulator >= k,
            other => panic!("operation {other:#x}"),
        };
        at += usize::from(if holds { jt } else { jf });
    }
}

fn filter(profile: Value) -> Filter {
    compile(&serde_json::from_value(profile).expect("a profile")).expect("compiled")
}

/// What becomes of a call of 64-bit programs, or by its number of those with 32-bit pointers.
fn call(filter: &Filter, number: u32, arguments: &[u64]) -> u32 {
    call_of(filter, AUDIT_X86_64, number, arguments)
}

fn call_of(filter: &Filter, architecture: u32, number: u32, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    run(&filter.program, &data(architecture, number, all))
}

fn native(name: &str) -> u32 {
    numbers::number(Abi::X86_64, name).expect("a call")
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 0x26;

/// The shape of the default profile of containerd and Docker: a list of what is allowed, for three architectures.
fn container_default() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["read", "write", "mmap2", "socketcall_unknown", "socket", "execve"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 0xffff_ffffu32, "op": "SCMP_CMP_EQ"}]},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"}
        ]
    })
}

#[test]
fn a_list_of_allowed_calls_is_applied_on_every_architecture_with_its_own_numbers() {
    let filter = filter(container_default());
    for (architecture, abi) in [(AUDIT_X86_64, Abi::X86_64), (AUDIT_X86_64, Abi::X32), (AUDIT_X86, Abi::X86)]
    {
        let outcome = |name: &str, arguments: &[u64]| {
            call_of(&filter, architecture, numbers::number(abi, name).expect("a call"), arguments)
        };
        assert_eq!(outcome("read", &[]), ALLOW, "{abi:?}");
        assert_eq!(outcome("execve", &[]), ALLOW, "{abi:?}");
        assert_eq!(outcome("mount", &[]), EPERM, "{abi:?}");
        assert_eq!(outcome("clone3", &[]), ENOSYS, "{abi:?}: an error number of its own");
        assert_eq!(outcome("ptrace", &[]), EPERM, "{abi:?}");
        assert_eq!(outcome("personality", &[0]), ALLOW, "{abi:?}");
        assert_eq!(outcome("personality", &[0xffff_ffff]), ALLOW, "{abi:?}");
        assert_eq!(outcome("personality", &[8]), EPERM, "{abi:?}");
        assert_eq!(outcome("clone", &[0x11]), ALLOW, "{abi:?}");
        assert_eq!(outcome("clone", &[0x1000_0011]), EPERM, "{abi:?}: a user namespace");
    }
    let mmap2 = numbers::number(Abi::X86, "mmap2").expect("a call");
    assert_eq!(call_of(&filter, AUDIT_X86, mmap2, &[]), ALLOW);
    assert_eq!(call(&filter, NO_CALL, &[]), EPERM, "a tracer's skipped call");
    assert_eq!(call(&filter, native("read") + 5000, &[]), EPERM, "an unknown call");
}

#[test]
fn calls_of_an_architecture_that_is_not_named_end_the_thread() {
    let mut profile = container_default();
    profile["architectures"] = json!(["SCMP_ARCH_AARCH64"]);
    let filter = filter(profile);
    assert_eq!(call(&filter, native("read"), &[]), ALLOW, "the kernel's own is always named");
    let (x32, x86) = (numbers::number(Abi::X32, "read"), numbers::number(Abi::X86, "read"));
    assert_eq!(call(&filter, x32.expect("a call"), &[]), libc::SECCOMP_RET_KILL_THREAD);
    assert_eq!(call_of(&filter, AUDIT_X86, x86.expect("a call"), &[]), libc::SECCOMP_RET_KILL_THREAD);
    assert_eq!(call_of(&filter, 0xc000_00b7, 0, &[]), libc::SECCOMP_RET_KILL_THREAD, "another processor");
}

#[test]
fn a_32_bit_program_does_not_get_around_a_rule_by_the_old_call() {
    let filter = filter(container_default());
    let socketcall = numbers::number(Abi::X86, "socketcall").expect("a call");
    assert_eq!(call_of(&filter, AUDIT_X86, socketcall, &[1]), ALLOW, "socket");
    assert_eq!(call_of(&filter, AUDIT_X86, socketcall, &[2]), EPERM, "bind");
}

#[test]
fn every_comparison_has_both_halves_of_the_argument() {
    let large = 0x1_0000_0005u64;
    for (op, yes, no) in [
        ("SCMP_CMP_EQ", vec![large], vec![5, large - 1, large | 1 << 40]),
        ("SCMP_CMP_NE", vec![5, large + 1], vec![large]),
        ("SCMP_CMP_LT", vec![5, large - 1], vec![large, large + 1, 2 << 32]),
        ("SCMP_CMP_LE", vec![5, large], vec![large + 1, 2 << 32]),
        ("SCMP_CMP_GT", vec![large + 1, 2 << 32], vec![large, 6]),
        ("SCMP_CMP_GE", vec![large, 2 << 32], vec![large - 1, 6]),
    ] {
        let filter = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": large, "op": op}]}]}));
        for (arguments, wanted) in [(yes, EPERM), (no, ALLOW)] {
            for argument in arguments {
                assert_eq!(call(&filter, native("ioctl"), &[9, argument]), wanted, "{op} {argument:#x}");
            }
        }
    }
}

#[test]
fn conditions_on_different_arguments_all_hold_and_on_one_argument_one_of_them() {
    let rule = |first: u8, second: u8| {
        filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [
                {"index": first, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": second, "value": 2, "op": "SCMP_CMP_EQ"}]}]}))
    };
    let both = rule(0, 1);
    let outcome = |filter: &Filter, arguments: &[u64]| call(filter, native("ioctl"), arguments);
    assert_eq!(outcome(&both, &[1, 2]), EPERM);
    assert_eq!((outcome(&both, &[1, 3]), outcome(&both, &[0, 2])), (ALLOW, ALLOW));
    let either = rule(0, 0);
    assert_eq!(
        (outcome(&either, &[1]), outcome(&either, &[2]), outcome(&either, &[3])),
        (EPERM, EPERM, ALLOW)
    );
}

#[test]
fn a_rule_without_conditions_is_stronger_and_otherwise_the_first_counts() {
    let condition = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]);
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["ioctl"], "action": "SCMP_ACT_KILL_PROCESS", "args": condition},
        {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["ioctl"], "action": "SCMP_ACT_LOG"},
        {"names": ["fcntl"], "action": "SCMP_ACT_TRAP", "args": condition},
        {"names": ["fcntl"], "action": "SCMP_ACT_LOG", "args": condition},
        {"names": ["fcntl"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_LT"}]}]}));
    assert_eq!(call(&filter, native("ioctl"), &[1]), ENOSYS);
    assert_eq!(call(&filter, native("fcntl"), &[1]), libc::SECCOMP_RET_TRAP);
    assert_eq!(call(&filter, native("fcntl"), &[4]), libc::SECCOMP_RET_KILL_THREAD);
    assert_eq!(call(&filter, native("fcntl"), &[6]), ALLOW);
    assert_eq!(call(&filter, native("read"), &[1]), ALLOW, "the calls behind are not touched");
}

#[test]
fn every_action_and_flag_is_the_kernels() {
    let action = |name: &str| {
        let filter = filter(json!({"defaultAction": name, "defaultErrnoRet": 7}));
        call(&filter, native("read"), &[])
    };
    for (name, wanted) in [
        ("SCMP_ACT_KILL", libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS),
        ("SCMP_ACT_TRAP", libc::SECCOMP_RET_TRAP),
        ("SCMP_ACT_ERRNO", libc::SECCOMP_RET_ERRNO | 7),
        ("SCMP_ACT_TRACE", libc::SECCOMP_RET_TRACE | 7),
        ("SCMP_ACT_LOG", libc::SECCOMP_RET_LOG),
        ("SCMP_ACT_ALLOW", ALLOW),
    ] {
        assert_eq!(action(name), wanted, "{name}");
    }
    let flags = ["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"]
        .map(|name| format!("SECCOMP_FILTER_FLAG_{name}"));
    assert_eq!(filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags})).flags, 1 | 2 | 4);
}

#[test]
fn a_program_that_the_kernel_would_not_take_is_refused() {
    let conditions: Vec<Value> =
        (0..1000).map(|value| json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"})).collect();
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": conditions}]});
    let error = compile(&serde_json::from_value(profile).expect("a profile")).expect_err("refused");
    assert!(matches!(error, SeccompError::TooLong(_)), "{error}");
}

/// What a thread sees that has installed the filter: a filter cannot be taken off again.
#[test]
fn the_kernel_takes_the_program_and_a_denied_call_fails_with_the_profiles_error() {
    let filter = filter(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "syscalls": [
            {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71},
            {"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 72,
             "args": [{"index": 0, "value": 0o777, "op": "SCMP_CMP_EQ"}]}]}));
    let confined = std::thread::spawn(move || {
        nix::sys::prctl::set_no_new_privs().expect("given up");
        crate::guest::seccomp::execute::install(&filter).expect("installed");
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("read");
        // SAFETY: these calls touch no memory of this process.
        let (denied, allowed, conditional) = unsafe {
            (
                libc::syscall(libc::SYS_getpriority, 0, 0),
                libc::syscall(libc::SYS_getppid),
                libc::syscall(libc::SYS_umask, 0o777),
            )
        };
        assert_eq!(conditional, -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(72));
        (status, denied, allowed)
    });
    let (status, denied, allowed) = confined.join().expect("no panic");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert!(denied == -1 && allowed > 0, "{denied} {allowed}");
}
