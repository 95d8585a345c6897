//! `porthole doctor` on a host made of files: what is missing is named, with what to do.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// A directory with what a host needs, as far as files can be that.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { directory: tempfile::tempdir().expect("directory") };
        for program in
            ["containerd-shim-porthole-v2", "containerd-shim-porthole-microvm-v2", "qemu", "virtiofsd"]
        {
            host.program(program);
        }
        host.program("sidecar/porthole-agent");
        host.file("vmlinuz", "kernel");
        host.file("initrd.img", "initrd");
        fs::create_dir(host.path("registry")).expect("directory");
        host.configure("");
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
        fs::write(path, text).expect("written");
    }

    fn program(&self, name: &str) {
        self.file(name, "#!/bin/sh\necho version 1.0\n");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).expect("executable");
    }

    fn configure(&self, more: &str) {
        let path = |name| self.path(name).display().to_string();
        let text = format!(
            "[shim]\nsidecar_rootfs = \"{}\"\n[registry]\ndirectory = \"{}\"\n[exporter]\nlisten = \"127.0.0.1:1\"\n\
             [microvm]\nkernel = \"{}\"\ninitrd = \"{}\"\nqemu = \"{}\"\nvirtiofsd = \"{}\"\n{more}",
            path("sidecar"),
            path("registry"),
            path("vmlinuz"),
            path("initrd.img"),
            path("qemu"),
            path("virtiofsd"),
        );
        self.file("porthole.toml", &text);
    }

    fn doctor(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_porthole"))
            .args(["doctor", "--containerd"])
            .arg(self.path("containerd.sock"))
            .arg("--containerd-config")
            .arg(self.path("containerd.toml"))
            .args(arguments)
            .env("PORTHOLE_CONFIG", self.path("porthole.toml"))
            .env("PATH", self.directory.path())
            .output()
            .expect("run porthole")
    }

    /// Outcome and whole line of a check.
    fn check(&self, name: &str) -> (String, String) {
        let output = self.doctor(&["--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let checks = report["checks"].as_array().expect("checks");
        let failed = checks.iter().any(|check| check["outcome"] == "fail");
        assert_eq!(output.status.code(), Some(i32::from(failed)));
        let found: Vec<_> = checks.iter().filter(|check| check["name"] == name).collect();
        assert!(!found.is_empty(), "no {name} in {report}");
        let worst = found
            .iter()
            .max_by_key(|check| ["ok", "warn", "fail"].iter().position(|o| check["outcome"] == *o));
        let worst = worst.expect("one");
        let remedy = worst["remedy"].as_str().unwrap_or_default();
        assert_eq!(remedy.is_empty(), worst["outcome"] == "ok", "{worst}");
        (worst["outcome"].as_str().expect("outcome").to_owned(), worst.to_string())
    }

    fn assert(&self, name: &str, outcome: &str, word: &str) {
        let (found, line) = self.check(name);
        assert_eq!(found, outcome, "{line}");
        assert!(line.contains(word), "{word} is not in {line}");
    }
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("removed");
}

#[test]
fn what_is_there_is_ok_and_what_is_taken_away_fails() {
    let host = Host::new();
    for (check, file) in [
        ("configuration", None),
        ("shim", Some("containerd-shim-porthole-v2")),
        ("delegate", Some("containerd-shim-porthole-microvm-v2")),
        ("sidecar", Some("sidecar/porthole-agent")),
        ("qemu", Some("qemu")),
        ("virtiofsd", Some("virtiofsd")),
        ("guest kernel", Some("vmlinuz")),
        ("guest initrd", Some("initrd.img")),
    ] {
        host.assert(check, "ok", check);
        if let Some(file) = file {
            remove(&host.path(file));
            host.assert(check, "fail", file);
        }
    }
}

#[test]
fn a_key_that_no_part_knows_is_named() {
    let host = Host::new();
    host.configure("memory = 1\n");
    host.assert("configuration", "fail", "`memory` in [microvm]");
    host.configure("[colours]\n");
    host.assert("configuration", "fail", "[colours]");
    host.configure("no toml");
    host.assert("configuration", "fail", "no TOML");
    remove(&host.path("porthole.toml"));
    host.assert("configuration", "fail", "porthole.toml");
}

#[test]
fn a_registry_that_others_can_write_fails() {
    let host = Host::new();
    let mode =
        |mode| fs::set_permissions(host.path("registry"), fs::Permissions::from_mode(mode)).expect("mode");
    mode(0o777);
    host.assert("registry", "fail", "777");
    fs::remove_dir(host.path("registry")).expect("removed");
    host.assert("registry", "warn", "not there");
}

#[test]
fn another_runtime_has_its_own_needs() {
    let host = Host::new();
    let text = fs::read_to_string(host.path("porthole.toml")).expect("configuration");
    host.program("containerd-shim-kata-v2");
    host.file("porthole.toml", &text.replace("[shim]", "[shim]\ndelegate = \"containerd-shim-kata-v2\""));
    remove(&host.path("vmlinuz"));
    host.assert("delegate", "ok", "kata");
    host.assert("microvm", "ok", "kata");
}

#[test]
fn the_runtime_class_is_found_in_containerds_configuration() {
    let host = Host::new();
    host.assert("containerd", "fail", "not in PATH");
    host.assert("runtime class", "warn", "containerd.toml");
    host.file(
        "containerd.toml",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.porthole]\n\
         runtime_type = \"io.containerd.porthole.v2\"\n",
    );
    host.assert("runtime class", "ok", "porthole");
}

#[test]
fn a_table_says_what_to_do() {
    let host = Host::new();
    remove(&host.path("vmlinuz"));
    let output = host.doctor(&[]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("FAIL  guest kernel"), "{text}");
    assert!(text.contains("-> run `porthole install`"), "{text}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(host.doctor(&["--nonsense"]).status.code(), Some(2));
}
