//! The ways in which the agent can capture and count, as one compares them.

use clap::ValueEnum;

/// A way in which the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// System calls, exchanges counted by the kernel where it can, with kernel keys: what the agent does by itself.
    KernelCounts,
    /// System calls, everything copied to the agent and counted there.
    AgentCounts,
    /// Packets in place of system calls.
    Packets,
}

impl Mode {
    /// Its name on the command line and in the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::KernelCounts => "kernel-counts",
            Self::AgentCounts => "agent-counts",
            Self::Packets => "packets",
        }
    }

    /// The agent's arguments. What cannot be had is an error, never another mode in silence.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::KernelCounts => &["--capture", "system-calls"],
            Self::AgentCounts => &["--capture", "system-calls", "--no-offload"],
            Self::Packets => &["--capture", "packets"],
        }
    }
}

/// Where the agent's programs hook in, but for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hooks {
    /// What the agent takes by itself.
    Auto,
    /// Tracepoints where sockets report what they move.
    Sockets,
    /// The exits of system calls' functions.
    Fexit,
    /// The end of every system call.
    RawTracepoint,
}

impl Hooks {
    /// Its name on the command line, the agent's and ours.
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sockets => "sockets",
            Self::Fexit => "fexit",
            Self::RawTracepoint => "raw-tracepoint",
        }
    }
}

/// A mode with its hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// What is captured, and who counts.
    pub mode: Mode,
    hooks: Hooks,
}

impl Way {
    /// A mode with the hooks that the agent takes by itself.
    pub fn usual(mode: Mode) -> Self {
        Self { mode, hooks: Hooks::Auto }
    }

    /// Its name in the results.
    pub fn name(self) -> String {
        match self.hooks {
            Hooks::Auto => self.mode.name().to_owned(),
            hooks => format!("{} by {}", self.mode.name(), hooks.name()),
        }
    }

    /// The agent's arguments.
    pub fn arguments(self) -> Vec<&'static str> {
        [self.mode.arguments(), &["--hooks", self.hooks.name()]].concat()
    }
}

/// The ways in which a benchmark lets the agent run.
#[derive(clap::Args)]
pub struct Ways {
    /// What the agent captures, and who counts; separated by commas
    #[arg(
        long = "mode",
        value_enum,
        value_delimiter = ',',
        value_name = "MODES",
        default_value = "kernel-counts"
    )]
    modes: Vec<Mode>,
    /// Where its programs hook in, but for packets; separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "HOOKS", default_value = "auto")]
    hooks: Vec<Hooks>,
}

impl Ways {
    /// Every mode with every kind of hooks; packets have none to choose.
    pub fn all(&self) -> Vec<Way> {
        let mut all = Vec::new();
        for &mode in &self.modes {
            match mode {
                Mode::Packets => all.push(Way::usual(mode)),
                _ => all.extend(self.hooks.iter().map(|&hooks| Way { mode, hooks })),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_no_hooks_to_choose() {
        let ways = Ways {
            modes: vec![Mode::AgentCounts, Mode::Packets],
            hooks: vec![Hooks::Auto, Hooks::RawTracepoint],
        };
        let names: Vec<String> = ways.all().into_iter().map(Way::name).collect();
        assert_eq!(names, ["agent-counts", "agent-counts by raw-tracepoint", "packets"]);
    }

    #[test]
    fn hooks_are_called_on_the_command_line_as_in_the_results() {
        for hooks in Hooks::value_variants() {
            assert_eq!(Hooks::from_str(hooks.name(), false), Ok(*hooks));
        }
    }

    #[test]
    fn modes_are_called_on_the_command_line_as_in_the_results() {
        for mode in Mode::value_variants() {
            assert_eq!(Mode::from_str(mode.name(), false), Ok(*mode));
        }
    }
}
