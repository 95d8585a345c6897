//! Families of what containers and guests take: their names, and which of the measured values are their samples.
//!
//! Names are those of OpenTelemetry's `container.*` where there is one, with the unit and `_total` that Prometheus' names have; the
//! others follow them. `porthole_guest_*` is what a virtual machine has and a container has not.

use porthole_agent_api::resources::Resource;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Whole,
    /// Nanoseconds, written as seconds; of a limit, seconds in each second.
    Seconds,
}

/// One family.
#[derive(Debug)]
pub struct Family {
    /// Its name, without `_total`.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Its unit, by OpenMetrics' word.
    pub unit: Option<&'static str>,
    /// Its values only ever grow.
    pub cumulative: bool,
    /// How its values are written.
    pub form: Form,
    /// The label that distinguishes its samples; empty where there is one sample.
    pub labels: &'static [&'static str],
    /// Which values are its samples, each with its labels' values.
    pub samples: &'static [(Resource, &'static [&'static str])],
}

const fn counter(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    samples: &'static [(Resource, &'static [&'static str])],
) -> Family {
    Family { name, help, unit: None, cumulative: true, form: Form::Whole, labels, samples }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    samples: &'static [(Resource, &'static [&'static str])],
) -> Family {
    Family { name, help, unit: None, cumulative: false, form: Form::Whole, labels: &[], samples }
}

impl Family {
    const fn seconds(self) -> Self {
        Self { unit: Some("seconds"), form: Form::Seconds, ..self }
    }

    const fn bytes(self) -> Self {
        Self { unit: Some("bytes"), ..self }
    }

    const fn cores(self) -> Self {
        Self { unit: Some("cores"), form: Form::Seconds, ..self }
    }
}

/// Every family.
pub static FAMILIES: &[Family] = &[
    counter(
        "container_cpu_time_seconds",
        "CPU time of a container",
        &["cpu_mode"],
        &[(Resource::CpuUser, &["user"]), (Resource::CpuSystem, &["system"])],
    )
    .seconds(),
    counter(
        "container_cpu_throttled_seconds",
        "Time for which a container was not allowed to run, because it had used up its limit",
        &[],
        &[(Resource::CpuThrottled, &[])],
    )
    .seconds(),
    counter(
        "container_cpu_periods",
        "Periods in which a container's limit of CPU time applied",
        &[],
        &[(Resource::CpuPeriods, &[])],
    ),
    counter(
        "container_cpu_throttled_periods",
        "Periods in which a container used up its limit of CPU time",
        &[],
        &[(Resource::CpuThrottledPeriods, &[])],
    ),
    gauge(
        "container_cpu_limit_cores",
        "CPU time that a container may take in a second",
        &[(Resource::CpuLimit, &[])],
    )
    .cores(),
    gauge(
        "container_memory_usage_bytes",
        "Memory of a container, page cache included",
        &[(Resource::MemoryUsage, &[])],
    )
    .bytes(),
    gauge(
        "container_memory_working_set_bytes",
        "Memory of a container without the page cache that was not used lately",
        &[(Resource::MemoryWorkingSet, &[])],
    )
    .bytes(),
    gauge(
        "container_memory_rss_bytes",
        "Anonymous memory of a container",
        &[(Resource::MemoryAnonymous, &[])],
    )
    .bytes(),
    gauge(
        "container_memory_limit_bytes",
        "Memory that a container may take",
        &[(Resource::MemoryLimit, &[])],
    )
    .bytes(),
    counter(
        "container_memory_oom_kills",
        "Processes of a container that the kernel killed because memory ran out",
        &[],
        &[(Resource::MemoryOomKills, &[])],
    ),
    counter(
        "container_paging_faults",
        "Page faults of a container: major ones read from a disk, minor ones did not",
        &["system_paging_fault_type"],
        &[(Resource::PagingMajorFaults, &["major"]), (Resource::PagingMinorFaults, &["minor"])],
    ),
    counter(
        "container_disk_io_bytes",
        "Bytes that a container read from disks and wrote to them",
        &["disk_io_direction"],
        &[(Resource::DiskReadBytes, &["read"]), (Resource::DiskWriteBytes, &["write"])],
    )
    .bytes(),
    counter(
        "container_disk_operations",
        "Operations of a container on disks",
        &["disk_io_direction"],
        &[(Resource::DiskReads, &["read"]), (Resource::DiskWrites, &["write"])],
    ),
    counter(
        "container_pressure_seconds",
        "Time for which some or all (full) threads of a container waited for a resource (the kernel's pressure stall information)",
        &["resource", "waiting"],
        &[
            (Resource::PressureCpuSome, &["cpu", "some"]),
            (Resource::PressureCpuFull, &["cpu", "full"]),
            (Resource::PressureMemorySome, &["memory", "some"]),
            (Resource::PressureMemoryFull, &["memory", "full"]),
            (Resource::PressureIoSome, &["io", "some"]),
            (Resource::PressureIoFull, &["io", "full"]),
        ],
    )
    .seconds(),
    gauge("container_threads", "Threads of a container", &[(Resource::Threads, &[])]),
    gauge("container_threads_limit", "Threads that a container may have", &[(Resource::ThreadsLimit, &[])]),
    gauge(
        "container_open_file_descriptors",
        "File descriptors that processes of a container have open, counted every ten seconds",
        &[(Resource::OpenDescriptors, &[])],
    ),
    counter(
        "container_network_io_bytes",
        "Bytes on the network interfaces of a sandbox, which its containers share",
        &["network_io_direction"],
        &[(Resource::NetworkReceivedBytes, &["receive"]), (Resource::NetworkSentBytes, &["transmit"])],
    )
    .bytes(),
    counter(
        "container_network_dropped",
        "Packets that the network interfaces of a sandbox dropped, or that were faulty",
        &["network_io_direction"],
        &[(Resource::NetworkReceivedDropped, &["receive"]), (Resource::NetworkSentDropped, &["transmit"])],
    ),
    counter(
        "porthole_guest_tcp_retransmitted_segments",
        "TCP segments that a guest sent again",
        &[],
        &[(Resource::TcpRetransmittedSegments, &[])],
    ),
    counter(
        "porthole_guest_tcp_accept_queue_overflows",
        "Connections to a guest that a full accept queue refused",
        &[],
        &[(Resource::TcpAcceptQueueOverflows, &[])],
    ),
    counter(
        "porthole_guest_cpu_seconds",
        "CPU time of a guest, its containers included; iowait is idle while a disk was waited for, steal is ready to run while the host ran something else",
        &["cpu_mode"],
        &[
            (Resource::GuestCpuUser, &["user"]),
            (Resource::GuestCpuSystem, &["system"]),
            (Resource::GuestCpuIoWait, &["iowait"]),
            (Resource::GuestCpuSteal, &["steal"]),
        ],
    )
    .seconds(),
    gauge("porthole_guest_memory_bytes", "Memory that a guest's kernel has", &[(Resource::GuestMemory, &[])]).bytes(),
    gauge(
        "porthole_guest_memory_used_bytes",
        "Memory of a guest that is in use, its kernel included: not available without swapping",
        &[(Resource::GuestMemoryUsed, &[])],
    )
    .bytes(),
];

/// The resources whose values only ever grow.
pub fn cumulative() -> impl Iterator<Item = Resource> {
    FAMILIES.iter().filter(|family| family.cumulative).flat_map(|family| family.samples).map(|(of, _)| *of)
}

/// Whether a resource is one of the guest as a whole.
pub fn is_of_guest(resource: Resource) -> bool {
    resource >= Resource::GuestCpuUser
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_is_one_sample_and_each_sample_has_its_labels() {
        for resource in Resource::ALL {
            let of = FAMILIES.iter().flat_map(|family| family.samples).filter(|(of, _)| of == resource);
            assert_eq!(of.count(), 1, "{resource:?}");
        }
        for family in FAMILIES {
            for (_, values) in family.samples {
                assert_eq!(values.len(), family.labels.len(), "{}", family.name);
            }
            assert!(family.unit.is_none_or(|unit| family.name.ends_with(unit)), "{}", family.name);
        }
    }
}
