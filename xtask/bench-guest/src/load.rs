//! What makes requests: our own client, a program, or plain system calls.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use porthole_bench_guest::Load;

use crate::{calls::Caller, machine, stream::Stream};

/// A load that is ready to make requests.
pub enum Running {
    /// Our own client.
    Stream(Stream),
    /// Another client.
    Program(Program),
    /// System calls.
    Calls(Caller),
}

impl Running {
    /// Connects to the server on this port.
    pub fn start(load: &Load, port: Option<u16>) -> Result<Self> {
        Ok(match load {
            Load::Stream { greeting, request, depth, expected } => {
                let port = port.context("a stream without a server")?;
                Self::Stream(Stream::connect(port, *greeting, request, *depth, expected)?)
            }
            Load::Program(command) => Self::Program(Program::start(command)?),
            Load::Calls(calls) => Self::Calls(Caller::new(*calls)?),
        })
    }

    /// Makes this many requests, or the next multiple of what goes out at once.
    pub fn run(&mut self, requests: u64) -> Result<()> {
        match self {
            Self::Stream(stream) => stream.run(requests),
            Self::Program(program) => program.run(requests),
            Self::Calls(caller) => caller.run(requests),
        }
    }
}

/// A client that takes commands, one a line.
pub struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(command: &[String]) -> Result<Self> {
        let (program, arguments) = command.split_first().context("a command")?;
        let mut child = Command::new(program)
            .args(arguments)
            .envs(machine::ENVIRONMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {program}"))?;
        machine::enter(&machine::group("c11e")?, child.id())?;
        let input = child.stdin.take().context("its standard input")?;
        let output = BufReader::new(child.stdout.take().context("its standard output")?);
        Ok(Self { child, input, output })
    }

    fn run(&mut self, requests: u64) -> Result<()> {
        writeln!(self.input, "{requests}").context("start the client's round")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).context("read from the client")?;
        ensure!(answer.trim_end() == "done", "the client printed `{}`", answer.trim_end());
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
