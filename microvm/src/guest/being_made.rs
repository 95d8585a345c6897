//! Containers that are being made or discarded, by id: with each id one thing is done at a time, and to its end.
//!
//! The host gives up a call that takes too long, and the server then drops what serves the call. A container that is half made would
//! stay, so making goes on by itself, and its outcome is discarded when the host has the container removed meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::GuestError;

/// The ids with which something is being done.
#[derive(Clone, Default)]
pub struct BeingMade(Arc<Mutex<HashMap<String, Work>>>);

struct Work {
    /// What is made is to be discarded.
    is_unwanted: bool,
    /// Closed at the end.
    over: watch::Receiver<()>,
}

impl BeingMade {
    fn works(&self) -> MutexGuard<'_, HashMap<String, Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins something with an id; none while something else is done with it.
    pub fn begin(&self, id: &str) -> Option<Claim> {
        let mut works = self.works();
        if works.contains_key(id) {
            return None;
        }
        let (sender, over) = watch::channel(());
        works.insert(id.to_owned(), Work { is_unwanted: false, over });
        Some(Claim { ids: self.clone(), id: id.to_owned(), _over: sender })
    }

    /// Has what is being made of an id discarded, unless it was kept just now; returns after that.
    pub async fn cancel(&self, id: &str) {
        let over = self.works().get_mut(id).map(|work| {
            work.is_unwanted = true;
            work.over.clone()
        });
        if let Some(mut over) = over {
            // Nothing is sent: it is closed.
            let _ = over.changed().await;
        }
    }
}

/// An id with which something is being done, until this is dropped.
pub struct Claim {
    ids: BeingMade,
    id: String,
    _over: watch::Sender<()>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.ids.works().remove(&self.id);
    }
}

impl Claim {
    /// Makes something, and keeps it unless it was cancelled meanwhile: then, and when it could not be made, what there is of it is
    /// discarded. It goes on when the caller gives up.
    pub async fn make<T, R, Discarding>(
        self,
        making: impl Future<Output = Result<T, GuestError>> + Send + 'static,
        keep: impl FnOnce(T) -> R + Send + 'static,
        discard: impl FnOnce(Option<T>) -> Discarding + Send + 'static,
    ) -> Result<R, GuestError>
    where
        T: Send + 'static,
        R: Send + 'static,
        Discarding: Future<Output = ()> + Send,
    {
        let task = tokio::spawn(async move {
            let (unwanted, error) = match making.await {
                Ok(thing) => match self.keep(thing, keep) {
                    Ok(kept) => return Ok(kept),
                    Err(thing) => {
                        (Some(thing), GuestError::State(format!("{} was removed meanwhile", self.id)))
                    }
                },
                Err(error) => (None, error),
            };
            discard(unwanted).await;
            Err(error)
        });
        task.await.map_err(|error| GuestError::Container(error.to_string()))?
    }

    /// Keeps what was made, or gives it back if it was cancelled. No cancellation comes in between.
    fn keep<T, R>(&self, made: T, keep: impl FnOnce(T) -> R) -> Result<R, T> {
        let works = self.ids.works();
        if works.get(&self.id).is_some_and(|work| work.is_unwanted) { Err(made) } else { Ok(keep(made)) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// What is made, when the test has it made; what becomes of it is reported.
    struct Made {
        finish: oneshot::Sender<Result<u8, GuestError>>,
        outcome: mpsc::UnboundedReceiver<&'static str>,
        caller: tokio::task::JoinHandle<Result<u8, GuestError>>,
    }

    fn made(ids: &BeingMade) -> Made {
        let (finish, finished) = oneshot::channel();
        let (report, outcome) = mpsc::unbounded_channel();
        let (claim, discarded) = (ids.begin("c1").expect("nothing else"), report.clone());
        let caller = tokio::spawn(claim.make(
            async { finished.await.expect("finished") },
            move |number| {
                report.send("kept").expect("sent");
                number
            },
            async move |made: Option<u8>| {
                discarded.send(if made.is_some() { "discarded whole" } else { "discarded" }).expect("sent");
            },
        ));
        Made { finish, outcome, caller }
    }

    async fn over(ids: &BeingMade) {
        while ids.works().contains_key("c1") {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_made_is_kept_also_when_the_caller_has_given_up() {
        for gives_up in [false, true] {
            let ids = BeingMade::default();
            let mut made = made(&ids);
            tokio::task::yield_now().await;
            assert!(ids.begin("c1").is_none(), "one at a time");
            assert!(ids.begin("c2").is_some(), "another one");
            if gives_up {
                made.caller.abort();
                tokio::task::yield_now().await;
            }
            made.finish.send(Ok(7)).expect("it goes on");
            assert_eq!(made.outcome.recv().await, Some("kept"));
            over(&ids).await;
            assert_eq!(made.caller.await.ok().map(|made| made.expect("made")), (!gives_up).then_some(7));
            assert!(ids.begin("c1").is_some());
            ids.cancel("c1").await;
        }
    }

    #[tokio::test]
    async fn what_is_cancelled_while_it_is_made_is_discarded() {
        let ids = BeingMade::default();
        let mut made = made(&ids);
        let cancelling = tokio::spawn({
            let ids = ids.clone();
            async move { ids.cancel("c1").await }
        });
        tokio::task::yield_now().await;
        assert!(!cancelling.is_finished(), "it waits for the end");
        made.finish.send(Ok(7)).expect("it goes on");
        assert_eq!(made.outcome.recv().await, Some("discarded whole"));
        cancelling.await.expect("cancelled");
        assert!(made.caller.await.expect("made").is_err());
        assert_eq!(made.outcome.recv().await, None, "nothing else became of it");
    }

    #[tokio::test]
    async fn what_cannot_be_made_is_discarded() {
        let ids = BeingMade::default();
        let mut made = made(&ids);
        made.finish.send(Err(GuestError::State("full".to_owned()))).expect("it goes on");
        assert_eq!(made.outcome.recv().await, Some("discarded"));
        assert_eq!(made.caller.await.expect("made").expect_err("refused").to_string(), "full");
        assert!(ids.begin("c1").is_some());
    }
}
