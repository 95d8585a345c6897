//! The ledger's store: one entry for each sandbox, application and tenant in an embedded database (redb), so that only
//! what changed is written, and a bad entry costs that entry alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
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
/// Series of ended sandboxes, which no agent will report again: written once, at the end.
const ENDED_SERIES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("ended_series");
const CLOCK: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("clock");

/// Memory of the database for pages, bytes.
const CACHE_BYTES: usize = 8 << 20;

/// Largest entry that is read, bytes: every protocol's totals on both sides with all buckets are below 200 KiB.
const ENTRY_BYTES_MAX: usize = 1 << 20;

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

/// The database, and what of it is known to be up to date.
#[derive(Debug)]
pub struct Store {
    database: Database,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The sandboxes' numbers of changes that are written.
    sandboxes: HashMap<SandboxKey, u64>,
    /// Sandboxes whose series are written.
    with_series: BTreeSet<SandboxKey>,
}

/// Everything that is written for one sandbox.
struct Write {
    key: SandboxKey,
    changes: u64,
    entry: SandboxEntry,
    /// `Some` when its series are to be written now, `None` when they are to go or stay as they are.
    series: Option<Vec<CarriedSeries>>,
    has_series: bool,
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
        let known = Mutex::default();
        let reason = match open(&path) {
            Ok(database) => return Ok(Self { database, known }),
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
            Ok(database) => Ok(Self { database, known }),
            Err(Unusable::Damaged(reason) | Unusable::Refused(reason)) => Err(LedgerError::Store(reason)),
        }
    }

    /// Reads everything. An entry that cannot be read is left out and counted.
    pub(super) fn read(&self) -> Result<Read, LedgerError> {
        let transaction = self.database.begin_read().map_err(store_error)?;
        let mut read = Read::default();
        let entries = |table: TableDefinition<'static, &'static str, &'static [u8]>| -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
            let table = match transaction.open_table(table) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(store_error(error)),
            };
            let mut entries = Vec::new();
            for entry in table.iter().map_err(store_error)? {
                let (key, value) = entry.map_err(store_error)?;
                if value.value().len() <= ENTRY_BYTES_MAX {
                    entries.push((key.value().to_owned(), value.value().to_vec()));
                } else {
                    entries.push((key.value().to_owned(), Vec::new()));
                }
            }
            Ok(entries)
        };
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

    /// Writes what changed, in one transaction that is on disk when this returns, and gives the totals as of then.
    pub fn save(&self, fleet: &Fleet) -> (Durable, Result<bool, LedgerError>) {
        // Held throughout: two writers would each take the other's entries for written.
        let mut known = self.known.lock();
        let (durable, writes, gone, folded) = fleet.snapshot(|sandboxes, folded, dirty| {
            let mut durable = Durable {
                applications: folded.applications.clone(),
                tenant_counters: folded.tenant_counters.clone(),
            };
            let mut writes = Vec::new();
            let mut present = BTreeSet::new();
            for (key, sandbox) in sandboxes {
                present.insert(key.clone());
                collect(key, sandbox, &known, &mut durable, &mut writes);
            }
            let gone: Vec<_> =
                known.sandboxes.keys().filter(|key| !present.contains(*key)).cloned().collect();
            let applications: Vec<_> = dirty
                .applications
                .iter()
                .map(|application| (application.clone(), folded.applications.get(application).cloned()))
                .collect();
            let tenants: Vec<_> = dirty
                .tenants
                .iter()
                .filter_map(|tenant| Some((tenant.clone(), *folded.tenant_counters.get(tenant)?)))
                .collect();
            (durable, writes, gone, (dirty, applications, tenants))
        });
        let (dirty, applications, tenants) = folded;
        if writes.is_empty() && gone.is_empty() && applications.is_empty() && tenants.is_empty() {
            return (durable, Ok(false));
        }
        let written = self.write(&writes, &gone, &applications, &tenants, &known);
        match &written {
            Ok(()) => {
                for write in writes {
                    if write.has_series {
                        known.with_series.insert(write.key.clone());
                    } else {
                        known.with_series.remove(&write.key);
                    }
                    known.sandboxes.insert(write.key, write.changes);
                }
                for key in gone {
                    known.sandboxes.remove(&key);
                    known.with_series.remove(&key);
                }
            }
            Err(_) => fleet.dirty_again(dirty),
        }
        (durable, written.map(|()| true))
    }

    fn write(
        &self,
        writes: &[Write],
        gone: &[SandboxKey],
        applications: &[(Application, Option<GoldenTable>)],
        tenants: &[(String, AgentCounters)],
        known: &Known,
    ) -> Result<(), LedgerError> {
        let transaction = self.database.begin_write().map_err(store_error)?;
        {
            let mut table = transaction.open_table(SANDBOXES).map_err(store_error)?;
            let mut series = transaction.open_table(ENDED_SERIES).map_err(store_error)?;
            for write in writes {
                let key = sandbox_key(&write.key);
                table.insert(&*key, &*json(&write.entry)?).map_err(store_error)?;
                if write.series.is_some() || (!write.has_series && known.with_series.contains(&write.key)) {
                    remove_series(&mut series, &key)?;
                }
                for (at, one) in write.series.iter().flatten().enumerate() {
                    series.insert(&*format!("{key}#{at}"), &*json(one)?).map_err(store_error)?;
                }
            }
            for key in gone {
                let name = sandbox_key(key);
                table.remove(&*name).map_err(store_error)?;
                if known.with_series.contains(key) {
                    remove_series(&mut series, &name)?;
                }
            }
            let mut table = transaction.open_table(APPLICATIONS).map_err(store_error)?;
            for (application, totals) in applications {
                let key = serde_json::to_string(&[&application.tenant, &application.service_name])?;
                match totals {
                    Some(totals) => {
                        let totals = ApplicationTotals::of(application.clone(), totals);
                        table.insert(&*key, &*json(&totals)?).map_err(store_error)?;
                    }
                    None => {
                        table.remove(&*key).map_err(store_error)?;
                    }
                }
            }
            let mut table = transaction.open_table(TENANTS).map_err(store_error)?;
            for (tenant, counters) in tenants {
                let totals = TenantTotals { tenant: tenant.clone(), counters: *counters };
                table.insert(&**tenant, &*json(&totals)?).map_err(store_error)?;
            }
            let mut table = transaction.open_table(CLOCK).map_err(store_error)?;
            table.insert("moment", &*json(&Moment::now())?).map_err(store_error)?;
        }
        transaction.commit().map_err(store_error)
    }
}

/// Adds one sandbox to the totals, and to what is written when it changed.
fn collect(
    key: &SandboxKey,
    sandbox: &Arc<Sandbox>,
    known: &Known,
    durable: &mut Durable,
    writes: &mut Vec<Write>,
) {
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
        return;
    }
    let has_series = matches!(phase, Phase::Ended { .. });
    let write_series = has_series && !known.with_series.contains(key);
    let series = write_series.then(|| {
        let mut series = Vec::new();
        let Ok(()) = accumulator.for_each_series::<std::convert::Infallible>(|key, values| {
            series.push(CarriedSeries::of(key, values));
            Ok(())
        });
        series
    });
    let entry = SandboxEntry::of(sandbox, phase, &accumulator);
    writes.push(Write { key: key.clone(), changes, entry, series, has_series });
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
    /// The system does not let us, or somebody else has it open.
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
        let store = Store { database, known: Mutex::default() };
        store.read().map_err(|error| Unusable::Damaged(error.to_string()))?;
        Ok(store.database)
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
    format!("{}@{}@{}", key.containerd_namespace, key.sandbox_id, key.created_unix_ms)
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
        let transaction = self.database.begin_write().expect("transaction");
        {
            let mut table = transaction.open_table(APPLICATIONS).expect("table");
            table.insert(key, value).expect("inserted");
        }
        transaction.commit().expect("committed");
    }
}
