//! Batches for the companion, which keeps them for an exporter that is not connected.
//!
//! While an exporter watches, it gets the agent's values, and the companion only those at a container's exit and at the agent's end:
//! the exporter may be behind then, and the guest gone before it has caught up.

use std::{sync::PoisonError, time::Duration};

use porthole_agent_api::agent::{Batch, Kept};
use protobuf::Message as _;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use ttrpc::r#async::ServerStreamSender;

use super::{
    service::{AFTER_EXIT, Position, Service},
    state::Signal,
};

impl Service {
    /// Runs the stream of `Keep` to its end.
    pub(super) async fn keep_stream(
        &self,
        interval: Duration,
        out: ServerStreamSender<Kept>,
    ) -> ttrpc::Result<()> {
        let mut replaced = self.replace_keep();
        let mut signal = self.shared.subscribe();
        let mut watching = self.watching.subscribe();
        let mut at = {
            let mut state = self.shared.lock();
            let epoch = state.offered().epoch.id;
            Position::beginning(&state, epoch, None)
        };
        let mut is_first = true;
        loop {
            signal.mark_unchanged();
            let batches = self.batches(&mut at);
            let ending = at.sent.ending && !at.epoch_is_over;
            let exited = batches.iter().any(|batch| !batch.exited_container_id.is_empty());
            let count = batches.len();
            for (batch, at) in batches.into_iter().zip(1..) {
                let is_last = at == count;
                let kept = Kept { whole: is_first && is_last, last: ending && is_last, ..kept(batch) };
                tokio::select! {
                    result = out.send(&kept) => result?,
                    _ = &mut replaced => return Ok(()),
                }
            }
            if at.epoch_is_over {
                at.resume_in(self.shared.lock().signal().epoch);
                is_first = true;
                continue;
            }
            if ending {
                return Ok(());
            }
            is_first = false;
            let next = Instant::now() + if exited { AFTER_EXIT } else { interval };
            let now = at.sent;
            let changed_since = |signal: &Signal| {
                Signal { samples: now.samples, dependencies: now.dependencies, ..*signal } != now
            };
            let due = async {
                sleep_until(next).await;
                // The connections of a container close right behind its exit.
                exited || watching.wait_for(|streams| *streams == 0).await.is_ok()
            };
            tokio::select! {
                _ = due => {}
                changed = signal.wait_for(|signal| signal.exits != now.exits || signal.ending) => {
                    if changed.is_err() { return Ok(()) }
                }
                _ = &mut replaced => return Ok(()),
            }
            tokio::select! {
                changed = signal.wait_for(changed_since) => {
                    if changed.is_err() { return Ok(()) }
                }
                _ = &mut replaced => return Ok(()),
            }
        }
    }

    /// Ends the stream before; the receiver resolves when this one must end for a newer one.
    fn replace_keep(&self) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        let before = self.keep.lock().unwrap_or_else(PoisonError::into_inner).replace(end);
        // Its stream may have ended before.
        let _ = before.map(|before| before.send(()));
        ended
    }
}

/// A batch as the companion keeps it.
fn kept(batch: Batch) -> Kept {
    Kept {
        epoch: batch.epoch,
        batch: batch.write_to_bytes().expect("a message in memory can be encoded"),
        exited_container_id: batch.exited_container_id,
        ..Kept::default()
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use porthole_agent_api::{
        agent::{CaptureMode, HelloRequest, KeepRequest, Placement, WatchRequest},
        agent_ttrpc::{AgentClient, create_agent},
    };
    use porthole_l7::{Limits, ParserContext, Side};
    use tokio::{net::UnixStream, time::timeout};
    use ttrpc::r#async::{Client, ClientStreamReceiver, Server, transport::Socket};

    use super::*;
    use crate::{
        enrolment::Credential,
        recorder::{
            peer::Peer,
            testing::{exchange, origin},
        },
        report::{epochs::Epoch, service::Identity, state::Shared},
    };

    /// An agent that serves, and what it captures.
    struct Agent {
        shared: Arc<Shared>,
        context: ParserContext,
        _server: Server,
    }

    impl Agent {
        async fn start(socket: &Path) -> Self {
            let shared = Arc::<Shared>::default();
            let identity = Identity {
                epoch: Epoch { id: 7, start_unix_ns: 0 },
                kernel_release: String::new(),
                capture_mode: CaptureMode::CAPTURE_MODE_UNSPECIFIED,
                load_ns: 0,
                placement: Placement::PLACEMENT_UNSPECIFIED,
                proc: "/proc".into(),
                credential: Credential::None,
            };
            let service = create_agent(Arc::new(Service::new(Arc::clone(&shared), identity)));
            let address = format!("unix://{}", socket.display());
            let mut server = Server::new().bind(&address).expect("bound").register_service(service);
            server.start().await.expect("started");
            Self { shared, context: ParserContext::new(Limits::default()), _server: server }
        }

        /// A request was served by this route.
        fn serve(&mut self, route: &str) {
            let exchange = exchange(&mut self.context, Side::Server, route, 200);
            let origin = origin(&Peer::Unknown);
            self.change(|state| state.recorder.series.record(&exchange, origin, &self.context, 0));
        }

        fn change<T>(&self, change: impl FnOnce(&mut crate::report::state::State) -> T) {
            let mut state = self.shared.lock();
            change(&mut state);
            let signal = state.signal();
            drop(state);
            self.shared.publish(signal);
        }
    }

    async fn connect(socket: &Path) -> AgentClient {
        let stream = UnixStream::connect(socket).await.expect("connected");
        AgentClient::new(Client::new(Socket::new(stream)))
    }

    async fn keep(client: &AgentClient) -> ClientStreamReceiver<Kept> {
        let request = KeepRequest { interval_ms: 50, ..KeepRequest::default() };
        client.keep(ttrpc::context::Context::default(), &request).await.expect("a stream")
    }

    /// The next part, and the routes in it.
    async fn next(parts: &mut ClientStreamReceiver<Kept>) -> (Kept, Vec<String>) {
        let (kept, routes) = next_of(parts).await;
        assert_eq!(kept.epoch, 7);
        (kept, routes)
    }

    /// The same of any epoch.
    async fn next_of(parts: &mut ClientStreamReceiver<Kept>) -> (Kept, Vec<String>) {
        let kept = parts.recv().await.expect("a part").expect("no end");
        let batch = Batch::parse_from_bytes(&kept.batch).expect("a batch");
        assert_eq!((batch.epoch, batch.spans.len()), (kept.epoch, 0));
        let routes = batch.series.into_iter().map(|series| series.key.resource.clone()).collect();
        (kept, routes)
    }

    #[tokio::test]
    async fn the_companion_gets_everything_once_then_changes_and_while_an_exporter_watches_only_ends() {
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("agent.sock");
        let mut agent = Agent::start(&socket).await;
        agent.serve("/before");
        let companion = connect(&socket).await;
        let mut parts = keep(&companion).await;
        let (kept, routes) = next(&mut parts).await;
        assert_eq!((kept.whole, &routes[..]), (true, &["/before".to_owned()][..]));
        agent.serve("/alone");
        let (kept, routes) = next(&mut parts).await;
        assert_eq!((kept.whole, &routes[..]), (false, &["/alone".to_owned()][..]));

        let exporter = connect(&socket).await;
        let watch = WatchRequest { interval_ms: 50, ..WatchRequest::default() };
        let mut batches = exporter.watch(ttrpc::context::Context::default(), &watch).await.expect("a stream");
        batches.recv().await.expect("a batch");
        agent.serve("/watched");
        let batch = batches.recv().await.expect("a batch").expect("no end");
        assert_eq!(batch.series[0].key.resource, "/watched");
        agent.serve("/last");
        agent.change(|state| state.container_exited("shop-1".into()));
        let (kept, routes) = next(&mut parts).await;
        assert_eq!(kept.exited_container_id, "shop-1");
        assert_eq!(routes, ["/watched", "/last"], "nothing came in between");

        drop((batches, exporter));
        // The agent notices a closed connection when it sends.
        let (kept, routes) = loop {
            agent.serve("/behind");
            if let Ok(part) = timeout(Duration::from_millis(20), next(&mut parts)).await {
                break part;
            }
        };
        assert_eq!((kept.last, &routes[..]), (false, &["/behind".to_owned()][..]));
        agent.serve("/end");
        agent.change(crate::report::state::State::end);
        let (kept, routes) = next(&mut parts).await;
        assert_eq!((kept.last, &routes[..]), (true, &["/end".to_owned()][..]));
    }

    /// The next batch, and the routes in it.
    async fn batch(batches: &mut ClientStreamReceiver<Batch>) -> (Batch, Vec<String>) {
        let batch = batches.recv().await.expect("a batch").expect("no end");
        let routes = batch.series.iter().map(|series| series.key.resource.clone()).collect();
        (batch, routes)
    }

    async fn hello(client: &AgentClient) -> u64 {
        let context = ttrpc::context::Context::default();
        client.hello(context, &HelloRequest::default()).await.expect("answered").epoch
    }

    #[tokio::test]
    async fn what_an_epoch_came_to_is_sent_before_the_next_one_and_offered_until_a_host_has_it() {
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("agent.sock");
        let mut agent = Agent::start(&socket).await;
        let begin = |agent: &Agent, id| {
            agent.change(|state| {
                state.counters.exchanges = state.recorder.series.recorded();
                state.begin_epoch(Epoch { id, start_unix_ns: 1 }, 0);
            });
        };
        agent.serve("/a");
        begin(&agent, 8);
        agent.serve("/b");

        // There was no connection: the first epoch comes first, to a host and to the companion.
        let (exporter, companion) = (connect(&socket).await, connect(&socket).await);
        let mut parts = keep(&companion).await;
        let (kept, routes) = next_of(&mut parts).await;
        assert_eq!((kept.epoch, kept.whole, &routes[..]), (7, true, &["/a".to_owned()][..]));
        let (kept, routes) = next_of(&mut parts).await;
        assert_eq!((kept.epoch, kept.whole, &routes[..]), (8, true, &["/b".to_owned()][..]));
        let watch = |epoch| WatchRequest { interval_ms: 50, epoch, ..WatchRequest::default() };
        let context = ttrpc::context::Context::default;
        assert_eq!(hello(&exporter).await, 7);
        let mut batches = exporter.watch(context(), &watch(7)).await.expect("a stream");
        let (first, routes) = batch(&mut batches).await;
        assert_eq!((first.epoch, first.counters.exchanges, &routes[..]), (7, 1, &["/a".to_owned()][..]));
        let end = batches.recv().await.expect("an end");
        assert!(end.is_none_or(|batch| batch == Batch::default()));

        assert_eq!(hello(&exporter).await, 8);
        let mut batches = exporter.watch(context(), &watch(8)).await.expect("a stream");
        let (second, routes) = batch(&mut batches).await;
        assert_eq!((second.epoch, second.sequence, &routes[..]), (8, 1, &["/b".to_owned()][..]));
        // With a host that is there, it gets the rest at once.
        agent.serve("/b");
        begin(&agent, 9);
        agent.serve("/c");
        let (rest, routes) = batch(&mut batches).await;
        assert_eq!((rest.epoch, rest.counters.exchanges, &routes[..]), (8, 2, &["/b".to_owned()][..]));
        assert_eq!(rest.series[0].duration.count, 2);
        let end = batches.recv().await.expect("an end");
        assert!(end.is_none_or(|batch| batch == Batch::default()));
        assert_eq!(hello(&exporter).await, 9);
        let mut late = exporter.watch(context(), &watch(7)).await.expect("a stream");
        late.recv().await.expect_err("the epoch is gone");
    }

    #[tokio::test]
    async fn a_new_companion_takes_the_place_of_the_one_before() {
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("agent.sock");
        let mut agent = Agent::start(&socket).await;
        let (first, second) = (connect(&socket).await, connect(&socket).await);
        let mut replaced = keep(&first).await;
        next(&mut replaced).await;
        let mut parts = keep(&second).await;
        assert!(next(&mut parts).await.0.whole);
        let end = replaced.recv().await.expect("an end");
        assert!(end.is_none_or(|part| part == Kept::default()));
        agent.serve("/x");
        assert_eq!(next(&mut parts).await.1, ["/x"]);
    }
}
