//! What one container takes, from its control group in the unified hierarchy (`Documentation/admin-guide/cgroup-v2.rst`).

use std::{fs, path::Path};

use porthole_agent_api::resources::{Measured, Resource};

use super::files::{keyed, number, pressure, sum_of};

/// Whether the group has a process, or one below it has. Of a group that is gone there is no answer.
pub fn is_populated(group: &Path) -> Option<bool> {
    keyed(&fs::read_to_string(group.join("cgroup.events")).ok()?, "populated").map(|processes| processes > 0)
}

/// Reads what there is. A controller that the guest does not use has no files.
pub fn measure(group: &Path) -> Measured {
    let mut measured = Measured::default();
    let read = |name: &str| fs::read_to_string(group.join(name)).unwrap_or_default();
    let microseconds = |time: Option<u64>| time.map(|time| time.saturating_mul(1_000));
    let cpu = read("cpu.stat");
    for (resource, name) in [
        (Resource::CpuUser, "user_usec"),
        (Resource::CpuSystem, "system_usec"),
        (Resource::CpuThrottled, "throttled_usec"),
    ] {
        measured.set(resource, microseconds(keyed(&cpu, name)));
    }
    measured.set(Resource::CpuPeriods, keyed(&cpu, "nr_periods"));
    measured.set(Resource::CpuThrottledPeriods, keyed(&cpu, "nr_throttled"));
    measured.set(Resource::CpuLimit, cpu_limit(&read("cpu.max")));

    let memory = read("memory.stat");
    let usage = number(&read("memory.current"));
    measured.set(Resource::MemoryUsage, usage);
    let unused = keyed(&memory, "inactive_file");
    measured.set(
        Resource::MemoryWorkingSet,
        usage.zip(unused).map(|(usage, unused)| usage.saturating_sub(unused)),
    );
    measured.set(Resource::MemoryAnonymous, keyed(&memory, "anon"));
    measured.set(Resource::MemoryLimit, number(&read("memory.max")));
    measured.set(Resource::MemoryOomKills, keyed(&read("memory.events"), "oom_kill"));
    let (faults, major) = (keyed(&memory, "pgfault"), keyed(&memory, "pgmajfault"));
    measured.set(Resource::PagingMajorFaults, major);
    measured
        .set(Resource::PagingMinorFaults, faults.zip(major).map(|(all, major)| all.saturating_sub(major)));

    let disks = read("io.stat");
    for (resource, name) in [
        (Resource::DiskReadBytes, "rbytes"),
        (Resource::DiskWriteBytes, "wbytes"),
        (Resource::DiskReads, "rios"),
        (Resource::DiskWrites, "wios"),
    ] {
        measured.set(resource, sum_of(&disks, name));
    }
    for (some, full, file) in [
        (Resource::PressureCpuSome, Resource::PressureCpuFull, "cpu.pressure"),
        (Resource::PressureMemorySome, Resource::PressureMemoryFull, "memory.pressure"),
        (Resource::PressureIoSome, Resource::PressureIoFull, "io.pressure"),
    ] {
        let text = read(file);
        measured.set(some, pressure(&text, "some"));
        measured.set(full, pressure(&text, "full"));
    }
    measured.set(Resource::Threads, number(&read("pids.current")));
    measured.set(Resource::ThreadsLimit, number(&read("pids.max")));
    measured
}

/// CPU time that may be taken in a second, nanoseconds; none without a limit. The file has it and its period, microseconds.
fn cpu_limit(text: &str) -> Option<u64> {
    let (time, period) = text.trim().split_once(' ')?;
    let (time, period) = (number(time)?, number(period)?);
    u64::try_from((u128::from(time) * 1_000_000_000).checked_div(period.into())?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_a_group_are_read() {
        let group = tempfile::tempdir().expect("directory");
        let write = |name: &str, text: &str| fs::write(group.path().join(name), text).expect("written");
        write("cgroup.events", "populated 1\nfrozen 0\n");
        write(
            "cpu.stat",
            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 9\nnr_throttled 4\nthrottled_usec 77\n",
        );
        write("cpu.max", "50000 100000\n");
        write("memory.current", "5000\n");
        write("memory.stat", "anon 2000\nfile 3000\ninactive_file 1000\npgfault 70\npgmajfault 3\n");
        write("memory.max", "8000\n");
        write("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n");
        write("io.stat", "254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n");
        write("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 total=0\n");
        write("pids.current", "12\n");
        write("pids.max", "max\n");
        assert_eq!(is_populated(group.path()), Some(true));
        let measured = measure(group.path());
        for (resource, value) in [
            (Resource::CpuUser, 20_000),
            (Resource::CpuSystem, 10_000),
            (Resource::CpuThrottled, 77_000),
            (Resource::CpuPeriods, 9),
            (Resource::CpuThrottledPeriods, 4),
            (Resource::CpuLimit, 500_000_000),
            (Resource::MemoryUsage, 5_000),
            (Resource::MemoryWorkingSet, 4_000),
            (Resource::MemoryAnonymous, 2_000),
            (Resource::MemoryLimit, 8_000),
            (Resource::MemoryOomKills, 1),
            (Resource::PagingMajorFaults, 3),
            (Resource::PagingMinorFaults, 67),
            (Resource::DiskReadBytes, 10),
            (Resource::DiskWriteBytes, 20),
            (Resource::DiskReads, 1),
            (Resource::DiskWrites, 2),
            (Resource::PressureCpuSome, 5_000),
            (Resource::PressureCpuFull, 0),
            (Resource::Threads, 12),
        ] {
            assert_eq!(measured.get(resource), Some(value), "{resource:?}");
        }
        for absent in [Resource::ThreadsLimit, Resource::PressureMemorySome, Resource::GuestMemory] {
            assert_eq!(measured.get(absent), None, "{absent:?}");
        }
    }

    #[test]
    fn a_limit_of_cpu_time_is_by_second() {
        assert_eq!(cpu_limit("max 100000\n"), None);
        assert_eq!(cpu_limit("250000 100000\n"), Some(2_500_000_000));
        assert_eq!((cpu_limit("1 0"), cpu_limit("")), (None, None));
    }
}
