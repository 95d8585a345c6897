//! containerd: whether it runs, and whether pods can use Porthole.

use std::{ffi::OsStr, os::unix::net::UnixStream, path::Path, process::Command};

use toml::{Table, Value};

use super::{Check, program};

/// The runtime type that names our shim.
pub const RUNTIME_TYPE: &str = "io.containerd.porthole.v2";

/// The plugin with the runtime classes: containerd 1.6 and 1.7, then 2.x.
const PLUGINS: [&str; 2] = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];

/// Checks containerd's configuration.
pub fn check(socket: &Path, config: &Path, checks: &mut Vec<Check>) {
    checks.push(running(socket));
    checks.push(path_of_the_service(socket));
    checks.push(runtime_class(config));
}

fn running(socket: &Path) -> Check {
    const NAME: &str = "containerd";
    let Some(program) = program::find("containerd", &[]) else {
        return Check::fail(NAME, "containerd is not in PATH", "install containerd 1.6 or newer");
    };
    let version = match program::version(&program) {
        Ok(version) => version,
        Err(error) => {
            return Check::fail(NAME, format!("{}: {error:#}", program.display()), "reinstall containerd");
        }
    };
    match UnixStream::connect(socket) {
        Ok(_) => Check::ok(NAME, format!("{version}; {} accepts connections", socket.display())),
        Err(error) => Check::fail(
            NAME,
            format!("{version}; {}: {error}", socket.display()),
            "`systemctl start containerd`, run as root, or name its socket with --containerd",
        ),
    }
}

/// containerd looks for shims in the `PATH` of its own process, which is seldom that of a shell.
fn path_of_the_service(socket: &Path) -> Check {
    const NAME: &str = "containerd's PATH";
    match service_path(socket) {
        Some(path) => {
            let shim = std::env::split_paths(&path)
                .map(|directory| directory.join("containerd-shim-porthole-v2"))
                .find(|shim| program::is_executable(shim));
            match shim {
                Some(shim) => Check::ok(NAME, format!("has {}", shim.display())),
                None => Check::fail(
                    NAME,
                    format!("has no containerd-shim-porthole-v2: {path}"),
                    "install the shim into one of these directories, or add its directory to the service's PATH",
                ),
            }
        }
        None => Check::warn(NAME, "not known: containerd does not run, or this is not root", "run as root"),
    }
}

/// `PATH` of the process that listens on the socket.
fn service_path(socket: &Path) -> Option<String> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    let stream = UnixStream::connect(socket).ok()?;
    let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
    let environment = procfs::process::Process::new(pid).and_then(|process| process.environ()).ok()?;
    environment.get(OsStr::new("PATH")).map(|value| value.to_string_lossy().into_owned())
}

fn runtime_class(config: &Path) -> Check {
    const NAME: &str = "runtime class";
    let remedy = format!(
        "pods need it, `ctr run --runtime {RUNTIME_TYPE}` does not: `porthole install` writes it, then restart \
         containerd"
    );
    // containerd's own view has what other files add.
    let dumped = program::find("containerd", &[]).and_then(|containerd| {
        let mut command = Command::new(containerd);
        command.arg("--config").arg(config).args(["config", "dump"]);
        program::run(&mut command).ok().filter(|finished| finished.success).map(|finished| finished.output)
    });
    let text = match dumped.map_or_else(|| std::fs::read_to_string(config), Ok) {
        Ok(text) => text,
        Err(error) => return Check::warn(NAME, format!("{}: {error}", config.display()), remedy),
    };
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(_) => return Check::fail(NAME, format!("{} is no TOML", config.display()), "correct it"),
    };
    match runtime_types(&table).into_iter().find(|(_, kind)| kind == RUNTIME_TYPE) {
        Some((handler, _)) => Check::ok(NAME, format!("the handler `{handler}` is {RUNTIME_TYPE}")),
        None => Check::warn(NAME, format!("{} has no handler for {RUNTIME_TYPE}", config.display()), remedy),
    }
}

/// Handlers and their runtime types.
fn runtime_types(config: &Table) -> Vec<(String, String)> {
    let Some(plugins) = config.get("plugins").and_then(Value::as_table) else { return Vec::new() };
    let runtimes = PLUGINS
        .iter()
        .filter_map(|plugin| plugins.get(*plugin)?.get("containerd")?.get("runtimes")?.as_table());
    runtimes
        .flatten()
        .filter_map(|(handler, runtime)| {
            Some((handler.clone(), runtime.get("runtime_type")?.as_str()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_found_in_either_version_of_the_configuration() {
        for plugin in PLUGINS {
            let text = format!(
                "[plugins.\"{plugin}\".containerd.runtimes.secure]\nruntime_type = \"{RUNTIME_TYPE}\"\n"
            );
            let found = runtime_types(&text.parse().expect("TOML"));
            assert_eq!(found, [("secure".to_owned(), RUNTIME_TYPE.to_owned())]);
        }
        assert!(runtime_types(&"version = 2".parse().expect("TOML")).is_empty());
    }
}
