//! The directories above those of the sandboxes: the first sandbox makes what is missing, and the last one removes it.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use super::system::mark;

/// How often a sandbox's directory is made while other sandboxes, which were the last ones, remove those above it.
const ATTEMPTS: u32 = 100;

/// Makes a sandbox's directory and those above it, for root only: containers' files are visible below them.
pub fn create(directory: &Path) -> io::Result<()> {
    let mut attempts = 1..ATTEMPTS;
    loop {
        match create_once(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts.next().is_some() => {}
            result => return result,
        }
    }
}

fn create_once(directory: &Path) -> io::Result<()> {
    let all = directory.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let missing: Vec<_> = all.ancestors().take_while(|above| !above.exists()).collect();
    for above in missing.into_iter().rev() {
        match make(above) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.and_then(|()| mark::set(above))?,
        }
    }
    // It may have been there already, with other permissions.
    fs::set_permissions(all, Permissions::from_mode(0o700))?;
    make(directory)
}

fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(directory)
}

/// Removes the directories above a sandbox's that this runtime has made, if no other sandbox is in them.
pub fn remove_above(directory: &Path) {
    for above in directory.ancestors().skip(1).take_while(|above| mark::is_set(above)) {
        if fs::remove_dir(above).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root's tests see directories go, others' that they stay where they cannot be marked.
    #[test]
    fn the_last_sandbox_takes_the_directories_with_it_that_the_first_has_made() {
        let scratch = tempfile::tempdir().expect("directory");
        let all = scratch.path().join("run/sandboxes");
        let sandboxes = ["one", "other"].map(|name| all.join(name));
        for sandbox in &sandboxes {
            create(sandbox).expect("created");
            let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
            assert_eq!([mode(sandbox), mode(&all)], [0o700; 2]);
        }
        create(&sandboxes[0]).expect_err("it is another's");
        let is_marked = mark::is_set(&all);
        for (sandbox, is_last) in sandboxes.iter().zip([false, true]) {
            fs::remove_dir(sandbox).expect("removed");
            remove_above(sandbox);
            assert_eq!(all.exists(), !(is_last && is_marked));
            assert_eq!(scratch.path().join("run").exists(), !(is_last && is_marked));
        }
        assert!(scratch.path().exists(), "it was there before");
    }

    #[test]
    fn sandboxes_that_begin_while_the_last_ones_end_have_their_directories() {
        let scratch = tempfile::tempdir().expect("directory");
        let all = scratch.path().join("run/sandboxes");
        std::thread::scope(|scope| {
            for number in 0..4 {
                let sandbox = all.join(format!("s{number}"));
                scope.spawn(move || {
                    for _ in 0..500 {
                        create(&sandbox).expect("created");
                        fs::write(sandbox.join("record.json"), "").expect("written");
                        fs::remove_dir_all(&sandbox).expect("removed");
                        remove_above(&sandbox);
                    }
                });
            }
        });
        assert!(!all.exists() || !mark::is_set(&all));
    }
}
