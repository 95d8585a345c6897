//! `cargo xtask lint`: what has to pass before a commit.

mod circles;
pub mod dependencies;
mod documents;
pub mod modules;
mod source;
mod words;

use std::{
    net::{TcpStream, ToSocketAddrs},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;

use crate::{
    build, fuzz, report, setup,
    workspace::{Workspace, run as execute},
};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  cargo xtask lint
  cargo xtask lint --offline    without asking for new advisories";

/// Options of `cargo xtask lint`.
#[derive(clap::Args)]
pub struct Options {
    /// Do not fetch the database of security advisories.
    #[arg(long)]
    offline: bool,
}

/// Where the advisories are fetched from.
const ADVISORIES: &str = "github.com:443";

/// Runs every check, in the order of how fast they fail.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    report::step("format", || {
        run_in(workspace, &["fmt", "--all", "--check"])?;
        // Workspaces of their own.
        std::iter::once(&"guest-bpf/programs").chain(&fuzz::FOLDERS).try_for_each(|folder| {
            execute(workspace.cargo().current_dir(workspace.root.join(folder)).args(["fmt", "--check"]))
        })
    })?;
    report::step("modules", || {
        let packages = dependencies::packages(workspace)?;
        let sources = packages.iter().map(dependencies::Package::sources).collect::<Vec<_>>();
        circles::check(&workspace.root, &sources)?;
        dependencies::check(workspace, &packages)
    })?;
    report::step("words", || words::check(workspace))?;
    report::step("what the documents name", || documents::check(workspace))?;
    report::step("clippy", || {
        run_in(
            workspace,
            &["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
        )
    })?;
    report::step("clippy of the eBPF programs", || {
        let mut command = build::bpf_cargo(workspace, "clippy");
        execute(command.args(["--quiet", "--", "-D", "warnings"]))
    })?;
    report::step("fuzz targets", || fuzz::compile(workspace))?;
    report::step("documentation", || {
        let mut command = workspace.cargo();
        // The documentation is for developers, with private items: links to those are meant.
        let flags = "-D warnings -A rustdoc::private_intra_doc_links";
        command.env("RUSTDOCFLAGS", flags).args([
            "doc",
            "--quiet",
            "--locked",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ]);
        execute(&mut command)
    })?;
    dependencies(workspace, options)?;
    eprintln!("lint: everything passed");
    Ok(ExitCode::SUCCESS)
}

fn dependencies(workspace: &Workspace, options: &Options) -> Result<()> {
    let deny = setup::cargo_deny(workspace)?;
    let check = |what: &[&str]| {
        let mut command = std::process::Command::new(&deny);
        command.current_dir(&workspace.root).args(["--locked", "check"]).args(what);
        execute(&mut command)
    };
    report::step("licences, bans and sources of the dependencies", || {
        check(&["licenses", "bans", "sources"])
    })?;
    if options.offline || !reachable(ADVISORIES) {
        eprintln!("note: security advisories were NOT checked: their database at github.com is out of reach");
        return Ok(());
    }
    report::step("security advisories", || check(&["advisories"]))
}

fn reachable(host: &str) -> bool {
    let addresses = host.to_socket_addrs().into_iter().flatten();
    addresses.take(2).any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(3)).is_ok())
}

fn run_in(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    execute(workspace.cargo().args(arguments))
}
