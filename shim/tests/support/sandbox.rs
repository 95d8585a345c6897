//! A sandbox of the wrapper whose delegate is the double: its start, and its end where no containerd plays a part.

use porthole_registry::SandboxState;

use super::{Setup, task::TaskDouble};

/// Starts the sandbox `id` through the wrapper. The double is prepared before; `monitor` is whether it has the
/// monitor socket that Kata's shims have.
pub fn start(setup: &Setup, id: &str, monitor: bool, prepare: impl FnOnce(&TaskDouble)) -> TaskDouble {
    let (socket, monitor_path) = (setup.path("task.sock"), setup.path(format!("{id}.monitor")));
    let double = TaskDouble::listen(&socket, monitor.then_some(&*monitor_path));
    prepare(&double);
    setup.bundle(id, &[("io.porthole.service", "shop")]);
    let answer = format!("unix://{}", socket.display());
    setup.delegate_says(answer.as_bytes(), b"", 0);
    let output = setup.start(id);
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(String::from_utf8_lossy(&output.stdout), answer);
    double
}

/// The sandbox ends as Kata's do, and containerd deletes its container.
pub fn end(setup: &Setup, id: &str, double: &TaskDouble) {
    double.stop_all();
    setup.reaches(id, SandboxState::Ended);
    double.remove(id);
    setup.nothing_remains(id);
}
