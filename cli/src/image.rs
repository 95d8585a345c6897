//! `porthole image`: guest images of other runtimes with the agent in them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{ArgGroup, Args, Subcommand};
use porthole_vm_images::kata;

const EXAMPLES: &str = "\
Examples:
  Kata with an initrd:
    porthole image kata --initrd /opt/kata/share/kata-containers/kata-containers-initrd.img \\
      --output /opt/kata/share/kata-containers/kata-containers-initrd-porthole.img
  and in Kata's configuration.toml:
    initrd = \"/opt/kata/share/kata-containers/kata-containers-initrd-porthole.img\"
    kernel_params = \"rdinit=/porthole-init\"     added to what is there

  Kata with a disk image (ext4, in one partition or none):
    porthole image kata --image /opt/kata/share/kata-containers/kata-containers.img \\
      --output /opt/kata/share/kata-containers/kata-containers-porthole.img

The input is not changed. A guest with `porthole.agent=off` among its kernel parameters runs without the agent.";

/// Options of `porthole image`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add the agent to a guest image of Kata Containers
    Kata(KataOptions),
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("input").required(true).args(["initrd", "image"]))]
struct KataOptions {
    /// Kata's initrd
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kata's disk image
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Where the image with the agent goes
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// The agent
    #[arg(long, value_name = "FILE", default_value = "/usr/lib/porthole/sidecar/rootfs/porthole-agent")]
    agent: PathBuf,
}

/// Makes the image and prints what Kata's configuration needs.
pub fn run(options: &Options) -> Result<()> {
    let Command::Kata(options) = &options.command;
    let KataOptions { initrd, image, output, agent } = options;
    if let Some(initrd) = initrd {
        kata::extend_initrd(initrd, agent, output)
            .with_context(|| format!("add the agent to {}", initrd.display()))?;
        println!("initrd = \"{}\"", output.display());
        println!("kernel_params = \"{}\"", kata::KERNEL_PARAMETERS);
    }
    if let Some(image) = image {
        kata::extend_disk(image, agent, output)
            .with_context(|| format!("add the agent to {}", image.display()))?;
        println!("image = \"{}\"", output.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn one_image_goes_in_and_one_comes_out() {
        let parse = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.options);
        parse("image kata --initrd in --output out --agent agent").expect("an initrd");
        parse("image kata --image in --output out").expect("a disk");
        for line in
            ["image kata --output out", "image kata --initrd a", "image kata --initrd a --image b --output c"]
        {
            parse(line).expect_err(line);
        }
    }
}
