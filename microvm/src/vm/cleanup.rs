//! Takes away what a sandbox has on the host, from its record: by the shim at its end, and by `delete` when the shim
//! was killed. Doing it twice is harmless.

use std::{path::Path, time::Duration};

use super::{
    VmError, cgroup, network,
    record::Record,
    state_directory,
    system::{Linux, System as _},
};

/// How long a killed program may take to be gone; the kernel frees a guest's memory in that time.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Ends the programs of the record, undoes mounts and network, removes the state directory. A sandbox whose shim is
/// another process that runs is left alone.
pub fn sweep(directory: &Path) -> Result<(), VmError> {
    let record =
        Record::load(directory).map_err(VmError::io("read the record in", directory))?.unwrap_or_default();
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    if let Some(shim) = record.shim.as_ref().filter(|shim| shim.pid != own && shim.runs()) {
        return Err(VmError::InUse { sandbox: record.sandbox, shim: shim.pid });
    }
    // QEMU started last and goes first: the devices then have no client.
    for program in record.programs.iter().rev() {
        program.kill(TIMEOUT).map_err(|source| VmError::Program { name: program.name.clone(), source })?;
    }
    cgroup::remove(&Linux, &record.control_groups);
    if let Some(namespace) = &record.network {
        network::unmirror(&Linux, namespace, &record.mirrored);
    }
    if !directory.exists() {
        return Ok(());
    }
    Linux.detach_below(directory).map_err(VmError::io("unmount what is below", directory))?;
    // Nothing foreign is mounted in there any more, so that nothing foreign can be removed.
    Linux.remove_directory(directory).map_err(VmError::io("remove", directory))?;
    state_directory::remove_above(directory);
    Ok(())
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

    #[test]
    fn a_sandbox_whose_shim_lives_is_left_alone() {
        let scratch = tempfile::tempdir().expect("directory");
        let directory = scratch.path().join("s1");
        std::fs::create_dir(&directory).expect("created");
        let mut shim = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let mut program = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let process = |child: &std::process::Child| {
            ProcessRef::of("sleep", i32::try_from(child.id()).expect("small")).expect("runs")
        };
        let (shim_process, process) = (process(&shim), process(&program));
        let programs = vec![process.clone()];
        Record { shim: Some(shim_process), programs, ..Record::default() }.save(&directory).expect("saved");
        sweep(&directory).expect_err("its shim lives");
        assert!(process.runs() && directory.exists());
        shim.kill().and_then(|()| shim.wait()).expect("killed");
        sweep(&directory).expect("swept");
        assert!(!process.runs() && !directory.exists());
        program.wait().expect("reaped");
    }
}
