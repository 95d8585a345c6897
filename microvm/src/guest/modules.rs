//! Kernel modules: the initrd brings them, with a list in the order in which they load.

use std::{fs::File, io, path::Path};

use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
};

use super::GuestError;

const DIRECTORY: &str = "/modules";

/// The list's file in [`DIRECTORY`].
const LIST: &str = "order";

/// Modules that no container's start needs: they load when the guest is already answering.
const AFTER_BOOT: &[&str] = &["overlay"];

fn listed() -> Result<Vec<String>, GuestError> {
    let path = Path::new(DIRECTORY).join(LIST);
    let text = std::fs::read_to_string(&path).map_err(GuestError::io(format!("read {}", path.display())))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Loads what the guest needs to come up.
pub fn load_all() -> Result<(), GuestError> {
    for name in listed()?.iter().filter(|name| !AFTER_BOOT.contains(&name.as_str())) {
        load(name).map_err(GuestError::io(format!("load module {name}")))?;
    }
    Ok(())
}

/// Loads the rest. What fails here is missed by those containers only that want it.
pub fn load_after_boot() {
    for name in AFTER_BOOT {
        if let Err(error) = load(name) {
            eprintln!("porthole-init: module {name}: {error}");
        }
    }
}

fn load(name: &str) -> io::Result<()> {
    let file = File::open(Path::new(DIRECTORY).join(format!("{name}.ko")))?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
