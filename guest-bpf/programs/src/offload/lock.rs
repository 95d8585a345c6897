//! The lock of an offloaded connection: calls end on several CPUs at once.

use porthole_bpf_types::offload::OffloadedConnection;

use crate::{
    maps::OFFLOADED,
    verifier::{rounds, swap},
};

/// Times that a connection's lock is tried at once, and how often that is done: another CPU holds it for less than a
/// microsecond.
const TRIES: u32 = 100;
const WAITS: u64 = 24;

/// Locks a connection if no other CPU holds it.
#[inline(always)]
pub fn try_lock(offloaded: *mut OffloadedConnection) -> bool {
    // SAFETY: a field of a map's value, which has the type's alignment.
    unsafe { swap(&raw mut (*offloaded).lock, 1) == 0 }
}

/// Results of [`wait_for`]: another CPU still holds the lock, has removed the connection, or this CPU has the lock.
const HELD: u64 = 0;
const GONE: u64 = 1;
const LOCKED: u64 = 2;

/// Tries a connection's lock a few times. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn wait_for(id: u64) -> u64 {
    let Some(offloaded) = OFFLOADED.get_ptr_mut(id) else { return GONE };
    let mut tries = 0;
    while tries < TRIES {
        if try_lock(offloaded) {
            return LOCKED;
        }
        tries += 1;
    }
    HELD
}

/// Locks a connection, given by its value and its id.
#[inline(always)]
pub fn lock(offloaded: *mut OffloadedConnection, id: u64) -> Lock {
    if try_lock(offloaded) {
        return Lock::Locked;
    }
    let mut left = rounds::<WAITS>();
    loop {
        match wait_for(id) {
            HELD => {}
            GONE => return Lock::Gone,
            _ => return Lock::Locked,
        }
        left -= 1;
        if left == 0 {
            return Lock::Held;
        }
    }
}

/// Result of [`lock`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// It is this CPU's now.
    Locked,
    /// Another CPU removed what was to be locked.
    Gone,
    /// Another CPU held it too long.
    Held,
}

/// Releases a lock.
#[inline(always)]
pub fn unlock(offloaded: *mut OffloadedConnection) {
    // SAFETY: a value that a look-up gave (see `maps`), which this CPU holds the lock of.
    unsafe { core::ptr::write_volatile(&raw mut (*offloaded).lock, 0) };
}

/// An offloaded connection that this CPU has locked. As with `Scratch`, no reference may be held across a call.
#[derive(Clone, Copy)]
pub struct Locked(pub *mut OffloadedConnection);

impl core::ops::Deref for Locked {
    type Target = OffloadedConnection;

    #[inline(always)]
    fn deref(&self) -> &OffloadedConnection {
        // SAFETY: a value that a look-up gave (see `maps`), which only the CPU that has locked it uses.
        unsafe { &*self.0 }
    }
}

impl core::ops::DerefMut for Locked {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut OffloadedConnection {
        // SAFETY: a value that a look-up gave (see `maps`), which only the CPU that has locked it uses.
        unsafe { &mut *self.0 }
    }
}
