//! The connection to the guest's init, which the guest controls: it may not read, not answer, answer late, and send
//! without end.
//!
//! ttrpc's own deadline begins when a request has been sent, and an unanswered call stays in its table for as long as the
//! connection. Here the deadline is on the whole call; after some unanswered calls the next one makes a new connection
//! and gives the old one up; a write that is not taken ends its connection; and what arrives is inspected before anything
//! decodes it, and read at a bounded rate.

use std::{io, time::Duration};

use porthole_inspection::{responses, stream::InspectedStream};
use porthole_registry::channel::Channel;
use tokio::{sync::Mutex, time::Instant};
use tokio_io_timeout::TimeoutStream;
use ttrpc::{
    r#async::{Client, transport::Socket},
    context::Context,
};

use super::{deadline, vsock};
use crate::wire::guest_ttrpc::GuestClient;

/// Unanswered calls after which a connection is given up.
pub const UNANSWERED_MAX: u32 = 16;

/// How long the guest may take to read what is written to it. Emulated guests are slow.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The guest's init.
pub struct Init {
    channel: Channel,
    /// For calls that are answered when something happens. They have no deadline.
    waiting: GuestClient,
    /// For calls that are answered soon.
    calls: Mutex<Calls>,
}

struct Calls {
    client: GuestClient,
    unanswered: u32,
}

impl Init {
    /// Connects.
    pub async fn connect(channel: Channel) -> io::Result<Self> {
        let client = connect(&channel).await?;
        let calls = Mutex::new(Calls { client: client.clone(), unanswered: 0 });
        Ok(Self { channel, waiting: client, calls })
    }

    /// A client for calls that are answered when something happens.
    pub fn waiting(&self) -> &GuestClient {
        &self.waiting
    }

    /// Makes a call that ends in time, whatever the guest does.
    pub async fn call<T>(
        &self,
        timeout: Duration,
        call: impl AsyncFnOnce(GuestClient, Context) -> ttrpc::Result<T>,
    ) -> ttrpc::Result<T> {
        let begin = Instant::now();
        let answer = tokio::time::timeout(timeout, async {
            let client = self.client().await.map_err(|error| ttrpc::Error::Socket(error.to_string()))?;
            call(client, deadline(timeout)).await
        });
        let answer =
            answer.await.unwrap_or_else(|_| Err(ttrpc::Error::Others("no answer in time".to_owned())));
        if answer.is_err() && begin.elapsed() >= timeout {
            self.calls.lock().await.unanswered += 1;
        }
        answer
    }

    async fn client(&self) -> io::Result<GuestClient> {
        let mut calls = self.calls.lock().await;
        if calls.unanswered >= UNANSWERED_MAX {
            calls.client = connect(&self.channel).await?;
            calls.unanswered = 0;
        }
        Ok(calls.client.clone())
    }
}

async fn connect(channel: &Channel) -> io::Result<GuestClient> {
    let mut stream = TimeoutStream::new(vsock::dial(channel).await?);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    Ok(GuestClient::new(Client::new(Socket::new(InspectedStream::new(
        Box::pin(stream),
        responses::INSPECTION,
    )))))
}
