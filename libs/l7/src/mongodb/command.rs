//! The commands of MongoDB 7 that drivers and tools send.

/// Sorted, so that a name is found by halving; with whether the command's value is its collection.
const COMMANDS: &[(&str, bool)] = &[
    ("abortTransaction", false),
    ("aggregate", true),
    ("authenticate", false),
    ("buildInfo", false),
    ("buildinfo", false),
    ("bulkWrite", false),
    ("collMod", true),
    ("collStats", true),
    ("commitTransaction", false),
    ("compact", true),
    ("connectionStatus", false),
    ("count", true),
    ("create", true),
    ("createIndexes", true),
    ("createUser", false),
    ("currentOp", false),
    ("dataSize", false),
    ("dbStats", false),
    ("delete", true),
    ("distinct", true),
    ("drop", true),
    ("dropDatabase", false),
    ("dropIndexes", true),
    ("endSessions", false),
    ("explain", false),
    ("find", true),
    ("findAndModify", true),
    ("findandmodify", true),
    ("fsync", false),
    ("getCmdLineOpts", false),
    ("getLastError", false),
    ("getLog", false),
    ("getMore", false),
    ("getParameter", false),
    ("hello", false),
    ("hostInfo", false),
    ("insert", true),
    ("isMaster", false),
    ("ismaster", false),
    ("killCursors", true),
    ("killOp", false),
    ("killSessions", false),
    ("listCollections", false),
    ("listCommands", false),
    ("listDatabases", false),
    ("listIndexes", true),
    ("logout", false),
    ("mapReduce", true),
    ("ping", false),
    ("profile", false),
    ("refreshSessions", false),
    ("renameCollection", false),
    ("replSetGetStatus", false),
    ("replSetHeartbeat", false),
    ("replSetUpdatePosition", false),
    ("saslContinue", false),
    ("saslStart", false),
    ("serverStatus", false),
    ("setParameter", false),
    ("shutdown", false),
    ("startSession", false),
    ("top", false),
    ("update", true),
    ("usersInfo", false),
    ("validate", true),
    ("whatsmyuri", false),
];

fn find(name: &[u8]) -> Option<&'static (&'static str, bool)> {
    let at = COMMANDS.binary_search_by(|(command, _)| command.as_bytes().cmp(name)).ok()?;
    COMMANDS.get(at)
}

/// The command of this name.
pub(super) fn known(name: &[u8]) -> Option<&'static str> {
    find(name).map(|(command, _)| *command)
}

/// Whether the command's value names its collection.
pub(super) fn is_about_a_collection(name: &[u8]) -> bool {
    find(name).is_some_and(|(_, about)| *about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(COMMANDS.is_sorted());
        assert_eq!(known(b"find"), Some("find"));
        assert!(is_about_a_collection(b"find") && !is_about_a_collection(b"hello"));
    }
}
