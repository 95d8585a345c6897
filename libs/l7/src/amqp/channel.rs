//! One channel: the methods that wait for their answer, the message whose content is being sent in either direction, and
//! the publications that wait for their acknowledgement.

use std::collections::VecDeque;

use crate::{
    ErrorClass, Protocol, Status, Symbol, Timestamp,
    amqp::wire::{self, Id},
    parser::{ConnectionContext, Outcome, Request, Sender},
    pending::{Fifo, Late, Next},
};

/// A method gets no answer any more after so long, nanoseconds: clients wait for 10 s to 60 s.
const TIMEOUT_NS: u64 = 120_000_000_000;

/// A publication is not acknowledged any more after so long, nanoseconds: servers hold acknowledgements back until messages
/// are stored.
const CONFIRM_TIMEOUT_NS: u64 = 600_000_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) request: Request,
    pub(super) replies: [Id; 2],
}

/// A message whose content is being sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) request: Request,
    pub(super) what: Delivery,
    /// Bytes of the body that are to come; not known before the content header.
    pub(super) left: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Publish,
    Deliver,
    /// The answer to the request.
    Got {
        bytes: u64,
    },
    Return {
        code: Option<u16>,
    },
}

/// Publications that wait for their acknowledgement.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    pub(super) last: u64,
    pub(super) waiting: VecDeque<(u64, Request)>,
}

#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) waiting: Fifo<Waiting>,
    /// What would answer the methods that were given up.
    late: Late<[Id; 2]>,
    pub(super) confirms: Option<Confirms>,
    /// By sender.
    pub(super) messages: [Option<Message>; 2],
    /// Hashes of consumers' tags, and their queues.
    pub(super) consumers: Vec<(u64, Symbol)>,
    /// Most that may wait: the channel's share when it was last used.
    pub(super) most: usize,
    /// Number of its last frame among those of all channels.
    pub(super) last_used: u64,
}

impl Channel {
    /// Whether a method answers a request that was given up.
    pub(super) fn is_late(&mut self, id: Id) -> bool {
        self.late.take_if(|replies| replies.contains(&id)).is_some()
    }

    /// Whether nothing is under way: no request waits, and no message has begun.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.messages.iter().all(Option::is_none)
            && self.confirms.as_ref().is_none_or(|confirms| confirms.waiting.is_empty())
    }

    /// Whether something is known that later messages need.
    pub(super) fn is_of_consumers(&self) -> bool {
        !self.consumers.is_empty() || self.confirms.is_some()
    }

    /// Ends what has waited too long.
    pub(super) fn give_up(&mut self, now: Timestamp, cx: &mut ConnectionContext<'_>) {
        let over = |request: &Request, timeout: u64| now.since(request.start) >= timeout;
        let end = |request: &Request, timeout: u64| Timestamp(request.start.0.saturating_add(timeout));
        while self.waiting.front().is_some_and(|waiting| over(&waiting.request, TIMEOUT_NS)) {
            let Some(waiting) = self.waiting.drain_one() else { break };
            self.late.push(waiting.replies);
            cx.emit(Protocol::Amqp, &waiting.request, &Outcome::none(end(&waiting.request, TIMEOUT_NS)));
        }
        let Some(confirms) = &mut self.confirms else { return };
        while confirms.waiting.front().is_some_and(|(_, request)| over(request, CONFIRM_TIMEOUT_NS)) {
            let Some((_, request)) = confirms.waiting.pop_front() else { break };
            cx.emit(Protocol::Amqp, &request, &Outcome::none(end(&request, CONFIRM_TIMEOUT_NS)));
        }
    }

    /// Takes the request that this method answers; those before it were not answered.
    pub(super) fn answered(&mut self, id: Id, cx: &mut ConnectionContext<'_>) -> Option<Waiting> {
        loop {
            match self.waiting.pop()? {
                Next::Waiting(waiting) if waiting.replies.contains(&id) => return Some(waiting),
                Next::Waiting(_) => cx.unparsed(),
                Next::Forgotten => {}
            }
        }
    }

    pub(super) fn begin(&mut self, message: Message, from: Sender, cx: &mut ConnectionContext<'_>) {
        if self.messages[from as usize].replace(message).is_some() {
            cx.unparsed();
        }
    }

    pub(super) fn content(
        &mut self,
        from: Sender,
        body: u64,
        bytes: u64,
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) {
        if let Some(message) = &mut self.messages[from as usize] {
            message.left = Some(body);
            message.add(bytes);
            self.whole(from, at, cx);
        }
    }

    pub(super) fn body(&mut self, from: Sender, bytes: u64, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        if let Some(message) = &mut self.messages[from as usize] {
            let payload = bytes.saturating_sub(wire::HEADER as u64 + 1);
            message.left = message.left.map(|left| left.saturating_sub(payload));
            message.add(bytes);
            self.whole(from, at, cx);
        }
    }

    /// Ends a message whose rest is among bytes that are missing: its method has shown what it is. Its size is what was here: what its
    /// header declares of the rest need not be true.
    pub(super) fn cut(&mut self, from: Sender, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        if let Some(message) = &mut self.messages[from as usize] {
            message.left = Some(0);
            self.whole(from, at, cx);
        }
    }

    /// Ends a message when all of it is here.
    pub(super) fn whole(&mut self, from: Sender, at: Timestamp, cx: &mut ConnectionContext<'_>) {
        let slot = &mut self.messages[from as usize];
        let Some(message) = slot.take_if(|message| message.left == Some(0)) else { return };
        let request = message.request;
        match message.what {
            Delivery::Publish => {
                if let Some(confirms) = &mut self.confirms {
                    confirms.last += 1;
                    confirms.waiting.push_back((confirms.last, request));
                    if confirms.waiting.len() > self.most {
                        confirms.waiting.pop_front();
                        cx.unparsed();
                    }
                } else {
                    cx.emit(Protocol::Amqp, &request, &over(at, 0));
                }
            }
            Delivery::Deliver => cx.emit(Protocol::Amqp, &request, &over(at, 0)),
            Delivery::Got { bytes } => cx.emit(Protocol::Amqp, &request, &over(at, bytes)),
            Delivery::Return { code } => {
                let (status, error) = code.map_or_else(|| cx.unknown_status(), outcome);
                cx.emit(Protocol::Amqp, &request, &Outcome { status, error, end: at, bytes: 0 });
            }
        }
    }

    /// The server acknowledges a publication, or all up to it.
    pub(super) fn confirmed(
        &mut self,
        tag: u64,
        multiple: bool,
        positive: bool,
        bytes: u64,
        at: Timestamp,
        cx: &mut ConnectionContext<'_>,
    ) {
        let Some(confirms) = &mut self.confirms else { return };
        let mut outcome = over(at, bytes);
        if !positive {
            outcome.status = Status::Word(cx.word("NACK"));
            outcome.error = ErrorClass::Server;
        }
        if multiple {
            // 0 is all.
            while confirms.waiting.front().is_some_and(|(of, _)| tag == 0 || *of <= tag) {
                if let Some((_, request)) = confirms.waiting.pop_front() {
                    cx.emit(Protocol::Amqp, &request, &outcome);
                }
            }
        } else if let Ok(at) = confirms.waiting.binary_search_by_key(&tag, |(of, _)| *of)
            && let Some((_, request)) = confirms.waiting.remove(at)
        {
            cx.emit(Protocol::Amqp, &request, &outcome);
        }
    }

    /// Everything that waits ends so; whether anything did.
    pub(super) fn end(&mut self, outcome: &Outcome, cx: &mut ConnectionContext<'_>) -> bool {
        let mut ended = false;
        for message in self.messages.iter_mut().filter_map(Option::take) {
            ended = true;
            cx.emit(Protocol::Amqp, &message.request, outcome);
        }
        while let Some(waiting) = self.waiting.drain_one() {
            ended = true;
            cx.emit(Protocol::Amqp, &waiting.request, outcome);
        }
        for (_, request) in self.confirms.take().into_iter().flat_map(|confirms| confirms.waiting) {
            ended = true;
            cx.emit(Protocol::Amqp, &request, outcome);
        }
        ended
    }
}

impl Message {
    pub(super) fn add(&mut self, bytes: u64) {
        match &mut self.what {
            Delivery::Got { bytes: of } => *of = of.saturating_add(bytes),
            _ => self.request.bytes = self.request.bytes.saturating_add(bytes),
        }
    }
}

pub(super) fn over(at: Timestamp, bytes: u64) -> Outcome {
    Outcome { status: Status::None, error: ErrorClass::None, end: at, bytes }
}

/// Reply codes (`amqp0-9-1.extended.xml`, constants).
pub(crate) fn outcome(code: u16) -> (Status, ErrorClass) {
    let error = match code {
        200 => ErrorClass::None,
        // CONNECTION-FORCED, RESOURCE-ERROR, INTERNAL-ERROR.
        320 | 506 | 541 => ErrorClass::Server,
        _ => ErrorClass::Client,
    };
    (Status::Code(u32::from(code)), error)
}
