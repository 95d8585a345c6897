//! Counts of requests and responses by Wireshark's dissectors.
//!
//! tshark prints one line for each packet with the fields of [`FIELDS`]; several values in one packet are separated by
//! commas (tshark(1), `-T fields`). Dissectors are chosen by port: for a port on which only Porthole found a protocol,
//! tshark gets the dissector to use by an option (`-d`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::Messages;

/// A protocol that both programs count in the same way.
pub struct Dissector {
    /// Porthole's names; the first is the name in the comparison.
    pub porthole: &'static [&'static str],
    /// Name of the dissector in `frame.protocols`, and for `-d`.
    wireshark: &'static str,
    /// Adds one packet's messages.
    count: fn(&Packet<'_>, &mut Messages),
}

/// Protocols in the order of the comparison. AMQP and NATS are not among them: Wireshark 4.0 has no dissector for NATS, and
/// Porthole's exchanges of AMQP (a publication, a delivery) have no counterpart in one field.
pub const PROTOCOLS: [Dissector; 9] = [
    Dissector { porthole: &["http1"], wireshark: "http", count: http1 },
    Dissector { porthole: &["http2", "grpc"], wireshark: "http2", count: http2 },
    Dissector { porthole: &["dns"], wireshark: "dns", count: dns },
    Dissector { porthole: &["mysql"], wireshark: "mysql", count: mysql },
    Dissector { porthole: &["postgresql"], wireshark: "pgsql", count: postgresql },
    Dissector { porthole: &["redis"], wireshark: "resp", count: redis },
    Dissector { porthole: &["memcached"], wireshark: "memcache", count: memcached },
    Dissector { porthole: &["kafka"], wireshark: "kafka", count: kafka },
    Dissector { porthole: &["mongodb"], wireshark: "mongo", count: mongodb },
];

/// Fields in the order in which tshark prints them; [`Packet::values`] finds them by name.
const FIELDS: [&str; 20] = [
    "frame.protocols",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "http.request.method",
    "http.response.code",
    "http2.headers.method",
    "http2.headers.status",
    "dns.flags.response",
    "mysql.command",
    "pgsql.type",
    "pgsql.frontend",
    "resp.array.length",
    "memcache.command",
    "memcache.magic",
    "kafka.request_key",
    "kafka.response_key",
    "mongo.opcode",
    "mongo.response_to",
];

/// Time in which tshark must be done with a file; it has had dissectors that loop.
const DEADLINE: Duration = Duration::from_mins(5);

/// Ports for which tshark gets a dissector; a capture with more is compared on these.
const PORTS_MAX: usize = 64;

/// Bytes of tshark's error output that are kept.
const ERROR_BYTES_MAX: u64 = 4096;

/// One packet's line.
struct Packet<'a> {
    fields: Vec<&'a str>,
    server_ports: &'a BTreeSet<u16>,
}

impl Packet<'_> {
    fn text(&self, field: &str) -> &str {
        let at = FIELDS.iter().position(|name| *name == field);
        at.and_then(|at| self.fields.get(at)).copied().unwrap_or_default()
    }

    /// The values of a field, in the order in which they occur.
    fn values<'a>(&'a self, field: &str) -> impl Iterator<Item = &'a str> {
        self.text(field).split(',').filter(|value| !value.is_empty())
    }

    fn number(&self, field: &str) -> u64 {
        self.values(field).count() as u64
    }

    fn has_layer(&self, name: &str) -> bool {
        self.text("frame.protocols").split(':').any(|layer| layer == name)
    }

    /// The innermost port: that of the tunnel comes before it.
    fn port(&self, direction: &str) -> Option<u16> {
        let of = |transport: &str| self.values(&format!("{transport}.{direction}port")).last();
        of("tcp").or_else(|| of("udp"))?.parse().ok()
    }

    fn goes_to_server(&self) -> bool {
        self.port("dst").is_some_and(|port| self.server_ports.contains(&port))
    }
}

fn add_responses(messages: &mut Messages, more: u64) {
    messages.responses = Some(messages.responses.unwrap_or(0) + more);
}

/// Statuses without the interim ones (RFC 9110 section 15.2). 101 is none: after it the connection has another protocol.
fn final_statuses(packet: &Packet<'_>, field: &str) -> u64 {
    packet.values(field).filter(|status| !status.starts_with('1') || *status == "101").count() as u64
}

fn http1(packet: &Packet<'_>, messages: &mut Messages) {
    messages.requests += packet.number("http.request.method");
    add_responses(messages, final_statuses(packet, "http.response.code"));
}

fn http2(packet: &Packet<'_>, messages: &mut Messages) {
    messages.requests += packet.number("http2.headers.method");
    add_responses(messages, final_statuses(packet, "http2.headers.status"));
}

/// The dissectors of multicast DNS, LLMNR and `NetBIOS` names share these fields: they are layers of other names.
fn dns(packet: &Packet<'_>, messages: &mut Messages) {
    for flag in packet.values("dns.flags.response") {
        if matches!(flag, "1" | "True") {
            add_responses(messages, 1);
        } else {
            messages.requests += 1;
        }
    }
}

/// Commands without those that the server does not answer: Quit, Send Long Data, Close Statement.
fn mysql(packet: &Packet<'_>, messages: &mut Messages) {
    let answered = |command: &&str| !matches!(*command, "1" | "24" | "25");
    messages.requests += packet.values("mysql.command").filter(answered).count() as u64;
}

fn postgresql(packet: &Packet<'_>, messages: &mut Messages) {
    let statement = |name: &&str| matches!(*name, "Simple query" | "Execute" | "Function call");
    messages.requests += packet.values("pgsql.type").filter(statement).count() as u64;
}

/// A command is an array; arrays from the server are answers.
fn redis(packet: &Packet<'_>, messages: &mut Messages) {
    if packet.goes_to_server() {
        messages.requests += packet.number("resp.array.length");
    }
}

/// Text commands, and the binary protocol's requests by their first byte.
fn memcached(packet: &Packet<'_>, messages: &mut Messages) {
    let binary = packet.values("memcache.magic").filter(|magic| matches!(*magic, "128" | "0x80")).count();
    messages.requests += packet.number("memcache.command") + binary as u64;
}

fn kafka(packet: &Packet<'_>, messages: &mut Messages) {
    messages.requests += packet.number("kafka.request_key");
    add_responses(messages, packet.number("kafka.response_key"));
}

fn mongodb(packet: &Packet<'_>, messages: &mut Messages) {
    for answered in packet.values("mongo.response_to") {
        if matches!(answered, "0" | "0x00000000") {
            messages.requests += 1;
        } else {
            add_responses(messages, 1);
        }
    }
}

/// An error that names the package to install, unless it is there.
pub fn check() -> Result<()> {
    let answer = Command::new("tshark").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match answer {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("`tshark --version`: {status}"),
        Err(error) => bail!("run tshark: {error}; it is in the package `tshark`"),
    }
}

/// Counts of one file. `found` are the ports of the servers that Porthole found, with their protocols.
pub fn count(file: &Path, found: &BTreeMap<u16, &'static str>) -> Result<BTreeMap<&'static str, Messages>> {
    let mut dissected = BTreeSet::new();
    each_packet(file, &[], found, &mut |packet| {
        let known =
            |name: &&str| !matches!(*name, "eth" | "ethertype" | "ip" | "ipv6" | "tcp" | "udp" | "data");
        let layers = packet.text("frame.protocols").rsplit(':');
        if layers.take_while(|name| !matches!(*name, "tcp" | "udp")).any(|name| known(&name)) {
            dissected.extend(packet.port("src"));
            dissected.extend(packet.port("dst"));
        }
    })?;
    let unknown = found.iter().filter(|(port, _)| !dissected.contains(port)).take(PORTS_MAX);
    let mut decode = Vec::new();
    for (port, protocol) in unknown {
        let Some(dissector) = PROTOCOLS.iter().find(|dissector| dissector.porthole[0] == *protocol) else {
            continue;
        };
        decode.push(format!("tcp.port=={port},{}", dissector.wireshark));
        if *protocol == "dns" {
            decode.push(format!("udp.port=={port},dns"));
        }
    }
    let mut counts = BTreeMap::new();
    each_packet(file, &decode, found, &mut |packet| {
        // A message within an error message of ICMP was not sent again.
        if packet.has_layer("icmp") || packet.has_layer("icmpv6") {
            return;
        }
        for dissector in &PROTOCOLS {
            if packet.has_layer(dissector.wireshark) {
                (dissector.count)(packet, counts.entry(dissector.porthole[0]).or_default());
            }
        }
    })?;
    counts.retain(|_, messages| {
        *messages != Messages::default() && *messages != Messages { requests: 0, responses: Some(0) }
    });
    Ok(counts)
}

/// Runs tshark over a file; `each` gets every packet's line.
fn each_packet(
    file: &Path,
    decode: &[String],
    found: &BTreeMap<u16, &'static str>,
    each: &mut dyn FnMut(&Packet<'_>),
) -> Result<()> {
    let server_ports: BTreeSet<u16> = found.keys().copied().chain([6379]).collect();
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"]);
    command.args(["-o", "tcp.reassemble_out_of_order:TRUE"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    for rule in decode {
        command.args(["-d", rule]);
    }
    command.arg("-r").arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start")?;
    let stdout = child.stdout.take().context("standard output")?;
    let stderr = child.stderr.take().context("standard error")?;
    let complaint = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut stderr = stderr;
        // What is over the bound is read and dropped: a full pipe would stop tshark.
        let _ = stderr.by_ref().take(ERROR_BYTES_MAX).read_to_end(&mut text);
        let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        String::from_utf8_lossy(&text).trim().to_owned()
    });
    let child = Arc::new(Mutex::new(child));
    let (done, watched) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn({
        let child = Arc::clone(&child);
        move || end_after_deadline(&watched, &child)
    });
    let mut result = Ok(());
    for line in BufReader::new(stdout).split(b'\n') {
        match line {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                each(&Packet { fields: line.split('\t').collect(), server_ports: &server_ports });
            }
            Err(error) => {
                result = Err(error).context("read the output");
                break;
            }
        }
    }
    drop(done);
    let ended_by_deadline = watchdog.join().unwrap_or(false);
    let status = child.lock().map_or_else(|poisoned| poisoned.into_inner().wait(), |mut child| child.wait());
    let complaint = complaint.join().unwrap_or_default();
    result?;
    if ended_by_deadline {
        bail!("not done after {} s", DEADLINE.as_secs());
    }
    let status = status.context("wait")?;
    if !status.success() {
        bail!("{status}: {}", complaint.lines().last().unwrap_or("no reason given"));
    }
    Ok(())
}

/// Kills the program unless the sender is dropped within [`DEADLINE`]; whether it did.
fn end_after_deadline(watched: &mpsc::Receiver<()>, child: &Mutex<Child>) -> bool {
    if watched.recv_timeout(DEADLINE) != Err(mpsc::RecvTimeoutError::Timeout) {
        return false;
    }
    if let Ok(mut child) = child.lock() {
        // It may have ended by itself at this moment.
        let _ = child.kill();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(dissector: fn(&Packet<'_>, &mut Messages), values: &[(&str, &str)]) -> Messages {
        let server_ports = BTreeSet::from([6379]);
        let fields = FIELDS
            .iter()
            .map(|field| values.iter().find(|(name, _)| name == field).map_or("", |(_, value)| *value))
            .collect();
        let mut messages = Messages::default();
        dissector(&Packet { fields, server_ports: &server_ports }, &mut messages);
        messages
    }

    #[test]
    fn interim_responses_are_no_responses() {
        let messages =
            counted(http1, &[("http.request.method", "GET,PUT"), ("http.response.code", "100,200")]);
        assert_eq!(messages, Messages { requests: 2, responses: Some(1) });
        let upgraded = counted(http1, &[("http.request.method", "GET"), ("http.response.code", "101")]);
        assert_eq!(upgraded, Messages { requests: 1, responses: Some(1) });
    }

    #[test]
    fn arrays_from_a_redis_server_are_no_commands() {
        let length = ("resp.array.length", "2,2");
        assert_eq!(counted(redis, &[length, ("tcp.dstport", "6379")]).requests, 2);
        assert_eq!(counted(redis, &[length, ("tcp.srcport", "6379")]).requests, 0);
    }

    #[test]
    fn commands_that_mysql_does_not_answer_are_left_out() {
        assert_eq!(counted(mysql, &[("mysql.command", "3,1,25,22")]).requests, 2);
    }
}
