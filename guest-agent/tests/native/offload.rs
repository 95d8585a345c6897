//! Exchanges that are aggregated in the kernel are those that the agent counts with the offload switched off.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use porthole_agent_api::agent::Side;

use porthole_trials::{Outcome, Trial, trials};

use crate::{
    harness::{Agent, DEADLINE},
    http::{self, Server},
    running,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        kernel_and_user_space_count_the_same_http_exchanges,
        the_kernel_counts_what_is_larger_than_what_is_captured,
        kernel_and_user_space_count_the_same_redis_commands,
        what_is_known_costs_no_copies,
        an_agent_that_is_stopped_misses_nothing,
        keys_that_are_not_used_make_room,
        a_key_of_many_statuses_and_paths_stays_exact,
        a_first_byte_that_is_read_ahead_as_go_does_is_no_reason_to_copy,
        a_request_that_expects_to_continue_may_have_no_body,
    ]
}

/// Numbers that look random and are the same each time (Marsaglia's xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Both ends of a connection, moved by one thread.
struct Ends {
    client: TcpStream,
    server: TcpStream,
}

impl Ends {
    fn connect() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
        let (server, _) = listener.accept().expect("accepted");
        for end in [&client, &server] {
            end.set_nodelay(true).expect("set");
            end.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        }
        Self { client, server }
    }
}

/// Moves bytes, written and read at once.
fn carry_whole(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).expect("written");
    to.read_exact(&mut vec![0; bytes.len()]).expect("read");
}

/// Moves bytes, written and read in pieces of any size.
fn carry(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8], dice: &mut Dice) {
    let mut rest = bytes;
    while !rest.is_empty() {
        // Mostly whole, as real programs do.
        let piece = if dice.below(4) > 0 { rest.len() } else { 1 + dice.below(rest.len()) };
        from.write_all(&rest[..piece]).expect("written");
        rest = &rest[piece..];
        let mut left = piece;
        while left > 0 {
            let most = if dice.below(4) > 0 { left } else { 1 + dice.below(left) };
            let mut buffer = vec![0; most];
            to.read_exact(&mut buffer).expect("read");
            left -= most;
        }
    }
}

/// How large messages are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sizes {
    /// So that calls do not move more than what is captured of them; cut anywhere.
    Small,
    /// Of any size, and not cut.
    Large,
}

/// What is counted of an exchange on each side: method and status.
type Expected = BTreeMap<(String, String), u64>;

/// A request and its response, of a kind that servers and clients really exchange.
fn http_exchange(
    dice: &mut Dice,
    number: usize,
    sizes: Sizes,
    expected: &mut Expected,
) -> (Vec<u8>, Vec<u8>) {
    let most = |large| if sizes == Sizes::Small { 300 } else { large };
    let path = match dice.below(6) {
        0 => format!("/counted/users/{number}"),
        1 => format!("/counted/list?page={number}&x=/a/b"),
        2 => "/counted/".to_owned(),
        3 => "/counted/deep/er/than/most/paths".to_owned(),
        4 => "/counted/items/0f3c9a1e-77aa-4d1b-9c2e-0123456789ab".to_owned(),
        _ => format!("/counted/{}", dice.one(&["a", "b", "c"])),
    };
    let method = dice.one(&["GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]);
    let mut header = "Host: test\r\nUser-Agent: differential/1.0\r\nAccept: */*\r\n".to_owned();
    if dice.below(8) == 0 {
        write!(header, "Cookie: {}\r\n", "c".repeat(dice.below(most(3_000)))).expect("text");
    }
    let body = if matches!(method, "POST" | "PUT" | "PATCH") {
        let body = vec![b'b'; dice.one(&[0, 1, 17, 200, most(6_000)])];
        write!(header, "{}: {}\r\n", dice.one(&["Content-Length", "content-length"]), body.len())
            .expect("text");
        body
    } else {
        Vec::new()
    };
    let mut request = format!("{method} {path} HTTP/1.1\r\n{header}\r\n").into_bytes();
    request.extend(body);

    let status = dice.one(&[200, 200, 200, 201, 204, 301, 304, 404, 500, 503]);
    let mut response = format!("HTTP/1.1 {status} Reason\r\nServer: test\r\nContent-Type: text/plain\r\n");
    *expected.entry((method.to_owned(), status.to_string())).or_default() += 1;
    let bodiless = method == "HEAD" || status == 204 || status == 304;
    if dice.below(3) == 0 {
        response += "Transfer-Encoding: chunked\r\n\r\n";
        if !bodiless {
            for _ in 0..dice.below(4) {
                let most = dice.one(&[20, most(3_000), most(12_000)]);
                let chunk = 1 + dice.below(most);
                write!(response, "{chunk:x}\r\n{}\r\n", "d".repeat(chunk)).expect("text");
            }
            response += dice.one(&["0\r\n\r\n", "0\r\n\r\n", "0\r\n\r\n", "0\r\nTrailer: x\r\n\r\n"]);
        }
    } else if status == 204 {
        response += "\r\n";
    } else {
        let body = dice.one(&[0, 5, 100, most(5_000), most(40_000)]);
        write!(response, "Content-Length: {body}\r\n\r\n").expect("text");
        if !bodiless {
            response += &"d".repeat(body);
        }
    }
    (request, response.into_bytes())
}

/// Connections with all that HTTP/1 may bring along; gives what is to be counted of the ordinary exchanges.
fn http_traffic(sizes: Sizes) -> Expected {
    let mut expected = Expected::new();
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    for connection in 0..150 {
        let mut ends = Ends::connect();
        for number in 0..=dice.below(12) {
            // Now and then several before the first is answered.
            let pipelined = if sizes == Sizes::Small && dice.below(5) == 0 { 1 + dice.below(3) } else { 1 };
            let (requests, responses): (Vec<_>, Vec<_>) =
                (0..pipelined).map(|_| http_exchange(&mut dice, number, sizes, &mut expected)).unzip();
            let (requests, responses) = (requests.concat(), responses.concat());
            if sizes == Sizes::Small {
                carry(&mut ends.client, &mut ends.server, &requests, &mut dice);
                carry(&mut ends.server, &mut ends.client, &responses, &mut dice);
            } else {
                carry_whole(&mut ends.client, &mut ends.server, &requests);
                carry_whole(&mut ends.server, &mut ends.client, &responses);
            }
        }
        match connection % 10 {
            // Ends without an answer.
            0 => {
                let request = http::request("/counted/unanswered");
                carry(&mut ends.client, &mut ends.server, &request, &mut Dice(1));
            }
            // Something that is only for user space.
            1 => {
                let request =
                    b"POST /counted/continued HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
                carry(&mut ends.client, &mut ends.server, request, &mut Dice(1));
                carry(&mut ends.server, &mut ends.client, b"HTTP/1.1 100 Continue\r\n\r\n", &mut Dice(1));
                carry(&mut ends.client, &mut ends.server, b"abc", &mut Dice(1));
                carry(&mut ends.server, &mut ends.client, http::OK, &mut Dice(1));
            }
            2 => {
                let request = b"GET /counted/switched HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n";
                carry(&mut ends.client, &mut ends.server, request, &mut Dice(1));
                let response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
                carry(&mut ends.server, &mut ends.client, response, &mut Dice(1));
                carry(&mut ends.server, &mut ends.client, b"GET /no HTTP/1.1\r\n\r\n", &mut Dice(1));
            }
            // A response that ends with the connection.
            3 => {
                let request = http::request("/counted/until-the-end");
                carry(&mut ends.client, &mut ends.server, &request, &mut Dice(1));
                carry(&mut ends.server, &mut ends.client, b"HTTP/1.0 200 OK\r\n\r\nall of it", &mut Dice(1));
            }
            // A request that never ends.
            4 => carry(&mut ends.client, &mut ends.server, b"GET /counted/cut HT", &mut Dice(1)),
            _ => {}
        }
    }
    expected
}

/// Exchanges and bytes by what distinguishes them.
pub type Counts = BTreeMap<(String, String, String, String), (u64, u64, u64)>;

pub fn counts(agent: &Agent, matches: impl Fn(&str, &str) -> bool) -> Counts {
    let mut counts = Counts::new();
    for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
        for series in agent.all(side) {
            let key = &series.key;
            if !matches(&key.operation, &key.resource) {
                continue;
            }
            let entry = counts
                .entry((
                    format!("{side:?}"),
                    key.operation.clone(),
                    key.resource.clone(),
                    format!("{} {:?}", key.status, key.error),
                ))
                .or_default();
            entry.0 += series.duration.count;
            entry.1 += series.request_bytes;
            entry.2 += series.response_bytes;
        }
    }
    counts
}

pub fn assert_equal(with: &Counts, without: &Counts) {
    let only = |one: &Counts, other: &Counts| -> Vec<String> {
        one.iter()
            .filter(|(key, value)| other.get(*key) != Some(*value))
            .map(|(key, value)| format!("{key:?} {value:?}"))
            .collect()
    };
    let (left, right) = (only(with, without), only(without, with));
    assert!(left.is_empty() && right.is_empty(), "by the kernel: {left:#?}\nby user space: {right:#?}");
}

pub const KERNEL: &[&str] = &["--ring-kib", "16384", "--cpu-share", "0"];
/// Every exchange is sampled as a span, as the kernel decides.
pub const EVERY_SPAN: &[&str] =
    &["--ring-kib", "16384", "--cpu-share", "0", "--span-interval-ms", "0", "--spans-per-second", "100000"];
const NO_SPANS: &[&str] = &["--ring-kib", "16384", "--cpu-share", "0", "--spans-per-second", "0"];
pub const USER_SPACE: &[&str] = &["--ring-kib", "16384", "--cpu-share", "0", "--no-offload"];

/// The paths of [`http_traffic`]'s ordinary exchanges, and those of the others.
const SPECIAL: [&str; 4] =
    ["/counted/unanswered", "/counted/continued", "/counted/switched", "/counted/until-the-end"];

fn kernel_and_user_space_count_the_same_http_exchanges() -> Outcome {
    let mut results = Vec::new();
    for arguments in [USER_SPACE, KERNEL, EVERY_SPAN, NO_SPANS] {
        let mut agent = Agent::start(arguments)?;
        http_traffic(Sizes::Small);
        agent.catch_up();
        results.push(counts(&agent, |_, path| path.starts_with("/counted")));
    }
    for by_kernel in &results[1..] {
        assert_equal(by_kernel, &results[0]);
    }
    Ok(())
}

fn the_kernel_counts_what_is_larger_than_what_is_captured() -> Outcome {
    let mut agent = Agent::start(KERNEL)?;
    let expected = http_traffic(Sizes::Large);
    agent.catch_up();
    for side in ["SIDE_SERVER", "SIDE_CLIENT"] {
        let mut counted = Expected::new();
        let all = counts(&agent, |_, path| path.starts_with("/counted") && !SPECIAL.contains(&path));
        for ((of, method, _, status), (count, ..)) in all {
            if of == side {
                let status = status.split(' ').next().unwrap_or_default().to_owned();
                *counted.entry((method, status)).or_default() += count;
            }
        }
        assert_eq!(counted, expected, "{side}");
    }
    Ok(())
}

fn redis_traffic(port: u16) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let bulk = |words: &[&[u8]]| {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            command.extend(format!("${}\r\n", word.len()).bytes());
            command.extend_from_slice(word);
            command.extend_from_slice(b"\r\n");
        }
        command
    };
    for connection in 0..60 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        if connection % 3 == 0 {
            stream.write_all(&bulk(&[b"HELLO", b"3"])).expect("sent");
            stream.write_all(&bulk(&[b"CLIENT", b"SETNAME", b"differential"])).expect("sent");
        }
        let value = vec![b'v'; dice.one(&[1, 100, 300])];
        for batch in 0..=dice.below(20) {
            let mut commands = Vec::new();
            for _ in 0..dice.one(&[1, 1, 1, 3, 7]) {
                commands.extend(match dice.below(12) {
                    0 => bulk(&[b"SET", b"key", &value]),
                    1 => bulk(&[b"get", b"key"]),
                    2 => bulk(&[b"GET", b"missing"]),
                    3 => bulk(&[b"LPUSH", b"list", b"a", b"b", b"c"]),
                    4 => bulk(&[b"LRANGE", b"list", b"0", b"20"]),
                    5 => bulk(&[b"INCR", b"key"]),
                    6 => bulk(&[b"LPUSH", b"key", b"wrong type"]),
                    7 => bulk(&[b"MULTI"]),
                    8 => bulk(&[b"EXEC"]),
                    9 => bulk(&[b"HSET", b"hash", b"f", b"1"]),
                    10 => bulk(&[b"HGETALL", b"hash"]),
                    _ => bulk(&[b"PING"]),
                });
            }
            let mark = format!("mark-{batch}");
            commands.extend(bulk(&[b"ECHO", mark.as_bytes()]));
            let mut rest = &commands[..];
            while !rest.is_empty() {
                let piece = if dice.below(4) > 0 { rest.len() } else { 1 + dice.below(rest.len()) };
                stream.write_all(&rest[..piece]).expect("sent");
                rest = &rest[piece..];
            }
            // Inside a transaction the mark comes back later.
            let mut answered = Vec::new();
            while ![mark.as_bytes(), b"+QUEUED\r\n"]
                .iter()
                .any(|end| answered.trim_ascii_end().ends_with(end.trim_ascii_end()))
            {
                let mut buffer = [0; 2_000];
                let n = stream.read(&mut buffer).expect("answered");
                assert!(n > 0, "still open");
                answered.extend_from_slice(&buffer[..n]);
            }
        }
        if connection % 4 == 0 {
            stream.write_all(b"inline command\r\nPING\r\n").expect("sent");
        }
        if connection % 7 == 0 {
            stream.write_all(&bulk(&[b"SUBSCRIBE", b"one", b"two"])).expect("sent");
            stream.write_all(&bulk(&[b"UNSUBSCRIBE"])).expect("sent");
        }
        stream.write_all(&bulk(&[b"QUIT"])).expect("sent");
        // To the end: the server closes behind the answer.
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("answered");
    }
}

fn kernel_and_user_space_count_the_same_redis_commands() -> Outcome {
    let mut results = Vec::new();
    for arguments in [USER_SPACE, KERNEL, EVERY_SPAN] {
        let mut agent = Agent::start(arguments)?;
        // A new server each time: its answers depend on earlier commands.
        let server = running::redis()?;
        redis_traffic(server.port);
        agent.catch_up();
        assert_eq!(agent.counters.events_lost, 0);
        results.push(counts(&agent, |_, resource| resource.is_empty()));
    }
    assert!(results[0].values().map(|counts| counts.0).sum::<u64>() > 1_000, "{:#?}", results[0]);
    for by_kernel in &results[1..] {
        assert_equal(by_kernel, &results[0]);
    }
    Ok(())
}

fn what_is_known_costs_no_copies() -> Outcome {
    const REQUESTS: usize = 20_000;
    let mut agent = Agent::start(&["--cpu-share", "0"])?;
    let server = Server::start();
    // Until the kernel knows the key, on both sides.
    server.get("/known", 10);
    agent.catch_up();
    server.get("/known", 10);
    agent.catch_up();
    let before = agent.counters.bytes_copied;
    server.get("/known", REQUESTS);
    let all = REQUESTS as u64 + 20;
    assert_eq!(agent.counts("/known"), (all, all));
    let copied = agent.counters.bytes_copied - before;
    // The sentinel's own connection, and less than a byte for each request.
    assert!(copied < all, "{copied} bytes for {REQUESTS} requests at both ends");
    Ok(())
}

fn an_agent_that_is_stopped_misses_nothing() -> Outcome {
    let mut agent = Agent::start(&["--cpu-share", "0"])?;
    let server = Server::start();
    server.get("/before-and-while-stopped", 10);
    agent.catch_up();
    agent.stop();
    for _ in 0..50 {
        // New connections, too.
        server.get("/before-and-while-stopped", 2_000);
    }
    agent.resume();
    let all = 10 + 50 * 2_000;
    assert_eq!(agent.counts("/before-and-while-stopped"), (all, all), "{:?}", agent.counters);
    assert_eq!(agent.counters.events_lost, 0);
    Ok(())
}

fn keys_that_are_not_used_make_room() -> Outcome {
    const ROUND: u64 = 500;
    /// Less than the ten seconds for which a key is kept after its last use, which was before the first of these
    /// rounds.
    const KEPT: Duration = Duration::from_secs(5);
    let mut agent = Agent::start(&["--ring-kib", "16384", "--cpu-share", "0"])?;
    let mut ends = Ends::connect();
    let mut ask = |path: &str, status: u16| {
        carry_whole(&mut ends.client, &mut ends.server, &http::request(path));
        let response = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
        carry_whole(&mut ends.server, &mut ends.client, response.as_bytes());
    };
    ask("/wanted", 200);
    // More keys and statuses than there are slots, at both ends.
    let mut filled = Instant::now();
    for _ in 0..4 {
        filled = Instant::now();
        for (first, second) in ('a'..='h').flat_map(|first| ('a'..='h').map(move |second| (first, second))) {
            for status in 200..208 {
                ask(&format!("/{first}-old/{second}-old"), status);
            }
        }
        agent.catch_up();
    }
    let mut done = 1;
    loop {
        let before = agent.counters.bytes_copied;
        for _ in 0..ROUND {
            ask("/wanted", 200);
        }
        done += ROUND;
        assert_eq!(agent.counts("/wanted"), (done, done));
        let copied = agent.counters.bytes_copied - before;
        // A request that is a record takes a hundred bytes; catching up takes some hundred in all.
        if copied < 2 * ROUND {
            break;
        }
        let waited = filled.elapsed();
        assert!(waited < DEADLINE, "still copied: {copied} bytes for {ROUND} requests at both ends");
    }
    let kept = filled.elapsed();
    assert!(kept > KEPT, "a key that was used {kept:?} ago has made room");
    // One of those that made room for it.
    for _ in 0..ROUND {
        ask("/a-old/b-old", 203);
    }
    let series = |agent: &Agent, side| -> u64 {
        let series = agent.series(side, "/a-old/b-old").into_iter();
        series.filter(|one| one.key.status == "203").map(|one| one.duration.count).sum()
    };
    agent.catch_up();
    for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
        // What is lost may be another process's: the agent sees the whole machine, and this takes half a minute.
        assert_eq!(series(&agent, side), 4 + ROUND, "{:?}", agent.counters);
    }
    Ok(())
}

fn a_key_of_many_statuses_and_paths_stays_exact() -> Outcome {
    let mut agent = Agent::start(&["--ring-kib", "16384", "--cpu-share", "0"])?;
    // So that the sentinel's is among the routes.
    agent.catch_up();
    let mut ends = Ends::connect();
    let mut dice = Dice(7);
    // More statuses than a kernel key has slots for, and more paths than there are keys.
    for round in 0..3 {
        for status in 200..230 {
            carry(&mut ends.client, &mut ends.server, &http::request("/many"), &mut dice);
            let response = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
            carry(&mut ends.server, &mut ends.client, response.as_bytes(), &mut dice);
        }
        for path in 0..1_500 {
            let path = format!(
                "/many-{}",
                (b'a'..=b'z').cycle().skip(path).take(2 + path % 23).map(char::from).collect::<String>()
            );
            carry(&mut ends.client, &mut ends.server, &http::request(&path), &mut dice);
            carry(&mut ends.server, &mut ends.client, http::OK, &mut dice);
        }
        if round == 0 {
            agent.catch_up();
        }
    }
    agent.catch_up();
    for status in 200..230 {
        let count = |side| -> u64 {
            let series = agent.series(side, "/many").into_iter();
            series.filter(|s| s.key.status == status.to_string()).map(|s| s.duration.count).sum()
        };
        assert_eq!((count(Side::SIDE_SERVER), count(Side::SIDE_CLIENT)), (3, 3), "{status}");
    }
    let others = |side| -> u64 {
        let series = agent.all(side).into_iter();
        series
            .filter(|s| ["other", "/{}"].contains(&&*s.key.resource) || s.key.resource.starts_with("/many-"))
            .map(|s| s.duration.count)
            .sum()
    };
    assert_eq!((others(Side::SIDE_SERVER), others(Side::SIDE_CLIENT)), (4_500, 4_500));
    Ok(())
}

/// A server that reads each request's first byte by itself, and then the rest: behind it, or anywhere else.
fn read_ahead(listener: &TcpListener, requests: usize, behind: bool, path: &str) {
    let mut client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
    let mut server = listener.accept().expect("accepted").0;
    let request = http::request(path);
    let len = request.len();
    let serving = std::thread::spawn(move || {
        let mut buffer = [0; 512];
        for number in 0..requests {
            // A connection's first request is read at once.
            if number > 0 {
                server.read_exact(&mut buffer[..1]).expect("its first byte");
                let at = if behind { 1 } else { 256 };
                server.read_exact(&mut buffer[at..at + len - 1]).expect("its rest");
            } else {
                server.read_exact(&mut buffer[..len]).expect("a request");
            }
            server.write_all(http::OK).expect("answered");
        }
    });
    for _ in 0..requests {
        client.write_all(&request).expect("sent");
        client.read_exact(&mut vec![0; http::OK.len()]).expect("answered");
    }
    serving.join().expect("served");
}

fn a_first_byte_that_is_read_ahead_as_go_does_is_no_reason_to_copy() -> Outcome {
    const REQUESTS: usize = 2_000;
    let mut agent = Agent::start(&["--cpu-share", "0"])?;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    read_ahead(&listener, 10, true, "/read-ahead");
    agent.catch_up();
    let before = agent.counters.bytes_copied;
    read_ahead(&listener, REQUESTS, true, "/read-ahead");
    let all = REQUESTS as u64;
    assert_eq!(agent.counts("/read-ahead"), (all + 10, all + 10));
    let copied = agent.counters.bytes_copied - before;
    // The sentinels' own connections, and a few bytes for each request: less than a request has.
    assert!(copied < 10 * all, "{copied} bytes were copied");
    // Where the rest is not found behind it, user space goes on, from the byte that is known.
    read_ahead(&listener, REQUESTS, false, "/read-apart");
    assert_eq!(agent.counts("/read-apart"), (all, all));
    Ok(())
}

/// RFC 9110, section 10.1.1: the client sends the body after `100 Continue`, and none after any other response.
fn a_request_that_expects_to_continue_may_have_no_body() -> Outcome {
    let mut agent = Agent::start(&[])?;
    let (connections, after) = (5, 2);
    for _ in 0..connections {
        let mut pair = Ends::connect();
        let mut exchange = |request: &[u8], response: &[u8]| {
            carry_whole(&mut pair.client, &mut pair.server, request);
            carry_whole(&mut pair.server, &mut pair.client, response);
        };
        let upload =
            b"POST /refused HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n";
        exchange(upload, b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
        for _ in 0..after {
            exchange(&crate::http::request("/after-refusal"), crate::http::OK);
        }
    }
    assert_eq!(agent.counts("/refused"), (connections, connections));
    assert_eq!(agent.counts("/after-refusal"), (connections * after, connections * after));
    Ok(())
}
