//! The machine of a thread: clock, the task that runs, readable memory, records, and the values of its maps.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::HashMap,
    ops::Range,
};

/// The process and thread that run at first.
pub const TASK: u64 = (7 << 32) | 8;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
    static RUNS: Cell<u64> = const { Cell::new(TASK) };
    static READABLE: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
    static RECORDS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    /// Values whose keys were removed.
    static REMOVED: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
    /// By address of the map.
    static MAPS: RefCell<HashMap<usize, Values>> = RefCell::new(HashMap::new());
}

/// A map's values by the bytes of their keys.
pub(crate) type Values = HashMap<Vec<u8>, Box<dyn Any>>;

/// Empties all maps, forgets records and readable memory, and sets the clock to 0. [`TASK`] runs.
pub fn reset() {
    set_now(0);
    set_task(TASK);
    forbid();
    take_records();
    MAPS.with_borrow_mut(HashMap::clear);
    REMOVED.take();
}

/// Sets the clock, nanoseconds.
pub fn set_now(now: u64) {
    NOW.set(now);
}

pub(crate) fn now() -> u64 {
    NOW.get()
}

/// Sets process and thread that run.
pub fn set_task(task: u64) {
    RUNS.set(task);
}

pub(crate) fn task() -> u64 {
    RUNS.get()
}

/// Makes memory readable for the programs, as long as it lives and until [`forbid`].
pub fn allow(memory: &[u8]) {
    let range = memory.as_ptr_range();
    READABLE.with_borrow_mut(|all| all.push(range.start.addr()..range.end.addr()));
}

/// Makes no memory readable any more.
pub fn forbid() {
    READABLE.with_borrow_mut(Vec::clear);
}

pub(crate) fn is_readable(from: usize, size: usize) -> bool {
    let Some(end) = from.checked_add(size) else { return false };
    READABLE.with_borrow(|all| all.iter().any(|range| range.start <= from && end <= range.end))
}

pub(crate) fn keep_record(bytes: &[u8]) {
    RECORDS.with_borrow_mut(|all| all.push(bytes.to_vec()));
}

/// The records since the last call, in order.
pub fn take_records() -> Vec<Vec<u8>> {
    RECORDS.take()
}

/// Keeps a value whose key was removed: a program may still use it.
pub(crate) fn keep_removed(value: Box<dyn Any>) {
    REMOVED.with_borrow_mut(|all| all.push(value));
}

/// Gives the values of the map at an address to `with`.
pub(crate) fn values<R>(map: usize, with: impl FnOnce(&mut Values) -> R) -> R {
    MAPS.with_borrow_mut(|maps| with(maps.entry(map).or_default()))
}
