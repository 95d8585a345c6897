//! Container images, made on this machine from distribution packages: no registry.
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

/// An image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name in containerd.
    pub name: &'static str,
    /// What it is made of. busybox gives the shell and the small commands.
    packages: &'static str,
    /// What of the packages is not needed, as patterns of a shell below the root.
    unused: &'static [&'static str],
    /// Begins the names of its files in the cache.
    prefix: &'static str,
}

/// The image of the demo and the tests.
pub const DEMO: Image = Image {
    name: "porthole.local/demo:1",
    packages: "nginx,python3,busybox-static",
    unused: &[],
    prefix: "",
};

/// The image of the benchmarks: servers and the clients that load them.
pub const BENCH: Image = Image {
    name: "porthole.local/bench:1",
    packages: "nginx,redis-server,redis-tools,wrk,busybox-static",
    unused: &[],
    prefix: "bench-",
};

/// The image of the demo's tenant with databases.
pub const STORES: Image = Image {
    name: "porthole.local/stores:1",
    packages: "python3-pymysql,python3-redis,python3-psycopg2,mariadb-server-core,redis-server,postgresql,dnsmasq-base,\
               busybox-static",
    unused: &[
        "usr/share/doc",
        "usr/share/locale",
        "usr/share/man",
        "usr/share/perl*",
        "usr/lib/*/perl*",
        "usr/lib/*/libLLVM*",
        "usr/lib/*/libz3*",
        "usr/lib/postgresql/*/lib/bitcode",
    ],
    prefix: "stores-",
};

/// The image of the demo's broker of Kafka, which has the broker's jars from elsewhere, and of what calls it.
pub const BROKER: Image = Image {
    name: "porthole.local/broker:1",
    packages: "default-jre-headless,python3-kafka,busybox-static",
    unused: &["usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/perl*", "usr/lib/*/perl*"],
    prefix: "broker-",
};

/// Every file of the packages' layer has this time, so that the same packages give the same layer.
const SOURCE_DATE_EPOCH: &str = "1700000000";

impl Image {
    /// Makes the image unless the cache has it; returns the archive to import.
    pub fn build(&self, cache: &Path) -> Result<PathBuf> {
        let packages = self.packages_file(cache);
        if let Some(directory) = packages.parent() {
            fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        }
        if !packages.exists() {
            self.extract_packages(&packages)?;
        }
        let own = files::layer()?;
        let digest = archive::digest(&own);
        let image = packages.with_file_name(format!("{}image-{}.tar", self.prefix, &digest[..16]));
        if !image.exists() {
            archive::write(&image, self.name, &packages, &own)?;
        }
        Ok(image)
    }

    /// Whether [`Image::build`] would need the package mirror.
    pub fn is_cached(&self, cache: &Path) -> bool {
        self.packages_file(cache).exists()
    }

    fn packages_file(&self, cache: &Path) -> PathBuf {
        cache.join("image").join(format!("{}packages-{}.tar", self.prefix, release()))
    }

    fn extract_packages(&self, to: &Path) -> Result<()> {
        let staged = to.with_extension("tar.new");
        let mut command = Command::new("mmdebstrap");
        command.env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH).args(["--variant=extract", "--format=tar"]);
        command.arg("--skip=output/dev");
        if !self.unused.is_empty() {
            command.arg(format!("--extract-hook=cd \"$1\" && rm -rf {}", self.unused.join(" ")));
        }
        command.args(["--include", self.packages, &release()]).arg(&staged);
        command::succeed(&mut command, Duration::from_mins(10)).context("extract the image's packages")?;
        fs::rename(&staged, to).with_context(|| format!("keep {}", to.display()))
    }
}

/// The Debian release of this machine, whose signing keys are here.
fn release() -> String {
    let description = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = description.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    codename.unwrap_or("bookworm").trim_matches('"').to_owned()
}
