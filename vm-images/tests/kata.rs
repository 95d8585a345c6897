//! Kata's images with the agent, read by other implementations of their formats.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use porthole_trials::{Outcome, needs, trials};
use porthole_vm_images::{cpio::Archive, kata};

fn main() -> ExitCode {
    porthole_trials::run(trials![
        gnu_cpio_finds_the_agent_behind_an_initrd_whose_bytes_stay,
        debugfs_finds_the_agent_and_its_unit_in_a_disk_image,
        systemd_starts_the_agent_of_a_disk_image_before_katas_own,
        a_disk_image_without_room_is_refused_and_nothing_is_left,
    ])
}

/// The header of a static program for x86-64, and some bytes.
fn program() -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16] = 2;
    elf[18] = 62;
    elf[20] = 1;
    elf[52] = 64;
    elf.extend((0..100_000_u32).flat_map(u32::to_le_bytes));
    elf
}

fn agent(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("agent");
    fs::write(&path, program())?;
    Ok(path)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.env("LC_ALL", "C").output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn gnu_cpio_finds_the_agent_behind_an_initrd_whose_bytes_stay() -> Outcome {
    needs::program("cpio")?;
    let directory = tempfile::tempdir()?;
    let agent = agent(directory.path())?;
    let mut archive = Archive::default();
    archive.file("init", 0o755, b"kata's own".to_vec());
    let own = archive.into_bytes();
    let (input, output) = (directory.path().join("in"), directory.path().join("out"));
    fs::write(&input, &own)?;
    kata::extend_initrd(&input, &agent, &output)?;
    let extended = fs::read(&output)?;
    ensure!(extended.starts_with(&own), "the bytes of the initrd changed");
    let second = directory.path().join("second");
    fs::write(&second, &extended[own.len().next_multiple_of(4)..])?;
    let listed =
        run(Command::new("cpio").args(["-tv", "--quiet"]).stdin(Stdio::from(fs::File::open(&second)?)))?;
    ensure!(listed.contains("porthole-init -> porthole-agent"), "{listed}");
    let extract = Command::new("cpio")
        .args(["-i", "--quiet", "--to-stdout", "porthole-agent"])
        .stdin(Stdio::from(fs::File::open(&second)?))
        .output()?;
    ensure!(extract.stdout == program(), "the agent's bytes");
    let error = kata::extend_initrd(&output, &agent, &input).err().context("added twice")?;
    ensure!(error.to_string().contains("already"), "{error}");
    Ok(())
}

/// Sectors before the partition, as in Kata's images.
const PARTITION: u64 = 6144;

/// A disk image with one partition, as Kata's builder makes it, and nothing in it.
fn disk(directory: &Path, kib: u64) -> Result<PathBuf> {
    let empty = tempfile::tempdir()?;
    disk_of(directory, kib, empty.path())
}

/// A disk image with the files of a directory.
fn disk_of(directory: &Path, kib: u64, files: &Path) -> Result<PathBuf> {
    let (file_system, disk) = (directory.join("ext4"), directory.join("disk"));
    fs::File::create(&file_system)?.set_len(kib << 10)?;
    let mut make = Command::new("mkfs.ext4");
    run(make.args(["-q", "-F", "-O", "^has_journal", "-d"]).arg(files).arg(&file_system))?;
    let mut table = vec![0; 512];
    table[446 + 4] = 0x83;
    table[446 + 8..446 + 12].copy_from_slice(&u32::try_from(PARTITION)?.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    table.resize(usize::try_from(PARTITION * 512)?, 0);
    table.extend(fs::read(&file_system)?);
    fs::write(&disk, table)?;
    Ok(disk)
}

fn debugfs_finds_the_agent_and_its_unit_in_a_disk_image() -> Outcome {
    for program in ["mkfs.ext4", "debugfs", "e2fsck"] {
        needs::program(program)?;
    }
    let directory = tempfile::tempdir()?;
    let agent = agent(directory.path())?;
    let (input, output) = (disk(directory.path(), 4096)?, directory.path().join("out"));
    let before = fs::read(&input)?;
    kata::extend_disk(&input, &agent, &output)?;
    ensure!(fs::read(&input)? == before, "the input changed");
    let device = format!("{}?offset={}", output.display(), PARTITION * 512);
    let ask = |request: &str| run(Command::new("debugfs").args(["-R", request, &device]));
    let unit = ask("cat /etc/systemd/system/porthole-agent.service")?;
    ensure!(
        unit.contains("porthole-agent supervise") && unit.contains("Before=kata-agent.service"),
        "{unit}"
    );
    let stat = ask("stat /usr/bin/porthole-agent")?;
    ensure!(stat.contains("Mode:  0755") && stat.contains("User:     0"), "{stat}");
    let link = ask("stat /etc/systemd/system/kata-containers.target.wants/porthole-agent.service")?;
    ensure!(link.contains("/etc/systemd/system/porthole-agent.service"), "{link}");
    let file_system = directory.path().join("after");
    fs::write(&file_system, &fs::read(&output)?[usize::try_from(PARTITION * 512)?..])?;
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&file_system))?;
    let error = kata::extend_disk(&output, &agent, &input).err().context("added twice")?;
    ensure!(error.to_string().contains("already"), "{error}");
    Ok(())
}

/// Units of Kata's images, as far as the agent's unit has to do with them: `osbuilder` and the agent's own repository have the whole.
const KATA_UNITS: [(&str, &str); 5] = [
    ("kata-agent.service", "[Service]\nExecStart=/usr/bin/kata-agent\n"),
    (
        "kata-containers.target",
        "[Unit]\nRequires=basic.target kata-agent.service\nAfter=basic.target kata-agent.service\n",
    ),
    ("basic.target", "[Unit]\nDefaultDependencies=no\n"),
    ("sysinit.target", "[Unit]\nDefaultDependencies=no\n"),
    ("shutdown.target", "[Unit]\nDefaultDependencies=no\n"),
];

fn systemd_starts_the_agent_of_a_disk_image_before_katas_own() -> Outcome {
    for program in ["mkfs.ext4", "debugfs", "systemd-analyze"] {
        needs::program(program)?;
    }
    let directory = tempfile::tempdir()?;
    let own = directory.path().join("own");
    let units = own.join("usr/lib/systemd/system");
    for path in [&units, &own.join("usr/bin")] {
        fs::create_dir_all(path)?;
    }
    fs::write(own.join("usr/bin/kata-agent"), program())?;
    fs::set_permissions(own.join("usr/bin/kata-agent"), fs::Permissions::from_mode(0o755))?;
    for (name, text) in KATA_UNITS {
        fs::write(units.join(name), text)?;
    }
    let agent = agent(directory.path())?;
    let (input, output) = (disk_of(directory.path(), 8192, &own)?, directory.path().join("out"));
    kata::extend_disk(&input, &agent, &output)?;
    let tree = directory.path().join("tree");
    fs::create_dir(&tree)?;
    let device = format!("{}?offset={}", output.display(), PARTITION * 512);
    run(Command::new("debugfs").arg("-R").arg(format!("rdump / \"{}\"", tree.display())).arg(&device))?;
    // What systemd would do to reach the target, and what it complains about.
    let verify = || -> Result<String> {
        let mut analyze = Command::new("systemd-analyze");
        analyze.arg(format!("--root={}", tree.display())).args(["verify", "kata-containers.target"]);
        let output = analyze.env("LC_ALL", "C").output()?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let complaints = verify()?;
    ensure!(complaints.is_empty(), "{complaints}");
    // Were Kata's agent before it, the two would wait for each other: so it is started, and before Kata's agent.
    let other = tree.join("usr/lib/systemd/system/kata-agent.service.d");
    fs::create_dir(&other)?;
    fs::write(other.join("before.conf"), "[Unit]\nBefore=porthole-agent.service\n")?;
    let complaints = verify()?;
    ensure!(complaints.contains("Found ordering cycle"), "no cycle: {complaints}");
    Ok(())
}

fn a_disk_image_without_room_is_refused_and_nothing_is_left() -> Outcome {
    for program in ["mkfs.ext4", "debugfs"] {
        needs::program(program)?;
    }
    let directory = tempfile::tempdir()?;
    let agent = agent(directory.path())?;
    let (input, output) = (disk(directory.path(), 256)?, directory.path().join("out"));
    let error = kata::extend_disk(&input, &agent, &output).err().context("no room")?;
    ensure!(error.to_string().contains("KiB left"), "{error}");
    let left = fs::read_dir(directory.path())?.flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("out")).collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
