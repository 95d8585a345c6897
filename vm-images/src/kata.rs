//! Kata's guest images with the agent in them.
//!
//! - An initrd gets a second archive behind its own, with the agent and, under the name of [`FIRST_PROCESS`], what starts it
//!   and then becomes Kata's own first process. The kernel unpacks one archive after the other
//!   (`Documentation/driver-api/early-userspace/buffer-format.rst`), so that nothing of Kata's own changes, compressed or
//!   not.
//! - A disk image gets the agent and a unit for its systemd, written into its ext4 file system by debugfs(8), which takes
//!   neither root nor a mount.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use object::{Object as _, read::elf::ProgramHeader as _};

use crate::{cpio::Archive, initrd::AGENT};

/// Name of the first process in the initrd.
pub const FIRST_PROCESS: &str = "porthole-init";

/// The kernel parameter with which the kernel starts it.
pub const KERNEL_PARAMETERS: &str = "rdinit=/porthole-init";

/// Archives in an initrd begin at multiples of this many bytes.
const ALIGNMENT: usize = 4;

/// Where the agent is in a disk image.
const DISK_AGENT: &str = "/usr/bin/porthole-agent";

/// The unit in a disk image, and where it is.
const UNIT: &str = include_str!("../kata/porthole-agent.service");
const UNIT_PATH: &str = "/etc/systemd/system/porthole-agent.service";
const WANTS: &str = "/etc/systemd/system/kata-containers.target.wants";

/// Directories on the way to these files, parents first.
const DIRECTORIES: [&str; 6] = ["/usr", "/usr/bin", "/etc", "/etc/systemd", "/etc/systemd/system", WANTS];

/// Size of a sector in a partition table.
const SECTOR: u64 = 512;

/// The superblock of ext4 is so far from the file system's start (`Documentation/filesystems/ext4/super.rst`).
const SUPERBLOCK: u64 = 1024;

/// An image to which the agent cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum KataError {
    /// A file.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The agent's program cannot run in a guest.
    #[error("the agent is no static program for x86-64: {0}")]
    Agent(String),
    /// The image has the agent.
    #[error("the image has the agent already: give the one that it was made from")]
    Already,
    /// It is no initrd.
    #[error("neither a cpio archive nor one that is compressed by gzip, zstd, xz, lz4 or bzip2")]
    NoInitrd,
    /// The disk image is of a form that cannot be changed.
    #[error("{0}")]
    Disk(String),
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> KataError + use<> {
    let path = path.to_owned();
    move |source| KataError::Io { path, source }
}

/// Writes the initrd with the agent behind it.
pub fn extend_initrd(input: &Path, agent: &Path, output: &Path) -> Result<(), KataError> {
    let initrd = fs::read(input).map_err(io(input))?;
    let agent = read_agent(agent)?;
    let extended = append(initrd, agent)?;
    replace(output, |file| file.write_all(&extended))
}

fn append(mut initrd: Vec<u8>, agent: Vec<u8>) -> Result<Vec<u8>, KataError> {
    // As the kernel recognises them: lib/decompress.c, init/initramfs.c.
    const KINDS: [&[u8]; 8] = [
        b"070701",
        b"070702",
        b"\x1f\x8b",
        b"\x28\xb5\x2f\xfd",
        b"\xfd7zXZ",
        b"\x02\x21\x4c\x18",
        b"\x04\x22\x4d\x18",
        b"BZh",
    ];
    if !KINDS.iter().any(|kind| initrd.starts_with(kind)) {
        return Err(KataError::NoInitrd);
    }
    let mut archive = Archive::default();
    archive.file(AGENT, 0o755, agent);
    archive.symbolic_link(FIRST_PROCESS, AGENT);
    let archive = archive.into_bytes();
    // The link's entry is the same in every archive of ours.
    let name = [FIRST_PROCESS.as_bytes(), b"\0"].concat();
    if initrd.windows(name.len()).any(|window| window == name) {
        return Err(KataError::Already);
    }
    initrd.resize(initrd.len().next_multiple_of(ALIGNMENT), 0);
    initrd.extend_from_slice(&archive);
    Ok(initrd)
}

/// Writes the disk image with the agent and its unit in it.
pub fn extend_disk(input: &Path, agent: &Path, output: &Path) -> Result<(), KataError> {
    let agent_bytes = read_agent(agent)?;
    let image = File::open(input).map_err(io(input))?;
    let offset = file_system_offset(&image).map_err(KataError::Disk)?;
    let needed = (agent_bytes.len() + UNIT.len()) as u64;
    check_file_system(&image, offset, needed).map_err(KataError::Disk)?;
    drop(image);
    let staged = staged(output);
    let changed =
        fs::copy(input, &staged).map_err(io(&staged)).and_then(|_| change_disk(&staged, offset, agent));
    let moved = changed.and_then(|()| fs::rename(&staged, output).map_err(io(output)));
    if moved.is_err() {
        // What remains of a failure is of no use to anyone.
        let _ = fs::remove_file(&staged);
    }
    moved
}

/// Where the ext4 file system is: at the start, or in the only partition.
fn file_system_offset(image: &File) -> Result<u64, String> {
    let mut first = [0; 512];
    image.read_exact_at(&mut first, 0).map_err(|error| format!("no disk image: {error}"))?;
    if magic(image, 0)? == EXT_MAGIC {
        return Ok(0);
    }
    if first.get(510..) != Some(&[0x55, 0xaa]) {
        return Err("neither an ext4 file system nor a partition table: only those can be changed".to_owned());
    }
    let partitions: Vec<(u8, u32)> = first[446..510]
        .chunks_exact(16)
        .map(|entry| (entry[4], u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]])))
        .filter(|(kind, _)| *kind != 0)
        .collect();
    match partitions.as_slice() {
        [(0xee, _)] => Err("it has a GUID partition table: give the ext4 partition as an image of its own".to_owned()),
        [(_, sector)] if magic(image, u64::from(*sector) * SECTOR)? == EXT_MAGIC => Ok(u64::from(*sector) * SECTOR),
        [_] => Err("its partition is no ext4 file system: build the image with Kata's rootfs-builder from a root file \
                    system that has the agent, or use the initrd"
            .to_owned()),
        _ => Err("it has several partitions, one of which may hold the hashes of another (a measured root file system): a \
                  change would not pass the check at boot"
            .to_owned()),
    }
}

const EXT_MAGIC: u16 = 0xef53;

fn magic(image: &File, offset: u64) -> Result<u16, String> {
    let mut bytes = [0; 2];
    match image.read_exact_at(&mut bytes, offset + SUPERBLOCK + 0x38) {
        Ok(()) => Ok(u16::from_le_bytes(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether there is room, and nothing that a change would break.
fn check_file_system(image: &File, offset: u64, needed: u64) -> Result<(), String> {
    let field = |at: u64| -> Result<u64, String> {
        let mut bytes = [0; 4];
        image.read_exact_at(&mut bytes, offset + SUPERBLOCK + at).map_err(|error| error.to_string())?;
        Ok(u32::from_le_bytes(bytes).into())
    };
    let block = 1024_u64.checked_shl(u32::try_from(field(0x18)?).unwrap_or(u32::MAX)).unwrap_or(0);
    let free = field(0x0c)?.saturating_mul(block);
    // Blocks of the files' indexes and of a directory.
    if free < needed.saturating_add(16 * block) {
        let (free, needed) = (free >> 10, needed >> 10);
        return Err(format!(
            "its file system has {free} KiB left and the agent takes {needed} KiB: enlarge it (resize2fs), or use the initrd"
        ));
    }
    // EXT4_FEATURE_RO_COMPAT_VERITY and _SHARED_BLOCKS, and _READONLY.
    if field(0x64)? & (0x8000 | 0x4000 | 0x1000) != 0 {
        return Err("its file system is marked as one that must not be changed".to_owned());
    }
    Ok(())
}

fn change_disk(image: &Path, offset: u64, agent: &Path) -> Result<(), KataError> {
    let unit = image.with_extension("unit");
    fs::write(&unit, UNIT).map_err(io(&unit))?;
    let device = format!("{}?offset={offset}", image.display());
    let done = write_files(&device, agent, &unit);
    // It was of use to debugfs only.
    let _ = fs::remove_file(&unit);
    done.map_err(KataError::Disk)
}

fn write_files(device: &str, agent: &Path, unit: &Path) -> Result<(), String> {
    let present =
        |path: &str| Ok::<_, String>(debugfs(device, &format!("stat {path}"), false)?.contains("Inode:"));
    if present(DISK_AGENT)? || present(UNIT_PATH)? {
        return Err(KataError::Already.to_string());
    }
    for directory in DIRECTORIES {
        if !present(directory)? {
            debugfs(device, &format!("mkdir {directory}"), true)?;
        }
    }
    for (source, target, mode) in [(agent, DISK_AGENT, "0100755"), (unit, UNIT_PATH, "0100644")] {
        debugfs(device, &format!("write \"{}\" {target}", source.display()), true)?;
        for field in [format!("mode {mode}"), "uid 0".to_owned(), "gid 0".to_owned()] {
            debugfs(device, &format!("set_inode_field {target} {field}"), true)?;
        }
    }
    debugfs(device, &format!("symlink {WANTS}/porthole-agent.service {UNIT_PATH}"), true)?;
    // debugfs succeeds whatever becomes of its commands.
    for (source, target) in [(agent, DISK_AGENT), (unit, UNIT_PATH)] {
        let back = tempfile(unit)?;
        debugfs(device, &format!("dump {target} \"{}\"", back.display()), false)?;
        let same = fs::read(&back).ok() == fs::read(source).ok();
        let _ = fs::remove_file(&back);
        if !same {
            return Err(format!("{target} is not what was written: is the file system damaged?"));
        }
    }
    Ok(())
}

fn tempfile(beside: &Path) -> Result<PathBuf, String> {
    let path = beside.with_extension("back");
    File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// Runs one command of debugfs.
fn debugfs(device: &str, request: &str, write: bool) -> Result<String, String> {
    let mut command = Command::new("debugfs");
    command.args(write.then_some("-w")).args(["-R", request, device]);
    let search = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{search}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    let output =
        command.output().map_err(|error| format!("debugfs (of e2fsprogs) cannot be run: {error}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    // The first line is its version.
    let complaint = complaint.lines().skip(1).collect::<Vec<_>>().join("; ");
    if write && !(output.status.success() && complaint.is_empty()) {
        return Err(format!("debugfs `{request}`: {complaint}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn read_agent(path: &Path) -> Result<Vec<u8>, KataError> {
    let bytes = fs::read(path).map_err(io(path))?;
    check_static(&bytes).map_err(KataError::Agent)?;
    Ok(bytes)
}

/// A guest has no dynamic linker for it.
fn check_static(program: &[u8]) -> Result<(), String> {
    type Elf<'a> = object::read::elf::ElfFile64<'a, object::Endianness>;
    let elf = Elf::parse(program).map_err(|error| error.to_string())?;
    if elf.architecture() != object::Architecture::X86_64 {
        return Err(format!("it is for {:?}", elf.architecture()));
    }
    let headers = elf.elf_program_headers();
    if headers.iter().any(|header| header.p_type(elf.endian()) == object::elf::PT_INTERP) {
        return Err("it needs a dynamic linker".to_owned());
    }
    Ok(())
}

fn staged(output: &Path) -> PathBuf {
    let mut staged = output.as_os_str().to_owned();
    staged.push(format!(".{}.partial", std::process::id()));
    staged.into()
}

/// Writes a file beside its place and moves it there.
fn replace(output: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<(), KataError> {
    let staged = staged(output);
    let written = File::create(&staged).and_then(|mut file| write(&mut file));
    written.and_then(|()| fs::rename(&staged, output)).map_err(|source| {
        // What remains of a failed write is of no use to anyone.
        let _ = fs::remove_file(&staged);
        KataError::Io { path: output.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_archive_begins_behind_kata_s_own_and_is_added_once() {
        let own = b"\x1f\x8bcompressed".to_vec();
        let extended = append(own.clone(), b"agent".to_vec()).expect("extended");
        assert!(extended.starts_with(&own), "nothing of Kata's own changes");
        let rest = &extended[own.len().next_multiple_of(4)..];
        assert!(rest.starts_with(b"070701"));
        let text = String::from_utf8_lossy(rest);
        assert!(text.contains("porthole-init\0") && text.contains("TRAILER!!!\0"));
        assert!(matches!(append(extended, b"agent".to_vec()), Err(KataError::Already)));
        assert!(matches!(append(b"text".to_vec(), b"agent".to_vec()), Err(KataError::NoInitrd)));
    }

    #[test]
    fn an_agent_that_cannot_run_in_a_guest_is_refused() {
        assert!(check_static(b"#!/bin/sh\n").is_err());
        let own = fs::read("/proc/self/exe").expect("this test");
        assert!(check_static(&own).expect_err("dynamic").contains("dynamic linker"));
    }

    fn table(entries: &[(u8, u32)]) -> tempfile::NamedTempFile {
        let mut sector = [0_u8; 512];
        for (at, (kind, start)) in entries.iter().enumerate() {
            sector[446 + 16 * at + 4] = *kind;
            sector[446 + 16 * at + 8..][..4].copy_from_slice(&start.to_le_bytes());
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        let file = tempfile::NamedTempFile::new().expect("file");
        fs::write(file.path(), sector).expect("written");
        file
    }

    #[test]
    fn disks_that_cannot_be_changed_are_refused_with_the_reason() {
        for (entries, reason) in [
            (&[(0xee, 1)][..], "GUID"),
            (&[(0x83, 6144), (0x83, 9000)], "measured"),
            (&[(0x83, 6144)], "no ext4"),
        ] {
            let image = table(entries);
            let error = file_system_offset(image.as_file()).expect_err("refused");
            assert!(error.contains(reason), "{error}");
        }
        let text = tempfile::NamedTempFile::new().expect("file");
        fs::write(text.path(), vec![b' '; 4096]).expect("written");
        assert!(file_system_offset(text.as_file()).expect_err("refused").contains("neither"));
    }
}
