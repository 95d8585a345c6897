//! Archives, read by another implementation of the format.

use std::{
    io::Write as _,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, ensure};
use porthole_trials::{Outcome, needs, trials};
use porthole_vm_images::cpio::Archive;

fn main() -> ExitCode {
    porthole_trials::run(trials![gnu_cpio_lists_every_entry])
}

fn gnu_cpio_lists_every_entry() -> Outcome {
    needs::program("cpio")?;
    let mut archive = Archive::default();
    archive.file("init", 0o755, b"#!".to_vec());
    archive.file("modules/a.ko", 0o644, vec![1, 2, 3, 4, 5]);
    archive.character_device("dev/console", 0o600, 5, 1);
    let mut cpio = Command::new("cpio")
        .args(["--list", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    cpio.stdin.take().context("its input")?.write_all(&archive.into_bytes())?;
    let output = cpio.wait_with_output()?;
    let listed = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && listed == "dev\ndev/console\ninit\nmodules\nmodules/a.ko\n",
        "{listed}"
    );
    Ok(())
}
