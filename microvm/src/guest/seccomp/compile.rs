//! A profile as a program of the kernel's seccomp machine (seccomp(2), `struct seccomp_data` in `linux/seccomp.h`).
//!
//! The program branches by architecture, then compares the call's number with each one that has rules. seccompiler compiles
//! the conditions on arguments; its own filters have one architecture and one action, and profiles have more.
//!
//! Where rules overlap, one without conditions is stronger than those with conditions, as in libseccomp, and otherwise
//! the first one counts.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, sock_filter};

use super::{
    SeccompError,
    numbers::{self, Abi, X32_BIT},
    profile::{Action, Architecture, Condition, Flag, Operator, Profile, Rule},
};

/// Most instructions of a program, `BPF_MAXINSNS`.
const INSTRUCTIONS_MAX: usize = 4096;

/// Largest error number of a call, `MAX_ERRNO`.
const ERRNO_MAX: u32 = 4095;

/// Arguments of a call.
const ARGUMENTS: u8 = 6;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_I386` of `linux/audit.h`.
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_X86: u32 = 0x4000_0003;

/// What a tracer sets to have no call made.
const NO_CALL: u32 = u32::MAX;

/// What happens to calls of an architecture that the profile does not name, as in libseccomp.
const FOREIGN_CALL: u32 = libc::SECCOMP_RET_KILL_THREAD;

/// A compiled profile.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The program.
    pub program: BpfProgram,
    /// Flags of seccomp(2).
    pub flags: libc::c_ulong,
}

/// Compiles a profile.
pub fn compile(profile: &Profile) -> Result<Filter, SeccompError> {
    let default = outcome(profile.default_action, profile.default_errno_ret)?;
    let mut rules = Vec::new();
    for rule in &profile.syscalls {
        let outcome = outcome(rule.action, rule.errno_ret)?;
        // libseccomp's callers leave out rules that only repeat the default.
        if outcome != default {
            rules.push((rule, outcome));
        }
    }
    let calls_of = |abi: Abi, architecture: Architecture| {
        if abi == Abi::X86_64 || profile.architectures.contains(&architecture) {
            calls(abi, &rules, default)
        } else {
            Ok(vec![returns(FOREIGN_CALL)])
        }
    };
    let native = calls_of(Abi::X86_64, Architecture::X86_64)?;
    let x32 = calls_of(Abi::X32, Architecture::X32)?;
    let x86 = calls_of(Abi::X86, Architecture::X86)?;

    let mut wide = vec![load(NUMBER), when_equal(NO_CALL, 0, 1), returns(default)];
    wide.extend([when_at_least(X32_BIT, 0, 1), skip(native.len())]);
    wide.extend(native);
    wide.extend(x32);

    let mut program = vec![load(ARCHITECTURE), when_equal(AUDIT_X86_64, 1, 0), skip(wide.len())];
    program.extend(wide);
    program.extend([when_equal(AUDIT_X86, 1, 0), returns(FOREIGN_CALL), load(NUMBER)]);
    program.extend(x86);
    if program.len() > INSTRUCTIONS_MAX {
        return Err(SeccompError::TooLong(program.len()));
    }
    let flags = profile.flags.iter().fold(0, |flags, flag| flags | bit(*flag));
    Ok(Filter { program, flags })
}

/// An action as the value that a program returns.
fn outcome(action: Action, errno: Option<u32>) -> Result<u32, SeccompError> {
    let errno = errno.unwrap_or(libc::EPERM.unsigned_abs());
    Ok(match action {
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::Errno | Action::Trace if errno > ERRNO_MAX => return Err(SeccompError::Errno(errno)),
        Action::Errno => libc::SECCOMP_RET_ERRNO | errno,
        Action::Trace => libc::SECCOMP_RET_TRACE | errno,
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Notify => return Err(SeccompError::Notify),
    })
}

fn bit(flag: Flag) -> libc::c_ulong {
    match flag {
        Flag::Synchronise => libc::SECCOMP_FILTER_FLAG_TSYNC,
        Flag::Log => libc::SECCOMP_FILTER_FLAG_LOG,
        Flag::AllowSpeculation => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // The kernel refuses it where there are no notifications.
        Flag::WaitKillable => 0,
    }
}

/// What happens to one call.
enum Chain {
    /// The same whatever the arguments are.
    Always(u32),
    /// The first one whose conditions hold.
    When(Vec<(SeccompRule, u32)>),
}

/// The part of the program for one architecture, which finds the call's number loaded and always returns.
fn calls(abi: Abi, rules: &[(&Rule, u32)], default: u32) -> Result<Vec<sock_filter>, SeccompError> {
    let mut chains: BTreeMap<u32, Chain> = BTreeMap::new();
    for (rule, outcome) in rules {
        for name in &rule.names {
            let conditions = alternatives(abi, name, &rule.args)?;
            if let Some(number) = numbers::number(abi, name) {
                add(&mut chains, number, conditions, *outcome);
            }
            // What is behind the pointers of `socketcall` and `ipc` cannot be compared.
            if let Some((number, operation)) =
                numbers::multiplexed(abi, name).filter(|_| rule.args.is_empty())
            {
                let condition =
                    SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, operation.into())?;
                add(&mut chains, number, vec![SeccompRule::new(vec![condition])?], *outcome);
            }
        }
    }
    let mut program = Vec::new();
    for (number, chain) in chains {
        match chain {
            Chain::Always(outcome) => program.extend([when_equal(number, 0, 1), returns(outcome)]),
            Chain::When(alternatives) => {
                // Each compiled rule begins with two jumps: into it, and over it. Another number takes the second.
                program.push(when_equal(number, 0, 1));
                for (rule, outcome) in alternatives {
                    program.extend(BpfProgram::from(rule));
                    program.push(returns(outcome));
                }
                program.push(returns(default));
            }
        }
    }
    program.push(returns(default));
    Ok(program)
}

fn add(chains: &mut BTreeMap<u32, Chain>, number: u32, conditions: Vec<SeccompRule>, outcome: u32) {
    let chain = chains.entry(number).or_insert_with(|| Chain::When(Vec::new()));
    match chain {
        Chain::Always(_) => {}
        Chain::When(_) if conditions.is_empty() => *chain = Chain::Always(outcome),
        Chain::When(alternatives) => {
            alternatives.extend(conditions.into_iter().map(|condition| (condition, outcome)));
        }
    }
}

/// A rule's conditions as those of which one has to hold; none if there is no condition.
fn alternatives(abi: Abi, name: &str, conditions: &[Condition]) -> Result<Vec<SeccompRule>, SeccompError> {
    let mut compiled = Vec::new();
    for condition in conditions {
        if condition.index >= ARGUMENTS {
            return Err(SeccompError::Argument { name: name.to_owned(), index: condition.index });
        }
        let length = match abi {
            Abi::X86_64 => SeccompCmpArgLen::Qword,
            Abi::X32 | Abi::X86 => SeccompCmpArgLen::Dword,
        };
        let (operator, value) = match condition.op {
            Operator::NotEqual => (SeccompCmpOp::Ne, condition.value),
            Operator::Less => (SeccompCmpOp::Lt, condition.value),
            Operator::LessOrEqual => (SeccompCmpOp::Le, condition.value),
            Operator::Equal => (SeccompCmpOp::Eq, condition.value),
            Operator::GreaterOrEqual => (SeccompCmpOp::Ge, condition.value),
            Operator::Greater => (SeccompCmpOp::Gt, condition.value),
            Operator::MaskedEqual => (SeccompCmpOp::MaskedEq(condition.value), condition.value_two),
        };
        compiled.push(SeccompCondition::new(condition.index, length, operator, value)?);
    }
    if compiled.is_empty() {
        return Ok(Vec::new());
    }
    let mut indexes: Vec<u8> = conditions.iter().map(|condition| condition.index).collect();
    indexes.sort_unstable();
    if indexes.windows(2).any(|pair| pair[0] == pair[1]) {
        // libseccomp takes one condition for an argument; its callers make a rule of each then.
        return Ok(compiled.into_iter().map(|one| SeccompRule::new(vec![one])).collect::<Result<_, _>>()?);
    }
    Ok(vec![SeccompRule::new(compiled)?])
}

/// An instruction, with how many to skip when its comparison holds and when it does not.
fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("an operation code has 16 bits"), jt, jf, k }
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn returns(outcome: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, outcome, 0, 0)
}

fn when_equal(value: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, jt, jf)
}

fn when_at_least(value: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, value, jt, jf)
}

/// Skips so many instructions.
fn skip(instructions: usize) -> sock_filter {
    // More than the kernel takes are refused before they get there.
    let instructions = u32::try_from(instructions).unwrap_or(u32::MAX);
    instruction(libc::BPF_JMP | libc::BPF_JA, instructions, 0, 0)
}

#[cfg(test)]
mod tests;
