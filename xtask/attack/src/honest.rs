//! The honest agents: each serves its sandbox's requests and reports them every quarter of a second. They run on a thread of
//! their own, so that what the hostile ones cost this process delays none of their batches.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use porthole_agent_api::{
    agent,
    resources::{Measured, Resource},
    testing::http_series,
};
use porthole_histogram::Histogram;
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    time::interval,
};

use crate::{
    sandbox::{HONEST, Sandbox, hello},
    wire::{self, Call},
};

/// Routes of an honest application.
pub const ROUTES: usize = 5;

/// Time between two batches.
const INTERVAL: Duration = Duration::from_millis(250);

/// Epoch of the honest agents.
const EPOCH: u64 = 7;

/// Requests by route.
pub type Counts = [u64; ROUTES];

/// What an agent has reported, and when.
#[derive(Debug, Default)]
struct State {
    counts: Counts,
    histograms: [Histogram; ROUTES],
    reported: Vec<(Instant, Counts)>,
}

/// An agent that keeps to the contract.
#[derive(Debug)]
struct Agent {
    sandbox: Sandbox,
    state: Mutex<State>,
}

/// All honest agents.
#[derive(Debug)]
pub struct Honest {
    agents: Vec<Arc<Agent>>,
    /// True while requests are served.
    busy: watch::Sender<bool>,
    thread: Option<thread::JoinHandle<()>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

/// What an honest sandbox is called; its tenant and its application too.
pub fn name(number: usize) -> String {
    format!("{HONEST}{number:02}")
}

/// A route's name.
pub fn route(number: usize) -> String {
    format!("/route-{number}")
}

impl Honest {
    /// Starts so many, whose records are in this directory.
    pub fn start(directory: &Path, count: usize, seed: u64) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        let mut agents = Vec::new();
        let busy = watch::channel(true).0;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let guard = runtime.enter();
        for number in 0..count {
            let (sandbox, listener) = Sandbox::create(directory, &name(number), &name(number))?;
            let agent = Arc::new(Agent { sandbox, state: Mutex::default() });
            runtime.spawn(Arc::clone(&agent).serve(listener, busy.subscribe(), seed + number as u64));
            agents.push(agent);
        }
        drop(guard);
        let thread = thread::Builder::new().name("honest".to_owned());
        // The sender goes when the agents are to stop.
        let thread = thread.spawn(move || drop(runtime.block_on(stopped))).context("start a thread")?;
        Ok(Self { agents, busy, thread: Some(thread), stop: Some(stop) })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// From now on no further requests are served.
    pub fn rest(&self) {
        self.busy.send_replace(false);
    }

    /// What an agent has reported last.
    pub fn counts(&self, number: usize) -> Counts {
        self.agents.get(number).map(|agent| agent.state.lock().counts).unwrap_or_default()
    }

    /// When an agent first reported more than these counts.
    pub fn first_beyond(&self, number: usize, counts: &Counts) -> Option<Instant> {
        let state = self.agents.get(number)?.state.lock();
        let beyond = |reported: &Counts| reported.iter().zip(counts).any(|(reported, seen)| reported > seen);
        state.reported.iter().find(|(_, reported)| beyond(reported)).map(|(at, _)| *at)
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Only a panic within could be the error, and it was printed.
            let _ = thread.join();
        }
    }
}

impl Agent {
    async fn serve(self: Arc<Self>, listener: UnixListener, mut busy: watch::Receiver<bool>, seed: u64) {
        let (served, news) = watch::channel(0_u64);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut ticks = interval(INTERVAL);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { return };
                    tokio::spawn(Arc::clone(&self).connection(stream, news.clone()));
                }
                _ = ticks.tick(), if *busy.borrow_and_update() => {
                    self.state.lock().serve_some(&mut random);
                    served.send_modify(|rounds| *rounds += 1);
                }
            }
        }
    }

    /// One connection of the exporter, until it ends.
    async fn connection(self: Arc<Self>, stream: UnixStream, mut news: watch::Receiver<u64>) {
        let (mut reader, mut writer) = stream.into_split();
        let (calls, mut called) = mpsc::channel(4);
        // A task of its own, because a half read frame must not be given up for a batch.
        let reading = tokio::spawn(async move {
            while let Ok(call) = wire::call(&mut reader).await {
                if calls.send(call).await.is_err() {
                    return;
                }
            }
        });
        let (mut watched, mut sequence) = (None, 0);
        loop {
            let frame = tokio::select! {
                call = called.recv() => match call {
                    Some((stream, Call::Hello(request))) => {
                        wire::response(stream, &hello(&request, &self.sandbox.secret, EPOCH))
                    }
                    Some((stream, Call::Stats)) => wire::response(stream, &agent::StatsResponse::default()),
                    Some((stream, Call::Watch)) => {
                        watched = Some(stream);
                        self.batch(stream, &mut sequence)
                    }
                    None => break,
                },
                more = news.changed() => {
                    if more.is_err() {
                        break;
                    }
                    let Some(stream) = watched else { continue };
                    self.batch(stream, &mut sequence)
                }
            };
            if writer.write_all(&frame).await.is_err() {
                break;
            }
        }
        reading.abort();
    }

    fn batch(&self, stream: u32, sequence: &mut u64) -> Vec<u8> {
        *sequence += 1;
        let batch = {
            let (state, id) = (self.state.lock(), &self.sandbox.id);
            agent::Batch {
                epoch: EPOCH,
                sequence: *sequence,
                series: state.series(id),
                resources: vec![state.resources(id)],
                dependencies: vec![state.dependency(id)],
                ..Default::default()
            }
        };
        wire::data(stream, &wire::encoded(&batch))
    }
}

impl State {
    fn serve_some(&mut self, random: &mut fastrand::Rng) {
        for (count, histogram) in self.counts.iter_mut().zip(&mut self.histograms) {
            for _ in 0..random.u64(1..4) {
                *count += 1;
                histogram.record(random.u64(100_000..50_000_000));
            }
        }
        self.reported.push((Instant::now(), self.counts));
    }

    /// The container's: what is counted there is the number of all requests.
    fn resources(&self, container: &str) -> agent::Resources {
        let mut measured = Measured::default();
        measured.set(Resource::MemoryOomKills, self.counts.iter().sum::<u64>());
        measured.to_wire(container.to_owned())
    }

    /// The same number of attempts to connect that were refused.
    fn dependency(&self, container: &str) -> agent::Dependency {
        agent::Dependency {
            container_id: container.to_owned(),
            peer: "192.0.2.1:80".into(),
            failed: vec![self.counts.iter().sum()],
            ..Default::default()
        }
    }

    fn series(&self, container: &str) -> Vec<agent::Series> {
        let histograms = self.histograms.iter().enumerate().filter(|(_, histogram)| histogram.count() > 0);
        let series = histograms.map(|(number, histogram)| {
            let id = u32::try_from(number).unwrap_or_default();
            http_series(id, container, ("GET", &route(number), "200"), histogram)
        });
        series.collect()
    }
}
