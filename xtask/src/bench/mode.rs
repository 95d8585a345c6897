//! The ways in which the agent can capture and count, as one compares them.

use clap::ValueEnum;

/// A way in which the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// System calls, exchanges counted by the kernel where it can, with learned keys: what the agent does by itself.
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
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::KernelCounts => &["--capture", "system-calls"],
            Self::AgentCounts => &["--capture", "system-calls", "--no-kernel-counts"],
            Self::Packets => &["--capture", "packets"],
        }
    }
}

/// The modes that a benchmark runs in.
#[derive(clap::Args)]
pub struct Modes {
    /// Ways in which the agent captures and counts; separated by commas
    #[arg(
        long = "mode",
        value_enum,
        value_delimiter = ',',
        value_name = "MODES",
        default_value = "kernel-counts"
    )]
    pub modes: Vec<Mode>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_called_on_the_command_line_as_in_the_results() {
        for mode in Mode::value_variants() {
            assert_eq!(Mode::from_str(mode.name(), false), Ok(*mode));
        }
    }
}
