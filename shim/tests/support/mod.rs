//! What the integration tests share: a private configuration and private directories for the real program, a
//! recording delegate, a delegate's task service made for tests, and waiting for conditions.
#![allow(dead_code)]

pub mod agent;
pub mod containerd;
pub mod sandbox;
pub mod task;

use std::{
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use porthole_registry::{SandboxRecord, SandboxState};
use tempfile::TempDir;

/// Longest wait for anything that should happen soon.
pub const SOON: Duration = Duration::from_mins(2);

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_containerd-shim-porthole-v2");

/// Waits until the question has an answer; panics with its name when it takes too long.
pub fn wait<T>(what: &str, question: impl FnMut() -> Option<T>) -> T {
    wait_for(what, SOON, question)
}

/// [`wait`] with another deadline.
pub fn wait_for<T>(what: &str, time: Duration, mut question: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + time;
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Private directories and configuration of one test.
pub struct Setup {
    root: TempDir,
}

impl Setup {
    /// A configuration with the recording delegate and a usable sidecar.
    pub fn new() -> Self {
        let setup = Self { root: tempfile::Builder::new().prefix("ps").tempdir().expect("directory") };
        std::fs::create_dir_all(setup.path("sidecar")).expect("sidecar");
        setup.program("sidecar/porthole-agent", "#!/bin/sh\n");
        setup.program("delegate", DELEGATE);
        setup.configure(&setup.configuration(""));
        setup
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(name)
    }

    /// The usual configuration with further lines of `[shim]`.
    pub fn configuration(&self, more: &str) -> String {
        let root = self.root.path().display();
        format!(
            "[registry]\ndirectory = \"{root}/registry\"\n[shim]\ndelegate = \"{root}/delegate\"\n\
             sidecar_rootfs = \"{root}/sidecar\"\nlog = \"{root}/log/shim.log\"\n\
             monitor_sockets = [\"{root}/{{id}}.monitor\"]\nstate_directory = \"{root}/state\"\n{more}\n"
        )
    }

    pub fn configure(&self, text: &str) {
        // A companion may read it at any time, and a part of it would be another configuration.
        let new = self.path("porthole.toml.new");
        std::fs::write(&new, text).expect("configuration");
        std::fs::rename(new, self.path("porthole.toml")).expect("configuration");
    }

    pub fn program(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("program");
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o755)).expect("mode");
    }

    /// Makes a bundle where containerd would, and returns its path.
    pub fn bundle(&self, id: &str, annotations: &[(&str, &str)]) -> PathBuf {
        let bundle = self.path("bundles/acme").join(id);
        std::fs::create_dir_all(&bundle).expect("bundle");
        let annotations: std::collections::BTreeMap<_, _> = annotations.iter().copied().collect();
        let config = serde_json::json!({"ociVersion": "1.0.2", "annotations": annotations});
        std::fs::write(bundle.join("config.json"), config.to_string()).expect("config.json");
        bundle
    }

    /// A command with this test's configuration, in a bundle, as containerd would run it.
    pub fn command(&self, program: impl AsRef<OsStr>, bundle: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(bundle).env("PORTHOLE_CONFIG", self.path("porthole.toml"));
        command.env("RECORD", self.path("recorded")).env("TTRPC_ADDRESS", "/x y/ttrpc\n");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// containerd 1.6's `start` of a container, through the program under test.
    pub fn start(&self, id: &str) -> Output {
        self.call(id, "start")
    }

    /// containerd 1.6's `delete` of a container, through the program under test.
    pub fn delete(&self, id: &str) -> Output {
        self.call(id, "delete")
    }

    fn call(&self, id: &str, action: &str) -> Output {
        let bundle = self.path("bundles/acme").join(id);
        let bundle_text = bundle.to_str().expect("path");
        let mut arguments =
            vec!["-namespace", "acme", "-address", "/c.sock", "-publish-binary", "/c", "-id", id];
        if action == "delete" {
            arguments.extend(["-bundle", bundle_text]);
        }
        arguments.push(action);
        self.command(PROGRAM, &bundle, &arguments).output().expect("run")
    }

    /// What the delegate prints at the next calls.
    pub fn delegate_says(&self, stdout: &[u8], stderr: &[u8], code: i32) {
        std::fs::write(self.path("delegate.stdout"), stdout).expect("stdout");
        std::fs::write(self.path("delegate.stderr"), stderr).expect("stderr");
        std::fs::write(self.path("delegate.code"), code.to_string()).expect("code");
    }

    pub fn record(&self, id: &str) -> Option<SandboxRecord> {
        SandboxRecord::read(&self.path("registry").join(format!("acme@{id}.json"))).ok()
    }

    /// Waits until the record is in a state.
    pub fn reaches(&self, id: &str, state: SandboxState) -> SandboxRecord {
        wait(&format!("{id} is {}; log:\n{}", state.as_str(), self.log()), || {
            self.record(id).filter(|record| record.state == state)
        })
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log/shim.log")).unwrap_or_default()
    }

    /// Process of the companion of a sandbox of this test.
    pub fn companion(&self, id: &str) -> Option<i32> {
        let mine = self.root.path().to_str().expect("path").to_owned();
        std::fs::read_dir("/proc").expect("/proc").find_map(|entry| {
            let entry = entry.ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<&str> = line.split('\0').collect();
            let fits = words.first() == Some(&"porthole-companion") && words.get(1) == Some(&id);
            (fits && line.contains(&mine)).then(|| entry.file_name().to_str()?.parse().ok()).flatten()
        })
    }

    /// Waits until neither a companion nor a file of one is left.
    pub fn nothing_remains(&self, id: &str) {
        wait("the companion ends", || self.companion(id).is_none().then_some(()));
        for directory in ["registry", "state"] {
            let left: Vec<_> = std::fs::read_dir(self.path(directory))
                .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect())
                .unwrap_or_default();
            assert!(left.is_empty(), "{directory}: {left:?}; log:\n{}", self.log());
        }
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        // A failed test must not leave its companions.
        for bundle in std::fs::read_dir(self.path("bundles/acme")).into_iter().flatten().flatten() {
            if let Some(pid) = bundle.file_name().to_str().and_then(|id| self.companion(id)) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
            }
        }
    }
}

/// A delegate that records how it was called and prints what the test sets.
const DELEGATE: &str = r#"#!/bin/sh
here=$(dirname "$0")
if [ -n "$RECORD" ]; then
    mkdir -p "$RECORD"
    for argument in "$@"; do printf '%s\000' "$argument"; done > "$RECORD/arguments"
    cat "/proc/$$/environ" > "$RECORD/environment"
    pwd > "$RECORD/directory"
    cat > "$RECORD/stdin"
    ls "/proc/$$/fd" > "$RECORD/descriptors"
fi
[ -f "$here/delegate.hook" ] && . "$here/delegate.hook"
cat "$here/delegate.stdout" 2>/dev/null
cat "$here/delegate.stderr" >&2 2>/dev/null
exit "$(cat "$here/delegate.code" 2>/dev/null || echo 0)"
"#;
