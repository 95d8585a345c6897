//! The service shop.Cart's client with tonic: `cart PORT`.

use bytes::{Buf, BufMut};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

/// Passes messages on as they are.
#[derive(Clone, Copy, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/shop.Cart/{method}").parse().expect("a path")
}

async fn ask(channel: &Channel, method: &str, size: usize) {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("the channel works");
    // Some calls fail.
    drop(client.unary(Request::new(vec![b'x'; size]), path(method), Bytes).await);
}

async fn list(channel: &Channel) {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("the channel works");
    let answer = client.server_streaming(Request::new(b"x".to_vec()), path("List"), Bytes).await;
    let mut items = answer.expect("a stream").into_inner();
    while let Ok(Some(_)) = items.message().await {}
}

async fn round(channel: &Channel) {
    for _ in 0..4 {
        ask(channel, "Add", 20).await;
    }
    ask(channel, "Missing", 20).await;
    list(channel).await;
    ask(channel, "NoSuchMethod", 20).await;
    ask(channel, "Add", 5000).await;
}

#[tokio::main]
async fn main() {
    let port = std::env::args().nth(1).expect("a port");
    let at = format!("http://127.0.0.1:{port}");
    let channel = Endpoint::from_shared(at).expect("an address").connect().await.expect("a connection");
    round(&channel).await;
    let add = || ask(&channel, "Add", 20);
    tokio::join!(add(), add(), add(), add());
    round(&channel).await;
}
