//! `porthole install` and `uninstall` below a directory that stands for `/`: what was there before is there afterwards.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A dist directory and a root.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { directory: tempfile::tempdir().expect("directory") };
        for program in [
            "porthole",
            "porthole-exporter",
            "containerd-shim-porthole-v2",
            "containerd-shim-porthole-microvm-v2",
        ] {
            host.built(&format!("bin/{program}"), program, 0o755);
        }
        host.built("guest/vmlinuz", "kernel", 0o600);
        host.built("guest/initrd.img", "initrd", 0o600);
        host.built("sidecar/rootfs/porthole-agent", "agent", 0o755);
        fs::create_dir_all(host.directory.path().join("dist/sidecar/rootfs/host/proc")).expect("directory");
        host.file("etc/hostname", "here\n");
        host.file(
            "etc/containerd/config.toml",
            "version = 2\n# the operator's own\n[debug]\nlevel = \"info\"",
        );
        host
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn built(&self, name: &str, text: &str, mode: u32) {
        let path = self.directory.path().join("dist").join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
        fs::write(&path, text).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
        fs::write(path, text).expect("written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn run(&self, subcommand: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_porthole"));
        command.arg(subcommand).arg("--root").arg(self.root()).args(arguments);
        if subcommand == "install" {
            command.arg("--dist").arg(self.directory.path().join("dist"));
        }
        command.output().expect("run porthole")
    }

    fn succeed(&self, subcommand: &str, arguments: &[&str]) -> String {
        let output = self.run(subcommand, arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn refused(&self, subcommand: &str, arguments: &[&str]) -> String {
        let output = self.run(subcommand, arguments);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).expect("text")
    }

    /// Every path below the root: bytes and mode of files.
    fn snapshot(&self) -> BTreeMap<PathBuf, Option<(Vec<u8>, u32)>> {
        fn walk(directory: &Path, found: &mut BTreeMap<PathBuf, Option<(Vec<u8>, u32)>>) {
            for entry in fs::read_dir(directory).expect("directory") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    found.insert(path.clone(), None);
                    walk(&path, found);
                } else {
                    let mode = fs::metadata(&path).expect("metadata").permissions().mode();
                    found.insert(path.clone(), Some((fs::read(&path).expect("read"), mode)));
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.root(), &mut found);
        found
    }
}

#[test]
fn what_is_installed_is_in_place_and_goes_without_a_trace() {
    let host = Host::new();
    let before = host.snapshot();
    host.succeed("install", &[]);
    assert_eq!(host.read("usr/bin/containerd-shim-porthole-v2"), "containerd-shim-porthole-v2");
    assert_eq!(host.read("usr/lib/porthole/guest/vmlinuz"), "kernel");
    assert_eq!(host.read("usr/lib/porthole/sidecar/rootfs/porthole-agent"), "agent");
    assert!(host.root().join("usr/lib/porthole/sidecar/rootfs/host/proc").is_dir());
    assert!(
        host.read("etc/systemd/system/porthole-exporter.service")
            .contains("ExecStart=/usr/bin/porthole-exporter")
    );
    let mode = |name| fs::metadata(host.root().join(name)).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((mode("usr/bin/porthole"), mode("usr/lib/porthole/guest/vmlinuz")), (0o755, 0o644));
    let containerd: toml::Table = host.read("etc/containerd/config.toml").parse().expect("TOML");
    let runtimes = &containerd["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"];
    assert_eq!(runtimes["porthole"]["runtime_type"].as_str(), Some("io.containerd.porthole.v2"));
    assert_eq!(containerd["debug"]["level"].as_str(), Some("info"));
    let installed = host.snapshot();
    host.succeed("install", &[]);
    assert_eq!(host.snapshot(), installed, "a second time changes nothing");
    host.succeed("uninstall", &[]);
    assert_eq!(host.snapshot(), before);
    assert!(host.refused("uninstall", &[]).contains("nothing was installed"));
}

#[test]
fn a_dry_run_says_everything_and_does_nothing() {
    let host = Host::new();
    let before = host.snapshot();
    let said = host.succeed("install", &["--dry-run"]);
    assert_eq!(host.snapshot(), before);
    let would: Vec<_> = said.lines().filter(|line| line.starts_with("write")).collect();
    host.succeed("install", &[]);
    for line in &would {
        let path = line.trim_start_matches("write").trim();
        assert!(Path::new(path).is_file(), "{path}");
    }
    assert!(would.len() >= 9, "{said}");
    let installed = host.snapshot();
    assert!(host.succeed("uninstall", &["--dry-run"]).contains("usr/bin/porthole"));
    assert_eq!(host.snapshot(), installed);
}

#[test]
fn an_upgrade_replaces_what_changed_and_removes_what_is_gone() {
    let host = Host::new();
    let before = host.snapshot();
    host.built("sidecar/rootfs/old", "old", 0o644);
    host.succeed("install", &[]);
    host.built("bin/porthole-exporter", "newer", 0o755);
    fs::remove_file(host.directory.path().join("dist/sidecar/rootfs/old")).expect("removed");
    host.file("etc/porthole/porthole.toml", "[shim]\nenabled = false\n");
    host.succeed("install", &[]);
    assert_eq!(host.read("usr/bin/porthole-exporter"), "newer");
    assert!(!host.root().join("usr/lib/porthole/sidecar/rootfs/old").exists());
    assert_eq!(host.read("etc/porthole/porthole.toml"), "[shim]\nenabled = false\n", "the operator's");
    let said = host.succeed("uninstall", &[]);
    assert!(said.contains("1 files were changed"), "{said}");
    fs::remove_dir_all(host.root().join("etc/porthole")).expect("the operator's file is still there");
    assert_eq!(host.snapshot(), before);
}

#[test]
fn what_others_have_put_there_is_left_alone() {
    let host = Host::new();
    host.file("usr/bin/porthole", "another program of that name");
    let before = host.snapshot();
    assert!(host.refused("install", &[]).contains("usr/bin/porthole"));
    assert_eq!(host.snapshot(), before);
    fs::remove_file(host.root().join("usr/bin/porthole")).expect("removed");
    for (config, word) in [
        ("[plugins]\n", "version 1"),
        ("version = 2\nno toml", "no TOML"),
        (
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.porthole]\nruntime_type = \"x\"\n",
            "of its own",
        ),
    ] {
        host.file("etc/containerd/config.toml", config);
        let before = host.snapshot();
        let error = host.refused("install", &[]);
        assert!(error.contains(word), "{error}");
        assert_eq!(host.snapshot(), before);
    }
}

#[test]
fn containerds_configuration_of_version_3_and_none_at_all_are_served() {
    let host = Host::new();
    host.file("etc/containerd/config.toml", "version = 3\n");
    host.succeed("install", &[]);
    let config: toml::Table = host.read("etc/containerd/config.toml").parse().expect("TOML");
    assert!(
        config["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"].get("porthole").is_some()
    );
    host.succeed("uninstall", &[]);
    assert_eq!(host.read("etc/containerd/config.toml"), "version = 3\n");
    fs::remove_dir_all(host.root().join("etc/containerd")).expect("removed");
    let before = host.snapshot();
    host.succeed("install", &[]);
    assert!(host.read("etc/containerd/config.toml").starts_with("version = 2\n"));
    host.succeed("uninstall", &[]);
    assert_eq!(host.snapshot(), before);
}

#[test]
fn another_prefix_is_in_the_configuration_and_the_unit() {
    let host = Host::new();
    host.succeed("install", &["--prefix", "/opt/porthole"]);
    assert!(host.root().join("opt/porthole/bin/porthole").is_file());
    assert!(
        host.read("etc/systemd/system/porthole-exporter.service")
            .contains("=/opt/porthole/bin/porthole-exporter")
    );
    let config: toml::Table = host.read("etc/porthole/porthole.toml").parse().expect("TOML");
    assert_eq!(config["microvm"]["kernel"].as_str(), Some("/opt/porthole/lib/porthole/guest/vmlinuz"));
    assert_eq!(config["shim"]["sidecar_rootfs"].as_str(), Some("/opt/porthole/lib/porthole/sidecar/rootfs"));
}
