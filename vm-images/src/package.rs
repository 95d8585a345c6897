//! Debian's kernel package: found, fetched and read with the distribution's own tools.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{ImageError, modules::module_name};

/// The package that always depends on the newest cloud kernel.
pub const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// What the image needs of a kernel package.
#[derive(Debug)]
pub struct Contents {
    /// The bzImage.
    pub kernel: Vec<u8>,
    /// Release, as in `/lib/modules/<release>`.
    pub release: String,
    /// Every module by its name.
    pub modules: BTreeMap<String, Vec<u8>>,
    /// Names of what is built in.
    pub builtin: BTreeSet<String>,
}

fn run(command: &mut Command) -> Result<String, ImageError> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| ImageError::Command { command: shown.clone(), output: error.to_string() })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(ImageError::Command { command: shown, output: said })
    }
}

/// The kernel package in the cache, downloaded if it is not there yet.
pub fn fetch(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, ImageError> {
    std::fs::create_dir_all(cache).map_err(ImageError::io("create", cache))?;
    let wanted = match resolve(&[]) {
        Ok(wanted) => wanted,
        Err(error) => match newest_cached(cache)? {
            Some(package) => {
                progress(&format!("{error}; using {}", package.display()));
                return Ok(package);
            }
            None => return Err(error),
        },
    };
    fetch_wanted(cache, &wanted, &[], progress)
}

fn fetch_wanted(
    cache: &Path,
    wanted: &Wanted,
    options: &[String],
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, ImageError> {
    let path = cache.join(&wanted.file);
    if path.is_file() {
        progress(&format!("{} is in the cache", wanted.file));
        return Ok(path);
    }
    progress(&format!("downloading {} ({} MiB)", wanted.file, wanted.bytes >> 20));
    // apt checks the download against the signed index. Its sandbox user cannot write to a private cache directory.
    let mut command = Command::new("apt-get");
    command.args(options).args(["-q", "-o", "APT::Sandbox::User=root", "download", &wanted.package]);
    command.current_dir(cache);
    run(&mut command)?;
    if path.is_file() {
        Ok(path)
    } else {
        Err(ImageError::Missing { package: cache.to_owned(), what: wanted.file.clone() })
    }
}

/// The newest kernel package of a series, such as `6.12`: from the distribution itself where its kernel is of that series,
/// else from its backports. The host's own package sources stay as they are.
pub fn fetch_series(
    cache: &Path,
    series: &str,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, ImageError> {
    let cache = cache.join(series);
    std::fs::create_dir_all(&cache).map_err(ImageError::io("create", &cache))?;
    if let Ok(wanted) = resolve(&[])
        && is_of_series(&wanted.package, series)
    {
        return fetch_wanted(&cache, &wanted, &[], progress);
    }
    let options = backports(&cache)?;
    let wanted =
        run(Command::new("apt-get").args(&options).args(["-q", "update"])).and_then(|_| resolve(&options));
    match wanted {
        Ok(wanted) if is_of_series(&wanted.package, series) => {
            fetch_wanted(&cache, &wanted, &options, progress)
        }
        Ok(wanted) => Err(ImageError::UnknownSeries { series: series.to_owned(), newest: wanted.package }),
        Err(error) => match newest_cached(&cache)? {
            Some(package) => {
                progress(&format!("{error}; using {}", package.display()));
                Ok(package)
            }
            None => Err(error),
        },
    }
}

/// Whether a package's name is that of a kernel of the series.
fn is_of_series(package: &str, series: &str) -> bool {
    let version = package.strip_prefix("linux-image-").and_then(|version| version.strip_prefix(series));
    version.is_some_and(|rest| rest.starts_with(['.', '-', '+']))
}

/// apt's options with which it knows the backports alone, in a place of its own below the cache.
fn backports(cache: &Path) -> Result<Vec<String>, ImageError> {
    let format = "$(REPO_URI) $(CODENAME)";
    let indexes = run(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
        "Origin: Debian",
    ]))?;
    let release = std::fs::read_to_string("/etc/os-release")
        .map_err(ImageError::io("read", Path::new("/etc/os-release")))?;
    let source = backports_source(&indexes, &release).ok_or(ImageError::UnknownPackage(META_PACKAGE))?;
    let place = cache.join("apt");
    for directory in ["lists/partial", "cache/archives/partial"] {
        let directory = place.join(directory);
        std::fs::create_dir_all(&directory).map_err(ImageError::io("create", &directory))?;
    }
    let list = place.join("sources.list");
    std::fs::write(&list, source).map_err(ImageError::io("write", &list))?;
    let option = |name: &str, path: &Path| format!("-o{name}={}", path.display());
    Ok(vec![
        option("Dir::Etc::SourceList", &list),
        "-oDir::Etc::SourceParts=-".to_owned(),
        option("Dir::State::Lists", &place.join("lists")),
        option("Dir::Cache", &place.join("cache")),
        "-oAPT::Sandbox::User=root".to_owned(),
    ])
}

/// The line that names the backports where the release itself comes from. `indexes` has lines of `URI CODENAME`.
fn backports_source(indexes: &str, os_release: &str) -> Option<String> {
    let release =
        os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?.trim_matches('"');
    let mut lines = indexes.lines().filter_map(|line| line.split_once(' '));
    let (uri, _) = lines.find(|(_, codename)| *codename == release)?;
    Some(format!("deb {uri} {release}-backports main\n"))
}

/// A package file that apt can download.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    package: String,
    file: String,
    bytes: u64,
}

fn resolve(options: &[String]) -> Result<Wanted, ImageError> {
    let depends =
        run(Command::new("apt-cache").args(options).args(["depends", "--important", META_PACKAGE]))?;
    let package = parse_depends(&depends).ok_or(ImageError::UnknownPackage(META_PACKAGE))?;
    let uris = run(Command::new("apt-get").args(options).args(["-q", "download", "--print-uris", &package]))?;
    parse_uri(&package, &uris).ok_or(ImageError::UnknownPackage(META_PACKAGE))
}

/// The real kernel package among a meta package's dependencies.
fn parse_depends(output: &str) -> Option<String> {
    output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .map(str::to_owned)
}

/// Reads a line of `--print-uris`: `'URI' FILE SIZE HASH`.
fn parse_uri(package: &str, output: &str) -> Option<Wanted> {
    let line = output.lines().find(|line| line.starts_with('\''))?;
    let mut fields = line.split_whitespace();
    let file = fields.nth(1)?.to_owned();
    let bytes = fields.next()?.parse().ok()?;
    Some(Wanted { package: package.to_owned(), file, bytes })
}

fn newest_cached(cache: &Path) -> Result<Option<PathBuf>, ImageError> {
    let mut packages = Vec::new();
    for entry in std::fs::read_dir(cache).map_err(ImageError::io("read", cache))? {
        let entry = entry.map_err(ImageError::io("read", cache))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // apt writes the ending in lower case.
        if name.starts_with("linux-image-") && entry.path().extension().is_some_and(|ending| ending == "deb")
        {
            packages.push((entry.metadata().and_then(|data| data.modified()).ok(), entry.path()));
        }
    }
    Ok(packages.into_iter().max().map(|(_, path)| path))
}

/// Reads what the image needs out of a package file.
pub fn read(package: &Path) -> Result<Contents, ImageError> {
    let found = unpack(package)?;
    let missing = |what: &str| ImageError::Missing { package: package.to_owned(), what: what.to_owned() };
    let (release, kernel) = found.kernel.ok_or_else(|| missing("/boot/vmlinuz-*"))?;
    if found.modules.is_empty() {
        return Err(missing("kernel modules"));
    }
    Ok(Contents { kernel, release, modules: found.modules, builtin: found.builtin })
}

/// Reads the kernel alone, for a guest that needs no modules.
pub fn read_kernel(package: &Path) -> Result<Vec<u8>, ImageError> {
    let kernel = unpack(package)?.kernel.map(|(_, kernel)| kernel);
    kernel.ok_or_else(|| ImageError::Missing {
        package: package.to_owned(),
        what: "/boot/vmlinuz-*".to_owned(),
    })
}

fn unpack(package: &Path) -> Result<Found, ImageError> {
    let shown = format!("dpkg-deb --fsys-tarfile {}", package.display());
    let failed = |output: String| ImageError::Command { command: shown.clone(), output };
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let read = read_archive(stdout);
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let found = read.map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(status.to_string()));
    }
    Ok(found)
}

#[derive(Default)]
struct Found {
    kernel: Option<(String, Vec<u8>)>,
    modules: BTreeMap<String, Vec<u8>>,
    builtin: BTreeSet<String>,
}

fn read_archive(stream: impl std::io::Read) -> std::io::Result<Found> {
    let mut found = Found::default();
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        let stem = path.rsplit('/').next().unwrap_or_default();
        if let Some(release) = path.strip_prefix("boot/vmlinuz-") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            found.kernel = Some((release.to_owned(), bytes));
        } else if let Some(stem) = stem.strip_suffix(".ko") {
            let name = module_name(stem);
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            found.modules.insert(name, bytes);
        } else if stem == "modules.builtin" {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            found.builtin = text.lines().filter_map(builtin_name).collect();
        }
    }
    // The stream is read to its end, else the archiver is killed by a full pipe and looks as if it had failed.
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink())?;
    Ok(found)
}

/// The module's name in a line of `modules.builtin` (`kernel/fs/fuse/fuse.ko`).
fn builtin_name(line: &str) -> Option<String> {
    line.rsplit('/').next()?.strip_suffix(".ko").map(module_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meta_package_resolves_to_the_kernel() {
        let output = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-50-cloud-amd64\n";
        assert_eq!(parse_depends(output).as_deref(), Some("linux-image-6.1.0-50-cloud-amd64"));
        assert_eq!(parse_depends("linux-image-cloud-amd64\n"), None);
    }

    #[test]
    fn the_file_name_and_size_come_from_apt() {
        let output =
            "'http://deb.debian.org/a/b/l.deb' linux-image-6.1_6.1.2-1_amd64.deb 26713492 SHA256:00\n";
        let wanted = parse_uri("linux-image-6.1", output).expect("parsed");
        assert_eq!((wanted.file.as_str(), wanted.bytes), ("linux-image-6.1_6.1.2-1_amd64.deb", 26_713_492));
        assert_eq!(parse_uri("x", "E: Unable to locate\n"), None);
    }

    #[test]
    fn a_series_is_distinguished_from_one_whose_number_begins_alike() {
        assert!(is_of_series("linux-image-6.1.0-50-cloud-amd64", "6.1"));
        assert!(is_of_series("linux-image-6.12.95+deb12-cloud-amd64", "6.12"));
        assert!(!is_of_series("linux-image-6.12.95+deb12-cloud-amd64", "6.1"));
    }

    #[test]
    fn backports_come_from_where_the_release_comes_from() {
        let indexes = "http://mirror/security/ old-security\nhttp://mirror/debian/ old-updates\nhttp://mirror/debian/ old\n";
        let source = backports_source(indexes, "ID=debian\nVERSION_CODENAME=old\n");
        assert_eq!(source.as_deref(), Some("deb http://mirror/debian/ old-backports main\n"));
        assert_eq!(backports_source(indexes, "VERSION_CODENAME=new\n"), None);
    }

    #[test]
    fn a_packages_kernel_modules_and_builtins_are_found() {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, data) in [
            ("./boot/vmlinuz-6.1", "kernel"),
            ("./lib/modules/6.1/kernel/drivers/virtio/virtio-rng.ko", "module"),
            ("./lib/modules/6.1/modules.builtin", "kernel/net/packet/af_packet.ko\n"),
            ("./usr/share/doc/x", "text"),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, path, data.as_bytes()).expect("appended");
        }
        let found = read_archive(builder.into_inner().expect("archive").as_slice()).expect("read");
        assert_eq!(found.kernel, Some(("6.1".to_owned(), b"kernel".to_vec())));
        assert_eq!(found.modules.keys().collect::<Vec<_>>(), ["virtio_rng"]);
        assert!(found.builtin.contains("af_packet"));
    }
}
