//! Scrapes in each form: how long they take, what CPU time, how large they are.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::process::Exporter;

/// A form of the exposition.
pub struct Form {
    pub name: &'static str,
    headers: &'static str,
}

const PROTOBUF: &str =
    "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited\r\n";

const PROTOBUF_GZIP: &str = "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited\r\n\
     Accept-Encoding: gzip\r\n";

/// Every form.
pub const FORMS: [Form; 4] = [
    Form { name: "text", headers: "" },
    Form { name: "text gzip", headers: "Accept-Encoding: gzip\r\n" },
    Form { name: "native", headers: PROTOBUF },
    Form { name: "native gzip", headers: PROTOBUF_GZIP },
];

/// Medians over some scrapes.
pub struct Scraped {
    pub ms: f64,
    pub cpu_ms: f64,
    pub bytes: u64,
}

impl Form {
    /// Scrapes some times.
    pub async fn scrape(&self, exporter: &Exporter, times: u32) -> Result<Scraped> {
        let mut lasted = Vec::new();
        let mut bytes = 0;
        let cpu = exporter.cpu_time()?;
        for _ in 0..times {
            let began = Instant::now();
            bytes = get(exporter, self.headers, |_| {}).await?;
            lasted.push(began.elapsed());
        }
        let cpu = exporter.cpu_time()?.saturating_sub(cpu);
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let median = crate::bench::median(lasted.into_iter().map(ms).collect()).context("no scrape")?;
        // The kernel counts in ticks of 10 ms, so the mean of all.
        Ok(Scraped { ms: median, cpu_ms: ms(cpu) / f64::from(times), bytes })
    }
}

/// The exporter's metrics about itself, as text.
pub async fn own(exporter: &Exporter) -> Result<String> {
    let mut lines = Vec::new();
    let mut rest = Vec::new();
    get(exporter, "", |bytes| {
        rest.extend_from_slice(bytes);
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if line.starts_with(b"porthole_") && !line.starts_with(b"porthole_app_") {
                lines.push(String::from_utf8_lossy(&line).into_owned());
            }
        }
    })
    .await?;
    Ok(lines.concat())
}

/// Sum over the samples of a name.
pub fn sum(text: &str, name: &str) -> f64 {
    let samples = text.lines().filter_map(|line| line.strip_prefix(name));
    let of_name = samples.filter(|rest| rest.starts_with(['{', ' ']));
    of_name.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// One scrape over a connection of its own; the number of bytes of its body.
async fn get(exporter: &Exporter, headers: &str, mut body: impl FnMut(&[u8])) -> Result<u64> {
    let mut stream = TcpStream::connect(exporter.address).await?;
    // HTTP/1.0: a body without chunks, until the end of the connection.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 16 << 10, "a head without an end");
        head.push(stream.read_u8().await?);
    }
    ensure!(head.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&head));
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(bytes);
        }
        bytes += read as u64;
        body(buffer.get(..read).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_name_are_added() {
        let text = "a{x=\"1\"} 2\na{x=\"2 3\"} 3\nab{x=\"1\"} 100\na_b 7\n";
        assert!((sum(text, "a") - 5.0).abs() < 1e-9);
        assert!((sum(text, "a_b") - 7.0).abs() < 1e-9);
    }
}
