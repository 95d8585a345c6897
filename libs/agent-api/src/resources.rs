//! What is measured of a container and of its guest: one table for both sides of the contract.
//!
//! Values are whole numbers: nanoseconds, bytes, or how many. What the kernel does not offer, or the guest does not let the agent
//! read, has no value; it is not zero.

use crate::agent;

macro_rules! resources {
    ($($(#[$meta:meta])* $name:ident,)+) => {
        /// One thing that is measured. Its number on the wire is its place in this list: new ones are added at the end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Resource {
            $($(#[$meta])* $name,)+
        }

        impl Resource {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}

resources! {
    /// CPU time in user space, nanoseconds. Of a container, as all until [`Self::GuestCpuUser`].
    CpuUser,
    /// CPU time in the kernel, nanoseconds.
    CpuSystem,
    /// For how long the container was not allowed to run, nanoseconds.
    CpuThrottled,
    /// Periods in which its limit of CPU time was enforced.
    CpuPeriods,
    /// Those of them in which it was not allowed to run for a part.
    CpuThrottledPeriods,
    /// CPU time that it may take in a second, nanoseconds.
    CpuLimit,
    /// Memory that is charged to it, page cache included, bytes.
    MemoryUsage,
    /// The same without the page cache that was not used lately.
    MemoryWorkingSet,
    /// Anonymous memory, bytes.
    MemoryAnonymous,
    /// Memory that it may take, bytes.
    MemoryLimit,
    /// Processes that the kernel killed because memory ran out.
    MemoryOomKills,
    /// Faults that read from a disk.
    PagingMajorFaults,
    /// Other faults.
    PagingMinorFaults,
    /// Bytes read from disks.
    DiskReadBytes,
    /// Bytes written to disks.
    DiskWriteBytes,
    /// Read operations of disks.
    DiskReads,
    /// Write operations of disks.
    DiskWrites,
    /// For how long some of its threads waited for a CPU, nanoseconds.
    PressureCpuSome,
    /// For how long all of them did.
    PressureCpuFull,
    /// For how long some of its threads waited for memory, nanoseconds.
    PressureMemorySome,
    /// For how long all of them did.
    PressureMemoryFull,
    /// For how long some of its threads waited for disks, nanoseconds.
    PressureIoSome,
    /// For how long all of them did.
    PressureIoFull,
    /// Threads.
    Threads,
    /// Threads that it may have.
    ThreadsLimit,
    /// Open file descriptors of its processes.
    OpenDescriptors,
    /// CPU time of the guest in user space, nanoseconds. Of the guest, as all that follow.
    GuestCpuUser,
    /// CPU time of the guest in the kernel, interrupts included.
    GuestCpuSystem,
    /// For how long the guest's CPUs were idle and a disk was waited for.
    GuestCpuIoWait,
    /// For how long a CPU of the guest was ready to run and the host ran something else.
    GuestCpuSteal,
    /// Memory of the guest, bytes.
    GuestMemory,
    /// What of it is in use: not available for a process without swapping.
    GuestMemoryUsed,
    /// Bytes received on network interfaces, the loopback excepted.
    NetworkReceivedBytes,
    /// Bytes sent.
    NetworkSentBytes,
    /// Packets that were received and dropped, or faulty.
    NetworkReceivedDropped,
    /// Packets that were to be sent and were dropped, or faulty.
    NetworkSentDropped,
    /// TCP segments that were sent again.
    TcpRetransmittedSegments,
    /// Connections that a full accept queue refused.
    TcpAcceptQueueOverflows,
}

impl Resource {
    fn number(self) -> usize {
        self as usize
    }
}

/// Measured values, each of which there may be or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    present: u64,
    values: [u64; Resource::ALL.len()],
}

impl Default for Measured {
    fn default() -> Self {
        Self { present: 0, values: [0; Resource::ALL.len()] }
    }
}

impl Measured {
    /// A value, if there is one.
    pub fn get(&self, resource: Resource) -> Option<u64> {
        let number = resource.number();
        (self.present & (1 << number) != 0).then(|| self.values[number])
    }

    /// Sets a value; without one nothing changes.
    pub fn set(&mut self, resource: Resource, value: impl Into<Option<u64>>) {
        let Some(value) = value.into() else { return };
        self.present |= 1 << resource.number();
        self.values[resource.number()] = value;
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// The message with these values of a container, or of the guest where the id is empty.
    pub fn to_wire(&self, container_id: String) -> agent::Resources {
        let values = Resource::ALL.iter().filter_map(|resource| self.get(*resource)).collect();
        agent::Resources { container_id, measured: self.present, values, ..agent::Resources::default() }
    }

    /// The values of a message; none when it has other than one value for each bit. Those of a later contract are left out.
    pub fn from_wire(wire: &agent::Resources) -> Option<Self> {
        if wire.values.len() != usize::try_from(wire.measured.count_ones()).ok()? {
            return None;
        }
        let numbers = (0..u64::BITS).filter(|bit| wire.measured & (1 << bit) != 0);
        let mut measured = Self::default();
        for (number, value) in numbers.zip(&wire.values) {
            let known = usize::try_from(number).ok().and_then(|number| Resource::ALL.get(number));
            if let Some(resource) = known {
                measured.set(*resource, *value);
            }
        }
        Some(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_comes_through_and_what_was_not_stays_absent() {
        assert!(Resource::ALL.len() <= 64, "one bit for each");
        let mut measured = Measured::default();
        assert!(measured.is_empty());
        measured.set(Resource::CpuUser, 0);
        measured.set(Resource::MemoryLimit, None);
        measured.set(Resource::TcpAcceptQueueOverflows, u64::MAX);
        let wire = measured.to_wire("shop-1".into());
        assert_eq!(wire.values, [0, u64::MAX]);
        let read = Measured::from_wire(&wire).expect("one value for each bit");
        assert_eq!(read, measured);
        assert_eq!((read.get(Resource::CpuUser), read.get(Resource::MemoryLimit)), (Some(0), None));
    }

    #[test]
    fn values_without_a_bit_are_refused_and_those_of_a_later_contract_left_out() {
        let wire = |measured, values: &[u64]| agent::Resources {
            measured,
            values: values.to_vec(),
            ..agent::Resources::default()
        };
        assert_eq!(Measured::from_wire(&wire(1, &[])), None);
        assert_eq!(Measured::from_wire(&wire(0, &[1])), None);
        let later = Measured::from_wire(&wire(1 | 1 << 63, &[5, 6])).expect("one value for each bit");
        let mut expected = Measured::default();
        expected.set(Resource::CpuUser, 5);
        assert_eq!(later, expected);
    }
}
