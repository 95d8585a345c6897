//! Keys and slots: their bounds, and what makes room.

use porthole_l7::{Exchange, Limits, ParserContext, Side, Status};
use porthole_protocol::Offload;

use super::{
    super::request_names::{NAMES_MAX, RECURRING},
    *,
};
use crate::recorder::{
    peer::Peer,
    testing::{exchange, origin},
};

/// A key that needs no name.
fn key(request: u64) -> RequestKey {
    RequestKey { request, protocol: Offload::Redis.number().into(), ..RequestKey::default() }
}

/// The series of that number, whose own exchanges it has.
fn own(at: usize) -> Place {
    Place { at, overflows: false }
}

fn line(request: &[u8]) -> RequestName {
    RequestName::of(Offload::Http1.number().into(), request)
}

fn http(request: u64) -> RequestKey {
    RequestKey { protocol: Offload::Http1.number().into(), ..key(request) }
}

#[test]
fn requests_that_come_once_get_no_key() {
    let (mut keys, mut commands) = (KernelKeys::default(), Vec::new());
    for hash in 0..1_000 {
        keys.learn_name(hash, line(b"GET /token HTTP/1.1\r\n"), &mut commands);
        keys.learn(&http(hash), 200, own(0), &mut commands);
    }
    assert!(keys.is_empty() && commands.is_empty(), "{commands:?}");
    keys.learn_name(7, line(b"GET /token HTTP/1.1\r\n"), &mut commands);
    assert_eq!(commands, [Command::NameKnown(7)]);
    keys.learn(&http(7), 200, own(0), &mut commands);
    assert_eq!(keys.len(), 1);
}

#[test]
fn a_key_has_one_entry_and_a_slot_for_each_status() {
    let (mut keys, mut commands) = (KernelKeys::default(), Vec::new());
    keys.learn(&key(7), 200, own(0), &mut commands);
    keys.learn(&key(7), 404, own(1), &mut commands);
    keys.learn(&key(7), 404, own(1), &mut commands);
    let [
        Command::SetKey { index: 0, entry: first },
        Command::IndexKey { index: 0, .. },
        Command::SetKey { index: 0, entry },
    ] = &commands[..]
    else {
        panic!("{commands:?}")
    };
    assert_eq!((first.used, entry.used), (1, 2));
    assert_eq!((entry.statuses[..2].to_vec(), entry.slots[..2].to_vec()), (vec![200, 404], vec![0, 1]));
}

#[test]
fn keys_slots_and_statuses_are_bounded() {
    let (mut keys, mut commands) = (KernelKeys::default(), Vec::new());
    for status in 0..100 {
        keys.learn(&key(1), status, own(0), &mut commands);
    }
    assert_eq!(keys.slots.len(), STATUSES_MAX);
    for request in 0..2 * u64::from(KERNEL_KEYS_MAX) {
        keys.learn(&key(request), 200, own(0), &mut commands);
    }
    assert!(keys.len() <= KERNEL_KEYS_MAX as usize && keys.slots.len() == SLOTS_MAX as usize);
}

const SECOND: u64 = 1_000_000_000;

/// Keys that have all the entries, at a time at which none of them is new any more.
fn full() -> (KernelKeys, u64) {
    let mut keys = KernelKeys::default();
    for request in 0..KERNEL_KEYS_MAX.into() {
        keys.learn(&key(request), 0, own(0), &mut Vec::new());
    }
    keys.make_room(SECOND, |_| panic!("no key waits"), &mut Vec::new());
    (keys, SECOND + UNUSED_NS)
}

#[test]
fn keys_that_are_not_used_make_room() {
    let (mut keys, now) = full();
    let mut commands = Vec::new();
    keys.make_room(now, |_| panic!("no key waits"), &mut commands);
    let new = key(KERNEL_KEYS_MAX.into());
    keys.learn(&new, 0, own(7), &mut commands);
    keys.slots[3].marks[1] = now - SECOND;
    let mut forgotten = Vec::new();
    keys.make_room(
        now,
        |key| {
            forgotten.push(key.request);
            true
        },
        &mut commands,
    );
    assert!(forgotten.len() == KERNEL_KEYS_MAX as usize - 1 && !forgotten.contains(&3));
    keys.learn(&new, 0, own(7), &mut commands);
    assert!(commands.is_empty(), "what is under way is aggregated there still");
    keys.make_room(now + RUN_NS, |_| true, &mut commands);
    let closed = |command: &Command| matches!(command, Command::SetKey { entry, .. } if (entry.generation, entry.used) == (2, 0));
    assert!(commands.len() == forgotten.len() && commands.iter().all(closed));
    commands.clear();
    keys.learn(&new, 0, own(7), &mut commands);
    assert!(commands.is_empty(), "a program may be in the middle of it");
    keys.make_room(now + 2 * RUN_NS, |_| true, &mut commands);
    keys.learn(&new, 0, own(7), &mut commands);
    let [Command::SetKey { index, entry }, Command::IndexKey { key, index: same }] = commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!((key, index, entry.generation, entry.used), (new, same, 2, 1));
    assert!(matches!(keys.slots[entry.slots[0] as usize].series, SlotSeries::At(Place { at: 7, .. })));
    assert_eq!((keys.len(), keys.slots.len()), (2, SLOTS_MAX as usize));
}

#[test]
fn statuses_that_are_not_used_make_room_although_their_key_is() {
    // A key with all the statuses that it can have; and keys that have all slots with a second status.
    for (refused, statuses) in [(key(0), STATUSES_MAX), (key(SLOTS_MAX.into()), 2)] {
        let mut keys = KernelKeys::default();
        let statuses = u32::try_from(statuses).expect("few");
        for request in 0..u64::from(SLOTS_MAX / statuses) {
            for status in 0..statuses {
                keys.learn(&key(request), status, own(0), &mut Vec::new());
            }
        }
        assert_eq!(keys.slots.len(), SLOTS_MAX as usize);
        keys.make_room(SECOND, |_| panic!("none waits"), &mut Vec::new());
        let mut forgotten = 0;
        let mut last_ns = 0;
        for second in 2..=2 + UNUSED_STATUS_NS / SECOND {
            last_ns = second * SECOND;
            // All keys are in use, with their first status.
            for request in 0..u64::from(SLOTS_MAX / statuses) {
                if keys.indexes.contains_key(&key(request)) {
                    let first = slots_of(&keys, request)[0];
                    keys.slots[first as usize].marks[0] = last_ns;
                }
            }
            keys.learn(&refused, 99, own(7), &mut Vec::new());
            let limit = if second <= UNUSED_STATUS_NS / SECOND { 0 } else { 2 * IN_USE_FORGOTTEN_MAX };
            keys.make_room(last_ns, |_| true.then(|| forgotten += 1).is_some(), &mut Vec::new());
            assert!(forgotten <= limit, "{second} s");
        }
        assert!(forgotten > 0);
        for pass in 1..=4 {
            keys.make_room(last_ns + pass * RUN_NS, |_| true, &mut Vec::new());
        }
        keys.learn(&refused, 99, own(7), &mut Vec::new());
        assert_eq!(slots_of(&keys, refused.request).len(), 1);
    }
}

/// The slots of a key's statuses.
fn slots_of(keys: &KernelKeys, request: u64) -> Vec<u32> {
    let entry = keys.keys[*keys.indexes.get(&key(request)).expect("known") as usize].entry;
    entry.slots[..entry.used as usize].to_vec()
}

#[test]
fn keys_in_use_stay_while_unused_ones_make_room() {
    let mut keys = KernelKeys::default();
    // Those in use come first, and of each a second status is not used.
    let in_use = 0..50;
    for status in 0..2 {
        in_use.clone().for_each(|request| keys.learn(&key(request), status, own(0), &mut Vec::new()));
    }
    let slots = u64::from(SLOTS_MAX);
    for request in in_use.end..slots - in_use.end {
        keys.learn(&key(request), 0, own(0), &mut Vec::new());
    }
    assert_eq!(keys.slots.len(), SLOTS_MAX as usize);
    keys.make_room(SECOND, |_| panic!("none waits"), &mut Vec::new());
    let (mut forgotten, began) = (Vec::new(), SECOND + UNUSED_STATUS_NS);
    for pass in 0..6 {
        let now = began + pass * RUN_NS / 2;
        for request in in_use.clone() {
            let first = slots_of(&keys, request)[0];
            keys.slots[first as usize].marks[0] = now;
        }
        // They find no room until the unused keys' entries are free.
        (0..500).for_each(|request| keys.learn(&key(slots + request), 0, own(7), &mut Vec::new()));
        keys.make_room(
            now,
            |key| {
                forgotten.push(key.request);
                true
            },
            &mut Vec::new(),
        );
    }
    assert!(forgotten.into_iter().eq(in_use.end..slots - in_use.end));
    assert!(keys.indexes.contains_key(&key(slots)));
}

#[test]
fn a_status_that_was_just_learned_is_not_an_unused_one() {
    let mut keys = KernelKeys::default();
    let (other, last) = (1, u64::from(SLOTS_MAX) - 1);
    for request in 0..last {
        keys.learn(&key(request), 0, own(0), &mut Vec::new());
    }
    let mut now = SECOND;
    // All keys are in use, but perhaps one; then the first one has another status, and a new key finds no room.
    let mut refuse_with = |keys: &mut KernelKeys, status, is_other_used: bool| {
        keys.make_room(now, |_| panic!("none waits"), &mut Vec::new());
        now += 2 * UNUSED_STATUS_NS;
        for slot in 0..SLOTS_MAX {
            let is_unused = !is_other_used && slot == slots_of(keys, other)[0];
            if !is_unused && !keys.free_slots.contains(&slot) && (slot as usize) < keys.slots.len() {
                keys.slots[slot as usize].marks[0] = now;
            }
        }
        keys.learn(&key(0), status, own(0), &mut Vec::new());
        keys.learn(&key(last), 0, own(0), &mut Vec::new());
        let mut forgotten = Vec::new();
        for _ in 0..3 {
            keys.make_room(now, |key| true.then(|| forgotten.push(key.request)).is_some(), &mut Vec::new());
            now += RUN_NS;
        }
        forgotten
    };
    assert!(refuse_with(&mut keys, 404, true).is_empty(), "its slot is new");
    assert_eq!(refuse_with(&mut keys, 404, false), [other]);
    assert!(refuse_with(&mut keys, 500, true).is_empty(), "its slot was another's");
}

#[test]
fn what_is_aggregated_after_the_series_began_anew_is_in_the_new_ones() {
    let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
    let exchange = exchange(&mut context, Side::Server, "/", 200);
    let origin = origin(&Peer::Unknown);
    let series = table.record(&exchange, origin, &context, 0).expect("room");
    let mut keys = KernelKeys::default();
    keys.learn(&key(1), 0, series, &mut Vec::new());
    let sums = |count| {
        let buckets = [(0, count)].into_iter();
        Increment { duration_ns: 1, request_bytes: 0, response_bytes: 0, buckets }
    };
    assert_eq!(keys.slots[0].series.add(sums(2), &mut table), 2);
    for _ in 0..2 {
        let ended = table.renew(0, 7);
        keys.series_renewed(&ended);
    }
    assert_eq!(keys.slots[0].series.add(sums(3), &mut table), 3);
    assert_eq!(keys.slots[0].series.add(sums(4), &mut table), 4);
    let series = table.all();
    let [series] = &series[..] else { panic!("{series:?}") };
    assert_eq!((&series.key.operation[..], series.duration.count, series.start_unix_ns), ("GET", 7, 7));
    assert_eq!((series.key.container_id.as_str(), table.recorded()), ("shop-1", 10));
}

#[test]
fn what_overflows_for_one_key_does_so_for_that_key_alone() {
    let (mut table, mut context) = (SeriesTable::default(), ParserContext::new(Limits::default()));
    let base = exchange(&mut context, Side::Server, "/", 200);
    let (own_series, other_series) = (own(3), Place { at: 3, overflows: true });
    for number in 0..8 {
        let exchange = Exchange { status: Status::Code(number), ..base };
        table.record(&exchange, origin(&Peer::Unknown), &context, 0).expect("room");
    }
    let mut keys = KernelKeys::default();
    keys.learn(&key(1), 0, own_series, &mut Vec::new());
    keys.learn(&key(2), 0, other_series, &mut Vec::new());
    let sums = |count| {
        let buckets = [(0, count)].into_iter();
        Increment { duration_ns: 1, request_bytes: 0, response_bytes: 0, buckets }
    };
    let mut overflowed = 0;
    for _ in 0..3 {
        keys.slots[0].series.add(sums(100), &mut table);
        assert_eq!(table.overflowed(), overflowed, "exchanges of its own");
        keys.slots[1].series.add(sums(7), &mut table);
        overflowed += 7;
        assert_eq!(table.overflowed(), overflowed, "those of another key");
        let ended = table.renew(0, 7);
        keys.series_renewed(&ended);
    }
}

#[test]
fn what_the_programs_do_not_forget_stays() {
    let (mut keys, now) = full();
    for pass in 0..4 {
        keys.learn(&key(KERNEL_KEYS_MAX.into()), 0, own(7), &mut Vec::new());
        keys.make_room(now + pass * RUN_NS, |_| false, &mut Vec::new());
    }
    assert_eq!(keys.len(), KERNEL_KEYS_MAX as usize);
}

#[test]
fn names_are_bounded_and_those_of_kernel_keys_stay() {
    let (mut keys, mut commands) = (KernelKeys::default(), Vec::new());
    for _ in 0..RECURRING {
        keys.learn_name(1, line(b"GET /a HTTP/1.1\r\nHost: x\r\n"), &mut commands);
        keys.learn(&http(1), 200, own(0), &mut commands);
    }
    for hash in 2..3 * NAMES_MAX as u64 {
        for _ in 0..2 {
            keys.learn_name(hash, line(b"GET /b HTTP/1.1\r\n"), &mut commands);
        }
    }
    assert_eq!(keys.name(&http(1)), b"GET /a HTTP/1.1\r\n");
    assert!(keys.names.kept() <= 2 * NAMES_MAX);
    assert!(keys.name(&http(2)).is_empty(), "forgotten");
    assert!(commands.contains(&Command::NameForgotten(2)));
    assert!(!keys.name(&http(3 * NAMES_MAX as u64 - 1)).is_empty());
}
