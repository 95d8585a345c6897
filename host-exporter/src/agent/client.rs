//! The client's side of ttrpc over one guarded stream, in the task of its caller (ttrpc PROTOCOL.md): calls, and one stream of
//! messages. ttrpc's own client keeps two tasks and several channels for each connection, some 20 KiB, and hands messages over by
//! a task each, so that they may overtake each other; here they come in the order in which the agent sent them.

use std::{io, time::Duration};

use porthole_agent_api::limits::CALL_DEADLINE;
use porthole_inspection::fields::Refusal;
use protobuf::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use ttrpc::proto::{
    Code, FLAG_REMOTE_CLOSED, MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE, Request,
    Response,
};

use super::{
    guarded::{Frame, GuardedStream},
    inspect::{self, Answer},
};
use crate::intake;

/// The service of the contract (`agent.proto`).
const SERVICE: &str = "porthole.agent.v1.Agent";

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The agent did not answer, or did not read the question.
    #[error("not answered within {CALL_DEADLINE:?}")]
    Deadline,
    /// The agent refused.
    #[error("refused: {0:?}: {1}")]
    Refused(Code, String),
    /// The answer was not decoded.
    #[error("the answer is refused: {0}")]
    Inspected(Refusal),
    /// The answer is no message of the contract.
    #[error("the answer cannot be decoded: {0}")]
    Malformed(protobuf::Error),
    /// The agent closed the connection.
    #[error("the agent closed the connection")]
    Closed,
    /// The connection failed.
    #[error(transparent)]
    Connection(#[from] io::Error),
}

/// One of the client's calls; its answer has the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId(u32);

impl CallId {
    /// Whether the frame belongs to this call.
    pub fn is_of(self, frame: &Frame) -> bool {
        frame.stream == self.0
    }
}

/// One connection to an agent.
pub struct Client<S: ?Sized> {
    stream: GuardedStream<S>,
    next: u32,
}

impl<S: AsyncRead + AsyncWrite + ?Sized> Client<S> {
    /// A client that has called nothing.
    pub fn new(stream: GuardedStream<S>) -> Self {
        Self { stream, next: 1 }
    }

    /// Makes a call whose answer is the only thing that the agent may send.
    pub async fn call<R: Answer>(&mut self, method: &str, request: &impl Message) -> Result<R, CallError> {
        timeout(CALL_DEADLINE, async {
            let call = self.ask(method, request).await?;
            loop {
                let frame = self.next().await?.ok_or(CallError::Closed)?;
                if call.is_of(&frame) {
                    return answer(&frame);
                }
            }
        })
        .await
        .map_err(|_| CallError::Deadline)?
    }

    /// Sends a unary call; its answer comes with [`Self::next`].
    pub async fn ask(&mut self, method: &str, request: &impl Message) -> Result<CallId, CallError> {
        self.begin(method, request, CALL_DEADLINE).await
    }

    /// Sends a call that is answered by a stream of messages; they come with [`Self::next`].
    pub async fn open(&mut self, method: &str, request: &impl Message) -> Result<CallId, CallError> {
        self.begin(method, request, Duration::ZERO).await
    }

    /// `limit` is what the agent gets as the time that it has; none when it is zero.
    async fn begin(
        &mut self,
        method: &str,
        request: &impl Message,
        limit: Duration,
    ) -> Result<CallId, CallError> {
        let id = self.next;
        // Odd numbers are the client's.
        self.next = self.next.wrapping_add(2);
        let request = Request {
            service: SERVICE.to_owned(),
            method: method.to_owned(),
            payload: request.write_to_bytes().map_err(CallError::Malformed)?,
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let body = request.write_to_bytes().map_err(CallError::Malformed)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(MESSAGE_HEADER_LENGTH + body.len());
        frame.extend(length.to_be_bytes());
        frame.extend(id.to_be_bytes());
        frame.extend([MESSAGE_TYPE_REQUEST, FLAG_REMOTE_CLOSED]);
        frame.extend(body);
        timeout(CALL_DEADLINE, self.stream.write(&frame)).await.map_err(|_| CallError::Deadline)??;
        Ok(CallId(id))
    }

    /// The next frame; nothing at the end of the connection. May be given up and called again.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        self.stream.next().await
    }
}

/// The answer to a unary call. It is inspected before it is decoded.
pub fn answer<R: Answer>(frame: &Frame) -> Result<R, CallError> {
    if frame.kind != MESSAGE_TYPE_RESPONSE {
        let message = "a message of a stream answers a call";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message).into());
    }
    inspect::answer::<R>(frame.body()).map_err(CallError::Inspected)?;
    let response = Response::parse_from_bytes(frame.body()).map_err(CallError::Malformed)?;
    if let Some(status) = response.status.as_ref()
        && status.code.value() != 0
    {
        let code = status.code.enum_value().unwrap_or(Code::UNKNOWN);
        return Err(CallError::Refused(code, intake::about_text(&status.message)));
    }
    R::parse_from_bytes(&response.payload).map_err(CallError::Malformed)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
