//! The programs of packet mode: two, without functions of their own, that know nothing of the kernel's types.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use porthole_bpf_types::{
    connection::Verdict,
    record::{Counters, Settings},
};

use super::{
    ProbeError, ProbeLimits, Records,
    bpf::{self, Hook},
    object::{self, Linker, SETTINGS_MAP},
};

/// The programs, and where they hang.
const PROGRAMS: [(&str, Hook); 2] = [("packet_in", Hook::PacketsIn), ("packet_out", Hook::PacketsOut)];

/// Size of the ring buffer, bytes. Packets are captured whole, and those between two sockets of one kernel twice: what two
/// programs send within a tenth of a second comes to a megabyte, and is a gap when there is no room for it.
const RING_BYTES: u32 = 2 << 20;

/// The loaded and attached programs. Dropping it detaches them.
#[allow(missing_debug_implementations)]
pub struct PacketProbes {
    /// Programs and their attachments, open as long as they are to run.
    open: Vec<OwnedFd>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counters>,
    verdicts: aya::maps::HashMap<MapData, u64, u8>,
    current: Settings,
}

impl PacketProbes {
    /// Loads the programs of an object file and attaches them to a control group.
    pub fn load(
        object: &[u8],
        cgroup: BorrowedFd<'_>,
        limits: ProbeLimits,
    ) -> Result<(Self, Records), ProbeError> {
        let mut object = object::parse(object)?;
        object.programs.retain(|name, _| PROGRAMS.iter().any(|(ours, _)| ours == name));
        let ours: Vec<_> = object.programs.values().map(aya_obj::Program::function_key).collect();
        object.functions.retain(|key, _| ours.contains(key));
        let mut maps = object::create_maps(&mut object, |name, map| {
            match name {
                "RECORDS" => map.set_max_entries(limits.ring_bytes.unwrap_or(RING_BYTES)),
                "VERDICTS" => map.set_max_entries(limits.connections),
                SETTINGS_MAP | "COUNTERS" => {}
                _ => return false,
            }
            true
        })?;
        let mut linker = Linker::new(object);
        let mut take = |name: &str| object::take_map(&mut maps, name);
        let mut probes = Self {
            open: Vec::new(),
            settings: Map::Array(take(SETTINGS_MAP)?).try_into()?,
            counters: Map::PerCpuArray(take("COUNTERS")?).try_into()?,
            verdicts: Map::LruHashMap(take("VERDICTS")?).try_into()?,
            current: Settings { reserved: 0, paused: 0, offload: 0, offers: 0 },
        };
        probes.settings.set(0, probes.current, 0)?;
        let records = Map::RingBuf(take("RECORDS")?).try_into()?;
        for (name, hook) in PROGRAMS {
            probes.open.extend(attach(&mut linker, name, hook, cgroup)?);
        }
        Ok((probes, records))
    }

    /// Marks a socket as ignored: its protocol has no parser.
    pub fn ignore(&mut self, cookie: u64) -> Result<(), ProbeError> {
        Ok(self.verdicts.insert(cookie, Verdict::IGNORED.0, 0)?)
    }

    /// Stops or resumes capturing.
    pub fn pause(&mut self, paused: bool) -> Result<(), ProbeError> {
        self.current.paused = u32::from(paused);
        Ok(self.settings.set(0, self.current, 0)?)
    }

    /// Packets that could not be sent to user space so far, over all CPUs.
    pub fn lost(&self) -> Result<u64, ProbeError> {
        Ok(self.counters.get(&0, 0)?.iter().map(|cpu| cpu.lost).sum())
    }
}

/// Loads a program and attaches it to a control group; gives what must stay open.
pub fn attach(
    linker: &mut Linker,
    name: &str,
    hook: Hook,
    cgroup: BorrowedFd<'_>,
) -> Result<[OwnedFd; 2], ProbeError> {
    let (function, license) = linker.get(name)?;
    let loaded = bpf::load_program(function, name, hook, license, None)
        .map_err(|(source, log)| ProbeError::Load { name: name.to_owned(), source, log })?;
    let link = bpf::attach_to_cgroup(loaded.as_fd(), cgroup, hook)
        .map_err(|source| ProbeError::Attach { name: name.to_owned(), source })?;
    Ok([link, loaded])
}
