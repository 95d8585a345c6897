//! How a driver's program is made to run: what is built or downloaded for it, and the command.
//!
//! What takes long to build and what comes from a registry is kept below `CARGO_TARGET_TMPDIR`, so that only the first
//! run needs the network.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use porthole_trials::{CannotRun, needs};

use crate::running::kafka_jars;

/// The distribution's, with its packages.
pub const PYTHON: &str = "/usr/bin/python3";

/// How a program is made to run.
pub enum Way {
    /// By an interpreter, found by its path so that it is the distribution's, with its packages.
    Script(&'static str, &'static str),
    /// By a compiler, with these arguments behind the source.
    Compiled(&'static str, &'static str, &'static [&'static str]),
    /// The crate in `rust/`, with what crates.io has for it.
    Cargo,
    /// With the packages of the distribution.
    Go,
    /// The module in `go/`, with what it requires.
    GoModule,
    /// Java's source launcher, with the jars of the distribution's packages.
    JavaPackaged(&'static str, &'static [&'static str]),
    /// The same, with the jars of the first folder in `PORTHOLE_KAFKA_JARS`.
    JavaDownloaded(&'static str),
    /// With a package from npm.
    Node(&'static str),
    /// A page behind nginx and FPM.
    Fpm,
}

/// Where a program is.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/drivers").join(name)
}

/// The path of what is kept between runs.
fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

impl Way {
    /// A command that runs the program, built as `binary` if it is to be built.
    ///
    /// # Errors
    ///
    /// A tool that is not installed.
    pub fn command(&self, binary: &Path) -> Result<Command, CannotRun> {
        Ok(match self {
            Self::Script(interpreter, file) => {
                needs::program(interpreter)?;
                let mut command = Command::new(interpreter);
                command.arg(source(file));
                command
            }
            Self::Compiled(compiler, file, arguments) => {
                let mut build = Command::new(compiler);
                build.arg("-o").arg(binary).arg(source(file)).args(*arguments);
                run(&mut build)?;
                Command::new(binary)
            }
            Self::Cargo => {
                let target = kept("rust");
                let mut build = Command::new(env!("CARGO"));
                build.args(["build", "--quiet", "--locked", "--target-dir"]).arg(&target);
                run(build.arg("--manifest-path").arg(source("rust/Cargo.toml")))?;
                Command::new(target.join("debug/db"))
            }
            Self::Go => {
                let mut build = go(binary);
                run(build.arg(source("db.go")).env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode"))?;
                Command::new(binary)
            }
            Self::GoModule => {
                let mut build = go(binary);
                build
                    .current_dir(source("go"))
                    .env("GO111MODULE", "on")
                    .env("GOMODCACHE", kept("go-modules"));
                // The module's default, whatever else is set; and what is kept can be removed as it was made.
                build.env("GOTOOLCHAIN", "local").env("GOWORK", "off");
                run(build.env("GOFLAGS", "-mod=readonly -modcacherw -buildvcs=false"))?;
                Command::new(binary)
            }
            Self::JavaPackaged(file, jars) => java(file, &jars.join(":"))?,
            Self::JavaDownloaded(file) => java(file, &format!("{}/*", kafka_jars()?))?,
            Self::Node(package) => {
                needs::program("node")?;
                let mut command = Command::new("node");
                command.arg(source("db.js")).env("NODE_PATH", npm(package)?.join("node_modules"));
                command
            }
            Self::Fpm => unreachable!("a page has no command"),
        })
    }
}

/// Java's source launcher, with a class path.
fn java(file: &str, classes: &str) -> Result<Command, CannotRun> {
    needs::program("java")?;
    let mut command = Command::new("java");
    command.args(["-cp", classes]).arg(source(file));
    Ok(command)
}

/// Go's compiler; its compiled standard library is kept.
fn go(binary: &Path) -> Command {
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(binary).env("GOCACHE", kept("go"));
    build
}

/// A folder with a package from npm.
fn npm(package: &str) -> Result<PathBuf, CannotRun> {
    downloaded(&format!("npm-{package}"), |folder| {
        let mut install = Command::new("npm");
        install.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(folder);
        run(install.arg(package))
    })
}

/// A folder with packages from `PyPI`: the distribution's librdkafka knows too few versions for a broker of release 4.
pub fn pip(name: &str, packages: &[&str]) -> Result<PathBuf, CannotRun> {
    downloaded(&format!("pip-{name}"), |folder| {
        let mut install = Command::new(PYTHON);
        install.args(["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target"]);
        run(install.arg(folder).args(packages))
    })
}

/// A folder that is filled once, and is there whole or not at all.
fn downloaded(name: &str, fill: impl FnOnce(&Path) -> Result<(), CannotRun>) -> Result<PathBuf, CannotRun> {
    let folder = kept(name);
    if !folder.exists() {
        let filling = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
        fill(filling.path())?;
        fs::rename(filling.keep(), &folder).expect("renamed");
    }
    Ok(folder)
}

/// Runs a tool, which must succeed if it is there.
fn run(command: &mut Command) -> Result<(), CannotRun> {
    needs::program(command.get_program().to_str().expect("text"))?;
    let output = command.output().expect("a tool");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    Ok(())
}
