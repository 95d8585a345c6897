//! The steps of each protocol over the bytes of a call.

use porthole_protocol::Offload;

use super::{http, message::FALL_BACK, mysql, postgres, redis};
use crate::{maps::Scratch, verifier::rounds};

/// Steps in one call of [`steps`], each of which the verifier goes through, and calls of it.
const STEPS: u64 = 8;
const ROUNDS_MAX: u64 = redis::STEPS_MAX / STEPS;

/// Results of [`steps`] besides [`FALL_BACK`]: the call was parsed to its end, or there is more of it.
const END: u64 = 1;
const MORE: u64 = 2;

/// Parses a call of [`crate::maps::Parse::protocol`] to its end; false when the connection falls back to user space.
#[inline(always)]
pub fn parse() -> bool {
    let mut left = rounds::<ROUNDS_MAX>();
    while left > 0 {
        match steps() {
            FALL_BACK => return false,
            END => return true,
            _ => left -= 1,
        }
    }
    false
}

/// Takes some steps. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn steps() -> u64 {
    let Some(work) = Scratch::get() else { return FALL_BACK };
    let mut left = rounds::<STEPS>();
    while left > 0 {
        if work.parse.at >= work.header.total {
            return END;
        }
        // Read anew in each round: otherwise the compiler makes a loop for each protocol and unrolls it.
        let Some(protocol) = Offload::from_number(work.parse.protocol as u16) else {
            return FALL_BACK;
        };
        let result = match (protocol, work.parse.requests != 0) {
            (Offload::Http1, requests) => http::http_step(u64::from(!requests)),
            (Offload::Redis, true) => redis::redis_request_step(),
            (Offload::Redis, false) => redis::redis_reply_step(),
            (Offload::Mysql, true) => mysql::mysql_request_step(),
            (Offload::Mysql, false) => mysql::mysql_reply_step(),
            (Offload::Postgresql, true) => postgres::postgres_request_step(),
            (Offload::Postgresql, false) => postgres::postgres_reply_step(),
        };
        if result == FALL_BACK {
            return FALL_BACK;
        }
        left -= 1;
    }
    MORE
}
