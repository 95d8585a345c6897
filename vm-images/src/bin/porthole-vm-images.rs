//! Builds guest images by hand; `cargo xtask build` does the same with everything else.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use porthole_vm_images::{GuestInputs, build_guest, build_sidecar};

/// Builds what runs in Porthole's guests.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Kernel and initrd: `OUT/guest/vmlinuz` and `OUT/guest/initrd.img`.
    Guest {
        /// The static `porthole-init`.
        #[arg(long)]
        init: PathBuf,
        /// The static `porthole-agent`.
        #[arg(long)]
        agent: PathBuf,
        /// Keeps the downloaded kernel package.
        #[arg(long)]
        cache: PathBuf,
        /// Where the images go.
        #[arg(long)]
        out: PathBuf,
    },
    /// The agent's root filesystem: `OUT/sidecar/rootfs`.
    Sidecar {
        /// The static `porthole-agent`.
        #[arg(long)]
        agent: PathBuf,
        /// Where it goes.
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Guest { init, agent, cache, out } => {
            let image =
                build_guest(&GuestInputs { init, agent, cache, out }, &mut |line| println!("{line}"))?;
            println!("{}\n{}", image.kernel.display(), image.initrd.display());
        }
        Command::Sidecar { agent, out } => println!("{}", build_sidecar(&agent, &out)?.display()),
    }
    Ok(())
}
