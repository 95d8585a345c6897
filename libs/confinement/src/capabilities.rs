//! Capabilities as bits; the numbers are those of `linux/capability.h`.

use caps::{CapSet, Capability, CapsHashSet};

use crate::ConfinementError;

#[allow(missing_docs)]
mod numbers {
    pub const CHOWN: u32 = 0;
    pub const DAC_OVERRIDE: u32 = 1;
    pub const DAC_READ_SEARCH: u32 = 2;
    pub const FOWNER: u32 = 3;
    pub const FSETID: u32 = 4;
    pub const KILL: u32 = 5;
    pub const SETGID: u32 = 6;
    pub const SETUID: u32 = 7;
    pub const SETPCAP: u32 = 8;
    pub const NET_ADMIN: u32 = 12;
    pub const SYS_ADMIN: u32 = 21;
    pub const SYS_NICE: u32 = 23;
    pub const SYS_RESOURCE: u32 = 24;
    pub const MKNOD: u32 = 27;
    pub const SETFCAP: u32 = 31;
}

pub use numbers::*;

/// A set.
pub const fn bits(numbers: &[u32]) -> u64 {
    let (mut bits, mut index) = (0, 0);
    while index < numbers.len() {
        bits |= 1 << numbers[index];
        index += 1;
    }
    bits
}

/// Gives up, for this thread and all that it starts, all capabilities but these, and ever gaining others. What cannot be
/// given up does not keep the rest.
pub fn keep_only(kept: u64) -> Result<(), ConfinementError> {
    let kept = set_of(kept);
    let bounds = bound(&kept);
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    reduce(&kept)?;
    nix::sys::prctl::set_no_new_privs().map_err(ConfinementError::NewPrivileges)?;
    bounds
}

/// Gives up what this thread has beyond these; they are bounded by [`keep_only`] already.
pub fn reduce_to(kept: u64) -> Result<(), ConfinementError> {
    reduce(&set_of(kept))
}

fn reduce(kept: &CapsHashSet) -> Result<(), ConfinementError> {
    for set in [CapSet::Effective, CapSet::Permitted] {
        let now = caps::read(None, set)?;
        caps::set(None, set, &now.intersection(kept).copied().collect())?;
    }
    Ok(())
}

fn set_of(bits: u64) -> CapsHashSet {
    caps::all().into_iter().filter(|capability| bits & capability.bitmask() != 0).collect()
}

/// Takes all but these out of the bounding set, which takes `SETPCAP`.
fn bound(kept: &CapsHashSet) -> Result<(), ConfinementError> {
    for capability in caps::runtime::procfs_all_supported(None)? {
        if !kept.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability)? {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    Ok(())
}

/// Lets a capability that was kept have no effect but in [`while_effective`].
pub fn suspend(capability: Capability) -> Result<(), ConfinementError> {
    Ok(caps::drop(None, CapSet::Effective, capability)?)
}

/// Works with a capability in effect, where it was kept.
pub fn while_effective<T>(capability: Capability, work: impl FnOnce() -> T) -> T {
    let was = caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true);
    // Without the capability the work fails with its own error.
    let _ = caps::raise(None, CapSet::Effective, capability);
    let result = work();
    if !was {
        let _ = caps::drop(None, CapSet::Effective, capability);
    }
    result
}

pub use caps::Capability as Named;

#[cfg(test)]
mod tests {
    use super::*;

    fn in_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
    }

    #[test]
    fn what_is_not_kept_is_gone_from_every_set() {
        in_a_thread(|| {
            let before = caps::read(None, CapSet::Permitted).expect("read");
            let bounded = keep_only(bits(&[DAC_OVERRIDE]));
            assert_eq!(bounded.is_ok(), before.contains(&Capability::CAP_SETPCAP) || before.is_empty());
            let kept: CapsHashSet = [Capability::CAP_DAC_OVERRIDE].into_iter().collect();
            for set in [CapSet::Effective, CapSet::Permitted] {
                let held = caps::read(None, set).expect("read");
                assert_eq!(held, before.intersection(&kept).copied().collect(), "{set:?}");
            }
            assert!(nix::sys::prctl::get_no_new_privs().expect("read"));
        });
    }

    #[test]
    fn what_is_suspended_is_in_effect_only_for_its_work() {
        in_a_thread(|| {
            let effective =
                || caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).expect("read");
            let held = caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_ADMIN).expect("read");
            suspend(Capability::CAP_SYS_ADMIN).expect("suspended");
            assert!(!effective());
            assert_eq!(while_effective(Capability::CAP_SYS_ADMIN, effective), held);
            assert!(!effective());
        });
    }
}
