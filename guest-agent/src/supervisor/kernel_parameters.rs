//! The guest's kernel parameters for the agent. They come from the host, which starts the guest.
//!
//! - `porthole.agent=off`: none runs.
//! - `porthole.agent_argument=TEXT`, any number of times: further arguments of the agent, with `%` and two hexadecimal
//!   digits for what the kernel would take for the end of the parameter.
//! - `porthole.agent_wait_ms=NUMBER`: how long the guest's own first process waits until the agent is attached; 0 for not at all.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, time::Duration};

/// The wait without the parameter: several times what the agent takes on a processor that is not emulated.
const AGENT_WAIT: Duration = Duration::from_millis(500);

/// The longest wait.
const AGENT_WAIT_MAX: Duration = Duration::from_secs(20);

/// The parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelParameters {
    /// Whether an agent is to run.
    pub agent: bool,
    /// Further arguments of it.
    pub arguments: Vec<OsString>,
    /// How long the guest's own first process waits for the agent's programs.
    pub agent_wait: Duration,
}

impl KernelParameters {
    /// The parameters of this guest; the usual ones where they cannot be read.
    pub fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    fn parse(line: &str) -> Self {
        let mut parameters = Self { agent: true, arguments: Vec::new(), agent_wait: AGENT_WAIT };
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("porthole.agent", value)) => parameters.agent = value != "off",
                Some(("porthole.agent_argument", value)) => parameters.arguments.push(decode(value)),
                Some(("porthole.agent_wait_ms", value)) => {
                    let wait = value.parse().map_or(AGENT_WAIT, Duration::from_millis);
                    parameters.agent_wait = wait.min(AGENT_WAIT_MAX);
                }
                _ => {}
            }
        }
        parameters
    }
}

/// Undoes percent-encoding; a `%` without two digits stands for itself.
fn decode(text: &str) -> OsString {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_runs_unless_it_is_switched_off_and_gets_its_arguments() {
        let usual = KernelParameters { agent: true, arguments: Vec::new(), agent_wait: AGENT_WAIT };
        assert_eq!(KernelParameters::parse("console=ttyS0 quiet\n"), usual);
        assert!(!KernelParameters::parse("quiet porthole.agent=off").agent);
        let line = "porthole.agent_argument=--route porthole.agent_argument=/a%20%22b%25%zz quiet";
        assert_eq!(KernelParameters::parse(line).arguments, ["--route", "/a \"b%%zz"]);
    }

    #[test]
    fn the_wait_for_the_agent_is_bounded_whatever_is_set() {
        let wait = |value: &str| {
            KernelParameters::parse(&format!("quiet porthole.agent_wait_ms={value}\n")).agent_wait
        };
        assert_eq!(wait("0"), Duration::ZERO);
        assert_eq!(wait("1500"), Duration::from_millis(1500));
        assert_eq!(wait("18446744073709551615"), AGENT_WAIT_MAX);
        assert_eq!(wait("-1"), AGENT_WAIT);
        assert_eq!(wait("soon"), AGENT_WAIT);
    }
}
