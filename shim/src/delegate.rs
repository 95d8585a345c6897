//! Finding the real runtime's shim and handing a call to it.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

/// No delegate to hand a call to.
#[derive(Debug, thiserror::Error)]
pub enum DelegateError {
    /// Nothing of that name beside this program or in `PATH`.
    #[error("delegate `{0}` is neither beside this program nor in PATH")]
    NotFound(String),
    /// The configured path is no program.
    #[error("delegate {path}: {source}")]
    Unusable {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The name leads back to this program.
    #[error("delegate {0} is this program itself")]
    Itself(PathBuf),
}

/// Finds the delegate: an absolute path, or a name beside this program, then in `PATH`.
pub fn find(name: &str) -> Result<PathBuf, DelegateError> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent);
    find_in(name, own.as_deref(), beside, std::env::var_os("PATH").as_deref())
}

fn find_in(
    name: &str,
    own: Option<&Path>,
    beside: Option<&Path>,
    path: Option<&OsStr>,
) -> Result<PathBuf, DelegateError> {
    let found = if Path::new(name).is_absolute() {
        let path = PathBuf::from(name);
        std::fs::metadata(&path).map_err(|source| DelegateError::Unusable { path: path.clone(), source })?;
        path
    } else {
        let directories = beside.map(Path::to_owned).into_iter();
        let directories = directories.chain(path.into_iter().flat_map(std::env::split_paths));
        directories
            .map(|directory| directory.join(name))
            .find(|candidate| !name.is_empty() && is_program(candidate))
            .ok_or_else(|| DelegateError::NotFound(name.to_owned()))?
    };
    // A delegate that is this program would start itself for ever.
    let file = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    if own.is_some_and(|own| file(own).is_some() && file(own) == file(&found)) {
        return Err(DelegateError::Itself(found));
    }
    Ok(found)
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}

/// The delegate with the arguments that containerd gave; environment, working directory and stdin are inherited.
pub fn command(delegate: &Path, arguments: &[OsString]) -> Command {
    let mut command = Command::new(delegate);
    command.args(arguments);
    command
}

/// Becomes the delegate; returns only if that is impossible.
pub fn exec(delegate: &Path, arguments: &[OsString]) -> io::Error {
    command(delegate, arguments).exec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn program(path: &Path) {
        std::fs::write(path, "#!/bin/sh\n").expect("written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    }

    #[test]
    fn beside_comes_before_path() {
        let (near, far) = (tempfile::tempdir().expect("near"), tempfile::tempdir().expect("far"));
        program(&far.path().join("d"));
        let find = || find_in("d", None, Some(near.path()), Some(far.path().as_os_str()));
        assert_eq!(find().expect("found"), far.path().join("d"));
        std::fs::write(near.path().join("d"), "no program").expect("written");
        assert_eq!(find().expect("found"), far.path().join("d"), "a file that is no program is passed over");
        program(&near.path().join("d"));
        assert_eq!(find().expect("found"), near.path().join("d"));
    }

    #[test]
    fn itself_and_nothing_are_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let own = dir.path().join("d");
        program(&own);
        let find = |name| find_in(name, Some(&own), Some(dir.path()), None);
        assert!(matches!(find("d"), Err(DelegateError::Itself(_))));
        assert!(matches!(find("e"), Err(DelegateError::NotFound(_))));
        assert!(matches!(find(""), Err(DelegateError::NotFound(_))));
        assert!(matches!(find("/nonexistent/d"), Err(DelegateError::Unusable { .. })));
    }
}
