//! The delegate's task service, as a second client beside containerd.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use containerd_shim_protos::api::{
    CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, KillRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, WaitRequest, WaitResponse,
};
use protobuf::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use ttrpc::{
    asynchronous::{Client, transport::Socket},
    proto::{Code, Status},
};

use crate::{
    bootstrap::{BootstrapAddress, TaskApi},
    message::brief,
};

/// Deadline of a call that starts nothing: State, Kill, Delete, Shutdown.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// Time between two attempts to connect.
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The shim has closed the connection. A text about a closed connection in an answer is the shim's connection to
    /// its guest, and not this.
    #[error("the shim closed the connection")]
    Closed,
    /// The shim did not answer.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The shim answered with an error.
    #[error("{message}")]
    Refused {
        /// The status for a container that does not exist.
        not_found: bool,
        /// The status' code and message, cut to what a person can use.
        message: String,
    },
}

impl CallError {
    /// Whether the container does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { not_found: true, .. })
    }
}

/// State of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// containerd's status.
    pub status: containerd_shim_protos::api::Status,
    /// Process on the host that lives as long as the container: its init, or the VMM.
    pub pid: u32,
}

/// A connection to the delegate's shim.
#[derive(Clone)]
pub struct Task {
    client: Client,
    api: TaskApi,
    closed: watch::Receiver<bool>,
}

impl Task {
    /// Connects to the address that the delegate printed.
    pub async fn connect(address: &BootstrapAddress) -> io::Result<Self> {
        let stream = connect(address).await?;
        let (ended, closed) = watch::channel(false);
        Ok(Self { client: Client::new(Socket::new(Tap { stream, ended })), api: address.api, closed })
    }

    /// Returns when the shim has closed the connection.
    pub async fn closed(&self) {
        // An error means that the transport is gone, which is the same.
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }

    /// Whether the shim has closed the connection.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow() || self.closed.has_changed().is_err()
    }

    /// State of a container; the deadline is the caller's because some shims answer only when a change is through. An
    /// answer without a bundle is about no container: so answers Kata's runtime-rs before it has made it and after Delete.
    pub async fn state(&self, id: &str, deadline: Duration) -> Result<ContainerState, CallError> {
        let request = StateRequest { id: id.into(), ..StateRequest::default() };
        let response: StateResponse = self.call("State", &request, Some(deadline)).await?;
        if response.bundle.is_empty() {
            let message = "the shim answers without a bundle".to_owned();
            return Err(CallError::Refused { not_found: true, message });
        }
        Ok(ContainerState { status: response.status.enum_value_or_default(), pid: response.pid })
    }

    /// Creates a container from a bundle, without stdio and without root file system mounts.
    pub async fn create(&self, id: &str, bundle: &str, deadline: Duration) -> Result<(), CallError> {
        let request =
            CreateTaskRequest { id: id.into(), bundle: bundle.into(), ..CreateTaskRequest::default() };
        self.call::<_, CreateTaskResponse>("Create", &request, Some(deadline)).await.map(drop)
    }

    /// Starts a created container.
    pub async fn start(&self, id: &str, deadline: Duration) -> Result<(), CallError> {
        let request = StartRequest { id: id.into(), ..StartRequest::default() };
        self.call::<_, StartResponse>("Start", &request, Some(deadline)).await.map(drop)
    }

    /// Returns the exit status of a container's init when it has ended. Never to be called for a workload's container:
    /// Kata's Rust shim makes the one who waits for the sandbox tear it down.
    pub async fn wait(&self, id: &str) -> Result<u32, CallError> {
        let request = WaitRequest { id: id.into(), ..WaitRequest::default() };
        self.call::<_, WaitResponse>("Wait", &request, None).await.map(|response| response.exit_status)
    }

    /// Kills every process of a container.
    pub async fn kill(&self, id: &str) -> Result<(), CallError> {
        let signal = libc::SIGKILL.unsigned_abs();
        let request = KillRequest { id: id.into(), signal, all: true, ..KillRequest::default() };
        self.call::<_, Empty>("Kill", &request, Some(CALL_DEADLINE)).await.map(drop)
    }

    /// Deletes a stopped container.
    pub async fn delete(&self, id: &str) -> Result<(), CallError> {
        let request = DeleteRequest { id: id.into(), ..DeleteRequest::default() };
        self.call::<_, DeleteResponse>("Delete", &request, Some(CALL_DEADLINE)).await.map(drop)
    }

    /// Calls Shutdown; the shim ends only when it has no container left.
    pub async fn shutdown(&self, id: &str) -> Result<(), CallError> {
        let request = ShutdownRequest { id: id.into(), ..ShutdownRequest::default() };
        self.call::<_, Empty>("Shutdown", &request, Some(CALL_DEADLINE)).await.map(drop)
    }

    fn failure(&self, error: &ttrpc::Error) -> CallError {
        let refused = |not_found, message: String| CallError::Refused { not_found, message: brief(&message) };
        match error {
            // The connection's end reaches the calls that are under way as errors of several kinds.
            _ if self.is_closed() => CallError::Closed,
            ttrpc::Error::RpcStatus(status) => {
                refused(says_not_found(status), format!("{:?}: {}", status.code(), status.message()))
            }
            ttrpc::Error::Others(message) => refused(false, message.clone()),
            _ => CallError::Closed,
        }
    }

    async fn call<Q: Message, R: Message>(
        &self,
        method: &str,
        request: &Q,
        deadline: Option<Duration>,
    ) -> Result<R, CallError> {
        let malformed =
            |error: protobuf::Error| CallError::Refused { not_found: false, message: error.to_string() };
        let request = ttrpc::proto::Request {
            service: self.api.service().into(),
            method: method.into(),
            // No deadline on the shim's side: a change that it cut short half-way could wedge it.
            payload: request.write_to_bytes().map_err(malformed)?,
            ..Default::default()
        };
        let answered = async {
            tokio::select! {
                response = self.client.request(request) => response.map_err(|error| self.failure(&error)),
                () = self.closed() => Err(CallError::Closed),
            }
        };
        let response = match deadline {
            Some(deadline) => {
                timeout(deadline, answered).await.map_err(|_| CallError::Deadline(deadline))??
            }
            None => answered.await?,
        };
        R::parse_from_bytes(&response.payload).map_err(malformed)
    }
}

/// Connects; while the shim has more connections waiting than it may have, for a moment.
async fn connect(address: &BootstrapAddress) -> io::Result<UnixStream> {
    let deadline = Instant::now() + CALL_DEADLINE;
    loop {
        match UnixStream::connect(address.socket()).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                sleep(CONNECT_INTERVAL).await;
            }
            result => return result,
        }
    }
}

/// Whether a shim that does not use the code for it (Kata's runtime-rs answers everything with UNKNOWN) means that it
/// has no such container. Only whole phrases of shims: causes deeper in a chain also name things that were not found.
fn says_not_found(status: &Status) -> bool {
    const PHRASES: [&str; 4] =
        ["failed to find container", "no such container", "container does not exist", "container not found"];
    let message = status.message().to_ascii_lowercase();
    status.code() == Code::NOT_FOUND || PHRASES.iter().any(|phrase| message.contains(phrase))
}

/// The connection's stream; notifies when the other side has closed it, which ttrpc's client does not expose.
struct Tap {
    stream: UnixStream,
    ended: watch::Sender<bool>,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let ended = match &result {
            Poll::Ready(Ok(())) => room > 0 && buf.filled().len() == before,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            let _ = self.ended.send(true);
        }
        result
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
