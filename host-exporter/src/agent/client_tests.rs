use std::{pin::Pin, time::Duration};

use porthole_agent_api::agent;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::{
    accumulate::budget::FrameRoom,
    agent::guarded::{Admission, Policy},
};

/// Admits everything.
struct Everything;

impl Policy for Everything {
    fn admit(&mut self, _: u8, _: &[u8]) -> Admission {
        Admission::Pass
    }

    fn received(&mut self, _: usize) {}

    fn wait(&mut self) -> Duration {
        Duration::ZERO
    }

    fn room(&self, _: usize) -> Pin<Box<dyn Future<Output = FrameRoom> + Send + Sync>> {
        unreachable!("these frames are short")
    }
}

fn client() -> (Client<DuplexStream>, DuplexStream) {
    let (host, guest) = duplex(1 << 16);
    (Client::new(GuardedStream::new(Box::pin(host), Box::new(Everything))), guest)
}

/// The number and the request of the next call.
async fn called(guest: &mut DuplexStream) -> (u32, Request) {
    let length = guest.read_u32().await.expect("length");
    let call = guest.read_u32().await.expect("number");
    assert_eq!(guest.read_u16().await.expect("type and flags") >> 8, u16::from(MESSAGE_TYPE_REQUEST));
    let mut body = vec![0; length as usize];
    guest.read_exact(&mut body).await.expect("body");
    (call, Request::parse_from_bytes(&body).expect("a request"))
}

async fn respond(guest: &mut DuplexStream, call: u32, response: &Response) {
    let body = response.write_to_bytes().expect("encoded");
    guest.write_u32(u32::try_from(body.len()).expect("short")).await.expect("length");
    guest.write_u32(call).await.expect("number");
    guest.write_all(&[MESSAGE_TYPE_RESPONSE, 0]).await.expect("type and flags");
    guest.write_all(&body).await.expect("body");
}

#[tokio::test]
async fn a_call_gets_its_own_answer() {
    let (mut client, mut guest) = client();
    let request = agent::StatsRequest::default();
    let calling = async { client.call::<agent::StatsResponse>("Stats", &request).await };
    let serving = async {
        let (call, request) = called(&mut guest).await;
        assert_eq!((request.service.as_str(), request.method.as_str()), (SERVICE, "Stats"));
        let answer = |series| {
            let answer = agent::StatsResponse { series, ..Default::default() };
            Response { payload: answer.write_to_bytes().expect("encoded"), ..Default::default() }
        };
        respond(&mut guest, call + 2, &answer(1)).await;
        respond(&mut guest, call, &answer(2)).await;
    };
    let (answer, ()) = tokio::join!(calling, serving);
    assert_eq!(answer.expect("answered").series, 2, "not what answers another call");
}

#[tokio::test]
async fn a_refusal_and_the_end_are_errors_and_a_text_is_cut() {
    let (mut client, mut guest) = client();
    let request = agent::StatsRequest::default();
    let serving = async {
        let (call, _) = called(&mut guest).await;
        let status = ttrpc::get_status(Code::UNIMPLEMENTED, format!("no\n{}", "x".repeat(2_000)));
        respond(&mut guest, call, &Response { status: Some(status).into(), ..Default::default() }).await;
    };
    let (refused, ()) = tokio::join!(client.call::<agent::StatsResponse>("Stats", &request), serving);
    match refused.expect_err("refused") {
        CallError::Refused(Code::UNIMPLEMENTED, text) => assert!(text.len() <= 256 && !text.contains('\n')),
        other => panic!("{other}"),
    }
    drop(guest);
    let ended = client.call::<agent::StatsResponse>("Stats", &request).await.expect_err("nobody is there");
    assert!(matches!(ended, CallError::Closed | CallError::Connection(_)), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn neither_silence_nor_an_agent_that_reads_nothing_holds_up_a_call() {
    let (mut client, _silent) = client();
    let request = agent::StatsRequest::default();
    let late = client.call::<agent::StatsResponse>("Stats", &request).await.expect_err("silence");
    assert!(matches!(late, CallError::Deadline));
    let error = loop {
        if let Err(error) = client.ask("Stats", &request).await {
            break error;
        }
    };
    assert!(matches!(error, CallError::Deadline), "{error}");
}
