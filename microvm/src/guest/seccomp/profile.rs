//! `linux.seccomp` of the OCI runtime specification (config-linux.md, "Seccomp").

use serde::Deserialize;

/// The profile.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// For calls that no rule is about.
    pub default_action: Action,
    /// Error number of the default action.
    pub default_errno_ret: Option<u32>,
    /// Architectures whose calls the rules are about, beside the kernel's own.
    #[serde(default)]
    pub architectures: Vec<Architecture>,
    /// For the installation of the filter.
    #[serde(default)]
    pub flags: Vec<Flag>,
    /// The rules.
    #[serde(default)]
    pub syscalls: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Names of calls.
    pub names: Vec<String>,
    /// What happens to them.
    pub action: Action,
    /// Error number of the action.
    pub errno_ret: Option<u32>,
    /// Conditions, all of which have to hold. Where two are about one argument, one of the conditions has to hold.
    #[serde(default)]
    pub args: Vec<Condition>,
}

/// A condition on an argument.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The argument, from 0.
    pub index: u8,
    /// What it is compared with; with [`Operator::MaskedEqual`] the mask.
    pub value: u64,
    /// With [`Operator::MaskedEqual`] what it is compared with.
    #[serde(default)]
    pub value_two: u64,
    /// How.
    pub op: Operator,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Action {
    /// The thread ends.
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    /// The process ends.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// The thread gets SIGSYS.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// It fails.
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// A tracer decides; without one it fails.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// It is made.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// It is made and logged.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// A program outside the container answers it.
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// A comparison.
#[derive(Clone, Copy, Debug, Deserialize)]
pub enum Operator {
    /// The argument is not the value.
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    /// It is less.
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    /// It is not greater.
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    /// It is the value.
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    /// It is not less.
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    /// It is greater.
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    /// The argument's bits in the mask are those of the second value.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// A flag of seccomp(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Flag {
    /// For all threads: there is one.
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    Synchronise,
    /// Everything but what is allowed is logged.
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    /// Speculative store bypass stays as it is.
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    AllowSpeculation,
    /// About notifications, which there are none of.
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillable,
}

/// An architecture. Only those of an x86 kernel make calls here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Architecture {
    /// The kernel's own.
    #[serde(rename = "SCMP_ARCH_X86_64", alias = "SCMP_ARCH_NATIVE")]
    X86_64,
    /// 32-bit programs.
    #[serde(rename = "SCMP_ARCH_X86")]
    X86,
    /// Programs with 32-bit pointers on 64-bit processors.
    #[serde(rename = "SCMP_ARCH_X32")]
    X32,
    /// Of another kernel.
    #[serde(
        rename = "SCMP_ARCH_ARM",
        alias = "SCMP_ARCH_AARCH64",
        alias = "SCMP_ARCH_LOONGARCH64",
        alias = "SCMP_ARCH_M68K",
        alias = "SCMP_ARCH_MIPS",
        alias = "SCMP_ARCH_MIPS64",
        alias = "SCMP_ARCH_MIPS64N32",
        alias = "SCMP_ARCH_MIPSEL",
        alias = "SCMP_ARCH_MIPSEL64",
        alias = "SCMP_ARCH_MIPSEL64N32",
        alias = "SCMP_ARCH_PARISC",
        alias = "SCMP_ARCH_PARISC64",
        alias = "SCMP_ARCH_PPC",
        alias = "SCMP_ARCH_PPC64",
        alias = "SCMP_ARCH_PPC64LE",
        alias = "SCMP_ARCH_RISCV64",
        alias = "SCMP_ARCH_S390",
        alias = "SCMP_ARCH_S390X",
        alias = "SCMP_ARCH_SH",
        alias = "SCMP_ARCH_SHEB"
    )]
    Foreign,
}
