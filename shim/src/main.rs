//! Entry point: the companion when started under its name, otherwise the wrapper.

use std::process::ExitCode;

use porthole_shim::{companion, log, wrapper};

fn main() -> ExitCode {
    log::silence_panics();
    let arguments: Vec<_> = std::env::args_os().collect();
    if arguments.first().is_some_and(|name| name == companion::PROCESS_NAME) {
        companion::main(&arguments[1..])
    } else {
        wrapper::main(&arguments[1..])
    }
}
