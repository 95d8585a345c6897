//! What the requests are called that the programs know by a hash.

use foldhash::HashMap;
use porthole_bpf_types::sql;
use porthole_l7::sql::{
    Dialect,
    name::{prepared_name, statement_name},
};
use porthole_protocol::Offload;

use crate::kernel::command::Command;

/// Names that are kept besides those of kernel keys; and of prepared statements.
pub const NAMES_MAX: usize = 4096;

/// Exchanges after which a request recurs.
pub const RECURRING: u32 = 2;

/// What is kept of a request line, bytes.
const NAME_BYTES_MAX: usize = 512;

/// What is kept of a request in order to name those of its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestName(Box<[u8]>);

impl RequestName {
    /// Of a request from its first byte, or of a statement; `protocol` is a number of [`Offload`].
    pub fn of(protocol: u64, request: &[u8]) -> Self {
        let dialect = match u16::try_from(protocol).ok().and_then(Offload::from_number) {
            Some(Offload::Mysql) => Some(Dialect::Mysql),
            Some(Offload::Postgresql) => Some(Dialect::Postgresql),
            Some(Offload::Http1 | Offload::Redis) | None => None,
        };
        if let Some(dialect) = dialect {
            return Self(statement_name(dialect, request.strip_suffix(&[0]).unwrap_or(request)));
        }
        let line = request.iter().position(|&byte| byte == b'\n').map_or(request.len(), |end| end + 1);
        Self(request.get(..line.min(NAME_BYTES_MAX)).unwrap_or_default().into())
    }

    /// A name as it was kept.
    pub fn kept(name: &[u8]) -> Self {
        Self(name.into())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Debug)]
struct Known {
    name: RequestName,
    /// Exchanges that it was needed for.
    uses: u32,
    /// The programs know that they need not send it again.
    reported: bool,
}

/// The names, by hash.
#[derive(Debug, Default)]
pub struct RequestNames {
    recent: HashMap<u64, Known>,
    /// Those that were known before `recent` was last emptied.
    older: HashMap<u64, Known>,
    /// Names of prepared statements.
    prepared: HashMap<u64, RequestName>,
    /// Those that were known before `prepared` was last emptied.
    older_prepared: HashMap<u64, RequestName>,
    /// Those that were not used since then and made room.
    displaced: u64,
}

impl RequestNames {
    /// Takes the name of a hash.
    pub fn learn(&mut self, hash: u64, name: RequestName, commands: &mut Vec<Command>) {
        if let Some(known) = self.recent.get_mut(&hash) {
            // It recurs: most that do not are ids of which no request comes again.
            if !std::mem::replace(&mut known.reported, true) {
                commands.push(Command::NameKnown(hash));
            }
            return;
        }
        if self.recent.len() >= NAMES_MAX {
            // The programs send again what is still in use.
            let older = std::mem::replace(&mut self.older, std::mem::take(&mut self.recent));
            let reported = older.iter().filter(|(_, known)| known.reported);
            commands.extend(reported.map(|(&hash, _)| Command::NameForgotten(hash)));
        }
        self.recent.insert(hash, Known { name, uses: 0, reported: false });
    }

    /// The request of a prepared statement's executions.
    pub fn prepared(&mut self, operation: &str, table: &str) -> u64 {
        let name = RequestName(prepared_name(operation, table));
        let (hash, _) = sql::hash(Offload::Mysql.number(), &name.0);
        self.keep_prepared(hash, name);
        hash
    }

    /// Keeps a prepared statement's name as one that is used.
    fn keep_prepared(&mut self, hash: u64, name: RequestName) {
        if self.prepared.len() >= NAMES_MAX && !self.prepared.contains_key(&hash) {
            let older = std::mem::replace(&mut self.older_prepared, std::mem::take(&mut self.prepared));
            self.displaced += older.len() as u64;
        }
        self.older_prepared.remove(&hash);
        self.prepared.insert(hash, name);
    }

    /// Names of prepared statements that made room for others.
    pub fn displaced(&self) -> u64 {
        self.displaced
    }

    /// Whether it is a prepared statement's hash.
    pub fn is_prepared(&self, hash: u64) -> bool {
        self.prepared.contains_key(&hash) || self.older_prepared.contains_key(&hash)
    }

    /// Counts an exchange of a hash; returns whether such requests recur.
    pub fn recurs(&mut self, hash: u64) -> bool {
        if let Some(name) = self.older_prepared.remove(&hash) {
            self.keep_prepared(hash, name);
            return true;
        }
        if self.prepared.contains_key(&hash) {
            return true;
        }
        let Some(known) = self.recent.get_mut(&hash).or_else(|| self.older.get_mut(&hash)) else {
            return false;
        };
        known.uses = known.uses.saturating_add(1);
        known.uses >= RECURRING
    }

    /// The name of a hash.
    pub fn get(&self, hash: u64) -> Option<&RequestName> {
        let known = self.recent.get(&hash).or_else(|| self.older.get(&hash)).map(|known| &known.name);
        known.or_else(|| self.prepared.get(&hash)).or_else(|| self.older_prepared.get(&hash))
    }

    /// Keeps the name of a key that the programs forget: such requests may come again.
    pub fn keep(&mut self, hash: u64, name: RequestName) {
        if !self.is_prepared(hash) {
            self.recent.entry(hash).or_insert(Known { name, uses: 0, reported: false });
        }
    }

    /// Names of prepared statements that are kept.
    #[cfg(test)]
    pub fn kept_prepared(&self) -> usize {
        self.prepared.len() + self.older_prepared.len()
    }

    /// Names that are kept, but for prepared statements'.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.recent.len() + self.older.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_one_hash_have_one_name() {
        let pieces = [
            "SELECT ",
            "UPDATE ",
            "INSERT INTO ",
            "DELETE ",
            "* ",
            "FROM ",
            "WHERE ",
            "a",
            "t1",
            "t2",
            "2024_x",
            "2025_x",
            "1",
            "22",
            " ",
            " ",
            ",",
            "(",
            ")",
            ";",
            "'",
            "'",
            "''",
            "\\",
            "\"",
            "`",
            "x'y",
            "--",
            "-",
            "/*",
            "*/",
            "#",
            "\n",
            "$$",
            "$1",
            "E'",
            "é",
            ".",
            "=",
            "'b'",
            "'c'",
        ];
        let mut seen: HashMap<u64, (RequestName, String)> = HashMap::default();
        let (mut random, mut met) = (0x9e37_79b9_7f4a_7c15_u64, 0);
        for _ in 0..300_000 {
            let mut statement = String::new();
            let mut below = |bound: usize| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                usize::try_from(random >> 40).expect("small") % bound
            };
            for _ in 0..=below(9) {
                statement.push_str(pieces[below(pieces.len())]);
            }
            let (hash, several) =
                porthole_bpf_types::sql::hash(Offload::Mysql.number(), statement.as_bytes());
            let name = RequestName::of(Offload::Mysql.number().into(), statement.as_bytes());
            if let Some((known, of)) = seen.get(&hash) {
                assert_eq!(*known, name, "{statement:?} and {of:?}");
                met += usize::from(*of != statement);
            } else {
                seen.insert(hash, (name, statement.clone()));
            }
            let reported = several || !porthole_l7::sql::is_several(Dialect::Mysql, statement.as_bytes());
            assert!(reported, "{statement:?} is several");
        }
        assert!(met > 1_000, "{met}");
    }
}
