//! Which connections and requests stay when there are too many. A connection is cheap until it has sent a request's header:
//! many may be open, and the one that has been idle for longest makes room. A request that is being answered has a slot:
//! one whose client takes nothing makes room first, then the slowest of those that take long; one that waits for the
//! exporter, or is read at once, never does. One that took its last answer without delay waits a tenth of a second for the
//! others at most. A client beyond its own limits loses its own alone.
//!
//! Of the requests that wait, every other slot goes to the one that has waited for longest. The rest go to connections that
//! took an answer without delay before, as those of a scraper do, or else to the newest request: so many slow readers
//! delay themselves, and not the others.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

/// Open connections for each slot; those without a request take a few kilobytes.
const OPEN_PER_SLOT: usize = 16;

/// A client that has taken nothing for so long makes room.
const BLOCKED: Duration = Duration::from_secs(1);

/// The same for a connection whose client took its last answer without delay, of one that has not shown that it does: a scraper
/// does not wait for slow readers.
const BLOCKED_UNPROVEN: Duration = Duration::from_millis(100);

/// A client that has not taken its answer after so long makes room if no other does.
const LONG: Duration = Duration::from_secs(5);

/// Between two looks for a request that has come to make room.
const RETRY: Duration = Duration::from_millis(20);

/// Whose connections are counted together: an address; a network of 64 bits for IPv6; the whole loopback network, of which
/// every local user has every address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Client(IpAddr);

impl Client {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            address if address.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
        })
    }
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// The client sends a request, or nothing.
    Idle,
    /// A request waits for a slot.
    Waiting,
    /// A request is answered; so many bytes were written.
    Serving(u64),
    /// The last bytes of an answer are on their way.
    Flushing(u64),
}

#[derive(Debug)]
struct State {
    doing: Doing,
    since: Instant,
    /// Since when the client does not take what there is to write.
    blocked: Option<Instant>,
    /// The client has kept this answer waiting.
    slow: bool,
    /// The client took its last answer without delay.
    prompt: bool,
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    state: Mutex<State>,
    granted: Notify,
    evicted: Notify,
}

impl Connection {
    fn new(client: Client) -> Self {
        let doing = Doing::Idle;
        let state = State { doing, since: Instant::now(), blocked: None, slow: false, prompt: false };
        Self { client, state: Mutex::new(state), granted: Notify::new(), evicted: Notify::new() }
    }

    fn begin(&self, doing: Doing) {
        let mut state = self.state.lock();
        *state = State { doing, since: Instant::now(), blocked: None, slow: false, prompt: state.prompt };
    }

    /// A write was tried: the client took so many bytes, or none.
    pub fn wrote(&self, bytes: Option<usize>) {
        let mut state = self.state.lock();
        match bytes {
            Some(bytes) => {
                state.slow |= state.blocked.take().is_some_and(|since| since.elapsed() >= BLOCKED);
                if let Doing::Serving(written) | Doing::Flushing(written) = &mut state.doing {
                    *written += bytes as u64;
                }
            }
            None => {
                state.blocked.get_or_insert_with(Instant::now);
            }
        }
    }

    /// All that was written is on its way; whether a slot is free now.
    pub fn flushed(&self) -> bool {
        let mut state = self.state.lock();
        let flushing = matches!(state.doing, Doing::Flushing(_));
        if flushing {
            state.prompt = !state.slow;
            drop(state);
            self.begin(Doing::Idle);
        }
        flushing
    }

    /// Ready when the connection has to make room.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Whether it has a slot.
    fn has_slot(&self) -> bool {
        matches!(self.state.lock().doing, Doing::Serving(_) | Doing::Flushing(_))
    }

    /// Since when its request has been waiting for a slot, and whether its client took its last answer without delay.
    fn waiting(&self) -> Option<Waiting> {
        let state = self.state.lock();
        (state.doing == Doing::Waiting).then_some(Waiting { since: state.since, prompt: state.prompt })
    }

    /// Whether its client has yet to show that it takes answers, and for how long it has had nothing to do.
    fn idle(&self) -> Option<(bool, Duration)> {
        let state = self.state.lock();
        (state.doing == Doing::Idle).then(|| (!state.prompt, state.since.elapsed()))
    }

    /// How soon it gives up its slot to another, which may be prompt, the smaller the sooner; `None` for one that does not.
    #[allow(clippy::cast_precision_loss)]
    fn worth(&self, for_prompt: bool) -> Option<(u8, f64)> {
        let state = self.state.lock();
        let limit = if for_prompt && !state.prompt { BLOCKED_UNPROVEN } else { BLOCKED };
        let (Doing::Serving(written) | Doing::Flushing(written)) = state.doing else { return None };
        let age = state.since.elapsed();
        match state.blocked.map(|since| since.elapsed()) {
            // The one that has been blocked for longest.
            Some(blocked) if blocked >= limit => Some((0, -blocked.as_secs_f64())),
            _ if written > 0 && age >= LONG => Some((1, written as f64 / age.as_secs_f64())),
            _ => None,
        }
    }
}

/// A request that waits for a slot.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    prompt: bool,
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Serving(Arc<Connection>);

impl Drop for Serving {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if let Doing::Serving(written) = state.doing {
            state.doing = Doing::Flushing(written);
        }
    }
}

/// All open connections, and the slots of those whose requests are answered.
#[derive(Debug)]
pub struct Slots {
    max: usize,
    client_max: usize,
    open: Mutex<Open>,
    /// Requests wait, and none made room.
    short: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
    /// The next slot goes to the request that has waited for longest.
    oldest_first: bool,
}

/// An open connection's place; free again when it goes.
#[derive(Debug)]
pub struct Place {
    slots: Arc<Slots>,
    number: u64,
    /// Who has it.
    pub connection: Arc<Connection>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.slots.open.lock().connections.remove(&self.number);
        self.slots.hand_out();
    }
}

impl Slots {
    /// So many slots, of which one client has some at most.
    pub fn new(max: usize, client_max: usize) -> Arc<Self> {
        let client_max = client_max.min(max);
        Arc::new(Self { max, client_max, open: Mutex::default(), short: Notify::new() })
    }

    /// A place for a connection from this address; `None` when all are taken and none is idle.
    pub fn open(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let client = Client::of(address);
        let mut open = self.open.lock();
        let counts = open.count(|_| true);
        let own = counts.get(&client).copied().unwrap_or(0);
        if let Some(from) = self.over(&counts, client, own, OPEN_PER_SLOT) {
            let of_client = open.connections.iter().filter(|(_, connection)| connection.client == from);
            let idle = of_client.filter_map(|(number, connection)| Some((*number, connection.idle()?)));
            let (number, _) = idle.max_by_key(|(_, idle)| *idle)?;
            open.evict(number);
        }
        let connection = Arc::new(Connection::new(client));
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, Arc::clone(&connection));
        Some(Place { slots: Arc::clone(self), number, connection })
    }

    /// A slot for a request of this connection; `None` when none becomes free in time.
    pub async fn serve(&self, connection: &Arc<Connection>, limit: Duration) -> Option<Serving> {
        connection.begin(Doing::Waiting);
        self.hand_out();
        let _ = timeout(limit, connection.granted.notified()).await;
        let mut state = connection.state.lock();
        if state.doing == Doing::Waiting {
            state.doing = Doing::Idle;
            return None;
        }
        drop(state);
        Some(Serving(Arc::clone(connection)))
    }

    /// Hands slots out for as long as there are requests that wait: at once when one becomes free, because a client that
    /// repeats its request would otherwise be faster than one that waits.
    pub fn hand_out(&self) {
        let mut open = self.open.lock();
        while self.hand_one_out(&mut open) {}
        if open.connections.values().any(|connection| connection.waiting().is_some()) {
            self.short.notify_one();
        }
    }

    /// Hands slots out that become free with time; never ready.
    pub async fn retry(&self) -> std::convert::Infallible {
        loop {
            self.short.notified().await;
            sleep(RETRY).await;
            self.hand_out();
        }
    }

    /// Gives one request a slot, of the client that has fewest.
    fn hand_one_out(&self, open: &mut Open) -> bool {
        let mut waiting: BTreeMap<Client, Vec<(u64, Waiting)>> = BTreeMap::new();
        for (number, connection) in &open.connections {
            if let Some(since) = connection.waiting() {
                waiting.entry(connection.client).or_default().push((*number, since));
            }
        }
        if waiting.is_empty() {
            return false;
        }
        let counts = open.count(Connection::has_slot);
        let own = |client: &Client| counts.get(client).copied().unwrap_or(0);
        let mut clients: Vec<_> =
            waiting.into_iter().map(|(client, those)| (own(&client), client, those)).collect();
        clients.sort_by_key(|(own, client, _)| (*own, *client));
        clients.into_iter().any(|(own, client, those)| {
            let over = self.over(&counts, client, own, 1);
            // Where there is no room for the oldest, there may be for a prompt one.
            let in_turn = [next(&those, open.oldest_first), next(&those, false)];
            let room = in_turn
                .into_iter()
                .flatten()
                .find(|(_, waiting)| over.is_none_or(|from| open.evict_worst(from, waiting.prompt)));
            if let Some(connection) = room.and_then(|(number, _)| open.connections.get(&number)) {
                connection.begin(Doing::Serving(0));
                connection.granted.notify_one();
                open.oldest_first = !open.oldest_first;
            }
            room.is_some()
        })
    }

    /// Who has to give one up before this client gets one more: itself, or who has most.
    fn over(
        &self,
        counts: &HashMap<Client, usize>,
        client: Client,
        own: usize,
        times: usize,
    ) -> Option<Client> {
        if own >= times * self.client_max {
            return Some(client);
        }
        let all: usize = counts.values().sum();
        let greediest = counts.iter().max_by_key(|(client, count)| (**count, **client));
        greediest.filter(|_| all >= times * self.max).map(|(client, _)| *client)
    }
}

impl Open {
    /// Connections of each client that are of a kind.
    fn count(&self, of_kind: impl Fn(&Connection) -> bool) -> HashMap<Client, usize> {
        let mut counts = HashMap::new();
        for connection in self.connections.values().filter(|connection| of_kind(connection)) {
            *counts.entry(connection.client).or_default() += 1;
        }
        counts
    }

    /// Has the least worthy of a client's requests that can make room for another go; false when there is none.
    fn evict_worst(&mut self, from: Client, for_prompt: bool) -> bool {
        let of_client = self.connections.iter().filter(|(_, connection)| connection.client == from);
        let worths =
            of_client.filter_map(|(number, connection)| Some((*number, connection.worth(for_prompt)?)));
        let worst =
            worths.min_by(|(_, (kind, worth)), (_, (of, other))| kind.cmp(of).then(worth.total_cmp(other)));
        if let Some((number, _)) = worst {
            self.evict(number);
        }
        worst.is_some()
    }

    fn evict(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number) {
            connection.evicted.notify_one();
        }
    }
}

/// The request that is the next to be answered.
fn next(waiting: &[(u64, Waiting)], oldest_first: bool) -> Option<(u64, Waiting)> {
    let since = |(_, waiting): &&(u64, Waiting)| waiting.since;
    let prompt = || waiting.iter().filter(|(_, waiting)| waiting.prompt);
    let chosen = if oldest_first {
        waiting.iter().min_by_key(since)
    } else {
        prompt().min_by_key(since).or_else(|| waiting.iter().max_by_key(since))
    };
    chosen.copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn is_evicted(place: &Place) -> bool {
        futures_util::FutureExt::now_or_never(place.connection.evicted()).is_some()
    }

    /// A slot that is handed out now.
    fn serve(slots: &Slots, place: &Place) -> Option<Serving> {
        wait(slots, place);
        let granted = serving(place);
        if granted.is_none() {
            place.connection.begin(Doing::Idle);
        }
        granted
    }

    fn wait(slots: &Slots, place: &Place) {
        place.connection.begin(Doing::Waiting);
        slots.hand_out();
    }

    /// The slot that was handed to a request.
    fn serving(place: &Place) -> Option<Serving> {
        place.connection.has_slot().then(|| Serving(Arc::clone(&place.connection)))
    }

    fn done(slots: &Slots, serving: Serving, place: &Place) {
        drop(serving);
        assert!(place.connection.flushed());
        slots.hand_out();
    }

    #[tokio::test(start_paused = true)]
    async fn slots_go_to_the_newest_and_to_the_oldest_request_in_turn() {
        let slots = Slots::new(1, 1);
        let first = slots.open(ONE).expect("a place");
        let mut serving_now = serve(&slots, &first).expect("free");
        slots.open.lock().oldest_first = false;
        let places = [0; 4].map(|_| slots.open(ONE).expect("a place"));
        for place in &places {
            tokio::time::advance(Duration::from_millis(1)).await;
            wait(&slots, place);
        }
        let mut from = &first;
        for expected in [3, 0, 2, 1] {
            done(&slots, serving_now, from);
            from = &places[expected];
            serving_now = serving(from).expect("its turn");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_took_an_answer_without_delay_does_not_wait_for_slow_readers() {
        for oldest_first in [true, false] {
            let slots = Slots::new(1, 1);
            let [scraper, slow, new] = [0; 3].map(|_| slots.open(ONE).expect("a place"));
            let scrape = serve(&slots, &scraper).expect("free");
            done(&slots, scrape, &scraper);
            let _reading = serve(&slots, &slow).expect("free");
            slow.connection.wrote(None);
            wait(&slots, &new);
            tokio::time::advance(BLOCKED_UNPROVEN).await;
            slots.hand_out();
            assert!(serving(&new).is_none() && !is_evicted(&slow), "a new one waits for longer");
            slots.open.lock().oldest_first = oldest_first;
            wait(&slots, &scraper);
            assert!(serving(&scraper).is_some() && is_evicted(&slow) && serving(&new).is_none());
            // A client that has shown that it takes answers has the whole second.
            scraper.connection.wrote(None);
            tokio::time::advance(BLOCKED_UNPROVEN).await;
            slots.hand_out();
            assert!(!is_evicted(&scraper));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_took_an_answer_without_delay_comes_before_new_ones() {
        let slots = Slots::new(1, 1);
        let [scraper, slow, other] = [0; 3].map(|_| slots.open(ONE).expect("a place"));
        for (place, delay) in [(&scraper, BLOCKED / 2), (&slow, BLOCKED)] {
            let serving = serve(&slots, place).expect("free");
            place.connection.wrote(None);
            tokio::time::advance(delay).await;
            place.connection.wrote(Some(1));
            done(&slots, serving, place);
        }
        let busy = serve(&slots, &other).expect("free");
        slots.open.lock().oldest_first = false;
        wait(&slots, &scraper);
        for place in [&slots.open(ONE).expect("a place"), &slow] {
            tokio::time::advance(Duration::from_millis(1)).await;
            wait(&slots, place);
        }
        done(&slots, busy, &other);
        assert!(serving(&scraper).is_some() && serving(&slow).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waits_gets_the_slot_of_one_that_comes_to_be_blocked_and_none_in_vain() {
        let slots = Slots::new(1, 1);
        let [blocked, next, last] = [0; 3].map(|_| slots.open(ONE).expect("a place"));
        let _blocked = serve(&slots, &blocked).expect("free");
        blocked.connection.wrote(None);
        let waiting = async {
            tokio::select! {
                serving = slots.serve(&next.connection, Duration::from_mins(1)) => serving,
                never = slots.retry() => match never {},
            }
        };
        let _next = waiting.await.expect("the blocked one makes room");
        assert!(is_evicted(&blocked));
        assert!(slots.serve(&last.connection, Duration::from_secs(9)).await.is_none(), "nobody makes room");
        assert!(last.connection.idle().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn blocked_answers_make_room_and_those_that_wait_or_are_read_do_not() {
        let slots = Slots::new(2, 2);
        let [waits, blocked, next, last] = [0; 4].map(|_| slots.open(ONE).expect("a place"));
        let _waits = serve(&slots, &waits).expect("free");
        let _blocked = serve(&slots, &blocked).expect("free");
        blocked.connection.wrote(None);
        assert!(serve(&slots, &next).is_none(), "not blocked for long yet");
        tokio::time::advance(BLOCKED).await;
        let _next = serve(&slots, &next).expect("the blocked one makes room");
        assert!(is_evicted(&blocked));
        next.connection.wrote(Some(5));
        assert!(serve(&slots, &last).is_none());
        assert!(!is_evicted(&waits) && !is_evicted(&next) && !is_evicted(&last));
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_reader_makes_room_once_it_has_taken_long() {
        let slots = Slots::new(2, 2);
        let [slow, fast, next] = [ONE, ONE, OTHER].map(|address| slots.open(address).expect("a place"));
        let _serving = [(&slow, 1_000), (&fast, 1_000_000)].map(|(place, bytes)| {
            let serving = serve(&slots, place).expect("free");
            place.connection.wrote(None);
            place.connection.wrote(Some(bytes));
            serving
        });
        assert!(serve(&slots, &next).is_none(), "both read");
        tokio::time::advance(LONG).await;
        let _next = serve(&slots, &next).expect("room");
        assert!(is_evicted(&slow) && !is_evicted(&fast));
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_has_been_idle_for_longest_makes_room_and_none_that_is_answered() {
        let slots = Slots::new(1, 1);
        let answered = slots.open(ONE).expect("a place");
        let serving = serve(&slots, &answered).expect("free");
        let mut idle = Vec::new();
        for _ in 0..2 * OPEN_PER_SLOT {
            tokio::time::advance(Duration::from_millis(1)).await;
            idle.push(slots.open(ONE).expect("in place of the one that has been idle for longest"));
        }
        let evicted: Vec<bool> = idle.iter().map(is_evicted).collect();
        assert_eq!(evicted.iter().filter(|evicted| **evicted).count(), OPEN_PER_SLOT + 1);
        assert!(evicted[..=OPEN_PER_SLOT].iter().all(|evicted| *evicted) && !is_evicted(&answered));
        // Until its last bytes are on their way it keeps its slot.
        drop(serving);
        let newest = idle.last().expect("one");
        assert!(serve(&slots, newest).is_none());
        assert!(answered.connection.flushed());
        assert!(serve(&slots, newest).is_some());
    }

    #[tokio::test]
    async fn a_client_with_many_requests_takes_no_slot_from_others() {
        let slots = Slots::new(4, 3);
        let modest = slots.open(OTHER).expect("a place");
        let _modest = serve(&slots, &modest).expect("free");
        let places = [0; 5].map(|_| slots.open(ONE).expect("a place"));
        let served: Vec<_> = places.iter().filter_map(|place| serve(&slots, place)).collect();
        assert_eq!(served.len(), 3);
        assert!(!is_evicted(&modest));
    }

    #[test]
    fn addresses_of_one_client_are_counted_together() {
        let client = |text: &str| Client::of(text.parse().expect("address"));
        assert_eq!(client("127.0.0.1"), client("127.9.9.9"));
        assert_eq!(client("::1"), client("::ffff:127.0.0.1"));
        assert_eq!(client("2001:db8::1"), client("2001:db8::2:3"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_ne!(client("10.0.0.1"), client("10.0.0.2"));
    }
}
