//! The last state of the sandbox's agent, which the companion keeps for an exporter that is not connected, or is behind.
//!
//! Over a connection of its own (`Keep`) the companion gets all values of the agent once and then those that change: while an
//! exporter watches, only at the exit of a container and at the agent's end. When the sandbox has ended it leaves them beside the
//! record (`porthole_registry::last_state`).
//!
//! What comes are the guest's bytes. The companion does not decode batches: it keeps them as they are, up to a bound.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use porthole_agent_api::{
    agent::{KeepRequest, Kept},
    agent_ttrpc::AgentClient,
    limits::{BATCH_BYTES_MAX, CALL_DEADLINE},
};
use porthole_inspection::{
    fields::{
        Bounds,
        Kind::{Bytes, Fixed64, Varint},
        Refusal, Shape, check,
    },
    responses,
    stream::{InspectedStream, Inspection},
};
use porthole_registry::{
    AgentSecret, SandboxRecord,
    channel::Channel,
    dial,
    last_state::{BATCH_HEADER, KeptBatch, LAST_STATE_BYTES_MAX, LastState},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use ttrpc::{
    r#async::{Client, transport::Socket},
    proto::MESSAGE_TYPE_DATA,
};

use super::{channel::look_interval, proof};

/// How long the agent's last batches may take once the sandbox has ended. They are sent at the end of its last process, and a
/// virtual machine that is gone ends the stream at once.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// The same when the end of the sandbox's own container was reported: its connections close behind it.
const DRAIN_AFTER_END: Duration = Duration::from_millis(100);

/// How long parts that the end of their stream has overtaken may take.
const OVERTAKEN: Duration = Duration::from_millis(20);

/// Bytes of batches that are kept beside those of a whole state, before a whole state is requested in their place.
const CHANGES_BYTES: usize = 64 << 10;

/// Longest frame: a batch, and what is around it.
const FRAME_BYTES_MAX: usize = BATCH_BYTES_MAX + 1024;

/// Fields of one message that the contract does not have. A later agent may send some.
const UNKNOWN_FIELDS_MAX: usize = 16;

static KEPT: Shape =
    Shape { fields: &[(1, Fixed64), (2, Bytes), (3, Varint), (4, Bytes), (5, Varint)], counted: None };

fn inspect(kind: u8, body: &[u8]) -> Result<(), Refusal> {
    if kind != MESSAGE_TYPE_DATA {
        return responses::frame(kind, body);
    }
    check(body, &KEPT, &Bounds { counted: [], unknown: UNKNOWN_FIELDS_MAX }).map(drop)
}

/// Batches, and the bytes that they take in a file. The sum is kept: a guest may send many small ones.
#[derive(Debug, Default)]
struct Batches {
    list: Vec<KeptBatch>,
    bytes: usize,
}

impl Batches {
    fn push(&mut self, batch: KeptBatch) {
        self.bytes += size_in_file(&batch);
        self.list.push(batch);
    }

    /// Drops the oldest epoch; false when there is none.
    fn drop_epoch(&mut self) -> bool {
        let Some(epoch) = self.list.first().map(|batch| batch.epoch) else { return false };
        self.list.retain(|batch| batch.epoch != epoch);
        self.bytes = self.list.iter().map(size_in_file).sum();
        true
    }

    fn append(&mut self, other: &mut Self) {
        self.bytes += std::mem::take(&mut other.bytes);
        self.list.append(&mut other.list);
    }
}

fn size_in_file(batch: &KeptBatch) -> usize {
    batch.bytes.len() + BATCH_HEADER
}

/// What is kept.
#[derive(Debug, Default)]
struct Memory {
    /// Batches of epochs that are over: of agents that were replaced, or whose series began anew.
    earlier: Batches,
    /// Batches of the last epoch, from a whole state on.
    current: Batches,
    /// Batches of a stream that has not brought its whole state yet.
    coming: Batches,
    /// The stream has brought its whole state.
    is_whole: bool,
    /// Bytes of the whole state.
    whole_bytes: usize,
    /// There was more than is kept.
    truncated: bool,
    end: Reported,
}

/// What the agent has reported of the sandbox's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reported {
    /// No stream was open: an agent without this call reports no end either.
    #[default]
    Unknown,
    No,
    /// The end of the sandbox's own container, or its own.
    End,
}

impl Memory {
    /// A stream begins.
    fn opened(&mut self) {
        // Cumulative values: those of a state that did not become whole count beside those before it.
        self.current.append(&mut self.coming);
        self.is_whole = false;
        if self.end == Reported::Unknown {
            self.end = Reported::No;
        }
    }

    /// Takes a part of a stream; whether a new stream should replace this one, to have less to keep.
    fn take(&mut self, kept: Kept, sandbox: &str) -> bool {
        if self.current.list.last().is_some_and(|batch| batch.epoch != kept.epoch) {
            self.earlier.append(&mut self.current);
            self.is_whole = false;
        }
        if kept.last || kept.exited_container_id == sandbox {
            self.end = Reported::End;
        }
        let batch = KeptBatch { epoch: kept.epoch, bytes: kept.batch };
        let list = if self.is_whole { &mut self.current } else { &mut self.coming };
        // An exporter has most likely counted what is oldest.
        while self.earlier.bytes + list.bytes + size_in_file(&batch) > LAST_STATE_BYTES_MAX
            && self.earlier.drop_epoch()
        {
            self.truncated = true;
        }
        if self.earlier.bytes + list.bytes + size_in_file(&batch) > LAST_STATE_BYTES_MAX {
            self.truncated = true;
        } else {
            list.push(batch);
        }
        if kept.whole && !self.is_whole {
            self.current = std::mem::take(&mut self.coming);
            self.is_whole = true;
            self.whole_bytes = self.current.bytes;
        }
        self.is_whole && self.current.bytes > 2 * self.whole_bytes + CHANGES_BYTES
    }

    /// All batches, in their order.
    fn into_state(mut self, record: SandboxRecord) -> Option<LastState> {
        let fits = self.earlier.bytes + self.current.bytes + self.coming.bytes <= LAST_STATE_BYTES_MAX;
        if fits {
            self.current.append(&mut self.coming);
        }
        self.earlier.append(&mut self.current);
        let truncated = self.truncated || !fits;
        let batches = self.earlier.list;
        (!batches.is_empty()).then_some(LastState { record, truncated, batches })
    }
}

/// Follows the agent until it is dropped.
#[derive(Debug)]
pub struct Keeper {
    memory: Arc<Mutex<Memory>>,
    stream: watch::Receiver<Stream>,
    task: JoinHandle<()>,
}

/// How far the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Closed,
    Open,
    /// The sandbox's own container has ended.
    Final,
}

/// What the task needs.
struct Following {
    channel: Channel,
    secret: AgentSecret,
    sandbox: String,
    memory: Arc<Mutex<Memory>>,
    stream: watch::Sender<Stream>,
}

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    // A panic while it was held leaves batches that are batches.
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    /// Begins to follow the agent of a sandbox.
    pub fn start(channel: Channel, secret: AgentSecret, sandbox: &str) -> Self {
        let memory = Arc::<Mutex<Memory>>::default();
        let (sender, stream) = watch::channel(Stream::Open);
        let following = Following {
            channel,
            secret,
            sandbox: sandbox.to_owned(),
            memory: Arc::clone(&memory),
            stream: sender,
        };
        let task = tokio::spawn(following.run());
        Self { memory, stream, task }
    }

    /// Leaves the agent's last state beside the record when the sandbox has ended; whether the end was abrupt.
    pub async fn finish(mut self, record: &SandboxRecord, directory: &Path) -> bool {
        // Without an answer for long, the guest may be gone.
        let _ = timeout(DRAIN_MAX, self.stream.wait_for(|stream| *stream != Stream::Open)).await;
        let _ = timeout(DRAIN_AFTER_END, self.stream.wait_for(|stream| *stream == Stream::Closed)).await;
        self.task.abort();
        let memory = std::mem::take(&mut *lock(&self.memory));
        let is_abrupt = memory.end == Reported::No;
        let record = SandboxRecord { abrupt_end: is_abrupt, ..record.clone() };
        if let Some(state) = memory.into_state(record)
            && let Err(error) = state.leave(directory)
        {
            tracing::error!(id = %state.record.key(), %error, "the agent's last state is lost");
        }
        is_abrupt
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Following {
    async fn run(self) {
        let mut since = Instant::now();
        loop {
            let end = self.follow().await;
            if let Err(error) = &end {
                tracing::debug!(sandbox = self.sandbox, channel = %self.channel, %error, "the agent is not followed");
            }
            match end {
                // One that has no such call, or does not keep to the contract.
                Err(ttrpc::Error::RpcStatus(_)) | Ok(End::Last) => break,
                Ok(End::Replace) => continue,
                Ok(End::Closed) => since = Instant::now(),
                Err(_) => {}
            }
            self.stream.send_replace(Stream::Closed);
            sleep(look_interval(since.elapsed())).await;
        }
        self.stream.send_replace(Stream::Closed);
    }

    /// One stream, to its end.
    async fn follow(&self) -> Result<End, ttrpc::Error> {
        let late = || ttrpc::Error::Others("no answer in time".to_owned());
        let failed = |error: io::Error| ttrpc::Error::Others(error.to_string());
        let stream =
            timeout(CALL_DEADLINE, dial::dial(&self.channel)).await.map_err(|_| late())?.map_err(failed)?;
        let inspection = Inspection { bytes_max: FRAME_BYTES_MAX, inspect };
        let client = AgentClient::new(Client::new(Socket::new(InspectedStream::new(stream, inspection))));
        if !proof::is_ours(&client, &self.secret).await? {
            return Err(ttrpc::Error::Others("not the sandbox's agent".to_owned()));
        }
        let request = KeepRequest::default();
        let opened = client.keep(ttrpc::context::Context::default(), &request);
        let mut parts = timeout(CALL_DEADLINE, opened).await.map_err(|_| late())??;
        lock(&self.memory).opened();
        self.stream.send_replace(Stream::Open);
        let mut ended = None;
        loop {
            let part = match ended {
                None => parts.recv().await?,
                // ttrpc hands parts over by tasks of their own: the last one can be ahead of others.
                Some(end) => match timeout(OVERTAKEN, parts.recv()).await {
                    Ok(Ok(Some(part))) => Some(part),
                    Ok(Ok(None) | Err(_)) | Err(_) => return Ok(end),
                },
            };
            // The end of the stream comes as an empty message.
            let Some(part) = part.filter(|part| *part != Kept::default()) else {
                ended = ended.or(Some(End::Closed));
                continue;
            };
            if part.last {
                ended = Some(End::Last);
            }
            let mut memory = lock(&self.memory);
            let replace = memory.take(part, &self.sandbox);
            let end = memory.end;
            drop(memory);
            if end == Reported::End {
                self.stream.send_replace(Stream::Final);
            }
            if replace {
                return Ok(End::Replace);
            }
        }
    }
}

/// How a stream ended.
#[derive(Clone, Copy)]
enum End {
    /// The agent has ended.
    Last,
    /// It has brought more than is kept.
    Replace,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(epoch: u64, whole: bool, batch: &[u8]) -> Kept {
        Kept { epoch, whole, batch: batch.to_vec(), ..Kept::default() }
    }

    fn kept(memory: Memory) -> Vec<(u64, Vec<u8>)> {
        let record = crate::companion::record::tests::record();
        let batches = memory.into_state(record).map(|state| state.batches).unwrap_or_default();
        batches.into_iter().map(|batch| (batch.epoch, batch.bytes)).collect()
    }

    fn take_all(parts: impl IntoIterator<Item = Vec<Kept>>) -> Memory {
        let mut memory = Memory::default();
        for stream in parts {
            memory.opened();
            for part in stream {
                memory.take(part, "shop-1");
            }
        }
        memory
    }

    #[test]
    fn a_new_streams_whole_state_replaces_what_came_before_of_its_epoch() {
        let first = vec![part(1, false, b"a"), part(1, true, b"b"), part(1, false, b"c")];
        let all = |bytes: &[&[u8]]| bytes.iter().map(|bytes| (1, bytes.to_vec())).collect::<Vec<_>>();
        assert_eq!(kept(take_all([first.clone()])), all(&[b"a", b"b", b"c"]));
        let cut = vec![part(1, false, b"d")];
        assert_eq!(kept(take_all([first.clone(), cut.clone()])), all(&[b"a", b"b", b"c", b"d"]));
        let whole = vec![part(1, true, b"e")];
        assert_eq!(kept(take_all([first.clone(), cut, whole])), all(&[b"e"]));
        let other = vec![part(2, true, b"f"), part(2, false, b"g")];
        let with_other = [all(&[b"a", b"b", b"c"]), vec![(2, b"f".to_vec()), (2, b"g".to_vec())]].concat();
        assert_eq!(
            kept(take_all([first, other])),
            with_other,
            "an agent that was replaced reports nothing again"
        );
    }

    #[test]
    fn a_guest_does_not_fill_the_companion() {
        let large = vec![0; BATCH_BYTES_MAX];
        for whole in [true, false] {
            let flood = (0..100).map(|at| part(at % 3, whole && at == 0, &large)).collect();
            let memory = take_all([vec![part(9, true, b"small")], flood]);
            assert!(memory.truncated);
            for list in [&memory.earlier, &memory.current, &memory.coming] {
                assert_eq!(list.bytes, list.list.iter().map(size_in_file).sum::<usize>());
                assert!(list.bytes <= LAST_STATE_BYTES_MAX);
            }
            let left = kept(memory);
            assert!(left.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= LAST_STATE_BYTES_MAX);
        }
    }

    #[test]
    fn the_oldest_epochs_make_room_for_the_newest() {
        let large = vec![0; BATCH_BYTES_MAX];
        let epochs = (0..20).map(|epoch| part(epoch, true, &large)).collect();
        let memory = take_all([epochs]);
        assert!(memory.truncated);
        let left: Vec<u64> = kept(memory).into_iter().map(|(epoch, _)| epoch).collect();
        assert_eq!(left, (12..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_whole_state_is_requested_when_changes_exceed_it() {
        let mut memory = take_all([vec![part(1, true, b"small")]]);
        let change = vec![0; 1 << 10];
        let changes =
            (0..100).position(|_| memory.take(part(1, false, &change), "shop-1")).expect("in the end");
        assert!((60..70).contains(&changes), "{changes}");
    }

    #[test]
    fn an_end_is_orderly_with_that_of_the_sandboxs_own_container_or_of_the_agent() {
        let exited = |id: &str| Kept { exited_container_id: id.into(), ..part(1, true, b"x") };
        let end = |parts| take_all([parts]).end;
        assert_eq!(end(vec![part(1, true, b"x"), exited("sidecar-1")]), Reported::No);
        assert_eq!(end(vec![exited("shop-1"), part(1, false, b"y")]), Reported::End);
        assert_eq!(end(vec![Kept { last: true, ..part(1, true, b"x") }]), Reported::End);
        assert_eq!(Memory::default().end, Reported::Unknown);
    }

    #[test]
    fn frames_that_would_grow_are_refused_and_every_field_of_the_contract_is_known() {
        use protobuf::Message as _;
        let full = Kept { last: true, ..exited_part() };
        let bounds = Bounds { counted: [], unknown: 0 };
        check(&full.write_to_bytes().expect("encoded"), &KEPT, &bounds).expect("every field is known");
        assert_eq!(
            inspect(MESSAGE_TYPE_DATA, &[0x7a, 0].repeat(UNKNOWN_FIELDS_MAX + 1)),
            Err(Refusal::TooMany)
        );
        assert_eq!(inspect(9, &[]), Err(Refusal::UnknownFrame));
    }

    fn exited_part() -> Kept {
        Kept { exited_container_id: "shop-1".into(), ..part(1, true, b"batch") }
    }
}
