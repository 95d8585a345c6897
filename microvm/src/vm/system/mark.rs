//! The mark of directories that this runtime has made, control groups among them: the last sandbox takes them away with
//! itself, and leaves those alone that others have made.

use std::{io, path::Path};

use rustix::fs::{XattrFlags, getxattr, setxattr};

/// An extended attribute that only root has, and that both versions of control groups and file systems in memory take.
const ATTRIBUTE: &str = "trusted.porthole";

/// Marks a directory. Where there are no such attributes it is left as one of others.
pub fn set(directory: &Path) -> io::Result<()> {
    match setxattr(directory, ATTRIBUTE, b"1", XattrFlags::empty()) {
        Err(rustix::io::Errno::NOENT) => Err(io::ErrorKind::NotFound.into()),
        Err(error) => {
            tracing::debug!(%error, directory = %directory.display(), "a directory takes no mark");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Whether this runtime has made a directory, for whichever sandbox.
pub fn is_set(directory: &Path) -> bool {
    getxattr(directory, ATTRIBUTE, &mut [0u8; 1]).is_ok()
}
