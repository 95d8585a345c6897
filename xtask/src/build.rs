//! `cargo xtask build`: everything into `target/dist`.

mod bpf_object;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use porthole_vm_images::GuestInputs;

use crate::{
    report,
    setup::{self, Need},
    web,
    workspace::{Workspace, run as execute},
};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  cargo xtask build
  ls target/dist/bin target/dist/guest";

/// Programs of the host: package and binary.
const HOST_PROGRAMS: [(&str, &str); 4] = [
    ("porthole-shim", "containerd-shim-porthole-v2"),
    ("porthole-microvm", "containerd-shim-porthole-microvm-v2"),
    ("porthole-exporter", "porthole-exporter"),
    ("porthole-cli", "porthole"),
];

/// Options of `cargo xtask build`.
#[derive(clap::Args)]
pub struct Options {}

/// Sets up and builds; what is up to date costs a few seconds.
pub fn everything(workspace: &Workspace) -> Result<()> {
    setup::packages(Need::BUILD)?;
    setup::build_tools(workspace)?;
    let dist = workspace.dist();
    let object = report::step("build the eBPF programs", || bpf_object(workspace))?;
    report::step("build the agent and the guest's init (static)", || {
        static_program(workspace, &["--package", "porthole-agent"], &object)?;
        let init = [
            "--package",
            "porthole-microvm",
            "--no-default-features",
            "--features",
            "guest",
            "--bin",
            "porthole-init",
        ];
        static_program(workspace, &init, &object)
    })?;
    host_programs(workspace)?;
    let built = workspace.target.join(&workspace.triple).join("release");
    let (init, agent) = (built.join("porthole-init"), built.join("porthole-agent"));
    report::step("build the guest's images", || guest_images(workspace, &init, &agent))?;
    porthole_vm_images::build_sidecar(&agent, &dist.root).context("lay out the sidecar")?;
    Ok(())
}

/// Builds the agent alone; gives the static program with its probes inside.
pub fn agent(workspace: &Workspace) -> Result<PathBuf> {
    setup::packages(Need::BUILD)?;
    setup::build_tools(workspace)?;
    let object = report::step("build the eBPF programs", || bpf_object(workspace))?;
    report::step("build the agent", || static_program(workspace, &["--package", "porthole-agent"], &object))?;
    Ok(workspace.target.join(&workspace.triple).join("release/porthole-agent"))
}

/// Builds a program of a package that runs in a guest and needs no probes; gives the static program.
pub fn static_package(workspace: &Workspace, package: &str, program: &str) -> Result<PathBuf> {
    report::step(&format!("build {program}"), || {
        static_program(workspace, &["--package", package, "--bin", program], Path::new(""))
    })?;
    Ok(workspace.target.join(&workspace.triple).join("release").join(program))
}

/// Builds everything and prints where it is.
pub fn run(workspace: &Workspace, _options: &Options) -> Result<ExitCode> {
    everything(workspace)?;
    println!("{}", workspace.dist().root.display());
    Ok(ExitCode::SUCCESS)
}

/// One of cargo's commands on the eBPF programs, as they are built.
pub fn bpf_cargo(workspace: &Workspace, subcommand: &str) -> Command {
    let mut command = workspace.cargo();
    command
        .current_dir(workspace.root.join("guest-bpf/programs"))
        .env("CARGO_TARGET_DIR", workspace.target.join("bpf"))
        .env("PATH", workspace.dist().search_path())
        // Building `core` for this target is not yet stable; the compiler itself is the pinned stable one.
        .env("RUSTC_BOOTSTRAP", "1")
        .args([
            subcommand,
            "--release",
            "--locked",
            "-Z",
            "build-std=core",
            "--target",
            "bpfel-unknown-none",
        ]);
    // The workspace's toolchain is meant, not the one that this program was started with.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTFLAGS");
    command
}

/// The eBPF object in `dist/bpf`.
fn bpf_object(workspace: &Workspace) -> Result<PathBuf> {
    run_quiet(&mut bpf_cargo(workspace, "build"))?;
    let built = workspace.target.join("bpf/bpfel-unknown-none/release/porthole-bpf");
    let linked = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let object = workspace.dist().root.join("bpf/porthole.bpf.o");
    let needed = bpf_object::without_debug_information(&linked)
        .with_context(|| format!("take the debug information out of {}", built.display()))?;
    write_if_changed(&needed, &object)?;
    Ok(object)
}

/// A program that runs in a guest, where there is no C library.
fn static_program(workspace: &Workspace, what: &[&str], object: &Path) -> Result<()> {
    let mut command = workspace.cargo();
    command
        // With a target named, the flags do not reach build scripts and procedural macros.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("PORTHOLE_BPF_OBJECT", object)
        .args(["build", "--release", "--locked", "--target", &workspace.triple])
        .args(what);
    run_quiet(&mut command)
}

/// Builds the exporter and the other programs of the host.
pub fn host_programs(workspace: &Workspace) -> Result<()> {
    let bundle = web::bundle(workspace)?;
    report::step("build the host's programs", || build_host_programs(workspace, &bundle))
}

fn build_host_programs(workspace: &Workspace, bundle: &Path) -> Result<()> {
    let mut command = workspace.cargo();
    command.env(web::BUNDLE_ENV, bundle).args(["build", "--release", "--locked"]);
    for (package, program) in HOST_PROGRAMS {
        command.args(["--package", package, "--bin", program]);
    }
    run_quiet(&mut command)?;
    let bin = workspace.dist().root.join("bin");
    for (_, program) in HOST_PROGRAMS {
        copy_if_changed(&workspace.target.join("release").join(program), &bin.join(program))?;
    }
    Ok(())
}

/// Kernel and initrd, unless those that are there were made from the same programs by the same builder.
fn guest_images(workspace: &Workspace, init: &Path, agent: &Path) -> Result<()> {
    let dist = workspace.dist();
    let stamp = dist.root.join("guest/made-from");
    let builder = std::env::current_exe().context("find this program")?;
    let inputs = format!("{}\n{}\n{}\n", fingerprint(init)?, fingerprint(agent)?, fingerprint(&builder)?);
    let complete = dist.kernel().exists() && dist.initrd().exists();
    if complete && fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == inputs) {
        return Ok(());
    }
    let (init, agent) = (init.to_owned(), agent.to_owned());
    let guest = GuestInputs { init, agent, cache: dist.cache.join("packages"), out: dist.root };
    let image =
        porthole_vm_images::build_guest(&guest, &mut report::note).context("build the guest's images")?;
    report::note(&format!("guest kernel {}, initrd {}", image.release, workspace.shown(&image.initrd)));
    fs::write(&stamp, inputs).with_context(|| format!("write {}", stamp.display()))
}

/// Changes whenever cargo writes the file anew.
fn fingerprint(path: &Path) -> Result<String> {
    let metadata = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    let modified = metadata.modified().context("time of a file")?;
    Ok(format!("{} {} {modified:?}", path.display(), metadata.len()))
}

/// Copies, unless the same bytes are there: the time of a file decides what is built again. A program that runs is
/// replaced, not overwritten.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    replace_if_changed(&new, to, |staged| fs::copy(from, staged).map(drop))
}

/// The same of bytes in memory.
fn write_if_changed(new: &[u8], to: &Path) -> Result<()> {
    replace_if_changed(new, to, |staged| fs::write(staged, new))
}

fn replace_if_changed(new: &[u8], to: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let directory = to.parent().context("a file in a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let staged = to.with_extension("new");
    write(&staged).with_context(|| format!("write {}", staged.display()))?;
    fs::rename(&staged, to).with_context(|| format!("write {}", to.display()))
}

fn run_quiet(command: &mut std::process::Command) -> Result<()> {
    command.arg("--quiet");
    execute(command)
}
