//! Takes away what a sandbox has on the host, from its record: by the shim at its end, and by `delete` when the shim
//! was killed. Doing it twice is harmless.

use std::{path::Path, time::Duration};

use super::{VmError, mounts, network, record::Record};

/// How long a killed program may take to be gone; the kernel frees a guest's memory in that time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends the programs of the record, undoes mounts and network, removes the state directory.
pub fn sweep(directory: &Path) -> Result<(), VmError> {
    let record =
        Record::load(directory).map_err(VmError::io("read the record in", directory))?.unwrap_or_default();
    // QEMU started last and goes first: the devices then have nobody to serve.
    for program in record.programs.iter().rev() {
        program.kill(PATIENCE).map_err(|source| VmError::Program { name: program.name.clone(), source })?;
    }
    if let Some(namespace) = &record.network {
        network::unmirror(namespace, &record.mirrored);
    }
    if !directory.exists() {
        return Ok(());
    }
    mounts::detach_below(directory).map_err(VmError::io("unmount what is below", directory))?;
    // Nothing foreign is mounted in there any more, so that nothing foreign can be removed.
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(VmError::io("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::process::ProcessRef;

    #[test]
    fn programs_on_record_end_and_the_directory_goes() {
        let scratch = tempfile::tempdir().expect("directory");
        let directory = scratch.path().join("s1");
        std::fs::create_dir(&directory).expect("created");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let process = ProcessRef::of("sleep", i32::try_from(child.id()).expect("small")).expect("runs");
        Record { programs: vec![process.clone()], ..Record::default() }.save(&directory).expect("saved");
        sweep(&directory).expect("swept");
        assert!(!process.runs() && !directory.exists());
        child.wait().expect("reaped");
        sweep(&directory).expect("a second time is harmless");
    }
}
