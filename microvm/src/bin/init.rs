//! `porthole-init`: the first process of a guest, and the helper that it starts to make containers.

use std::process::ExitCode;

fn main() -> ExitCode {
    porthole_microvm::guest::main()
}
