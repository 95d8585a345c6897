//! Frames of ttrpc (ttrpc PROTOCOL.md): length, stream id, type, flags; ten bytes, big endian; then the body. Written here by
//! hand, because a library would refuse to write what an attack needs.

use std::io;

use porthole_agent_api::agent;
use protobuf::Message;
use tokio::io::{AsyncRead, AsyncReadExt};
use ttrpc::proto::{
    Code, MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_DATA, MESSAGE_TYPE_RESPONSE, Request, Response,
};

/// Largest request that is read; the exporter's are far smaller.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// A frame with any type, flags, stream and body.
pub fn frame(stream: u32, kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = header(length, stream, kind, flags).to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// A frame's header alone, true or not.
pub fn header(length: u32, stream: u32, kind: u8, flags: u8) -> [u8; MESSAGE_HEADER_LENGTH] {
    let mut bytes = [0; MESSAGE_HEADER_LENGTH];
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes[4..8].copy_from_slice(&stream.to_be_bytes());
    bytes[8] = kind;
    bytes[9] = flags;
    bytes
}

/// The answer to a unary call.
pub fn response(stream: u32, message: &impl Message) -> Vec<u8> {
    let payload = encoded(message);
    frame(stream, MESSAGE_TYPE_RESPONSE, 0, &encoded(&Response { payload, ..Default::default() }))
}

/// An error as the answer.
pub fn refusal(stream: u32, text: &str) -> Vec<u8> {
    let status = Some(ttrpc::get_status(Code::INTERNAL, text));
    frame(
        stream,
        MESSAGE_TYPE_RESPONSE,
        0,
        &encoded(&Response { status: status.into(), ..Default::default() }),
    )
}

/// A message of a stream.
pub fn data(stream: u32, body: &[u8]) -> Vec<u8> {
    frame(stream, MESSAGE_TYPE_DATA, 0, body)
}

/// A message's bytes.
pub fn encoded(message: &impl Message) -> Vec<u8> {
    // Writing to memory fails only beyond two gigabytes.
    message.write_to_bytes().unwrap_or_default()
}

/// The exporter's calls.
#[derive(Debug)]
pub enum Call {
    /// Versions and proof.
    Hello(agent::HelloRequest),
    /// The agent about itself.
    Stats,
    /// The stream of batches.
    Watch,
}

/// Reads the next request and its stream's id.
pub async fn call(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<(u32, Call)> {
    let length = reader.read_u32().await? as usize;
    let stream = reader.read_u32().await?;
    let _kind_and_flags = reader.read_u16().await?;
    if length > REQUEST_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    let request = Request::parse_from_bytes(&body).map_err(io::Error::other)?;
    let call = match request.method.as_str() {
        "Hello" => {
            Call::Hello(agent::HelloRequest::parse_from_bytes(&request.payload).map_err(io::Error::other)?)
        }
        "Stats" => Call::Stats,
        "Watch" => Call::Watch,
        other => return Err(io::Error::other(format!("the exporter calls {other}"))),
    };
    Ok((stream, call))
}
