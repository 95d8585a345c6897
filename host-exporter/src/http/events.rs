//! `GET /api/v1/events`: an event at the end of each step, so that pages know when there is something new. An event has no number of
//! any tenant: pages request what they show, by their own rights.
//!
//! A stream costs a timer's wake-up and a few bytes each step. There is a bounded number of them in all and for each viewer, and
//! each ends after a while, so that one whose token was revoked does not stay.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{App, access::Viewer};

/// Streams at one time; each holds one of the server's connections.
const STREAMS_MAX: usize = 48;

/// Those of one tenant, or of all operators.
const STREAMS_PER_VIEWER_MAX: usize = 12;

/// How long a stream lasts; a browser opens another.
const STREAM_MAX: Duration = Duration::from_mins(10);

/// For how long a browser waits before it opens another, milliseconds.
const RETRY_MS: u32 = 3_000;

/// The streams that are open.
#[derive(Debug)]
pub struct Streams {
    steps: watch::Receiver<u64>,
    open: Arc<Mutex<BTreeMap<Option<String>, usize>>>,
}

impl Streams {
    /// No streams yet; `steps` changes at the end of each step.
    pub fn new(steps: watch::Receiver<u64>) -> Self {
        Self { steps, open: Arc::default() }
    }

    /// A place for one more; `None` where there are too many.
    fn place(&self, viewer: &Viewer) -> Option<Place> {
        let whose = viewer.tenant().map(str::to_owned);
        let mut open = self.open.lock();
        let own = open.get(&whose).copied().unwrap_or(0);
        if own >= STREAMS_PER_VIEWER_MAX || open.values().sum::<usize>() >= STREAMS_MAX {
            return None;
        }
        open.insert(whose.clone(), own + 1);
        Some(Place { open: Arc::clone(&self.open), whose })
    }
}

/// One of the places; it is free again when this goes.
struct Place {
    open: Arc<Mutex<BTreeMap<Option<String>, usize>>>,
    whose: Option<String>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        match open.get_mut(&self.whose) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.whose)),
        }
    }
}

pub(super) async fn stream(State(app): State<App>, Extension(viewer): Extension<Viewer>) -> Response {
    let Some(place) = app.streams.place(&viewer) else {
        let text = "too many pages are open: this one has to look again by itself\n";
        return (StatusCode::TOO_MANY_REQUESTS, text).into_response();
    };
    let mut steps = app.streams.steps.clone();
    steps.mark_unchanged();
    let until = Instant::now() + STREAM_MAX;
    let events = stream::unfold((steps, place, true), move |(mut steps, place, first)| async move {
        if first {
            return Some((Ok::<_, Infallible>(format!("retry: {RETRY_MS}\n\n")), (steps, place, false)));
        }
        let step = tokio::select! {
            changed = steps.changed() => changed.ok().map(|()| *steps.borrow_and_update()),
            () = tokio::time::sleep_until(until) => None,
        };
        step.map(|step| (Ok(format!("event: step\ndata: {step}\n\n")), (steps, place, false)))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

#[cfg(test)]
mod tests {
    use porthole_access::Scope;

    use super::*;

    #[test]
    fn viewers_have_a_bounded_number_of_streams_and_take_none_of_others() {
        let (_sender, steps) = watch::channel(0);
        let streams = Streams::new(steps);
        let tenant = |name: &str| Viewer::new(Scope::Tenant(name.to_owned()));
        let mut places: Vec<_> =
            (0..STREAMS_PER_VIEWER_MAX).map(|_| streams.place(&tenant("acme"))).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(streams.place(&tenant("acme")).is_none());
        assert!(streams.place(&tenant("rival")).is_some(), "of another tenant");
        places.pop();
        assert!(streams.place(&tenant("acme")).is_some(), "one has ended");
        let all: Vec<_> =
            (0..2 * STREAMS_MAX).filter_map(|at| streams.place(&tenant(&at.to_string()))).collect();
        assert_eq!(all.len() + places.len(), STREAMS_MAX);
        drop((all, places));
        assert!(streams.open.lock().is_empty());
    }
}
