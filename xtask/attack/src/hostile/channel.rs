//! How a hostile agent uses its connection.

use std::{io, time::Duration};

use porthole_agent_api::{agent, proof};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::sleep,
};
use ttrpc::proto::{MESSAGE_TYPE_DATA, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE};

use super::batches::{Batches, EPOCH, ESCAPES};
use crate::{
    attack::{Attack, Kind},
    sandbox::{Sandbox, hello},
    wire::{self, Call},
};

/// Stream ids of a ttrpc client are odd: those of Hello, Stats and Watch on a new connection.
const FIRST_STREAMS: [u32; 3] = [1, 3, 5];

/// Time between two bytes of one who is slow on purpose.
const DRIP: Duration = Duration::from_millis(40);

/// Series of one life of an agent that begins anew all the time.
const CHURN_SERIES: u32 = 512;

/// A connection of the exporter, with what its attacker knows.
struct Connection<'a> {
    attack: Attack,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    sandbox: &'a Sandbox,
    epoch: u64,
}

/// Serves one connection; `number` counts those of this sandbox.
pub async fn run(
    attack: Attack,
    stream: UnixStream,
    sandbox: &Sandbox,
    number: u64,
    random: fastrand::Rng,
) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    let epoch = if attack == Attack::Churn { EPOCH + number } else { EPOCH };
    let connection = Connection { attack, reader, writer, sandbox, epoch };
    match attack.kind() {
        Kind::Batches | Kind::Web => connection.batches(random).await,
        Kind::Refused => connection.refused(random).await,
        Kind::Channel => connection.channel(random).await,
    }
}

impl Connection<'_> {
    /// Answers like an agent until it is watched; the stream's id.
    async fn until_watched(&mut self) -> io::Result<u32> {
        loop {
            let (stream, call) = wire::call(&mut self.reader).await?;
            let answer = match call {
                Call::Hello(request) => {
                    let mut answer = hello(&request, &self.sandbox.secret, self.epoch);
                    self.embellish(&mut answer);
                    wire::response(stream, &answer)
                }
                Call::Stats => wire::response(stream, &self.stats()),
                Call::Watch => return Ok(stream),
            };
            self.writer.write_all(&answer).await?;
        }
    }

    /// What the attack puts into the answers of an agent that is accepted.
    fn embellish(&self, answer: &mut agent::HelloResponse) {
        match self.attack {
            Attack::GiantTexts => {
                answer.agent_version = "v".repeat(10_000);
                answer.capabilities = vec!["c".repeat(500); 40];
            }
            Attack::ControlTexts => {
                ESCAPES.clone_into(&mut answer.agent_version);
                ESCAPES.clone_into(&mut answer.kernel_release);
                answer.capabilities = vec![ESCAPES.to_owned(); 100];
            }
            Attack::Clocks => answer.start_unix_ns = u64::MAX,
            _ => {}
        }
    }

    fn stats(&self) -> agent::StatsResponse {
        let text = match self.attack {
            Attack::GiantTexts => "l".repeat(1_000),
            Attack::ControlTexts => ESCAPES.to_owned(),
            _ => return agent::StatsResponse::default(),
        };
        agent::StatsResponse {
            limitations: vec![text; 25],
            resident_bytes: u64::MAX,
            cpu_ns: u64::MAX,
            ..Default::default()
        }
    }

    /// Answers calls that come while it is watched: an agent that does not is given up.
    async fn go_on_answering(mut self) {
        while let Ok((stream, _)) = wire::call(&mut self.reader).await {
            if self.writer.write_all(&wire::response(stream, &agent::StatsResponse::default())).await.is_err()
            {
                return;
            }
        }
    }

    /// Sends hostile batches as fast as they are taken.
    async fn batches(mut self, random: fastrand::Rng) -> io::Result<()> {
        let stream = self.until_watched().await?;
        let mut batches = Batches::new(self.attack, self.sandbox.id.clone(), random);
        while let Some(body) = batches.next() {
            self.writer.write_all(&wire::data(stream, &body)).await?;
            // The others' turn.
            tokio::task::yield_now().await;
        }
        self.go_on_answering().await;
        Ok(())
    }

    /// Agents that are not accepted.
    async fn refused(mut self, mut random: fastrand::Rng) -> io::Result<()> {
        match self.attack {
            Attack::Silence => loop {
                wire::call(&mut self.reader).await?;
            },
            Attack::NoHello => {
                let batch = Batches::new(Attack::Flood, self.sandbox.id.clone(), random.fork()).next();
                for stream in FIRST_STREAMS {
                    self.writer.write_all(&wire::data(stream, batch.as_deref().unwrap_or_default())).await?;
                    self.writer.write_all(&wire::response(stream, &agent::StatsResponse::default())).await?;
                }
                self.go_on_answering().await;
            }
            Attack::WrongProof | Attack::WrongNonce => {
                let (stream, Call::Hello(request)) = wire::call(&mut self.reader).await? else {
                    return Ok(());
                };
                self.writer.write_all(&wire::response(stream, &self.impostor(&request, &mut random))).await?;
                let batch = Batches::new(Attack::Flood, self.sandbox.id.clone(), random).next();
                let batch = wire::data(FIRST_STREAMS[2], batch.as_deref().unwrap_or_default());
                while self.writer.write_all(&batch).await.is_ok() {
                    sleep(DRIP).await;
                }
            }
            _ => loop {
                let (stream, _) = wire::call(&mut self.reader).await?;
                let text = ESCAPES.repeat(500);
                self.writer.write_all(&wire::refusal(stream, &text)).await?;
            },
        }
        Ok(())
    }

    /// The Hello of one who does not hold the secret.
    fn impostor(&self, request: &agent::HelloRequest, random: &mut fastrand::Rng) -> agent::HelloResponse {
        let mut answer = hello(request, &self.sandbox.secret, EPOCH);
        if self.attack == Attack::WrongProof {
            random.fill(&mut answer.proof);
            answer.proof.truncate(random.usize(0..=32));
            return answer;
        }
        match random.u8(0..4) {
            // A nonce of another length, with what it would prove.
            0 => answer.agent_nonce = vec![0; random.usize(0..31)],
            // A proof of another connection.
            1 => {
                let other = proof::prove(self.sandbox.secret.bytes(), &[1; 32], &answer.agent_nonce);
                answer.proof = other.unwrap_or_default();
            }
            // The nonces the other way round.
            2 => {
                let turned =
                    proof::prove(self.sandbox.secret.bytes(), &answer.agent_nonce, &request.host_nonce);
                answer.proof = turned.unwrap_or_default();
            }
            _ => answer.agent_nonce = vec![9; 20_000],
        }
        answer
    }

    /// Agents that misuse the connection.
    async fn channel(mut self, mut random: fastrand::Rng) -> io::Result<()> {
        match self.attack {
            Attack::Churn => {
                let stream = self.until_watched().await?;
                let mut batches = Batches::new(Attack::Churn, self.sandbox.id.clone(), random);
                for _ in 0..4 {
                    let body = batches.life(self.epoch, CHURN_SERIES);
                    self.writer.write_all(&wire::data(stream, &body)).await?;
                }
                Ok(())
            }
            Attack::ByteByByte => {
                let stream = self.until_watched().await?;
                let body =
                    Batches::new(Attack::Flood, self.sandbox.id.clone(), random).next().unwrap_or_default();
                for byte in wire::data(stream, &body) {
                    self.writer.write_all(&[byte]).await?;
                    sleep(DRIP).await;
                }
                Ok(())
            }
            Attack::HalfFrames => {
                let stream = self.until_watched().await?;
                let body =
                    Batches::new(Attack::Flood, self.sandbox.id.clone(), random).next().unwrap_or_default();
                let frame = wire::data(stream, &body);
                self.writer.write_all(&frame[..frame.len() / 2]).await?;
                self.go_on_answering().await;
                Ok(())
            }
            Attack::GiantFrames => {
                let stream = self.until_watched().await?;
                self.writer.write_all(&wire::header(u32::MAX, stream, MESSAGE_TYPE_DATA, 0)).await?;
                loop {
                    self.writer.write_all(&[0x1a; 16 << 10]).await?;
                }
            }
            Attack::EmptyFrames => {
                let stream = self.until_watched().await?;
                let many = wire::data(stream, &[]).repeat(1_000);
                loop {
                    self.writer.write_all(&many).await?;
                }
            }
            Attack::ConnectLoop => {
                if random.bool() {
                    self.until_watched().await?;
                }
                Ok(())
            }
            Attack::NeverReads => self.never_reads(random).await,
            _ => self.unsolicited(random).await,
        }
    }

    /// Answers blindly, so that the exporter calls again and again.
    async fn never_reads(mut self, random: fastrand::Rng) -> io::Result<()> {
        let mut batches = Batches::new(Attack::Flood, self.sandbox.id.clone(), random);
        loop {
            for stream in (1..2_000).step_by(2) {
                self.writer.write_all(&wire::response(stream, &agent::StatsResponse::default())).await?;
            }
            let body = batches.next().unwrap_or_default();
            self.writer.write_all(&wire::data(FIRST_STREAMS[2], &body)).await?;
        }
    }

    /// Any type of frame for any stream.
    async fn unsolicited(mut self, mut random: fastrand::Rng) -> io::Result<()> {
        let stream = self.until_watched().await?;
        let mut drained = [0; 1024];
        loop {
            let kind = match random.u8(0..4) {
                0 => MESSAGE_TYPE_REQUEST,
                1 => MESSAGE_TYPE_RESPONSE,
                2 => MESSAGE_TYPE_DATA,
                _ => random.u8(..),
            };
            let to = if random.bool() { stream } else { random.u32(..) };
            let request = ttrpc::proto::Request {
                service: "porthole.agent.v1.Agent".to_owned(),
                method: "Delete".to_owned(),
                ..Default::default()
            };
            let body = match random.u8(0..3) {
                0 => wire::encoded(&request),
                1 => std::iter::repeat_with(|| random.u8(..)).take(200).collect(),
                _ => Vec::new(),
            };
            self.writer.write_all(&wire::frame(to, kind, random.u8(0..8), &body)).await?;
            // What the exporter writes is taken, so that the connection goes on.
            tokio::select! {
                biased;
                read = self.reader.read(&mut drained) => { read?; }
                () = std::future::ready(()) => {}
            }
        }
    }
}
