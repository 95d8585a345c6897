//! Events to containerd, in order, from a queue: a containerd that restarts must not hold up a container.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use containerd_shim::{
    event::Event,
    protos::{
        protobuf::{MessageField, well_known_types::timestamp::Timestamp},
        shim::{event::Envelope, events::ForwardRequest},
        shim_async::{Client, EventsClient},
    },
    util::convert_to_any,
};
use tokio::sync::{mpsc, oneshot};

/// How long containerd may take over one event.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often an event is offered; containerd restarts within this many times [`RETRY_AFTER`].
const ATTEMPTS: u32 = 10;

/// Events that may wait before those that can be missed are.
pub const WAITING_MAX: usize = 64;

/// Pause between two attempts.
const RETRY_AFTER: Duration = Duration::from_secs(1);

enum Item {
    Event(Box<Envelope>),
    Flush(oneshot::Sender<()>),
}

/// The queue's end that takes events.
#[derive(Clone)]
pub struct Events {
    namespace: String,
    queue: mpsc::UnboundedSender<Item>,
    waiting: Arc<AtomicUsize>,
}

impl Events {
    /// Starts to forward to containerd's ttrpc socket.
    pub fn start(address: String, namespace: String) -> Self {
        let (queue, mut items) = mpsc::unbounded_channel();
        let waiting = Arc::<AtomicUsize>::default();
        let waited = Arc::clone(&waiting);
        tokio::spawn(async move {
            let mut client = None;
            while let Some(item) = items.recv().await {
                match item {
                    Item::Event(envelope) => {
                        waited.fetch_sub(1, Ordering::Relaxed);
                        forward(&mut client, &address, *envelope).await;
                    }
                    // The caller may have given up.
                    Item::Flush(done) => drop(done.send(())),
                }
            }
        });
        Self { namespace, queue, waiting }
    }

    /// Queues an event that can be missed, unless many are waiting: a guest may cause any number of these.
    pub fn publish_unless_behind(&self, event: impl Event) {
        if self.waiting.load(Ordering::Relaxed) < WAITING_MAX {
            self.publish(event);
        }
    }

    /// Queues an event.
    pub fn publish(&self, event: impl Event) {
        let topic = event.topic();
        let Ok(event) = convert_to_any(Box::new(event)) else { return };
        let mut envelope = Envelope::new();
        envelope.topic = topic;
        envelope.namespace.clone_from(&self.namespace);
        envelope.timestamp = MessageField::some(Timestamp::now());
        envelope.event = MessageField::some(event);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The queue ends with the process.
        let _ = self.queue.send(Item::Event(Box::new(envelope)));
    }

    /// Waits until what was queued is out, at most so long.
    pub async fn flush(&self, timeout: Duration) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).is_ok() {
            // Running out of time is no error: containerd may be gone.
            let _ = tokio::time::timeout(timeout, wait).await;
        }
    }
}

async fn forward(client: &mut Option<EventsClient>, address: &str, envelope: Envelope) {
    let request = ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
    for _ in 0..ATTEMPTS {
        if client.is_none() {
            *client = Client::connect(&format!("unix://{address}")).await.ok().map(EventsClient::new);
        }
        if let Some(connected) = client {
            let context = ttrpc::context::with_duration(CALL_TIMEOUT);
            match connected.forward(context, &request).await {
                Ok(_) => return,
                Err(error) => tracing::warn!(%error, "containerd did not take an event"),
            }
            *client = None;
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
    tracing::error!("an event was given up");
}

/// Events that are not forwarded.
#[cfg(test)]
pub struct Kept(mpsc::UnboundedReceiver<Item>);

#[cfg(test)]
impl Events {
    /// Keeps events instead of forwarding them.
    pub fn kept() -> (Self, Kept) {
        let (queue, items) = mpsc::unbounded_channel();
        (Self { namespace: "test".to_owned(), queue, waiting: Arc::default() }, Kept(items))
    }
}

#[cfg(test)]
impl Kept {
    /// Topics of the events so far.
    pub fn topics(&mut self) -> Vec<String> {
        let mut topics = Vec::new();
        while let Ok(item) = self.0.try_recv() {
            if let Item::Event(envelope) = item {
                topics.push(envelope.topic);
            }
        }
        topics
    }
}
