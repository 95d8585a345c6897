//! The last state of a sandbox's agent: a file that the companion leaves beside the records when the sandbox ends.
//!
//! An exporter that was not there, or was behind, counts it from here and removes it. The values in it are cumulative, and each
//! batch has its epoch, so that they count once however often the file is read. It is named
//! `<namespace>@<sandbox id>.<milliseconds>.last`, after the companion's beginning, because an id can be used again before
//! an exporter has read the file. It appears whole, by rename.
//!
//! Form: a line of JSON ([`Header`]); then the agent's batches, each behind its epoch (64 bits) and its length (32 bits, both
//! big-endian). The header is the host's; the batches are the guest's bytes, unchecked: a reader checks
//! them like those of an agent. The directory is opened once for each operation, and its files by name within it, without
//! following links.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat, renameat},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, unlinkat},
};
use serde::{Deserialize, Serialize};

use crate::{RECORD_BYTES_MAX, RECORD_VERSION, SandboxKey, SandboxRecord, create_directory};

/// Most bytes of batches in one file: a sandbox with the most series that are kept for it takes about half of it.
pub const LAST_STATE_BYTES_MAX: usize = 2 << 20;

/// Most bytes of all such files of a host, for the time in which no exporter reads them.
pub const LAST_STATES_BYTES_MAX: u64 = 64 << 20;

/// A file takes at most this part of the room that is left, so that many large ones leave room for small ones.
const ROOM_PART: u64 = 16;

/// How the names of these files end.
const SUFFIX: &str = ".last";

/// Bytes before each batch.
pub const BATCH_HEADER: usize = 12;

/// The file's first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The sandbox's record as it was at the end, without its secret.
    pub record: SandboxRecord,
    /// There was more than the file has room for.
    #[serde(default)]
    pub truncated: bool,
    /// Bytes of all batches, with what is before each.
    pub bytes: usize,
}

/// A batch that an agent has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBatch {
    /// The epoch that the guest gave with it.
    pub epoch: u64,
    /// A `Batch` of the contract, encoded.
    pub bytes: Vec<u8>,
}

/// A last state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastState {
    /// Whose it is.
    pub record: SandboxRecord,
    /// There was more than was kept.
    pub truncated: bool,
    /// The batches, in the order in which they came.
    pub batches: Vec<KeptBatch>,
}

/// A last state that cannot be left or read.
#[derive(Debug, thiserror::Error)]
pub enum LastStateError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is larger than any that is left.
    #[error("larger than {LAST_STATE_BYTES_MAX} bytes")]
    TooLarge,
    /// It is something else.
    #[error("not an agent's last state: {0}")]
    Malformed(String),
}

impl From<Errno> for LastStateError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

fn malformed(what: impl Into<String>) -> LastStateError {
    LastStateError::Malformed(what.into())
}

/// The name of a last state's file, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LastStateName {
    /// Whose it is.
    pub sandbox: SandboxKey,
    /// When its companion began, milliseconds since 1970-01-01T00:00:00Z.
    pub created_unix_ms: u64,
}

impl LastStateName {
    /// Reads a file's name; none of another file.
    pub fn parse(file_name: &str) -> Option<Self> {
        let (sandbox, created) = file_name.strip_suffix(SUFFIX)?.rsplit_once('.')?;
        let name = Self { sandbox: sandbox.parse().ok()?, created_unix_ms: created.parse().ok()? };
        // One that is written in another way is not ours.
        (name.file_name() == file_name).then_some(name)
    }

    /// The name of a sandbox's last state.
    pub fn of(record: &SandboxRecord) -> Self {
        Self { sandbox: record.key(), created_unix_ms: record.created_unix_ms }
    }

    /// The file's name.
    pub fn file_name(&self) -> String {
        format!("{}.{}{SUFFIX}", self.sandbox, self.created_unix_ms)
    }
}

impl LastState {
    /// Puts the file into the registry's directory. Where there is no room for its batches it has none, and is `truncated`.
    pub fn leave(&self, directory: &Path) -> Result<(), LastStateError> {
        create_directory(directory)?;
        let room = LAST_STATES_BYTES_MAX.saturating_sub(taken(directory)?) / ROOM_PART;
        let mut text = self.encode()?;
        if text.len() as u64 > room {
            text = Self { batches: Vec::new(), truncated: true, ..self.clone() }.encode()?;
        }
        let name = LastStateName::of(&self.record).file_name();
        let staged = format!(".{name}.new");
        let opened = open_directory(directory)?;
        match unlinkat(&opened, staged.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&opened, staged.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        let written = file
            .write_all(&text)
            .map_err(LastStateError::from)
            .and_then(|()| Ok(renameat(&opened, staged.as_str(), &opened, name.as_str())?));
        if written.is_err() {
            // Not in the way: the next one of this name removes it, too.
            let _ = unlinkat(&opened, staged.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    fn encode(&self) -> Result<Vec<u8>, LastStateError> {
        let bytes = self.batches.iter().map(|batch| batch.bytes.len() + BATCH_HEADER).sum();
        if bytes > LAST_STATE_BYTES_MAX {
            return Err(LastStateError::TooLarge);
        }
        let record = SandboxRecord { secret: None, ..self.record.clone() };
        let header = Header { record, truncated: self.truncated, bytes };
        let mut text = serde_json::to_vec(&header).map_err(|error| malformed(error.to_string()))?;
        text.push(b'\n');
        for batch in &self.batches {
            let length = u32::try_from(batch.bytes.len()).map_err(|_| LastStateError::TooLarge)?;
            text.extend(batch.epoch.to_be_bytes());
            text.extend(length.to_be_bytes());
            text.extend(&batch.bytes);
        }
        Ok(text)
    }

    /// Reads a file of the registry's directory.
    pub fn read(directory: &Path, name: &LastStateName) -> Result<Self, LastStateError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(&open_directory(directory)?, name.file_name().as_str(), flags, Mode::empty())?;
        let most = LAST_STATE_BYTES_MAX as u64 + RECORD_BYTES_MAX;
        let mut text = Vec::new();
        File::from(opened).take(most + 1).read_to_end(&mut text)?;
        if text.len() as u64 > most {
            return Err(LastStateError::TooLarge);
        }
        let end = text.iter().position(|byte| *byte == b'\n').ok_or_else(|| malformed("no header"))?;
        let (header, rest) = text.split_at(end);
        let header: Header = serde_json::from_slice(header).map_err(|error| malformed(error.to_string()))?;
        if header.record.version != RECORD_VERSION {
            return Err(malformed(format!("record version {}", header.record.version)));
        }
        if LastStateName::of(&header.record) != *name {
            return Err(malformed(format!("of {}, not of the sandbox in its name", header.record.key())));
        }
        let mut rest = rest.get(1..).unwrap_or_default();
        if rest.len() != header.bytes {
            return Err(malformed(format!("{} bytes of batches in place of {}", rest.len(), header.bytes)));
        }
        let mut batches = Vec::new();
        while !rest.is_empty() {
            let cut = || malformed("a batch is cut");
            let (epoch, after) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
            let (length, after) = after.split_first_chunk::<4>().ok_or_else(cut)?;
            let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| cut())?;
            let (bytes, after) = after.split_at_checked(length).ok_or_else(cut)?;
            batches.push(KeptBatch { epoch: u64::from_be_bytes(*epoch), bytes: bytes.to_vec() });
            rest = after;
        }
        Ok(Self { record: header.record, truncated: header.truncated, batches })
    }
}

/// Removes a file of the registry's directory.
pub fn remove(directory: &Path, name: &LastStateName) -> io::Result<()> {
    let opened = open_directory(directory)?;
    Ok(unlinkat(&opened, name.file_name().as_str(), UnlinkatFlags::NoRemoveDir)?)
}

/// The last states in the directory.
pub fn list(directory: &Path) -> io::Result<Vec<LastStateName>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.extend(entry?.file_name().to_str().and_then(LastStateName::parse));
    }
    Ok(names)
}

fn open_directory(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open(directory, flags, Mode::empty())?)
}

/// Bytes of all last states in the directory.
fn taken(directory: &Path) -> io::Result<u64> {
    let size = |name: LastStateName| {
        // One that an exporter has removed since takes no room.
        std::fs::symlink_metadata(directory.join(name.file_name())).map_or(0, |metadata| metadata.len())
    };
    Ok(list(directory)?.into_iter().map(size).fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn state(batches: &[&[u8]]) -> LastState {
        let batches =
            batches.iter().zip(7..).map(|(bytes, epoch)| KeptBatch { epoch, bytes: bytes.to_vec() });
        let record = SandboxRecord { secret: None, ..crate::tests::record() };
        LastState { record, truncated: false, batches: batches.collect() }
    }

    fn name(file_name: &str) -> LastStateName {
        LastStateName::parse(file_name).expect("a last state's name")
    }

    #[test]
    fn a_last_state_survives_a_round_trip_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().expect("directory");
        let (whole, mut left) = (state(&[b"one", b"", b"\nthree\n"]), state(&[b"one", b"", b"\nthree\n"]));
        left.record.secret = Some("5a".repeat(32).parse().expect("secret"));
        left.leave(dir.path()).expect("left");
        left.leave(dir.path()).expect("left once more");
        let names = list(dir.path()).expect("listed");
        assert_eq!(names, [name("acme@shop-1.1.last")]);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listing").count(), 1, "no staging file remains");
        let path = dir.path().join("acme@shop-1.1.last");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(!std::fs::read_to_string(&path).expect("text").contains("5a5a"), "the secret stays behind");
        assert_eq!(LastState::read(dir.path(), &names[0]).expect("read"), whole);
        remove(dir.path(), &names[0]).expect("removed");
        assert!(list(dir.path()).expect("listed").is_empty());
    }

    #[test]
    fn cut_giant_and_misnamed_files_and_links_are_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let (path, own) = (dir.path().join("acme@shop-1.1.last"), name("acme@shop-1.1.last"));
        state(&[b"batch"]).leave(dir.path()).expect("left");
        let whole = std::fs::read(&path).expect("read");
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("written");
            LastState::read(dir.path(), &own).expect_err("cut");
        }
        let text = String::from_utf8_lossy(&whole).replace("\"bytes\":17", "\"bytes\":11");
        std::fs::write(&path, &text.as_bytes()[..text.len() - 6]).expect("written");
        LastState::read(dir.path(), &own).expect_err("a cut head of a batch");
        std::fs::write(dir.path().join("acme@other.1.last"), &whole).expect("written");
        LastState::read(dir.path(), &name("acme@other.1.last")).expect_err("another sandbox's");
        std::os::unix::fs::symlink("acme@shop-1.1.last", dir.path().join("acme@link.1.last"))
            .expect("linked");
        LastState::read(dir.path(), &name("acme@link.1.last")).expect_err("a link");
        File::create(&path).expect("made").set_len(8 << 20).expect("sparse");
        assert!(matches!(LastState::read(dir.path(), &own), Err(LastStateError::TooLarge)));
        let giant = vec![0; LAST_STATE_BYTES_MAX];
        assert!(matches!(state(&[&giant]).leave(dir.path()), Err(LastStateError::TooLarge)));
    }

    #[test]
    fn other_files_of_the_directory_are_no_last_states() {
        for other in
            ["a@b.json", "a@b.lock", ".a@b.1.last.new", "a@b.last", "a@b.01.last", "a@b.x.last", "b.1.last"]
        {
            assert_eq!(LastStateName::parse(other), None, "{other}");
        }
        assert_eq!(name("a@b.c.2.last").sandbox, "a@b.c".parse().expect("key"));
    }

    #[test]
    fn what_nobody_counts_does_not_fill_the_host_and_large_states_leave_room_for_small_ones() {
        let dir = tempfile::tempdir().expect("directory");
        let full = File::create(dir.path().join("acme@full.1.last")).expect("made");
        full.set_len(LAST_STATES_BYTES_MAX - (1 << 20)).expect("sparse");
        state(&[b"small"]).leave(dir.path()).expect("left");
        let own = name("acme@shop-1.1.last");
        assert_eq!(LastState::read(dir.path(), &own).expect("read"), state(&[b"small"]));
        state(&[&vec![0; 1 << 17]]).leave(dir.path()).expect("left");
        let read = LastState::read(dir.path(), &own).expect("read");
        assert!(read.truncated && read.batches.is_empty());
    }
}
