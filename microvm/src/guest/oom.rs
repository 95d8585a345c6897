//! Reports containers in which the kernel has killed a process because memory ran out.

use std::os::fd::{AsFd as _, AsRawFd, RawFd};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{io::unix::AsyncFd, sync::mpsc, task::AbortHandle};

use super::cgroup::Group;

/// A watch on one container's memory events; ends when dropped.
pub struct Watch(AbortHandle);

impl Watch {
    /// Watches the container's group; none where the kernel counts no memory.
    pub fn start(id: &str, events: mpsc::Sender<String>) -> Option<Self> {
        let group = Group::of(id);
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
        inotify.add_watch(&group.memory_events(), AddWatchFlags::IN_MODIFY).ok()?;
        // SAFETY: the value owns its descriptor and answers the same one as long as it lives.
        let inotify = unsafe { AsyncFd::register(Descriptor(inotify)) }.ok()?;
        let id = id.to_owned();
        let task = tokio::spawn(async move {
            let mut seen = group.oom_kills();
            while let Ok(mut ready) = inotify.readable().await {
                // The counts are read from the file itself.
                while inotify.get_ref().0.read_events().is_ok() {}
                ready.clear_ready();
                let kills = group.oom_kills();
                if kills > seen {
                    seen = kills;
                    // A full queue has this container's neighbours' events; the host fetches them all at once.
                    let _ = events.try_send(id.clone());
                }
            }
        });
        Some(Self(task.abort_handle()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// nix's inotify has no raw descriptor of its own, which the runtime needs.
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
