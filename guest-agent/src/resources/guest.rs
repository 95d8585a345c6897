//! What the guest takes as a whole: its CPUs, memory and network, from procfs.

use std::{fs, path::Path};

use porthole_agent_api::resources::{Measured, Resource};

use super::files;

/// Reads what there is. `ticks` is how many the kernel counts in a second.
pub fn measure(proc: &Path, ticks: u64) -> Measured {
    let mut measured = Measured::default();
    let read = |name: &str| fs::read_to_string(proc.join(name)).unwrap_or_default();
    cpu(&read("stat"), ticks, &mut measured);
    memory(&read("meminfo"), &mut measured);
    // The agent is in the guest's own network namespace, as all its containers are.
    interfaces(&read("self/net/dev"), &mut measured);
    let (tcp, extended) = (read("self/net/snmp"), read("self/net/netstat"));
    measured.set(Resource::TcpRetransmittedSegments, files::of_protocol(&tcp, "Tcp", "RetransSegs"));
    let overflows = files::of_protocol(&extended, "TcpExt", "ListenOverflows");
    measured.set(Resource::TcpAcceptQueueOverflows, overflows);
    measured
}

/// The first line of `/proc/stat` (`Documentation/filesystems/proc.rst`, section 1.7), in ticks: user, nice, system, idle, iowait,
/// irq, softirq, steal.
fn cpu(stat: &str, ticks: u64, measured: &mut Measured) {
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix("cpu ")) else { return };
    let times: Vec<u64> = line.split_whitespace().map_while(files::number).collect();
    let &[user, nice, system, _idle, iowait, irq, softirq, steal, ..] = &times[..] else { return };
    let ns = |all: &[u64]| {
        let all = all.iter().fold(0_u64, |sum, some| sum.saturating_add(*some));
        u64::try_from(u128::from(all) * 1_000_000_000 / u128::from(ticks.max(1))).unwrap_or(u64::MAX)
    };
    measured.set(Resource::GuestCpuUser, ns(&[user, nice]));
    measured.set(Resource::GuestCpuSystem, ns(&[system, irq, softirq]));
    measured.set(Resource::GuestCpuIoWait, ns(&[iowait]));
    measured.set(Resource::GuestCpuSteal, ns(&[steal]));
}

fn memory(meminfo: &str, measured: &mut Measured) {
    let bytes = |name: &str| {
        let of = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        files::number(of.strip_suffix(" kB")?)?.checked_mul(1_024)
    };
    let (Some(total), Some(available)) = (bytes("MemTotal"), bytes("MemAvailable")) else { return };
    measured.set(Resource::GuestMemory, total);
    measured.set(Resource::GuestMemoryUsed, total.saturating_sub(available));
}

/// `/proc/net/dev`: after the name eight numbers of what was received, of which the first is bytes, the third errors and the fourth
/// drops, then the same of what was sent.
fn interfaces(text: &str, measured: &mut Measured) {
    let mut sums = [0_u64; 4];
    let mut is_any = false;
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(files::number).collect();
        let (Some(received), Some(sent)) = (numbers.get(..8), numbers.get(8..16)) else { continue };
        if name.trim() == "lo" {
            continue;
        }
        is_any = true;
        for (sum, numbers) in sums.iter_mut().zip([&received[..1], &sent[..1], &received[2..4], &sent[2..4]])
        {
            *sum = numbers.iter().fold(*sum, |sum, number| sum.saturating_add(*number));
        }
    }
    if !is_any {
        return;
    }
    let [received, sent, received_dropped, sent_dropped] = sums;
    measured.set(Resource::NetworkReceivedBytes, received);
    measured.set(Resource::NetworkSentBytes, sent);
    measured.set(Resource::NetworkReceivedDropped, received_dropped);
    measured.set(Resource::NetworkSentDropped, sent_dropped);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_guest_is_read() {
        let proc = tempfile::tempdir().expect("directory");
        let net = proc.path().join("self/net");
        fs::create_dir_all(&net).expect("made");
        let write = |name: &str, text: &str| fs::write(proc.path().join(name), text).expect("written");
        write("stat", "cpu  100 1 50 9000 7 2 3 25 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n");
        write("meminfo", "MemTotal:  1000 kB\nMemFree:  1 kB\nMemAvailable:     400 kB\n");
        write(
            "self/net/dev",
            "Inter-|   Receive  |  Transmit\n face |bytes    packets errs\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  \
             eth0: 1000 10 1 2 0 0 0 0 500 5 3 4 0 0 0 0\n  eth1:1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n",
        );
        write("self/net/snmp", "Tcp: RtoMin RetransSegs\nTcp: 200 6\n");
        write("self/net/netstat", "TcpExt: ListenOverflows ListenDrops\nTcpExt: 8 9\n");
        let measured = measure(proc.path(), 100);
        for (resource, value) in [
            (Resource::GuestCpuUser, 1_010_000_000),
            (Resource::GuestCpuSystem, 550_000_000),
            (Resource::GuestCpuIoWait, 70_000_000),
            (Resource::GuestCpuSteal, 250_000_000),
            (Resource::GuestMemory, 1_024_000),
            (Resource::GuestMemoryUsed, 614_400),
            (Resource::NetworkReceivedBytes, 1_001),
            (Resource::NetworkSentBytes, 501),
            (Resource::NetworkReceivedDropped, 3),
            (Resource::NetworkSentDropped, 7),
            (Resource::TcpRetransmittedSegments, 6),
            (Resource::TcpAcceptQueueOverflows, 8),
        ] {
            assert_eq!(measured.get(resource), Some(value), "{resource:?}");
        }
        let empty = tempfile::tempdir().expect("directory");
        assert!(measure(empty.path(), 100).is_empty(), "what cannot be read is absent");
    }
}
