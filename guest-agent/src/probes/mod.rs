//! The eBPF programs in the kernel: loading, attaching, and what user space says to them.

mod bpf;
mod hooks;
pub mod packets;
mod parking;
mod preemption;
pub mod slots;

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya_obj::{
    Object,
    btf::BtfFeatures,
    generated::{BPF_NOEXIST, bpf_map_type},
};
use porthole_bpf_types::{
    connection::{Connection, state},
    kernel_key::{KernelKey, RequestKey, SLOTS_MAX, SpanSampling},
    offload::{OFFERED, OffloadedConnection, StatementKey},
    offset::KernelOffsets,
    record::{Counters, HEAD_MAX, Settings},
    redis::{HASH_START, RedisCommand, command_flag, hash_byte},
};

pub use self::hooks::{HookChoice, Hooks};
use self::{
    hooks::{Attached, CORE_MAP, Programs},
    slots::Slots,
};
use crate::{btf::Kernel, offers::Offer, spans::SpanPolicy};

/// Bounds of what the programs may use.
#[derive(Clone, Copy, Debug)]
pub struct ProbeLimits {
    /// Size of the ring buffer, bytes; a power of two and at least a page.
    pub ring_bytes: u32,
    /// Connections that the kernel keeps.
    pub connections: u32,
    /// Whether the programs follow connections themselves where they can.
    pub counts: bool,
    /// Which exchanges are told in full.
    pub spans: SpanPolicy,
}

impl Default for ProbeLimits {
    fn default() -> Self {
        Self { ring_bytes: 1 << 20, connections: 8192, counts: true, spans: SpanPolicy::default() }
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
    /// There is no way to end without waiting.
    #[error("io_uring, without which detaching from functions would hold the agent's end up: {0}")]
    Parking(io::Error),
    /// The kernel refuses the hooks that were asked for.
    #[error("hooks on system calls: {0}")]
    Hooks(String),
    /// The kernel has no such hook.
    #[error("attaching {name}: {source}")]
    Attach {
        /// The tracepoint, or the system call.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The loaded and attached programs. Dropping it detaches them.
#[allow(missing_debug_implementations)]
pub struct Probes {
    attached: Vec<Attached>,
    /// Runs that the kernel had left out when it was last asked.
    skipped: u64,
    hooks: Hooks,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counters>,
    verdicts: aya::maps::HashMap<MapData, u64, u8>,
    connections: aya::maps::HashMap<MapData, u64, Connection>,
    counted: aya::maps::HashMap<MapData, u64, OffloadedConnection>,
    named: aya::maps::HashMap<MapData, u64, u8>,
    statements: aya::maps::HashMap<MapData, StatementKey, u64>,
    requests: aya::maps::HashMap<MapData, RequestKey, u32>,
    learned: Array<MapData, KernelKey>,
    slots: Slots,
    current: Settings,
}

/// The records that the programs send.
pub type Records = RingBuf<MapData>;

impl Probes {
    /// Loads and attaches the programs of an object file. `self_tgid` is this process in the outermost pid namespace:
    /// what it does on sockets is not looked at.
    pub fn load(
        object: &[u8],
        kernel: &Kernel,
        choice: HookChoice,
        self_tgid: u32,
        limits: ProbeLimits,
    ) -> Result<(Self, Records), ProbeError> {
        let malformed = |error: &dyn std::fmt::Display| ProbeError::Object(error.to_string());
        let mut object = Object::parse(object).map_err(|error| malformed(&error))?;
        let (offsets, self_tgid) = (bytes_of(&kernel.offsets), self_tgid.to_ne_bytes());
        let stripes = slots::stripes(cpus());
        let stripe_mask = (stripes - 1).to_ne_bytes();
        let sampling = span_sampling(&limits.spans).map(u64::to_ne_bytes).concat();
        let globals = HashMap::from([
            ("OFFSETS", (&offsets[..], true)),
            ("SELF_TGID", (&self_tgid[..], true)),
            ("STRIPE_MASK", (&stripe_mask[..], true)),
            ("SPAN_SAMPLING", (&sampling[..], true)),
        ]);
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
        let mut maps = create_maps(&mut object, |name, map| {
            match name {
                "RECORDS" => map.set_max_entries(limits.ring_bytes),
                "CONNECTIONS" | "VERDICTS" | "OFFLOADED" => map.set_max_entries(limits.connections),
                "SLOTS" => map.set_max_entries(stripes * SLOTS_MAX),
                _ => {}
            }
            true
        })?;
        tracing::debug!("the maps are made");
        let slots = maps.remove("SLOTS").ok_or_else(|| malformed(&"no map SLOTS"))?;
        let slots = Slots::map(slots, stripes)
            .map_err(|source| ProbeError::Map { name: "SLOTS".to_owned(), source })?;
        let core = maps.remove(CORE_MAP).ok_or_else(|| malformed(&"no map for the core"))?;
        let mut take = |name: &str| -> Result<Map, ProbeError> {
            let fd = maps.remove(name).ok_or_else(|| malformed(&format!("no map {name}")))?;
            let data = MapData::from_fd(fd)?;
            let kind = bpf_map_type::try_from(data.info()?.map_type()? as u32)
                .map_err(|_| malformed(&format!("map {name} is of no known type")))?;
            Ok(match kind {
                bpf_map_type::BPF_MAP_TYPE_ARRAY => Map::Array(data),
                bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY => Map::PerCpuArray(data),
                bpf_map_type::BPF_MAP_TYPE_HASH => Map::HashMap(data),
                bpf_map_type::BPF_MAP_TYPE_LRU_HASH => Map::LruHashMap(data),
                bpf_map_type::BPF_MAP_TYPE_RINGBUF => Map::RingBuf(data),
                _ => Map::Unsupported(data),
            })
        };
        let mut probes = Self {
            attached: Vec::new(),
            skipped: 0,
            hooks: Hooks::FunctionExits,
            settings: take("SETTINGS")?.try_into()?,
            counters: take("COUNTERS")?.try_into()?,
            verdicts: take("VERDICTS")?.try_into()?,
            connections: take("CONNECTIONS")?.try_into()?,
            counted: take("OFFLOADED")?.try_into()?,
            named: take("NAMED")?.try_into()?,
            statements: take("STATEMENTS")?.try_into()?,
            requests: take("KEY_INDEXES")?.try_into()?,
            learned: take("KERNEL_KEYS")?.try_into()?,
            slots,
            current: Settings { head: HEAD_MAX, paused: 0, offload: u32::from(limits.counts), offers: 0 },
        };
        probes.settings.set(0, probes.current, 0)?;
        let records = take("RECORDS")?.try_into()?;
        // The descriptors of all maps must be open until the programs that use them are loaded.
        let mut commands = take("COMMANDS")?.try_into()?;
        list_commands(&mut commands)?;
        let programs = Programs { object: &object, types: types.as_fd() };
        (probes.attached, probes.hooks) = programs.attach(choice, kernel, core.as_fd())?;
        Ok((probes, records))
    }

    /// Whether the programs follow connections themselves.
    pub fn counts(&self) -> bool {
        self.current.offload != 0
    }

    /// What the programs counted.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Tells the programs whether a request's hash has a name.
    pub fn name(&mut self, hash: u64, has_name: bool) -> Result<(), ProbeError> {
        if has_name {
            // Without room, names come again and again.
            let _ = self.named.insert(hash, 1, 0);
        } else {
            let _ = self.named.remove(&hash);
        }
        Ok(())
    }

    /// Gives a learned key's entry to the programs. They may read it meanwhile, so a new slot is there before it is used.
    pub fn learn(&mut self, place: u32, entry: KernelKey) -> Result<(), ProbeError> {
        self.learned.set(place, KernelKey { used: entry.used.saturating_sub(1), ..entry }, 0)?;
        Ok(self.learned.set(place, entry, 0)?)
    }

    /// Makes the programs forget where a key's entry is.
    pub fn unrequest(&mut self, key: &RequestKey) -> Result<(), ProbeError> {
        match self.requests.remove(key) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            answer => Ok(answer?),
        }
    }

    /// Tells the programs where a key's entry is.
    pub fn request(&mut self, key: RequestKey, place: u32) -> Result<(), ProbeError> {
        Ok(self.requests.insert(key, place, 0)?)
    }

    /// Tells the programs what to do with a connection: follow it, or leave it alone.
    pub fn decide(&mut self, connection: u64, follow: bool) -> Result<(), ProbeError> {
        let verdict = if follow { state::FOLLOWED } else { state::IGNORED };
        Ok(self.verdicts.insert(connection, verdict, 0)?)
    }

    /// Tells the programs what executions of a prepared statement ask for.
    pub fn statement(&mut self, key: StatementKey, request: u64) -> Result<(), ProbeError> {
        Ok(self.statements.insert(key, request, 0)?)
    }

    /// Offers a connection to the programs: they follow it if nothing moves before their next look.
    pub fn offer(&mut self, connection: u64, offer: &Offer) -> Result<(), ProbeError> {
        let counted = OffloadedConnection::offered(connection, offer.protocol, offer.side, offer.offsets);
        // Without room the connection stays where it is, and an offer that stands is as good as another.
        match self.counted.insert(connection, counted, BPF_NOEXIST.into()) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(())
            }
            answer => Ok(answer?),
        }
    }

    /// Tells the programs whether to look for offers.
    pub fn set_offers(&mut self, offers: bool) -> Result<(), ProbeError> {
        let offers = u32::from(offers);
        if std::mem::replace(&mut self.current.offers, offers) == offers {
            return Ok(());
        }
        Ok(self.settings.set(0, self.current, 0)?)
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
        let _ = self.counted.remove(&connection);
    }

    /// Removes what the programs know of connections that made room in their table for newer ones; gives how many of those
    /// they followed.
    pub fn sweep(&mut self) -> u64 {
        let gone: Vec<(u64, bool)> = self
            .counted
            .iter()
            .filter_map(Result::ok)
            .filter(|(id, counted)| {
                !self.connections.get(&counted.socket, 0).is_ok_and(|entry| entry.id == *id)
            })
            .map(|(id, counted)| (id, counted.kind != OFFERED))
            .collect();
        for (id, _) in &gone {
            let _ = self.counted.remove(id);
        }
        gone.iter().filter(|(_, followed)| *followed).count() as u64
    }

    /// Stops or resumes capturing.
    pub fn pause(&mut self, paused: bool) -> Result<(), ProbeError> {
        self.current.paused = u32::from(paused);
        Ok(self.settings.set(0, self.current, 0)?)
    }

    /// The hooks on system calls that are in use.
    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// Asks the kernel how often it left programs out, which takes a call for each of them: seldom. What it says is part of
    /// [`Self::counters`] from then on.
    pub fn count_skipped(&mut self) {
        self.skipped = self.attached.iter().map(|program| program.runs().skipped).sum();
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
            sum.offloaded += cpu.offloaded;
            sum.offloaded_ended += cpu.offloaded_ended;
            sum.skipped += cpu.skipped;
        }
        sum.skipped += self.skipped;
        Ok(sum)
    }

    /// Says in the log what the kernel knows of the programs' runs, if it takes note (`kernel.bpf_stats_enabled`).
    pub fn log_runs(&self) {
        for program in &self.attached {
            let runs = program.runs();
            if let Some(each) = runs.ns.checked_div(runs.count) {
                let (program, skipped) = (&program.name, runs.skipped);
                tracing::debug!(program, runs = runs.count, skipped, ns_each = each, "runs");
            }
        }
    }
}

/// The fields of [`SpanSampling`] that say the same as a policy.
fn span_sampling(policy: &SpanPolicy) -> [u64; size_of::<SpanSampling>() / 8] {
    let never = policy.per_second == 0;
    [policy.slow_ns, policy.failures_interval_ns, policy.interval_ns]
        .map(|ns| if never { u64::MAX } else { ns })
}

/// CPUs that the programs can run on.
fn cpus() -> usize {
    aya::util::nr_cpus().unwrap_or(1)
}

/// Tells the programs which Redis commands they can follow, as they are usually written.
fn list_commands(map: &mut aya::maps::HashMap<MapData, u64, RedisCommand>) -> Result<(), MapError> {
    for (id, name, mind_argument) in porthole_l7::redis_commands() {
        let flags = if mind_argument { command_flag::CHECK_ARGUMENT } else { 0 };
        let entry = RedisCommand { id: u32::try_from(id).unwrap_or(u32::MAX), flags };
        for spelt in [name.to_owned(), name.to_ascii_lowercase()] {
            map.insert(spelt.bytes().fold(HASH_START, hash_byte), entry, 0)?;
        }
    }
    Ok(())
}

fn bytes_of(offsets: &KernelOffsets) -> Vec<u8> {
    // SAFETY: `repr(C)`, integers only, no padding.
    unsafe { std::slice::from_raw_parts((&raw const *offsets).cast::<u8>(), size_of::<KernelOffsets>()) }
        .to_vec()
}

/// Makes the object's maps and puts them into its programs. `size` sets what is not for the object to say; maps to which
/// it says no are not made, and no program that is left in the object may use them.
fn create_maps(
    object: &mut Object,
    size: impl Fn(&str, &mut aya_obj::Map) -> bool,
) -> Result<HashMap<String, OwnedFd>, ProbeError> {
    let failed = |name: &str, source| ProbeError::Map { name: name.to_owned(), source };
    let mut maps = Vec::new();
    for (name, mut map) in std::mem::take(&mut object.maps) {
        if !size(&name, &mut map) {
            continue;
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
