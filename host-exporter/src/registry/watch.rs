//! Reports when the directory changed: by inotify(7) at once, and every few seconds in any case, because a lock that is
//! released makes no event and a directory that was replaced makes its last.

use std::{
    os::fd::{AsFd, AsRawFd, RawFd},
    path::Path,
    time::Duration,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep, sleep_until},
};

/// Events that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(20);

/// nix has the descriptor in one form, tokio takes it in the other.
#[derive(Debug)]
struct Events(Inotify);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A watch on the directory.
#[derive(Debug)]
pub struct DirectoryWatch {
    inotify: Option<AsyncFd<Events>>,
    watching: bool,
    rescan: Duration,
    next_rescan: Instant,
}

impl DirectoryWatch {
    /// Watches nothing yet. Without inotify the periodic look remains.
    pub fn new(rescan: Duration) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(std::io::Error::from)
            .and_then(|inotify| {
                // SAFETY: `Events` owns the descriptor of its inotify instance and never replaces or closes it before
                // it is dropped.
                unsafe { AsyncFd::register(Events(inotify)) }.map_err(std::io::Error::from)
            })
            .inspect_err(|error| tracing::warn!(%error, "no inotify: the registry is read every {rescan:?}"))
            .ok();
        Self { inotify, watching: false, rescan, next_rescan: Instant::now() }
    }

    /// Puts the watch on the directory, if it is not there yet and the directory exists.
    pub fn attach(&mut self, directory: &Path) {
        let flags = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        if let (Some(inotify), false) = (&self.inotify, self.watching) {
            self.watching = inotify.get_ref().0.add_watch(directory, flags).is_ok();
        }
    }

    /// Waits until the directory should be read again.
    pub async fn changed(&mut self) {
        let Some(inotify) = &self.inotify else {
            sleep(self.rescan).await;
            return;
        };
        let periodic = tokio::select! {
            () = sleep_until(self.next_rescan) => true,
            ready = inotify.readable() => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
                sleep(SETTLE).await;
                false
            }
        };
        while let Ok(events) = inotify.get_ref().0.read_events() {
            let gone =
                AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_IGNORED;
            self.watching &= !events.iter().any(|event| event.mask.intersects(gone));
        }
        if periodic {
            self.next_rescan = Instant::now() + self.rescan;
        }
    }
}
