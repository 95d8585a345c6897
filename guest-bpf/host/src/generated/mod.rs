//! Generated conversations: what the protocols' documents allow, and some of what they forbid.

pub mod choices;
mod http1;
mod mysql;
mod postgresql;
mod redis;

use choices::Choices;
use porthole_l7::{Direction, Side};
use porthole_protocol::Offload;

use crate::{
    agent::monitor::Mode,
    differential::{Call, difference, difference_of_sums, monitored},
};

/// A message of either end.
#[derive(Clone, Debug)]
struct Message {
    from_client: bool,
    bytes: Vec<u8>,
}

fn client(bytes: impl Into<Vec<u8>>) -> Message {
    Message { from_client: true, bytes: bytes.into() }
}

fn server(bytes: impl Into<Vec<u8>>) -> Message {
    Message { from_client: false, bytes: bytes.into() }
}

/// The messages as calls of the observed end, some of which are cut, joined, or made out of several buffers; the first
/// `whole` ones are calls of their own.
fn calls(choices: &mut Choices<'_>, observed: Side, messages: &[Message], whole: usize) -> Vec<Call> {
    let (cuts, joins, gathers) =
        (choices.of(&[0, 0, 4, 30]), choices.of(&[0, 0, 2, 10]), choices.of(&[0, 0, 3]));
    let mut all: Vec<Call> = Vec::new();
    for (index, Message { from_client, bytes }) in messages.iter().enumerate() {
        let ingress = *from_client == (observed == Side::Server);
        let direction = if ingress { Direction::Ingress } else { Direction::Egress };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let uncut = index < whole || cuts == 0 || !choices.once_in(cuts);
            let len = if uncut { rest.len() } else { 1 + choices.below(rest.len()) };
            let (piece, behind) = rest.split_at(len);
            rest = behind;
            match all.last_mut() {
                Some(last)
                    if index >= whole
                        && last.direction == direction
                        && joins > 0
                        && choices.once_in(joins) =>
                {
                    last.bytes.extend_from_slice(piece);
                }
                _ => all.push(Call::new(direction, piece)),
            }
        }
    }
    for call in &mut all {
        if gathers > 0 && choices.once_in(gathers) {
            call.cuts = (0..choices.below(4)).map(|_| choices.below(call.bytes.len() + 1)).collect();
            call.cuts.sort_unstable();
        }
    }
    all
}

/// Changes some bytes, or leaves some out, or repeats or exchanges messages.
fn damage(choices: &mut Choices<'_>, messages: &mut Vec<Message>) {
    for _ in 0..=choices.below(2) {
        if messages.len() < 2 {
            return;
        }
        let index = choices.below(messages.len());
        let len = messages[index].bytes.len();
        match choices.below(6) {
            0 => messages.insert(index, messages[index].clone()),
            1 => {
                let other = choices.below(messages.len());
                messages.swap(index, other);
            }
            2 => {
                messages.remove(index);
            }
            3 if len > 1 => {
                let from = choices.below(len);
                let to = from + choices.below(len - from).min(8);
                messages[index].bytes.drain(from..to);
            }
            _ if len > 0 => {
                let at = choices.below(len);
                messages[index].bytes[at] =
                    choices.of(&[0, 1, b'\r', b'\n', b' ', b':', b'0', b'9', b'$', b'*', b'-', 0xfe, 0xff]);
            }
            _ => {}
        }
    }
}

/// A generated conversation.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The end that is observed.
    pub observed: Side,
    /// Its calls.
    pub calls: Vec<Call>,
}

/// The conversation of a protocol that the choices make; if it is to be `damaged`, with some errors.
pub fn conversation(protocol: Offload, choices: &mut Choices<'_>, damaged: bool) -> Conversation {
    let observed = choices.of(&[Side::Server, Side::Client]);
    let (mut messages, whole) = match protocol {
        Offload::Http1 => (http1::conversation(choices), 0),
        Offload::Redis => (redis::conversation(choices), 0),
        Offload::Mysql => (mysql::conversation(choices), 0),
        Offload::Postgresql => (postgresql::conversation(choices), 0),
    };
    if damaged {
        damage(choices, &mut messages);
    }
    Conversation { observed, calls: calls(choices, observed, &messages, whole) }
}

/// One input of a fuzzer: the choices of a conversation, whose exchanges must be the same in every mode, or which is damaged;
/// then each request must come to one end.
pub fn fuzz(protocol: Offload, data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    let damaged = kind & 1 != 0;
    let Conversation { observed, calls } = conversation(protocol, &mut Choices::of_bytes(bytes), damaged);
    if damaged {
        monitored(Mode::Offered, observed, &calls);
    } else if let Some(found) = difference(observed, &calls) {
        panic!("{found:#?}\nof {calls:#?}");
    } else if let (Some(found), _) = difference_of_sums(observed, &calls) {
        panic!("sums: {found:#?}\nof {calls:#?}");
    }
}
