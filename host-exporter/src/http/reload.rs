//! Reads files again when they change, or at once on demand: a look each second.

use std::time::Duration;

use porthole_config::watch::Watched;
use tokio::sync::watch;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Calls `reload` when the files have changed, and when `demanded` has, until stopped.
pub async fn watch(
    mut watched: Watched,
    mut demanded: watch::Receiver<u64>,
    mut stop: watch::Receiver<bool>,
    reload: impl Fn() + Send + Sync + Clone + 'static,
) {
    loop {
        let forced = tokio::select! {
            () = tokio::time::sleep(INTERVAL) => false,
            changed = demanded.changed() => changed.is_ok(),
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let reload = reload.clone();
        // Files can be on a slow disk.
        let looked = tokio::task::spawn_blocking(move || {
            if watched.changed() || forced {
                reload();
            }
            watched
        });
        match looked.await {
            Ok(same) => watched = same,
            Err(error) => {
                tracing::error!(%error, "files are no longer read again");
                return;
            }
        }
    }
}
