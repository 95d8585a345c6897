//! `porthole install` and `porthole uninstall`: put the built parts in place and remove them.
//!
//! ```text
//! dist directory → plan (what goes where) → manifest (written first) → files, directories, containerd's block
//! ```
//!
//! [`plan`] lists what goes where, [`containerd`] edits containerd's configuration, [`manifest`] records what was
//! written. Invariants: nothing that install did not write is overwritten or removed; what was changed since is left
//! and named; an installation that was interrupted can be uninstalled, and repeated.

mod containerd;
mod manifest;
mod plan;

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use manifest::{Manifest, Written, digest};
use plan::{Item, Plan};

/// Where things go.
#[derive(Debug, clap::Args)]
pub struct Places {
    /// Directory that stands for `/`
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// containerd's configuration file, below the root
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml")]
    containerd_config: PathBuf,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Options of `porthole install`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What `cargo xtask build` made, or an unpacked release
    #[arg(long, value_name = "DIR")]
    dist: PathBuf,
    /// Where programs and images go, below the root
    #[arg(long, value_name = "DIR", default_value = "/usr")]
    prefix: PathBuf,
    #[command(flatten)]
    places: Places,
}

/// Options of `porthole uninstall`.
#[derive(Debug, clap::Args)]
pub struct UninstallOptions {
    /// Remove also what was changed since it was installed
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    places: Places,
}

/// A path below the directory that stands for `/`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Prints a step; in a dry run that is all.
fn say(verb: &str, path: &Path) {
    println!("{verb:9} {}", path.display());
}

/// Installs, or brings an installation up to date.
pub fn run(options: &Options) -> Result<()> {
    let places = &options.places;
    let root = &places.root;
    if !options.prefix.is_absolute() {
        bail!("--prefix {}: an absolute path is wanted", options.prefix.display());
    }
    let plan = Plan::new(&options.dist, &options.prefix)?;
    let old = Manifest::load(root)?.unwrap_or_default();
    let mut new = Manifest { directories: old.directories.clone(), ..Manifest::default() };
    let mut writes = Vec::new();
    for item in &plan.items {
        let target = below(root, &item.target);
        let written = Written { path: item.target.clone(), sha256: digest(&item.bytes) };
        match fs::read(&target) {
            Ok(there) if there == item.bytes && old.has(&item.target) => {}
            Ok(_) if item.is_configuration => {
                say("keep", &target);
                new.files.extend(old.files.iter().filter(|file| file.path == item.target).cloned());
                continue;
            }
            Ok(there) if !old.wrote(&item.target, &there) => bail!(
                "{} is there and was not written by `porthole install`, or was changed since: move it away",
                target.display()
            ),
            Ok(_) => writes.push((target, item)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => writes.push((target, item)),
            Err(error) => return Err(error).with_context(|| format!("read {}", target.display())),
        }
        new.files.push(written);
    }
    let edit = containerd::Edit::add(root, &places.containerd_config, old.containerd.as_ref())?;
    new.containerd = Some(edit.block.clone());
    let manifest = below(root, Path::new(manifest::PATH));
    let edited = edit.text.as_ref().map(|_| below(root, &places.containerd_config));
    let parents = writes.iter().map(|(target, _)| target).chain(edited.as_ref()).chain([&manifest]);
    let mut missing: BTreeSet<PathBuf> = parents.flat_map(|target| missing_parents(root, target)).collect();
    missing.extend(plan.directories.iter().map(|path| below(root, path)).flat_map(|directory| {
        let itself = (!directory.exists()).then(|| directory.clone());
        missing_parents(root, &directory).into_iter().chain(itself)
    }));
    new.directories.extend(missing.iter().map(|path| absolute(root, path)));
    let gone: Vec<_> = old.paths().into_iter().filter(|path| !new.has(path)).collect();
    for path in &missing {
        say("make", path);
    }
    for (target, _) in &writes {
        say("write", target);
    }
    for path in &gone {
        say("remove", &below(root, path));
    }
    if let Some(path) = &edited {
        say("edit", path);
    }
    if places.dry_run {
        return Ok(());
    }
    // First what will be there, so that an installation that stops in the middle can be taken away.
    for path in &missing {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    }
    let both = Manifest { files: new.files.iter().chain(&old.files).cloned().collect(), ..new.clone() };
    both.store(root)?;
    for (target, item) in &writes {
        write(target, item)?;
    }
    for path in gone {
        remove_if_ours(root, &old, path, false)?;
    }
    edit.apply()?;
    new.store(root)?;
    println!(
        "\nnext: systemctl daemon-reload && systemctl enable --now porthole-exporter && systemctl restart containerd\n\
         then: porthole doctor"
    );
    Ok(())
}

/// Removes what install wrote.
pub fn uninstall(options: &UninstallOptions) -> Result<()> {
    let places = &options.places;
    let root = &places.root;
    let Some(manifest) = Manifest::load(root)? else {
        bail!(
            "{} is not there: nothing was installed here",
            below(root, Path::new(manifest::PATH)).display()
        );
    };
    if let Some(block) = &manifest.containerd {
        let edit = containerd::Edit::remove(root, block)?;
        if let Some(edit) = edit {
            say("edit", &below(root, &block.path));
            if !places.dry_run {
                edit.apply()?;
            }
        }
    }
    let mut kept = 0_usize;
    for path in manifest.paths() {
        if places.dry_run {
            say("remove", &below(root, path));
        } else if !remove_if_ours(root, &manifest, path, options.force)? {
            kept += 1;
        }
    }
    if places.dry_run {
        return Ok(());
    }
    Manifest::remove(root)?;
    // Deepest first. What others have put there stays, and so does the directory.
    for path in manifest.directories.iter().rev() {
        let directory = below(root, path);
        if fs::remove_dir(&directory).is_ok() {
            say("remove", &directory);
        }
    }
    if kept > 0 {
        println!(
            "\n{kept} files were changed since they were installed and are still there (--force removes them)"
        );
    }
    Ok(())
}

/// Removes a file that is as it was written; returns whether it is gone.
fn remove_if_ours(root: &Path, manifest: &Manifest, path: &Path, force: bool) -> Result<bool> {
    let target = below(root, path);
    match fs::read(&target) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("read {}", target.display())),
        Ok(there) if force || manifest.wrote(path, &there) => {
            fs::remove_file(&target).with_context(|| format!("remove {}", target.display()))?;
            say("remove", &target);
            Ok(true)
        }
        Ok(_) => {
            say("keep", &target);
            Ok(false)
        }
    }
}

/// Directories above a path that are not there.
fn missing_parents(root: &Path, path: &Path) -> Vec<PathBuf> {
    path.ancestors()
        .skip(1)
        .take_while(|directory| *directory != root && !directory.exists())
        .map(Path::to_owned)
        .collect()
}

fn absolute(root: &Path, path: &Path) -> PathBuf {
    Path::new("/").join(path.strip_prefix(root).unwrap_or(path))
}

fn write(target: &Path, item: &Item) -> Result<()> {
    replace(target, &item.bytes, item.mode)
}

/// Writes a file beside its place and moves it there: a program that runs is replaced, not overwritten.
fn replace(target: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut name = target.file_name().context("a file's path")?.to_owned();
    name.push(".porthole-new");
    let staged = target.with_file_name(name);
    let write = || {
        let mut file = fs::File::create(&staged)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&staged, target)
    };
    write().with_context(|| format!("write {}", target.display()))
}
