//! The lock of an offloaded connection: calls end on several CPUs at once.

use porthole_bpf_types::offload::OffloadedConnection;

use crate::{maps::OFFLOADED, verifier::swap};

/// Times that a connection's lock is tried at once, and how often that is done: another CPU holds it for less than a
/// microsecond.
const TRIES: u32 = 24;
const WAITS: u32 = 100;

/// Locks a connection if no other CPU holds it.
#[inline(always)]
pub fn try_lock(offloaded: *mut OffloadedConnection) -> bool {
    // SAFETY: a field of a map's value, which is aligned as the type says.
    unsafe { swap(&raw mut (*offloaded).lock, 1) == 0 }
}

/// Results of [`wait`]: another CPU still holds the lock, has removed the connection, or this CPU has the lock.
const HELD: u64 = 0;
const GONE: u64 = 1;
const LOCKED: u64 = 2;

/// Tries a connection's lock a few times. A global function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn wait(id: u64) -> u64 {
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
    let mut waits = 0;
    loop {
        match wait(id) {
            HELD => {}
            GONE => return Lock::Gone,
            _ => return Lock::Locked,
        }
        waits += 1;
        if waits >= WAITS {
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

/// An offloaded connection that this CPU has locked. As with [`Scratch`], no reference may be held across a call.
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
