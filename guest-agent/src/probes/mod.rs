//! The eBPF programs in the kernel: loading, attaching, and what user space says to them.

mod bpf;

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya_obj::{Object, ProgramSection, btf::BtfFeatures, generated::bpf_map_type};
use porthole_bpf_types::{
    connection::{Connection, state},
    offset::KernelOffsets,
    record::{Counters, HEAD_MAX, Settings},
};

/// Bounds of what the programs may use.
#[derive(Clone, Copy, Debug)]
pub struct ProbeLimits {
    /// Size of the ring buffer, bytes; a power of two and at least a page.
    pub ring_bytes: u32,
    /// Connections that the kernel keeps.
    pub connections: u32,
}

impl Default for ProbeLimits {
    fn default() -> Self {
        Self { ring_bytes: 1 << 20, connections: 8192 }
    }
}

/// Programs that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The object file is none of ours.
    #[error("eBPF object: {0}")]
    Object(String),
    /// A map cannot be made or used.
    #[error("eBPF map {name}: {source}")]
    Map {
        /// The map.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A map cannot be used.
    #[error(transparent)]
    Maps(#[from] MapError),
    /// The kernel refuses the programs' type information.
    #[error("type information of the eBPF object: {0}")]
    Types(io::Error),
    /// The kernel refuses a program.
    #[error("eBPF program {name}: {source}\n{log}")]
    Load {
        /// The program.
        name: String,
        /// What the system said.
        source: io::Error,
        /// The end of the verifier's log.
        log: String,
    },
    /// The kernel has no such hook.
    #[error("raw tracepoint {name}: {source}")]
    Attach {
        /// The tracepoint.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The loaded and attached programs. Dropping it detaches them.
#[allow(missing_debug_implementations)]
pub struct Probes {
    /// Programs and their attachments, open as long as they are to run.
    _attached: Vec<OwnedFd>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counters>,
    verdicts: aya::maps::HashMap<MapData, u64, u8>,
    connections: aya::maps::HashMap<MapData, u64, Connection>,
    current: Settings,
}

/// The records that the programs send.
pub type Records = RingBuf<MapData>;

impl Probes {
    /// Loads and attaches the programs of an object file. `self_tgid` is this process in the outermost pid namespace:
    /// what it does on sockets is not looked at.
    pub fn load(
        object: &[u8],
        offsets: &KernelOffsets,
        self_tgid: u32,
        limits: ProbeLimits,
    ) -> Result<(Self, Records), ProbeError> {
        let malformed = |error: &dyn std::fmt::Display| ProbeError::Object(error.to_string());
        let mut object = Object::parse(object).map_err(|error| malformed(&error))?;
        let (offsets, self_tgid) = (bytes_of(offsets), self_tgid.to_ne_bytes());
        let globals =
            HashMap::from([("OFFSETS", (&offsets[..], true)), ("SELF_TGID", (&self_tgid[..], true))]);
        object.patch_map_data(globals).map_err(|error| malformed(&error))?;
        // Type information serves only to tell the verifier where functions begin, so the newer kinds are not wanted.
        let features = BtfFeatures::new(true, true, true, true, true, false, false, false);
        let types = object
            .fixup_and_sanitize_btf(&features)
            .map_err(|error| malformed(&error))?
            .ok_or_else(|| malformed(&"built without type information"))?
            .to_bytes();
        let types = bpf::load_types(&types).map_err(ProbeError::Types)?;
        tracing::debug!("the object is parsed");
        let mut maps = create_maps(&mut object, limits)?;
        tracing::debug!("the maps are made");
        let programs = attach_programs(&object, types.as_fd())?;
        let mut take = |name: &str| -> Result<Map, ProbeError> {
            let fd = maps.remove(name).ok_or_else(|| malformed(&format!("no map {name}")))?;
            let data = MapData::from_fd(fd)?;
            let kind = bpf_map_type::try_from(data.info()?.map_type()? as u32)
                .map_err(|_| malformed(&format!("map {name} is of no known type")))?;
            Ok(match kind {
                bpf_map_type::BPF_MAP_TYPE_ARRAY => Map::Array(data),
                bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY => Map::PerCpuArray(data),
                bpf_map_type::BPF_MAP_TYPE_LRU_HASH => Map::LruHashMap(data),
                bpf_map_type::BPF_MAP_TYPE_RINGBUF => Map::RingBuf(data),
                _ => Map::Unsupported(data),
            })
        };
        let mut probes = Self {
            _attached: programs,
            settings: take("SETTINGS")?.try_into()?,
            counters: take("COUNTERS")?.try_into()?,
            verdicts: take("VERDICTS")?.try_into()?,
            connections: take("CONNECTIONS")?.try_into()?,
            current: Settings { head: HEAD_MAX, paused: 0 },
        };
        probes.settings.set(0, probes.current, 0)?;
        Ok((probes, take("RECORDS")?.try_into()?))
    }

    /// Tells the programs what to do with a connection: follow it, or leave it alone.
    pub fn decide(&mut self, connection: u64, follow: bool) -> Result<(), ProbeError> {
        let verdict = if follow { state::FOLLOWED } else { state::IGNORED };
        Ok(self.verdicts.insert(connection, verdict, 0)?)
    }

    /// Forgets a connection that ended: its verdict is no longer needed.
    pub fn forget(&mut self, connection: u64) {
        // Not every connection had one.
        let _ = self.verdicts.remove(&connection);
    }

    /// Makes the programs announce a connection anew when something moves on it; for connections that user space
    /// has no room for.
    pub fn evict(&mut self, socket: u64, connection: u64) {
        self.forget(connection);
        // It may have been replaced by another one on the same socket's memory.
        if self.connections.get(&socket, 0).is_ok_and(|entry| entry.id == connection) {
            let _ = self.connections.remove(&socket);
        }
    }

    /// Stops or resumes capturing.
    pub fn pause(&mut self, paused: bool) -> Result<(), ProbeError> {
        self.current.paused = u32::from(paused);
        Ok(self.settings.set(0, self.current, 0)?)
    }

    /// What went wrong in the kernel so far, over all CPUs.
    pub fn counters(&self) -> Result<Counters, ProbeError> {
        let mut sum = Counters::default();
        for cpu in self.counters.get(&0, 0)?.iter() {
            sum.lost += cpu.lost;
            sum.exhausted += cpu.exhausted;
            sum.unreadable += cpu.unreadable;
            sum.beyond += cpu.beyond;
            sum.table_full += cpu.table_full;
            sum.compat += cpu.compat;
        }
        Ok(sum)
    }
}

fn bytes_of(offsets: &KernelOffsets) -> Vec<u8> {
    // SAFETY: `repr(C)`, integers only, no padding.
    unsafe { std::slice::from_raw_parts((&raw const *offsets).cast::<u8>(), size_of::<KernelOffsets>()) }
        .to_vec()
}

/// Makes the object's maps and puts them into its programs.
fn create_maps(object: &mut Object, limits: ProbeLimits) -> Result<HashMap<String, OwnedFd>, ProbeError> {
    let failed = |name: &str, source| ProbeError::Map { name: name.to_owned(), source };
    let mut maps = Vec::new();
    for (name, mut map) in std::mem::take(&mut object.maps) {
        match name.as_str() {
            "RECORDS" => map.set_max_entries(limits.ring_bytes),
            "CONNECTIONS" | "VERDICTS" => map.set_max_entries(limits.connections),
            _ => {}
        }
        let fd = bpf::create_map(&map).map_err(|error| failed(&name, error))?;
        if map.section_kind() == aya_obj::EbpfSectionKind::Rodata {
            bpf::fill_and_freeze(fd.as_fd(), map.data()).map_err(|error| failed(&name, error))?;
        }
        maps.push((name, fd, map));
    }
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let malformed = |error: &dyn std::fmt::Display| ProbeError::Object(error.to_string());
    object
        .relocate_maps(maps.iter().map(|(name, fd, map)| (name.as_str(), fd.as_raw_fd(), map)), &text)
        .map_err(|error| malformed(&error))?;
    object.relocate_calls(&text).map_err(|error| malformed(&error))?;
    Ok(maps.into_iter().map(|(name, fd, _)| (name, fd)).collect())
}

/// Loads and attaches every program; each is named after its tracepoint.
fn attach_programs(object: &Object, types: std::os::fd::BorrowedFd<'_>) -> Result<Vec<OwnedFd>, ProbeError> {
    let mut open = Vec::new();
    let mut programs: Vec<_> = object.programs.iter().collect();
    // The hook on system calls last: with it records begin to come.
    programs.sort_by_key(|(name, _)| *name == "sys_exit");
    for (name, program) in programs {
        if !matches!(program.section, ProgramSection::RawTracePoint) {
            return Err(ProbeError::Object(format!("program {name} is of another kind")));
        }
        let function = object
            .functions
            .get(&program.function_key())
            .ok_or_else(|| ProbeError::Object(format!("program {name} has no code")))?;
        let loaded = bpf::load_program(function, &program.license, types)
            .map_err(|(source, log)| ProbeError::Load { name: name.clone(), source, log })?;
        tracing::debug!(name, "a program is loaded");
        let tracepoint = CString::new(name.as_str())
            .map_err(|error| ProbeError::Object(format!("program {name}: {error}")))?;
        open.push(
            bpf::attach(loaded.as_fd(), &tracepoint)
                .map_err(|source| ProbeError::Attach { name: name.clone(), source })?,
        );
        open.push(loaded);
        tracing::debug!(name, "a program is attached");
    }
    Ok(open)
}
