//! Where requests and responses meet again after bytes were missing, in protocols that answer in order.
//!
//! Behind a gap nobody can say how many requests are under way, so the next response may be anybody's. What settles
//! it is a client that takes turns: it sends a request, or several at once, and nothing more until all of them were
//! answered. Then a request that comes behind a response finds nothing else under way. Whether a client does that is
//! learned from the connection itself:
//!
//! - While everything was seen, each *turn* (a request that starts right behind a segment of the server's) shows
//!   whether something was still under way. A connection that was found to take turns [`RUN`] times in a row is
//!   believed; each time that it did not, it has to do so twice as long.
//! - After a loss one round is watched: from a turn to the next one there must come as many responses as requests.
//!   Then the second turn is where pairing begins again. On a connection that was not believed before the loss such
//!   rounds are counted as turns are.
//! - Bytes that were left out of a call's capture hide no call: then the next turn will do. A protocol whose clients
//!   often pipeline more than is captured may take that on trust until the connection was seen not to take turns.
//!
//! - A request after [`QUIET_NS`] of silence behind a response finds nothing else under way, either.
//!
//! So a loss costs a connection that takes turns at most the rounds that it hit and two more; one whose client sends
//! whenever it likes, what comes until it is quiet.

use crate::{
    Timestamp,
    parser::{Segment, Sender},
};

/// Turns in a row after which a connection is believed to take turns.
const RUN: u16 = 32;

/// Most turns in a row that are asked of a connection that was seen not to take turns.
const RUN_MAX: u16 = RUN << 7;

/// Time between a response and the next request that says that everything was answered, nanoseconds.
const QUIET_NS: u64 = 100_000_000;

/// How bytes came to be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Whole calls may be missing.
    Lost,
    /// The rest of one call was not captured.
    Unseen,
    /// They are there, but were not understood.
    Garbled,
}

/// How far the server's bytes say that it has answered, when a request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// They ended where a response ends, or nothing is known.
    Over,
    /// They ended within a response.
    Half,
    /// They ended within a response whose end cannot be seen: the request says that it has ended.
    Open,
}

/// What is known of the requests under way on one connection.
#[derive(Debug)]
pub struct Turns {
    /// Requests that were not answered: all of them, and after a gap at least so many. Below zero: responses that
    /// were delivered before their requests.
    under_way: i32,
    last: Option<Sender>,
    /// When the server last sent something.
    answered: Timestamp,
    /// Turns in a row at which nothing was under way.
    run: u16,
    /// Turns in a row after which the connection is believed.
    needed: u16,
    /// Believed to take turns as long as only bytes of calls are missing.
    trusting: bool,
    /// A turn came too early, unless it turns out that responses were lost before it.
    doubt: bool,
    adrift: Option<Adrift>,
}

/// Behind a gap.
#[derive(Clone, Copy, Debug)]
struct Adrift {
    /// Whole calls may be missing.
    lost: bool,
    believed: bool,
    round: Round,
}

/// What was seen since the last turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Nothing that says anything.
    Broken,
    /// As many responses as requests, or fewer so far.
    Whole,
    /// Parts of calls were not captured.
    Blind,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            under_way: 0,
            last: None,
            answered: Timestamp::default(),
            run: 0,
            needed: RUN,
            trusting: false,
            doubt: false,
            adrift: None,
        }
    }
}

impl Turns {
    /// For a protocol whose clients often pipeline more than is captured of a call.
    pub fn trusting() -> Self {
        Self { trusting: true, ..Self::default() }
    }

    /// Whether it is unknown which response belongs to which request.
    pub fn is_adrift(&self) -> bool {
        self.adrift.is_some()
    }

    /// When the server last sent something.
    pub fn answered(&self) -> Timestamp {
        self.answered
    }

    /// Requests that are known to be under way.
    pub fn under_way(&self) -> u32 {
        u32::try_from(self.under_way).unwrap_or(0)
    }

    /// The client sent a segment, which `starts` a request; what was lost before it was told before. True when requests and responses correspond again from
    /// here on: nothing is under way.
    pub fn client(&mut self, segment: &Segment<'_>, starts: bool, answer: Answer) -> bool {
        let lost = segment.lost > 0;
        let behind = self.last.replace(Sender::Client);
        if !starts || behind != Some(Sender::Server) {
            return false;
        }
        let under_way = match answer {
            Answer::Over => self.under_way,
            Answer::Half => self.under_way.max(1),
            Answer::Open => self.under_way - 1,
        };
        let Some(adrift) = &mut self.adrift else {
            self.doubt |= under_way > 0;
            if under_way == 0 && !lost {
                self.run = self.run.saturating_add(1).min(RUN_MAX);
            }
            return false;
        };
        let round = adrift.round;
        adrift.round = Round::Whole;
        let whole = match round {
            Round::Broken => false,
            Round::Whole => under_way <= 0,
            Round::Blind => true,
        };
        match round {
            Round::Whole if whole => self.run = self.run.saturating_add(1).min(RUN_MAX),
            Round::Whole => self.doubt = true,
            Round::Blind | Round::Broken => {}
        }
        // Each round is counted for itself.
        self.under_way = 0;
        let trusted = self.trusting && !adrift.lost && self.needed == RUN;
        let enough = adrift.believed || self.run >= self.needed || trusted;
        let quiet = under_way <= 0 && segment.at.since(self.answered) >= QUIET_NS;
        let settled = !lost && answer != Answer::Half && (quiet || (whole && enough));
        if settled {
            self.adrift = None;
            self.doubt = false;
        }
        settled
    }

    /// The server sent a segment.
    pub fn server(&mut self, segment: &Segment<'_>) {
        self.last = Some(Sender::Server);
        self.answered = segment.at;
        if std::mem::take(&mut self.doubt) && segment.lost == 0 {
            self.disbelieve();
        }
    }

    /// A response came for which nothing was asked: they did not correspond.
    pub fn disbelieve(&mut self) {
        self.run = 0;
        self.needed = self.needed.saturating_mul(2).min(RUN_MAX);
        if let Some(adrift) = &mut self.adrift {
            adrift.believed = false;
        }
    }

    /// A request that will be answered.
    pub fn request(&mut self) {
        self.under_way = self.under_way.saturating_add(1);
    }

    /// A response has come to its end.
    pub fn response(&mut self) {
        match &mut self.adrift {
            Some(adrift) if self.under_way <= 0 => {
                if adrift.round == Round::Whole {
                    adrift.round = Round::Broken;
                    self.run = if adrift.believed { self.run } else { 0 };
                }
            }
            _ => self.under_way = self.under_way.saturating_sub(1),
        }
    }

    /// Bytes of one end are missing: from here on, which response belongs to which request is unknown; but what the
    /// client had sent before bytes of its own were lost is still answered first.
    pub fn drift(&mut self, of: Sender, missing: Missing) {
        let believed = self.run >= self.needed;
        let adrift = self.adrift.get_or_insert(Adrift { lost: false, believed, round: Round::Broken });
        adrift.lost |= missing == Missing::Lost;
        adrift.round = match (missing, adrift.round) {
            (Missing::Unseen, _) | (Missing::Garbled, Round::Blind) => Round::Blind,
            _ => Round::Broken,
        };
        self.under_way = if of == Sender::Server { 0 } else { self.under_way.max(0) };
    }
}
