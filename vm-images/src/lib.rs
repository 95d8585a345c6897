//! What runs in a guest, made from distribution packages: the kernel, the initrd, and the sidecar's root filesystem.
//!
//! Debian's cloud kernel package is downloaded into a cache and unpacked there; nothing is installed on the host.
//! The way: [`package`] finds and fetches the `.deb`, [`kernel`] takes the kernel out of its self-extracting wrapper,
//! [`modules`] picks the modules that a guest needs in the order in which they load, [`initrd`] packs them with the
//! guest's init and the agent, [`sidecar`] lays out the agent's root filesystem. [`kata`] adds the agent to images that Kata's
//! project has made.
//!
//! Invariants: the same inputs give the same bytes (entries sorted, no times, no owners); every output is written
//! beside its place and renamed, so that a build that was interrupted leaves the previous images whole.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

pub mod cpio;
pub mod initrd;
pub mod kata;
pub mod kernel;
pub mod modules;
pub mod package;
pub mod sidecar;

pub use sidecar::build_sidecar;

/// A guest image that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file or directory could not be used.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A tool of the distribution failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its output.
        output: String,
    },
    /// The package index has no kernel.
    #[error("the package index knows no {0}: run `apt-get update` once")]
    UnknownPackage(&'static str),
    /// No package source has a kernel of the series.
    #[error("the distribution and its backports have no kernel {series}, their newest is {newest}")]
    UnknownSeries {
        /// What was wanted.
        series: String,
        /// The newest package.
        newest: String,
    },
    /// The package lacks something that a guest needs.
    #[error("{package} has no {what}")]
    Missing {
        /// The package's file.
        package: PathBuf,
        /// What is missing.
        what: String,
    },
    /// A kernel module that cannot be read.
    #[error("kernel module {name}: {reason}")]
    Module {
        /// The module.
        name: String,
        /// Why.
        reason: String,
    },
}

impl ImageError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// What a guest image is made of.
#[derive(Clone, Debug)]
pub struct GuestInputs {
    /// The static `porthole-init`.
    pub init: PathBuf,
    /// The static `porthole-agent`.
    pub agent: PathBuf,
    /// Directory that keeps the downloaded package; with it filled, no network is needed.
    pub cache: PathBuf,
    /// Directory that gets `guest/vmlinuz` and `guest/initrd.img`.
    pub out: PathBuf,
}

/// What was built.
#[derive(Clone, Debug)]
pub struct GuestImage {
    /// The kernel: an ELF image with a PVH entry where it could be extracted, the distribution's bzImage otherwise.
    pub kernel: PathBuf,
    /// The initrd.
    pub initrd: PathBuf,
    /// Release of the kernel, as `uname -r` prints it in the guest.
    pub release: String,
}

/// Builds the guest's kernel and initrd. `progress` gets one line for every step.
pub fn build_guest(inputs: &GuestInputs, progress: &mut dyn FnMut(&str)) -> Result<GuestImage, ImageError> {
    let package = package::fetch(&inputs.cache, progress)?;
    progress(&format!("unpacking {}", package.display()));
    let contents = package::read(&package)?;
    let guest = inputs.out.join("guest");
    std::fs::create_dir_all(&guest).map_err(ImageError::io("create", &guest))?;

    let kernel_path = guest.join("vmlinuz");
    let kernel = kernel::boot_image(&contents.kernel);
    progress(&format!("kernel {}: {}, {} MiB", contents.release, kernel.form, kernel.bytes.len() >> 20));
    write_whole(&kernel_path, &kernel.bytes)?;

    let init = std::fs::read(&inputs.init).map_err(ImageError::io("read", &inputs.init))?;
    let agent = std::fs::read(&inputs.agent).map_err(ImageError::io("read", &inputs.agent))?;
    let modules = modules::in_load_order(&contents.modules, modules::GUEST_MODULES, &contents.builtin)?;
    let (init_kib, agent_kib) = (init.len() >> 10, agent.len() >> 10);
    progress(&format!("initrd: init {init_kib} KiB, agent {agent_kib} KiB, {} modules", modules.len()));
    let initrd_path = guest.join("initrd.img");
    write_whole(&initrd_path, &initrd::pack(&init, &agent, &modules))?;
    Ok(GuestImage { kernel: kernel_path, initrd: initrd_path, release: contents.release })
}

/// Writes a file beside its place and moves it there.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = std::fs::File::create(&partial).and_then(|mut file| file.write_all(bytes));
    written.and_then(|()| std::fs::rename(&partial, path)).map_err(|source| {
        // What remains of a failed write is of no use to anyone.
        let _ = std::fs::remove_file(&partial);
        ImageError::Io { what: "write", path: path.to_owned(), source }
    })
}
