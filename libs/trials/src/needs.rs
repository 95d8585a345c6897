//! What trials need of the machine. Each function gives [`CannotRun`] where it is missing.

use std::path::Path;

use crate::{CannotRun, reasons};

/// Set by `cargo xtask test --all`: time does not matter.
pub const ALL_ENV: &str = "PORTHOLE_TEST_ALL";

/// Root.
pub fn root() -> Result<(), CannotRun> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(CannotRun::because("needs root: `sudo -E cargo xtask test` runs it"))
}

/// A program, by its path or by its name in `PATH`.
pub fn program(program: &str) -> Result<(), CannotRun> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Joined to a folder, an absolute path stays what it is.
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(program));
    if Path::new(program).is_absolute() && file(program).is_ok() || places.any(|place| place.is_file()) {
        return Ok(());
    }
    Err(CannotRun::because(format!("{program} is not installed")))
}

/// A file or folder of a package.
pub fn file(path: &str) -> Result<(), CannotRun> {
    if Path::new(path).exists() {
        return Ok(());
    }
    Err(CannotRun::because(format!("{path} is not there")))
}

/// Time: the run is one of `cargo xtask test --all`.
pub fn time() -> Result<(), CannotRun> {
    if std::env::var_os(ALL_ENV).is_some() {
        return Ok(());
    }
    Err(CannotRun::because(reasons::ONLY_WITH_ALL))
}
