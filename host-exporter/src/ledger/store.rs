//! The ledger's store: one entry for each sandbox, application and tenant in an embedded database (redb), so that only
//! what changed is written, and a bad entry costs that entry alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    FILE, LedgerError,
    file::io_error,
    form::{ApplicationTotals, CarriedSeries, SandboxEntry, TenantTotals},
};
use crate::{
    accumulate::{counters::AgentCounters, golden::GoldenTable},
    clock::{Moment, unix_ms},
    fleet::{
        Fleet,
        sandbox::{Phase, Sandbox, SandboxKey},
    },
    identity::Application,
};

/// Values are JSON, so that a person can read them; keys are JSON lists of what identifies the entry.
const APPLICATIONS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("applications");
const TENANTS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("tenants");
const SANDBOXES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("sandboxes");
/// Series that no agent will report again, written once: of earlier epochs, and at the end of a sandbox all.
const ENDED_SERIES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("ended_series");
const CLOCK: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("clock");

/// Memory of the database for pages, bytes. What it does not keep is in the system's cache of files.
const CACHE_BYTES: usize = 2 << 20;

/// Largest entry that is read, bytes: every protocol's totals on both sides with all buckets are below 200 KiB.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Memory of the series that one transaction writes, bytes; what exceeds it is written by further ones.
const SERIES_AT_ONCE: usize = 8 << 20;

/// Files that could not be used and are kept for a look.
const UNUSABLE_KEPT: usize = 2;

/// What one scrape may show of the totals: a restart cannot take it back.
#[derive(Debug, Default)]
pub struct Durable {
    /// Golden values of every application.
    pub applications: BTreeMap<Application, GoldenTable>,
    /// What the agents of each tenant count about themselves.
    pub tenant_counters: BTreeMap<String, AgentCounters>,
}

/// The ledger's file, shared by its writer and by the encodings, and closed for all of them at once.
#[derive(Debug)]
pub struct Store(Mutex<Option<Open>>);

/// The database, and what of it is known to be up to date.
#[derive(Debug)]
struct Open {
    database: Database,
    known: Known,
}

#[derive(Debug, Default)]
struct Known {
    /// The sandboxes' numbers of changes that are written.
    sandboxes: HashMap<SandboxKey, u64>,
    /// Sandboxes whose series are written, and as of when.
    with_series: HashMap<SandboxKey, SeriesAsOf>,
}

impl Durable {
    /// The applications of one tenant, or all.
    pub fn applications_of(&self, tenant: Option<&str>) -> Vec<(&Application, &GoldenTable)> {
        let Some(tenant) = tenant else { return self.applications.iter().collect() };
        let first = Application { tenant: tenant.to_owned(), service_name: String::new() };
        self.applications.range(first..).take_while(|(application, _)| application.tenant == tenant).collect()
    }
}

impl Known {
    /// Notes an entry that was read: it goes with its sandbox, and is written anew while there is one.
    fn note(&mut self, key: SandboxKey, has_series: bool) {
        if has_series {
            self.with_series.insert(key.clone(), SeriesAsOf { epoch: None, ended: false, names_before: 0 });
        }
        self.sandboxes.insert(key, u64::MAX);
    }
}

/// Everything that is written for one sandbox.
struct Write {
    key: SandboxKey,
    sandbox: Arc<Sandbox>,
    changes: u64,
    entry: SandboxEntry,
    /// `Some` when its series are to be written now, `None` when they are to go or stay as they are.
    series: Option<Vec<CarriedSeries>>,
    series_as_of: Option<SeriesAsOf>,
}

/// When a sandbox's series change that no agent will report again: with each epoch, and at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SeriesAsOf {
    epoch: Option<u64>,
    ended: bool,
    /// Of which of the sandbox's names.
    names_before: u32,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub applications: Vec<ApplicationTotals>,
    pub tenants: Vec<TenantTotals>,
    pub sandboxes: Vec<(SandboxEntry, Vec<CarriedSeries>)>,
    /// Entries that could not be read.
    pub dropped: u64,
}

impl Store {
    /// Opens the store; one that cannot be used is moved aside, and a new one begun.
    pub fn open(directory: &Path) -> Result<Self, LedgerError> {
        let path = directory.join(FILE);
        let reason = match open(&path) {
            Ok(database) => return Ok(Self::of(database)),
            Err(Unusable::Damaged(reason)) => reason,
            // The file may be sound: it stays where it is.
            Err(Unusable::Refused(reason)) => return Err(LedgerError::Store(reason)),
        };
        let aside = directory.join(format!("{FILE}.unusable-{}", unix_ms()));
        fs::rename(&path, &aside).map_err(io_error("moving aside", &path))?;
        tracing::error!(
            ledger = %path.display(), moved_to = %aside.display(), reason,
            "the ledger cannot be used; applications' totals start from zero"
        );
        prune(directory).map_err(io_error("removing unusable ledgers of", directory))?;
        match open(&path) {
            Ok(database) => Ok(Self::of(database)),
            Err(Unusable::Damaged(reason) | Unusable::Refused(reason)) => Err(LedgerError::Store(reason)),
        }
    }

    fn of(database: Database) -> Self {
        Self(Mutex::new(Some(Open { database, known: Known::default() })))
    }

    /// Lets go of the file, after a write that is under way, so that another exporter can open it.
    pub fn close(&self) {
        self.0.lock().take();
    }

    /// Reads everything. An entry that cannot be read is left out and counted.
    pub(super) fn read(&self) -> Result<Read, LedgerError> {
        match &mut *self.0.lock() {
            Some(open) => {
                let read = read(&open.database)?;
                for (entry, series) in &read.sandboxes {
                    open.known.note(entry.key(), !series.is_empty());
                }
                Ok(read)
            }
            None => Err(LedgerError::Store("it is closed".to_owned())),
        }
    }

    /// Writes what changed, which is on disk when this returns, and gives the totals as of then; `None` once it is closed.
    pub fn save(&self, fleet: &Fleet) -> Option<(Durable, Result<bool, LedgerError>)> {
        // Held throughout: two writers would each take the other's entries for written.
        let mut open = self.0.lock();
        let Open { database, known } = open.as_mut()?;
        loop {
            let (durable, written, whole) = save_some(database, known, fleet);
            if whole || written.is_err() {
                return Some((durable, written));
            }
        }
    }
}

fn read(database: &Database) -> Result<Read, LedgerError> {
    let transaction = database.begin_read().map_err(store_error)?;
    let mut read = Read::default();
    let entries = |table| entries(&transaction, table);
    if let Some((_, value)) = entries(CLOCK)?.first()
        && let Ok(moment) = serde_json::from_slice::<Moment>(value)
    {
        moment.resume();
    }
    read.applications =
        parse_all(&entries(APPLICATIONS)?, &mut read.dropped).into_iter().map(|(_, v)| v).collect();
    read.tenants = parse_all(&entries(TENANTS)?, &mut read.dropped).into_iter().map(|(_, v)| v).collect();
    let mut series: BTreeMap<String, Vec<CarriedSeries>> = BTreeMap::new();
    for (key, one) in parse_all::<CarriedSeries>(&entries(ENDED_SERIES)?, &mut read.dropped) {
        let of = key.rsplit_once('#').map_or(key.as_str(), |(of, _)| of);
        series.entry(of.to_owned()).or_default().push(one);
    }
    for (key, entry) in parse_all::<SandboxEntry>(&entries(SANDBOXES)?, &mut read.dropped) {
        let of_it = series.remove(&key).unwrap_or_default();
        read.sandboxes.push((entry, of_it));
    }
    Ok(read)
}

/// Keys and values of a table; a value that is too large is empty.
fn entries(
    transaction: &ReadTransaction,
    table: TableDefinition<'static, &'static str, &'static [u8]>,
) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
    let table = match transaction.open_table(table) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(store_error(error)),
    };
    let mut entries = Vec::new();
    for entry in table.iter().map_err(store_error)? {
        let (key, value) = entry.map_err(store_error)?;
        let value = value.value();
        let value = if value.len() <= ENTRY_BYTES_MAX { value.to_vec() } else { Vec::new() };
        entries.push((key.value().to_owned(), value));
    }
    Ok(entries)
}

/// One transaction; the last value is whether it wrote all.
fn save_some(
    database: &Database,
    known: &mut Known,
    fleet: &Fleet,
) -> (Durable, Result<bool, LedgerError>, bool) {
    let (mut room, mut whole) = (SERIES_AT_ONCE, true);
    let (durable, writes, gone, retired) = fleet.snapshot(|sandboxes, retired, dirty| {
        let mut durable = Durable {
            applications: retired.applications.clone(),
            tenant_counters: retired.tenant_counters.clone(),
        };
        let mut writes = Vec::new();
        let mut present = BTreeSet::new();
        for (key, sandbox) in sandboxes {
            present.insert(key.clone());
            whole &= collect(key, sandbox, known, &mut durable, &mut writes, &mut room);
        }
        let gone: Vec<_> = known.sandboxes.keys().filter(|key| !present.contains(*key)).cloned().collect();
        let applications: Vec<_> = dirty
            .applications
            .iter()
            .map(|application| (application.clone(), ApplicationTotals::of(retired, application)))
            .collect();
        let tenants: Vec<_> =
            dirty.tenants.iter().map(|tenant| (tenant.clone(), TenantTotals::of(retired, tenant))).collect();
        (durable, writes, gone, (dirty, applications, tenants))
    });
    let (dirty, applications, tenants) = retired;
    if writes.is_empty() && gone.is_empty() && applications.is_empty() && tenants.is_empty() {
        return (durable, Ok(false), whole);
    }
    let written = write_all(database, &writes, &gone, &applications, &tenants, known);
    for write in &writes {
        if let Some(as_of) = write.series_as_of {
            write.sandbox.accumulator.lock().carried_written(as_of.epoch);
        }
    }
    match &written {
        Ok(()) => {
            for write in writes {
                match write.series_as_of {
                    Some(as_of) => known.with_series.insert(write.key.clone(), as_of),
                    None => known.with_series.remove(&write.key),
                };
                known.sandboxes.insert(write.key, write.changes);
            }
            for key in gone {
                known.sandboxes.remove(&key);
                known.with_series.remove(&key);
            }
        }
        Err(_) => fleet.dirty_again(dirty),
    }
    (durable, written.map(|()| true), whole)
}

/// Writes everything in one transaction.
fn write_all(
    database: &Database,
    writes: &[Write],
    gone: &[SandboxKey],
    applications: &[(Application, Option<ApplicationTotals>)],
    tenants: &[(String, Option<TenantTotals>)],
    known: &Known,
) -> Result<(), LedgerError> {
    let transaction = database.begin_write().map_err(store_error)?;
    {
        let mut table = transaction.open_table(SANDBOXES).map_err(store_error)?;
        let mut series = transaction.open_table(ENDED_SERIES).map_err(store_error)?;
        for write in writes {
            let key = sandbox_key(&write.key);
            table.insert(&*key, &*json(&write.entry)?).map_err(store_error)?;
            if write.series.is_some()
                || (write.series_as_of.is_none() && known.with_series.contains_key(&write.key))
            {
                remove_series(&mut series, &key)?;
            }
            for (at, one) in write.series.iter().flatten().enumerate() {
                series.insert(&*format!("{key}#{at}"), &*json(one)?).map_err(store_error)?;
            }
        }
        for key in gone {
            let name = sandbox_key(key);
            table.remove(&*name).map_err(store_error)?;
            if known.with_series.contains_key(key) {
                remove_series(&mut series, &name)?;
            }
        }
        let mut table = transaction.open_table(APPLICATIONS).map_err(store_error)?;
        for (application, totals) in applications {
            let key = serde_json::to_string(&[&application.tenant, &application.service_name])?;
            match totals {
                Some(totals) => {
                    table.insert(&*key, &*json(totals)?).map_err(store_error)?;
                }
                None => {
                    table.remove(&*key).map_err(store_error)?;
                }
            }
        }
        let mut table = transaction.open_table(TENANTS).map_err(store_error)?;
        for (tenant, totals) in tenants {
            match totals {
                Some(totals) => {
                    table.insert(&**tenant, &*json(totals)?).map_err(store_error)?;
                }
                None => {
                    table.remove(&**tenant).map_err(store_error)?;
                }
            }
        }
        let mut table = transaction.open_table(CLOCK).map_err(store_error)?;
        table.insert("moment", &*json(&Moment::now())?).map_err(store_error)?;
    }
    transaction.commit().map_err(store_error)
}

/// Adds one sandbox to the totals, and to what is written when it changed. False when its series find no room in this
/// transaction, so that another one must follow.
fn collect(
    key: &SandboxKey,
    sandbox: &Arc<Sandbox>,
    known: &Known,
    durable: &mut Durable,
    writes: &mut Vec<Write>,
    room: &mut usize,
) -> bool {
    let accumulator = sandbox.accumulator.lock();
    // Under the lock of the values: no scrape may show a change that is not written. Before the phase: one that changes in
    // between is written once more.
    let changes = sandbox.changes();
    let phase = sandbox.phase();
    let totals = accumulator.totals();
    let golden = totals.golden();
    if !golden.is_empty() {
        durable.applications.entry(sandbox.application().clone()).or_default().add(&golden);
    }
    let counters = totals.counters();
    durable.tenant_counters.entry(sandbox.identity.tenant.clone()).or_default().add(&counters);
    if known.sandboxes.get(key) == Some(&changes) {
        return true;
    }
    let ended = matches!(phase, Phase::Ended { .. });
    let predecessor = accumulator.predecessor();
    let has_series = ended
        || (phase == Phase::Live && (accumulator.carried().next().is_some() || !predecessor.is_empty()));
    let names_before = sandbox.names_before();
    let series_as_of = has_series.then(|| SeriesAsOf { epoch: accumulator.epoch(), ended, names_before });
    let write_series = series_as_of.is_some() && series_as_of != known.with_series.get(key).copied();
    if write_series {
        if *room == 0 {
            return false;
        }
        *room = room.saturating_sub(accumulator.charge().resident());
    }
    let series = write_series.then(|| {
        let mut series: Vec<_> =
            predecessor.series().map(|(id, values)| CarriedSeries::before(id, &values)).collect();
        if !ended {
            series.extend(accumulator.carried().map(|(key, values)| CarriedSeries::of(key, values)));
            return series;
        }
        let Ok(()) = accumulator.for_each_series::<std::convert::Infallible>(|key, values| {
            series.push(CarriedSeries::of(key, values));
            Ok(())
        });
        series
    });
    let entry = SandboxEntry::of(sandbox, phase, &accumulator);
    writes.push(Write {
        key: key.clone(),
        sandbox: Arc::clone(sandbox),
        changes,
        entry,
        series,
        series_as_of,
    });
    true
}

fn remove_series(table: &mut redb::Table<'_, &str, &[u8]>, key: &str) -> Result<(), LedgerError> {
    // '$' follows '#'.
    let (from, to) = (format!("{key}#"), format!("{key}$"));
    table.retain_in(&*from..&*to, |_, _| false).map_err(store_error)
}

/// Why a file cannot be used.
enum Unusable {
    /// What is in it is no ledger.
    Damaged(String),
    /// The system refuses it, or another process has it open.
    Refused(String),
}

fn open(path: &Path) -> Result<Database, Unusable> {
    match fs::metadata(path) {
        // redb takes an empty file for a new one: but an empty ledger is one that was lost.
        Ok(metadata) if metadata.len() == 0 => return Err(Unusable::Damaged("it is empty".to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Unusable::Refused(error.to_string()));
        }
        _ => {}
    }
    // A damaged file may lead the database to a page that is none; that must not keep the exporter from starting.
    let path: PathBuf = path.to_owned();
    std::panic::catch_unwind(move || {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = builder.create(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => Unusable::Refused(error.to_string()),
            DatabaseError::Storage(StorageError::Io(ref io))
                if !matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Unusable::Refused(error.to_string())
            }
            _ => Unusable::Damaged(error.to_string()),
        })?;
        // Every page is visited once, so that damage shows here.
        read(&database).map_err(|error| Unusable::Damaged(error.to_string()))?;
        Ok(database)
    })
    .unwrap_or_else(|_| Err(Unusable::Damaged("reading it panicked".to_owned())))
}

/// Removes all but the newest files that could not be used.
fn prune(directory: &Path) -> io::Result<()> {
    let mut unusable: Vec<PathBuf> = fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{FILE}.unusable-")))
        })
        .collect();
    unusable.sort();
    let surplus = unusable.len().saturating_sub(UNUSABLE_KEPT);
    unusable.iter().take(surplus).try_for_each(fs::remove_file)
}

fn parse_all<T: DeserializeOwned>(entries: &[(String, Vec<u8>)], dropped: &mut u64) -> Vec<(String, T)> {
    let mut parsed = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        match serde_json::from_slice(value) {
            Ok(entry) => parsed.push((key.clone(), entry)),
            Err(error) => {
                *dropped += 1;
                tracing::error!(key, %error, "an entry of the ledger cannot be read and is left out");
            }
        }
    }
    parsed
}

fn sandbox_key(key: &SandboxKey) -> String {
    let name = format!("{}@{}@{}", key.containerd_namespace, key.sandbox_id, key.created_unix_ms);
    if key.former == 0 { name } else { format!("{name}@{}", key.former) }
}

fn json(entry: &impl Serialize) -> Result<Vec<u8>, LedgerError> {
    Ok(serde_json::to_vec(entry)?)
}

fn store_error(error: impl Into<redb::Error>) -> LedgerError {
    LedgerError::Store(error.into().to_string())
}

#[cfg(test)]
impl Store {
    /// Puts an entry of any content among the applications.
    pub(super) fn put_application(&self, key: &str, value: &[u8]) {
        let open = self.0.lock();
        let transaction = open.as_ref().expect("open").database.begin_write().expect("transaction");
        {
            let mut table = transaction.open_table(APPLICATIONS).expect("table");
            table.insert(key, value).expect("inserted");
        }
        transaction.commit().expect("committed");
    }
}
