//! What goes where.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Programs of the host.
const PROGRAMS: [&str; 4] =
    ["porthole", "porthole-exporter", "containerd-shim-porthole-v2", "containerd-shim-porthole-microvm-v2"];

/// The default prefix, which the parts' own defaults and the unit have in them.
const USUAL_PREFIX: &str = "/usr";

const UNIT: &str = include_str!("../../../deploy/systemd/porthole-exporter.service");
const UNIT_PATH: &str = "/etc/systemd/system/porthole-exporter.service";

/// A file to write.
#[derive(Debug)]
pub struct Item {
    /// Where, below the root.
    pub target: PathBuf,
    /// What.
    pub bytes: Vec<u8>,
    /// Permissions.
    pub mode: u32,
    /// The operator's own from the moment it is there: it is never overwritten.
    pub is_configuration: bool,
}

/// All files and directories.
#[derive(Debug, Default)]
pub struct Plan {
    /// Files.
    pub items: Vec<Item>,
    /// Directories that are needed even when no file is in them.
    pub directories: Vec<PathBuf>,
}

impl Plan {
    /// Reads the built parts.
    pub fn new(dist: &Path, prefix: &Path) -> Result<Self> {
        let mut plan = Self::default();
        let library = prefix.join("lib/porthole");
        for program in PROGRAMS {
            plan.copy(&dist.join("bin").join(program), prefix.join("bin").join(program))?;
        }
        for image in ["vmlinuz", "initrd.img"] {
            plan.copy(&dist.join("guest").join(image), library.join("guest").join(image))?;
        }
        plan.tree(&dist.join("sidecar/rootfs"), &library.join("sidecar/rootfs"))?;
        if !dist.join("sidecar/rootfs/porthole-agent").exists() {
            bail!(
                "{} has no sidecar/rootfs/porthole-agent: is it what `cargo xtask build` made?",
                dist.display()
            );
        }
        // Only hosts without /dev/vhost-vsock need it, so a release may be without.
        let vsock = ["bin/vhost-device-vsock", "../tools/bin/vhost-device-vsock"].map(|path| dist.join(path));
        if let Some(vsock) = vsock.iter().find(|path| path.exists()) {
            plan.copy(vsock, library.join("vhost-device-vsock"))?;
        }
        let unit = UNIT.replace("/usr/bin/", &format!("{}/bin/", prefix.display()));
        plan.text(UNIT_PATH, unit, false);
        plan.text(porthole_config::DEFAULT_PATH, configuration(prefix), true);
        Ok(plan)
    }

    fn copy(&mut self, source: &Path, target: PathBuf) -> Result<()> {
        let read = || {
            let mode = fs::metadata(source)?.permissions().mode();
            Ok((fs::read(source)?, mode))
        };
        let (bytes, mode): (_, u32) = read()
            .map_err(|error: std::io::Error| error)
            .with_context(|| format!("read {}", source.display()))?;
        let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
        self.items.push(Item { target, bytes, mode, is_configuration: false });
        Ok(())
    }

    fn tree(&mut self, source: &Path, target: &Path) -> Result<()> {
        self.directories.push(target.to_owned());
        let entries = fs::read_dir(source).with_context(|| format!("read {}", source.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("read {}", source.display()))?;
            let (from, to) = (entry.path(), target.join(entry.file_name()));
            let kind = entry.file_type().with_context(|| format!("look at {}", from.display()))?;
            if kind.is_dir() {
                self.tree(&from, &to)?;
            } else if kind.is_file() {
                self.copy(&from, to)?;
            } else {
                bail!("{} is neither file nor directory", from.display());
            }
        }
        Ok(())
    }

    fn text(&mut self, target: &str, text: String, is_configuration: bool) {
        self.items.push(Item {
            target: target.into(),
            bytes: text.into_bytes(),
            mode: 0o644,
            is_configuration,
        });
    }
}

/// A configuration with only what differs from the defaults.
fn configuration(prefix: &Path) -> String {
    let mut text = String::from(
        "# Porthole's configuration. What is not said here has its default; docs/operations.md lists every key.\n",
    );
    if prefix != Path::new(USUAL_PREFIX) {
        let library = prefix.join("lib/porthole");
        let path = |name: &str| toml::Value::String(library.join(name).display().to_string()).to_string();
        let keys = [
            ("\n[shim]\nsidecar_rootfs", "sidecar/rootfs"),
            ("\n[microvm]\nkernel", "guest/vmlinuz"),
            ("initrd", "guest/initrd.img"),
            ("vhost_device_vsock", "vhost-device-vsock"),
        ];
        text.extend(keys.map(|(key, name)| format!("{key} = {}\n", path(name))));
    }
    text
}
