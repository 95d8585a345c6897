//! Build tools that come from crates.io or rustup, kept in `target/tools`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    report,
    workspace::{Workspace, output, run},
};

/// Newer ones want a newer Rust or LLVM's development files.
const BPF_LINKER: (&str, &str) = ("bpf-linker", "0.10.4");

/// vsock for guests where the host's kernel has none.
const VHOST_DEVICE_VSOCK: (&str, &str) = ("vhost-device-vsock", "0.3.0");

/// Licences, sources, bans and advisories of the dependencies.
const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");

/// Coverage of the tests.
const CARGO_LLVM_COV: (&str, &str) = ("cargo-llvm-cov", "0.9.1");

/// The standard library's source, from which `core` is built for eBPF.
pub fn rust_source(workspace: &Workspace) -> Result<()> {
    if has_rust_source()? {
        return Ok(());
    }
    report::step("add the Rust component rust-src", || {
        run(Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(&workspace.root))
            .context(
                "without rustup, install the source of Rust's standard library by your distribution's means",
            )
    })
}

/// Whether the standard library's source is there.
fn has_rust_source() -> Result<bool> {
    let root = PathBuf::from(output(Command::new("rustc").args(["--print", "sysroot"]))?.trim());
    Ok(root.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists())
}

/// The linker of eBPF programs.
pub fn bpf_linker(workspace: &Workspace) -> Result<()> {
    install(workspace, BPF_LINKER, &[])
}

/// The vsock device.
pub fn vhost_device_vsock(workspace: &Workspace) -> Result<()> {
    install(workspace, VHOST_DEVICE_VSOCK, &[])
}

/// The dependency checker; unoptimised, because it builds in a third of the time and runs seldom.
pub fn cargo_deny(workspace: &Workspace) -> Result<PathBuf> {
    install(workspace, CARGO_DENY, &["--debug"])?;
    Ok(workspace.dist().tools.join(CARGO_DENY.0))
}

/// The tool for coverage, with the component of Rust that reads what instrumented programs write.
pub fn cargo_llvm_cov(workspace: &Workspace) -> Result<PathBuf> {
    let root = PathBuf::from(output(Command::new("rustc").args(["--print", "sysroot"]))?.trim());
    let profdata = root.join("lib/rustlib").join(&workspace.triple).join("bin/llvm-profdata");
    if !profdata.exists() {
        report::step("add the Rust component llvm-tools", || {
            run(Command::new("rustup").args(["component", "add", "llvm-tools"]).current_dir(&workspace.root))
                .context("without rustup, install LLVM's tools by your distribution's means")
        })?;
    }
    install(workspace, CARGO_LLVM_COV, &["--debug"])?;
    Ok(workspace.dist().tools.join(CARGO_LLVM_COV.0))
}

fn install(workspace: &Workspace, (name, version): (&str, &str), options: &[&str]) -> Result<()> {
    let program = workspace.dist().tools.join(name);
    if let Ok(answer) = output(Command::new(&program).arg("--version"))
        && answer.split_whitespace().any(|word| word == version)
    {
        return Ok(());
    }
    report::step(&format!("build the tool {name} {version} (once)"), || {
        let root = workspace.target.join("tools");
        let mut command = workspace.cargo();
        command
            .env("CARGO_TARGET_DIR", workspace.target.join("tools-build"))
            .args(["install", "--quiet", "--locked", "--force", "--root"])
            .arg(&root)
            .args(options)
            .args([name, "--version", version]);
        run(&mut command)
    })
}
