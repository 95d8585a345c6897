//! Whether the kernel may take the CPU from a program that runs at the exit of a function.
//!
//! Raw tracepoints run without preemption. Programs at functions do not: on a kernel that preempts itself, a task can be
//! set aside in the middle of one for as long as others have to run, and calls on that CPU are not captured meanwhile. In
//! a busy guest with `preempt=full` that was two calls of five; with `preempt=voluntary`, none.

use std::fs;

/// Whether the running kernel preempts itself, as far as it can be known: kernels that decide when they start show how
/// only if their command line does.
pub fn may_preempt() -> bool {
    // procfs parses the version, too, but does not take `PREEMPT_DYNAMIC` for a flag.
    let version = fs::read_to_string("/proc/sys/kernel/version").unwrap_or_default();
    of(&version, &procfs::cmdline().unwrap_or_default())
}

/// The same from the kernel's version (`init/Makefile`, `UTS_VERSION`) and command line
/// (`Documentation/admin-guide/kernel-parameters.txt`, `preempt=`).
fn of(version: &str, parameters: &[String]) -> bool {
    if version.split_whitespace().any(|word| word == "PREEMPT_DYNAMIC") {
        // procfs leaves the line's end at the last parameter.
        let mut models = parameters.iter().rev().filter_map(|word| word.trim_end().strip_prefix("preempt="));
        let model = models.next();
        return !matches!(model, Some("none" | "voluntary"));
    }
    version.split_whitespace().any(|word| word.starts_with("PREEMPT"))
}

#[cfg(test)]
mod tests {
    use procfs::{FromRead as _, KernelCmdline};

    use super::of;

    #[test]
    fn only_kernels_that_say_so_do_not_preempt_themselves() {
        for (version, command_line, expected) in [
            ("#1 SMP Debian 5.10.0-1", "quiet", false),
            ("#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2", "quiet preempt=voluntary panic=-1\n", false),
            ("#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2", "quiet preempt=voluntary\n", false),
            ("#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2", "preempt=full preempt=none", false),
            ("#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2", "preempt=none preempt=full", true),
            ("#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2", "preempt=lazy", true),
            ("#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2", "quiet", true),
            ("#1 SMP PREEMPT Thu", "preempt=none", true),
            ("#1 SMP PREEMPT_RT Debian", "", true),
        ] {
            let KernelCmdline(parameters) =
                KernelCmdline::from_read(command_line.as_bytes()).expect("parsed");
            assert_eq!(of(version, &parameters), expected, "{version}, {command_line}");
        }
    }
}
