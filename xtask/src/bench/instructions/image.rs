//! The guest's initrd: our first process, the agent, the servers with all that they load.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use porthole_bench_guest::{AGENT, PLAN, Plan};
use porthole_testbed::command;
use porthole_vm_images::cpio::Archive;

/// How long a tool of the host may take.
const DEADLINE: Duration = Duration::from_mins(5);

/// An initrd under construction.
pub struct Image {
    archive: Archive,
    added: BTreeSet<String>,
}

impl Image {
    /// An initrd with this first process and this agent; both are static programs.
    pub fn new(init: &Path, agent: &Path) -> Result<Self> {
        let mut image = Self { archive: Archive::default(), added: BTreeSet::new() };
        for directory in ["dev", "proc", "run", "sys", "tmp", "root", "etc"] {
            image.archive.directory(directory);
        }
        // The kernel opens it as the init's standard streams before anything is mounted.
        image.archive.character_device("dev/console", 0o600, 5, 1);
        image.put("/init", init, 0o755)?;
        image.put(AGENT, agent, 0o755)?;
        image.write("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n".to_vec());
        image.write("/etc/group", b"root:x:0:\n".to_vec());
        image.write("/etc/hosts", b"127.0.0.1 localhost\n".to_vec());
        let ip = Self::find("ip")?;
        image.put("/bin/ip", &ip, 0o755)?;
        image.libraries(&ip)?;
        Ok(image)
    }

    /// A program of the host's.
    fn find(program: &str) -> Result<PathBuf> {
        let found =
            ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|directory| Path::new(directory).join(program));
        found.into_iter().find(|path| path.is_file()).with_context(|| format!("`{program}` is not installed"))
    }

    /// Adds a file of these bytes.
    pub fn write(&mut self, path: &str, bytes: Vec<u8>) {
        self.archive.file(path.trim_start_matches('/'), 0o644, bytes);
    }

    /// Adds a file of the host's at this path in the guest, once.
    pub fn put(&mut self, path: &str, file: &Path, mode: u32) -> Result<()> {
        if self.added.insert(path.to_owned()) {
            let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
            self.archive.file(path.trim_start_matches('/'), mode, bytes);
        }
        Ok(())
    }

    /// Adds a file of the host's where it is on the host.
    pub fn same(&mut self, file: &Path) -> Result<()> {
        let path = file.to_str().with_context(|| format!("the name of {}", file.display()))?;
        self.put(path, file, 0o755)
    }

    /// Adds a program of the host's with the libraries that it loads; gives its path.
    pub fn program(&mut self, program: &str) -> Result<String> {
        let path = Self::find(program)?;
        self.same(&path)?;
        self.libraries(&path)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Adds the libraries that a program loads.
    pub fn libraries(&mut self, program: &Path) -> Result<()> {
        let listed = command::succeed(Command::new("ldd").arg(program), DEADLINE)?.text();
        for library in libraries(&listed) {
            self.same(library)?;
        }
        Ok(())
    }

    /// Adds a directory of the host's at this path in the guest.
    pub fn tree(&mut self, path: &str, directory: &Path) -> Result<()> {
        self.archive.directory(path.trim_start_matches('/'));
        for entry in fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
            let entry = entry.context("an entry of a directory")?.path();
            let Some(name) = entry.file_name().and_then(|name| name.to_str()) else {
                bail!("the name of {}", entry.display());
            };
            let inside = format!("{path}/{name}");
            if entry.is_dir() {
                self.tree(&inside, &entry)?;
            } else {
                self.put(&inside, &entry, 0o644)?;
            }
        }
        Ok(())
    }

    /// The initrd with the plan in it.
    pub fn finish(mut self, plan: &Plan) -> Result<Vec<u8>> {
        self.write(PLAN, serde_json::to_vec(plan).context("write the plan")?);
        Ok(self.archive.into_bytes())
    }
}

/// The paths in what `ldd` prints: `NAME => PATH (ADDRESS)`, and `PATH (ADDRESS)` for the loader.
fn libraries(listed: &str) -> impl Iterator<Item = &Path> {
    listed.lines().filter_map(|line| {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path).split_whitespace().next()?;
        path.starts_with('/').then_some(Path::new(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_with_the_loader_and_without_the_kernels() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = libraries(listed).collect();
        assert_eq!(
            found,
            [Path::new("/lib/x86_64-linux-gnu/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }
}
