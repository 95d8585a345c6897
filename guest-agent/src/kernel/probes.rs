//! The programs on system calls: commands to them, and their counters.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
use aya_obj::{
    btf::BtfFeatures,
    generated::{BPF_NOEXIST, bpf_map_type},
};
use porthole_bpf_types::{
    connection::{Connection, Verdict},
    kernel_key::{KernelKey, RequestKey, SLOTS_MAX, SpanSampling},
    offload::{OFFERED, OffloadedConnection, StatementKey},
    offset::KernelOffsets,
    record::{Counters, Settings},
    redis::{HASH_START, RedisCommand, command_flag, hash_byte},
};

use super::{
    HookChoice, Hooks, ProbeError, ProbeLimits, Records, bpf,
    btf::Kernel,
    command::{Command, Offer},
    hooks::{Attached, CORE_MAP, Programs, Senders},
    object::{self, Linker, SETTINGS_MAP, malformed},
    places::Places,
    slots::{self, Slots},
};
use crate::recorder::SpanPolicy;

/// Size of the ring buffer, bytes.
const RING_BYTES: u32 = 1 << 20;

/// The loaded and attached programs. Dropping it detaches them.
#[allow(missing_debug_implementations)]
pub struct Probes {
    attached: Vec<Attached>,
    /// Runs that the kernel had left out at the last reading.
    skipped: u64,
    hooks: Hooks,
    /// Where sockets report what moves.
    senders: Option<Senders>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counters>,
    verdicts: aya::maps::HashMap<MapData, u64, u8>,
    connections: aya::maps::HashMap<MapData, u64, Connection>,
    offloaded: aya::maps::HashMap<MapData, u64, OffloadedConnection>,
    named: aya::maps::HashMap<MapData, u64, u8>,
    statements: aya::maps::HashMap<MapData, StatementKey, u64>,
    key_indexes: aya::maps::HashMap<MapData, RequestKey, u32>,
    kernel_keys: Array<MapData, KernelKey>,
    slots: Slots,
    /// Until the tracker has it.
    places: Option<Places>,
    current: Settings,
}

impl Probes {
    /// Loads and attaches the programs of an object file. `self_tgid` is this process in the outermost pid namespace:
    /// what it does on sockets is not looked at. `cgroups` is the root of the control groups.
    pub fn load(
        object: &[u8],
        kernel: &Kernel,
        choice: HookChoice,
        self_tgid: u32,
        cgroups: Option<BorrowedFd<'_>>,
        limits: ProbeLimits,
    ) -> Result<(Self, Records), ProbeError> {
        let mut object = object::parse(object)?;
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
        // The verifier needs type information only for where functions begin, so the newer kinds are left out.
        let features = BtfFeatures::new(true, true, true, true, true, false, false, false);
        let types = object
            .fixup_and_sanitize_btf(&features)
            .map_err(|error| malformed(&error))?
            .ok_or_else(|| malformed(&"built without type information"))?
            .to_bytes();
        let types = bpf::load_types(&types).map_err(ProbeError::Types)?;
        tracing::debug!("the object is parsed");
        let mut maps = object::create_maps(&mut object, |name, map| {
            match name {
                "RECORDS" => map.set_max_entries(limits.ring_bytes.unwrap_or(RING_BYTES)),
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
        let places = maps.remove("PROCESSES").ok_or_else(|| malformed(&"no map PROCESSES"))?;
        let places =
            Places::map(places).map_err(|source| ProbeError::Map { name: "PROCESSES".to_owned(), source })?;
        let core = maps.remove(CORE_MAP).ok_or_else(|| malformed(&"no map for the core"))?;
        let mut take = |name: &str| -> Result<Map, ProbeError> {
            let data = object::take_map(&mut maps, name)?;
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
            senders: None,
            settings: take(SETTINGS_MAP)?.try_into()?,
            counters: take("COUNTERS")?.try_into()?,
            verdicts: take("VERDICTS")?.try_into()?,
            connections: take("CONNECTIONS")?.try_into()?,
            offloaded: take("OFFLOADED")?.try_into()?,
            named: take("NAMED")?.try_into()?,
            statements: take("STATEMENTS")?.try_into()?,
            key_indexes: take("KEY_INDEXES")?.try_into()?,
            kernel_keys: take("KERNEL_KEYS")?.try_into()?,
            slots,
            places: Some(places),
            current: Settings { reserved: 0, paused: 0, offload: u32::from(limits.offload), offers: 0 },
        };
        probes.settings.set(0, probes.current, 0)?;
        let records = take("RECORDS")?.try_into()?;
        // The descriptors of all maps must be open until the programs that use them are loaded.
        let mut commands = take("COMMANDS")?.try_into()?;
        list_commands(&mut commands)?;
        let linker = RefCell::new(Linker::new(object));
        let programs = Programs { linker: &linker, types: types.as_fd(), cgroups };
        (probes.attached, probes.hooks) = programs.attach(choice, kernel, core.as_fd())?;
        if probes.hooks == Hooks::Sockets {
            probes.senders = Some(programs.attach_senders());
        }
        Ok((probes, records))
    }

    /// Whether the programs aggregate exchanges themselves.
    pub fn offloads(&self) -> bool {
        self.current.offload != 0
    }

    /// What the programs aggregated.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// What the programs know of processes; once.
    pub fn take_places(&mut self) -> Option<Places> {
        self.places.take()
    }

    /// Applies a command to the programs' maps.
    pub fn apply(&mut self, command: Command) -> Result<(), ProbeError> {
        match command {
            Command::Follow { connection, framing } => self.decide(connection, Verdict::followed(framing)),
            Command::Ignore(connection) => self.decide(connection, Verdict::IGNORED),
            Command::Forget(connection) => {
                self.forget(connection);
                Ok(())
            }
            Command::NameKnown(hash) => {
                // Without room, names come again and again.
                let _ = self.named.insert(hash, 1, 0);
                Ok(())
            }
            Command::NameForgotten(hash) => {
                let _ = self.named.remove(&hash);
                Ok(())
            }
            Command::SetKey { index, entry } => self.set_key(index, entry),
            Command::IndexKey { key, index } => Ok(self.key_indexes.insert(key, index, 0)?),
            Command::NameStatement { key, request } => Ok(self.statements.insert(key, request, 0)?),
            Command::Offer { connection, offer } => self.offer(connection, &offer),
            Command::Evict { socket, connection } => {
                self.evict(socket, connection);
                Ok(())
            }
        }
    }

    fn decide(&mut self, connection: u64, verdict: Verdict) -> Result<(), ProbeError> {
        Ok(self.verdicts.insert(connection, verdict.0, 0)?)
    }

    /// The programs may read the entry meanwhile, so a new slot is there before it is used.
    fn set_key(&mut self, index: u32, entry: KernelKey) -> Result<(), ProbeError> {
        self.kernel_keys.set(index, KernelKey { used: entry.used.saturating_sub(1), ..entry }, 0)?;
        Ok(self.kernel_keys.set(index, entry, 0)?)
    }

    /// Makes the programs forget where a key's entry is.
    pub fn forget_key(&mut self, key: &RequestKey) -> Result<(), ProbeError> {
        match self.key_indexes.remove(key) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            answer => Ok(answer?),
        }
    }

    /// The programs follow the connection if nothing moves on it before they see the offer.
    fn offer(&mut self, connection: u64, offer: &Offer) -> Result<(), ProbeError> {
        let offloaded = OffloadedConnection::offered(connection, offer.protocol, offer.side, offer.offsets);
        // Without room the connection stays where it is, and a lasting offer is as good as another.
        match self.offloaded.insert(connection, offloaded, BPF_NOEXIST.into()) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(())
            }
            answer => Ok(answer?),
        }
    }

    /// Sets whether the programs look for offers.
    pub fn set_offers(&mut self, offers: bool) -> Result<(), ProbeError> {
        let offers = u32::from(offers);
        if std::mem::replace(&mut self.current.offers, offers) == offers {
            return Ok(());
        }
        Ok(self.settings.set(0, self.current, 0)?)
    }

    /// A connection ended: its verdict is no longer needed. Not every connection had one.
    fn forget(&mut self, connection: u64) {
        let _ = self.verdicts.remove(&connection);
    }

    fn evict(&mut self, socket: u64, connection: u64) {
        self.forget(connection);
        // It may have been replaced by another one on the same socket's memory.
        if self.connections.get(&socket, 0).is_ok_and(|entry| entry.id == connection) {
            let _ = self.connections.remove(&socket);
        }
        let _ = self.offloaded.remove(&connection);
    }

    /// Removes what the programs know of connections that made room in their table for newer ones; gives how many of those
    /// they followed.
    pub fn sweep(&mut self) -> u64 {
        let gone: Vec<(u64, bool)> = self
            .offloaded
            .iter()
            .filter_map(Result::ok)
            .filter(|(id, offloaded)| {
                !self.connections.get(&offloaded.socket, 0).is_ok_and(|entry| entry.id == *id)
            })
            .map(|(id, offloaded)| (id, offloaded.kind != OFFERED))
            .collect();
        for (id, _) in &gone {
            let _ = self.offloaded.remove(id);
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

    /// Why the senders of datagrams are not known, where that is so.
    pub fn why_no_senders(&self) -> Option<&str> {
        self.senders.as_ref()?.as_ref().err().map(|why| why.lines().next().unwrap_or_default())
    }

    /// Reads how often the kernel left programs out, which takes a call for each of them: seldom. The number is part of
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
            sum.table_full += cpu.table_full;
            sum.compat += cpu.compat;
            sum.offloaded += cpu.offloaded;
            sum.offloaded_ended += cpu.offloaded_ended;
            sum.skipped += cpu.skipped;
            sum.beyond_limit += cpu.beyond_limit;
        }
        sum.skipped += self.skipped;
        Ok(sum)
    }

    /// Logs the kernel's account of the programs' runs, if it keeps one (`kernel.bpf_stats_enabled`).
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

/// The fields of [`SpanSampling`] that are equivalent to a policy.
fn span_sampling(policy: &SpanPolicy) -> [u64; size_of::<SpanSampling>() / 8] {
    let never = policy.per_second == 0;
    [policy.slow_ns, policy.failures_interval_ns, policy.interval_ns]
        .map(|ns| if never { u64::MAX } else { ns })
}

/// CPUs that the programs can run on.
fn cpus() -> usize {
    aya::util::nr_cpus().unwrap_or(1)
}

/// Gives the programs the Redis commands that they can follow, as they are usually written.
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
