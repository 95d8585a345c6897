//! Inputs of the test command: recordings and fragments of protocols, changed by a generator of a fixed seed.
//!
//! libFuzzer's own changes depend on addresses of the running program, also with a fixed seed: what it tries differs from one
//! machine to the next.

use fastrand::Rng;

/// Bytes of an input, at most.
const INPUT_MAX: usize = 16 << 10;

/// Changes of one input, at most.
const CHANGES_MAX: usize = 6;

/// Beginnings and parts of messages, for targets of which there is no recording, and to change others with.
const FRAGMENTS: &[&[u8]] = &[
    b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"\0\0\x05\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01x",
    b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    b"$5\r\nhello\r\n+OK\r\n-ERR no\r\n:1\r\n*-1\r\n",
    b"get k1 k2\r\nset k 0 0 2\r\nhi\r\n",
    b"VALUE k1 0 2\r\nhi\r\nEND\r\nSTORED\r\n",
    b"\x80\x00\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0k",
    b"INFO {}\r\nCONNECT {}\r\nSUB a 1\r\nPUB a 2\r\nhi\r\nMSG a 1 2\r\nhi\r\nPING\r\nPONG\r\n",
    b"\x16\x03\x01\0\x2a\x01\0\0\x26\x03\x03",
    b"\x03\0\0\0\x03SELECT 1",
    b"Q\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I",
    b"\0\0\0\0\0\0\0\x01\xff\xff\xff\xff\x7f\xff\xff\xff",
];

/// So many inputs, the recorded ones first, as they are.
pub(super) fn inputs(recorded: &[Vec<u8>], count: usize, seed: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut random = Rng::with_seed(seed);
    let more = count.saturating_sub(recorded.len());
    let changed = (0..more).map(move |_| one(recorded, &mut random));
    recorded.iter().cloned().chain(changed)
}

/// A recorded input that was changed, or bytes of a generator and fragments.
fn one(recorded: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut input = match random.choice(recorded) {
        Some(recorded) if random.u8(..4) > 0 => {
            // A part suffices: changes of the whole would mostly be at its end.
            let from = random.usize(..=recorded.len()) / 4;
            recorded.iter().copied().skip(from).take(1 << random.u32(4..=14)).collect()
        }
        _ => bytes(random, 8),
    };
    for _ in 0..random.usize(1..=CHANGES_MAX) {
        change(&mut input, random);
    }
    input.truncate(INPUT_MAX);
    input
}

/// Up to `2^power` bytes, small numbers and others.
fn bytes(random: &mut Rng, power: u32) -> Vec<u8> {
    let most = 1 << random.u32(..=power);
    let len = random.usize(..=most);
    let small = random.bool();
    (0..len).map(|_| if small { random.u8(..16) } else { random.u8(..) }).collect()
}

fn change(input: &mut Vec<u8>, random: &mut Rng) {
    let at = random.usize(..=input.len());
    let to = random.usize(at..=input.len().min(at + 64));
    match random.u8(..8) {
        0 => _ = input.drain(at..to),
        1 => {
            let part = input[at..to].to_vec();
            insert(input, at, &part);
        }
        2 => insert(input, at, &bytes(random, 5)),
        3 | 4 => {
            // As a chunk of the parsers' targets: direction, length, bytes.
            let fragment = FRAGMENTS[random.usize(..FRAGMENTS.len())];
            let len = u8::try_from(fragment.len()).unwrap_or(u8::MAX);
            insert(input, at, &[&[random.u8(..2), len], fragment].concat());
        }
        _ => {
            let Some(byte) = input.get_mut(at) else { return };
            *byte = match random.u8(..4) {
                0 => *byte ^ (1 << random.u32(..8)),
                1 => byte.wrapping_add(1),
                2 => [0, 1, 0x7f, 0x80, 0xff][random.usize(..5)],
                _ => random.u8(..),
            };
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_inputs_which_begin_with_the_recorded_ones() {
        let recorded = [b"\0\x04PING".to_vec(), vec![7; 40_000]];
        let all: Vec<_> = inputs(&recorded, 300, 1).collect();
        assert_eq!(all, inputs(&recorded, 300, 1).collect::<Vec<_>>());
        assert_eq!(all[..2], recorded);
        assert_eq!(all.len(), 300);
        assert!(all[2..].iter().all(|input| input.len() <= INPUT_MAX));
        let mut different = all;
        different.sort();
        different.dedup();
        assert!(different.len() > 250, "{} of 300 differ", different.len());
        assert_ne!(inputs(&[], 50, 1).collect::<Vec<_>>(), inputs(&[], 50, 2).collect::<Vec<_>>());
    }
}
