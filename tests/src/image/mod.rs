//! The container image of the demo and the tests, made on this machine from distribution packages: no registry.
//!
//! Two layers: the packages (nginx, Python, busybox) as `mmdebstrap` extracts them, which is kept between runs, and
//! our own few files ([`files`]), which are written anew when they change. Both are packed as a `docker save` archive.

mod archive;
mod files;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::command;

/// The image's name in containerd.
pub const NAME: &str = "porthole.local/demo:1";

/// What the image is made of. busybox gives the shell and the small commands.
const PACKAGES: &str = "nginx,python3,busybox-static";

/// Every file of the packages' layer has this time, so that the same packages give the same layer.
const SOURCE_DATE_EPOCH: &str = "1700000000";

/// Makes the image unless the cache has it; returns the archive to import.
pub fn build(cache: &Path) -> Result<PathBuf> {
    let directory = cache.join("image");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let packages = directory.join(format!("packages-{}.tar", release()));
    if !packages.exists() {
        extract_packages(&packages)?;
    }
    let own = files::layer()?;
    let image = directory.join(format!("demo-{}.tar", &archive::digest(&own)[..16]));
    if !image.exists() {
        archive::write(&image, NAME, &packages, &own)?;
    }
    Ok(image)
}

/// Whether [`build`] would need the package mirror.
pub fn is_cached(cache: &Path) -> bool {
    cache.join("image").join(format!("packages-{}.tar", release())).exists()
}

/// The Debian release of this machine, whose signing keys are here.
fn release() -> String {
    let description = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = description.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    codename.unwrap_or("bookworm").trim_matches('"').to_owned()
}

fn extract_packages(to: &Path) -> Result<()> {
    let staged = to.with_extension("tar.new");
    let mut command = Command::new("mmdebstrap");
    command
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)
        .args(["--variant=extract", "--format=tar", "--skip=output/dev", "--include"])
        .arg(PACKAGES)
        .arg(release())
        .arg(&staged);
    command::succeed(&mut command, Duration::from_mins(10)).context("extract the image's packages")?;
    fs::rename(&staged, to).with_context(|| format!("keep {}", to.display()))
}
