//! Sends requests to a server with the crate that Rust programs use: `db PROTOCOL PORT NAME`.

use std::{collections::BTreeMap, error::Error};

use mysql::prelude::Queryable;
use redis::TypedCommands;
use rskafka::{
    client::{
        ClientBuilder,
        partition::{Compression, UnknownTopicHandling},
    },
    record::Record,
};

type Asked = Result<(), Box<dyn Error>>;

fn main() -> Asked {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, protocol, port, name] = &arguments[..] else { return Err("db PROTOCOL PORT NAME".into()) };
    match protocol.as_str() {
        "mysql" => mysql(port, name),
        "postgresql" => postgresql(port, name),
        "redis" => redis(port, name),
        "kafka" => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(kafka(port, name))
        }
        _ => Err("an unknown protocol".into()),
    }
}

fn long() -> String {
    "x".repeat(600)
}

fn mysql(port: &str, name: &str) -> Asked {
    // It would go over to the server's unix socket.
    let url = format!("mysql://root@127.0.0.1:{port}/d?prefer_socket=false");
    let mut client = mysql::Conn::new(mysql::Opts::from_url(&url)?)?;
    client.query_drop(format!("CREATE TABLE {name} (id int, name text)"))?;
    for number in 0..5 {
        client.exec_drop(format!("INSERT INTO {name} VALUES (?, ?)"), (number, long()))?;
    }
    for number in 0..7 {
        let _: Vec<(i32, String)> = client.exec(format!("SELECT * FROM {name} WHERE id <= ?"), (number,))?;
    }
    client.query_drop(format!("UPDATE {name} SET nothing = 1")).expect_err("no such column");
    Ok(())
}

fn postgresql(port: &str, name: &str) -> Asked {
    let settings = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let mut client = postgres::Client::connect(&settings, postgres::NoTls)?;
    client.batch_execute(&format!("CREATE TABLE {name} (id int, name text)"))?;
    for number in 0..5 {
        client.execute(&format!("INSERT INTO {name} VALUES ($1, $2)"), &[&number, &long()])?;
    }
    for number in 0..7 {
        client.query(&format!("SELECT * FROM {name} WHERE id <= $1"), &[&number])?;
    }
    client.batch_execute(&format!("UPDATE {name} SET nothing = 1")).expect_err("no such column");
    Ok(())
}

fn redis(port: &str, name: &str) -> Asked {
    let mut client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?.get_connection()?;
    for _ in 0..5 {
        client.set(name, long())?;
    }
    for _ in 0..7 {
        client.get(name)?;
    }
    client.lpush(name, "x").expect_err("not a list");
    Ok(())
}

async fn kafka(port: &str, name: &str) -> Asked {
    let client = ClientBuilder::new(vec![format!("127.0.0.1:{port}")]).build().await?;
    // Its request for a topic's metadata does not create the topic.
    client.controller_client()?.create_topic(name, 1, 1, 30_000).await?;
    let partition = client.partition_client(name, 0, UnknownTopicHandling::Retry).await?;
    for _ in 0..5 {
        let value = Some(long().into_bytes());
        let record =
            Record { key: None, value, headers: BTreeMap::new(), timestamp: chrono::DateTime::UNIX_EPOCH };
        partition.produce(vec![record], Compression::NoCompression).await?;
    }
    Ok(())
}
