//! A container's counters in containerd's form: the metrics of control groups, version 2.

use containerd_shim::protos::{
    cgroups_v2::metrics::{CPUStat, MemoryEvents, MemoryStat, Metrics, PidsStat},
    protobuf::MessageField,
};

use crate::wire::guest::StatsResponse;

/// The type that containerd's clients know the message by.
pub const TYPE_URL: &str = "io.containerd.cgroups.v2.Metrics";

/// The guest's counters as containerd's message.
pub fn metrics(stats: &StatsResponse) -> Metrics {
    let memory = |name: &str| stats.memory.get(name).copied().unwrap_or(0);
    let event = |name: &str| stats.memory_events.get(name).copied().unwrap_or(0);
    Metrics {
        pids: MessageField::some(PidsStat {
            current: stats.pids_current,
            limit: stats.pids_limit,
            ..Default::default()
        }),
        cpu: MessageField::some(CPUStat {
            usage_usec: stats.cpu_usage_micros,
            user_usec: stats.cpu_user_micros,
            system_usec: stats.cpu_system_micros,
            nr_periods: stats.cpu_periods,
            nr_throttled: stats.cpu_throttled_periods,
            throttled_usec: stats.cpu_throttled_micros,
            ..Default::default()
        }),
        memory: MessageField::some(MemoryStat {
            anon: memory("anon"),
            file: memory("file"),
            kernel_stack: memory("kernel_stack"),
            slab: memory("slab"),
            sock: memory("sock"),
            shmem: memory("shmem"),
            file_mapped: memory("file_mapped"),
            file_dirty: memory("file_dirty"),
            file_writeback: memory("file_writeback"),
            anon_thp: memory("anon_thp"),
            inactive_anon: memory("inactive_anon"),
            active_anon: memory("active_anon"),
            inactive_file: memory("inactive_file"),
            active_file: memory("active_file"),
            unevictable: memory("unevictable"),
            slab_reclaimable: memory("slab_reclaimable"),
            slab_unreclaimable: memory("slab_unreclaimable"),
            pgfault: memory("pgfault"),
            pgmajfault: memory("pgmajfault"),
            usage: stats.memory_current,
            usage_limit: stats.memory_limit,
            swap_usage: stats.swap_current,
            swap_limit: stats.swap_limit,
            ..Default::default()
        }),
        memory_events: MessageField::some(MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_their_meaning() {
        let mut stats = StatsResponse { memory_current: 7, cpu_usage_micros: 9, ..Default::default() };
        stats.memory.insert("anon".to_owned(), 5);
        stats.memory_events.insert("oom_kill".to_owned(), 1);
        let metrics = metrics(&stats);
        assert_eq!((metrics.memory.usage, metrics.memory.anon), (7, 5));
        assert_eq!((metrics.cpu.usage_usec, metrics.memory_events.oom_kill), (9, 1));
    }
}
