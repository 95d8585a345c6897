//! Events to containerd, in order, from a queue: a containerd that restarts must not hold up a container.

use std::time::Duration;

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
}

impl Events {
    /// Starts to forward to containerd's ttrpc socket.
    pub fn start(address: String, namespace: String) -> Self {
        let (queue, mut items) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut client = None;
            while let Some(item) = items.recv().await {
                match item {
                    Item::Event(envelope) => forward(&mut client, &address, *envelope).await,
                    // The caller may have given up.
                    Item::Flush(done) => drop(done.send(())),
                }
            }
        });
        Self { namespace, queue }
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
