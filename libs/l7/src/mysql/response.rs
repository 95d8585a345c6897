//! Follows the packets of one answer to its end.
//!
//! ```text
//! First ─► OK | error                                                       ─► done, or First again (more results)
//!       ─► column count ─► definitions ─► (EOF) ─► rows ─► EOF | OK | error ─► done, or First again
//!       ─► request for a local file ─► OK | error
//! ```
//!
//! Whether `CLIENT_DEPRECATE_EOF` was agreed on shows in the answers themselves: an EOF packet has exactly five bytes,
//! the OK packet in its place at least seven. Only after definitions without rows it has to be known.

use crate::mysql::{
    command::Shape,
    wire::{Failure, HEADER_BYTES, failure, lenenc, ok_status, packet, status, u16_at, u32_at},
};

/// Bytes of a payload that decide what it is.
const DECISIVE: usize = 24;

/// Most columns of a result set (`MAX_FIELDS` is 4096; other servers have more).
const COLUMNS_MAX: u64 = 0xffff;

/// Error number of MariaDB's progress reports, which are no errors.
const PROGRESS: u16 = 0xffff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    First,
    /// Definitions still to come; afterwards rows.
    Columns(u64),
    /// The EOF packet behind the definitions, or what follows it.
    BehindColumns,
    Rows,
    /// Definitions of parameters, then of columns still to come.
    Definitions(u64, u64),
    /// The EOF packet behind parameters, or what follows it.
    BehindParameters(u64),
    /// The EOF packet behind the last definitions.
    LastEof,
}

/// The result of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    /// Why it failed.
    pub(super) failure: Option<Failure>,
    /// The id of the statement that was prepared.
    pub(super) prepared: Option<u32>,
}

/// How an answer continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// With another packet.
    Continues,
    /// With a file that the client sends.
    File,
    /// Not at all.
    Ends(End),
    /// This is no answer to that command.
    Broken,
}

/// The answer to one command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Response {
    shape: Shape,
    stage: Stage,
    prepared: Option<u32>,
}

impl Response {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, stage: if shape == Shape::Rows { Stage::Rows } else { Stage::First }, prepared: None }
    }

    /// An answer that is in the middle.
    pub(super) fn at(shape: Shape, stage: Stage) -> Self {
        Self { shape, stage, prepared: None }
    }

    /// How many bytes of a payload [`Self::packet`] has to see.
    pub(super) fn wants(&self, payload: &[u8], length: usize) -> usize {
        let wanted = match self.stage {
            Stage::Columns(_) | Stage::Definitions(..) => 0,
            Stage::Rows | Stage::BehindColumns if !matches!(payload.first(), None | Some(0xfe | 0xff)) => 1,
            _ => DECISIVE,
        };
        wanted.min(length)
    }

    /// Takes the next packet. `deprecated` is whether `CLIENT_DEPRECATE_EOF` was agreed on; it is found out here
    /// when that is unknown.
    pub(super) fn packet(
        &mut self,
        payload: &[u8],
        length: usize,
        deprecated: &mut Option<bool>,
    ) -> Progress {
        match self.stage {
            Stage::First => self.first(payload, length),
            Stage::Columns(left) => {
                self.stage = if left > 1 { Stage::Columns(left - 1) } else { Stage::BehindColumns };
                Progress::Continues
            }
            Stage::BehindColumns => {
                self.stage = Stage::Rows;
                if length != 5 || payload.first() != Some(&0xfe) {
                    return self.row(payload, length, deprecated);
                }
                *deprecated = Some(false);
                let cursor = u16_at(payload, 3).is_some_and(|flags| flags & status::CURSOR_EXISTS != 0);
                if cursor { self.ends() } else { Progress::Continues }
            }
            Stage::Rows => self.row(payload, length, deprecated),
            Stage::Definitions(..) => self.definition(*deprecated),
            Stage::BehindParameters(columns) => {
                let eof = length == 5 && payload.first() == Some(&0xfe);
                deprecated.get_or_insert(!eof);
                if !eof {
                    self.stage = Stage::Definitions(0, columns);
                    return self.definition(*deprecated);
                }
                if columns == 0 {
                    return self.ends();
                }
                self.stage = Stage::Definitions(0, columns);
                Progress::Continues
            }
            Stage::LastEof => {
                if length == 5 && payload.first() == Some(&0xfe) {
                    self.ends()
                } else {
                    Progress::Broken
                }
            }
        }
    }

    fn ends(&self) -> Progress {
        Progress::Ends(End { failure: None, prepared: self.prepared })
    }

    fn fails(payload: &[u8]) -> Progress {
        failure(payload).map_or(Progress::Broken, |failure| {
            Progress::Ends(End { failure: Some(failure), prepared: None })
        })
    }

    /// Behind OK or EOF with these flags.
    fn result_ended(&mut self, flags: u16) -> Progress {
        if self.shape == Shape::Results && flags & status::MORE_RESULTS != 0 {
            self.stage = Stage::First;
            return Progress::Continues;
        }
        self.ends()
    }

    fn first(&mut self, payload: &[u8], length: usize) -> Progress {
        let Some(&kind) = payload.first() else { return Progress::Broken };
        if kind == 0xff && length >= 3 {
            let report = u16_at(payload, 1) == Some(PROGRESS);
            return if report { Progress::Continues } else { Self::fails(payload) };
        }
        match self.shape {
            Shape::Text | Shape::Stream => self.ends(),
            Shape::Single => match kind {
                0x00 if length >= 7 => self.ends(),
                0xfe if length == 5 || length >= 7 => self.ends(),
                _ => Progress::Broken,
            },
            Shape::Login => match kind {
                0x00 if length >= 7 => self.ends(),
                0x01 | 0x02 | 0xfe => Progress::Continues,
                _ => Progress::Broken,
            },
            Shape::Prepared => self.prepared(payload, length),
            Shape::Results | Shape::Rows => match kind {
                0x00 if length >= 7 => match ok_status(payload) {
                    Some(flags) => self.result_ended(flags),
                    None => Progress::Broken,
                },
                0xfb if length >= 2 => Progress::File,
                _ => self.column_count(payload, length),
            },
        }
    }

    /// The number of columns; with `MARIADB_CLIENT_CACHE_METADATA` a byte behind it, with
    /// `CLIENT_OPTIONAL_RESULTSET_METADATA` one before it, has whether definitions follow.
    fn column_count(&mut self, payload: &[u8], length: usize) -> Progress {
        let known = |count: u64| (1..=COLUMNS_MAX).contains(&count);
        let plain = lenenc(payload).filter(|(count, _)| known(*count));
        let (count, follow) = match (plain, payload) {
            (Some((count, [])), _) if payload.len() == length => (count, true),
            (Some((count, [flag @ (0 | 1)])), _) if payload.len() == length => (count, *flag == 1),
            (_, [flag @ (0 | 1), rest @ ..]) if payload.len() == length => match lenenc(rest) {
                Some((count, [])) if known(count) => (count, *flag == 1),
                _ => return Progress::Broken,
            },
            _ => return Progress::Broken,
        };
        self.stage = if follow { Stage::Columns(count) } else { Stage::BehindColumns };
        Progress::Continues
    }

    fn row(&mut self, payload: &[u8], length: usize, deprecated: &mut Option<bool>) -> Progress {
        match payload.first() {
            // A row's first string of 16 MiB would also start so, in a packet of the largest length.
            Some(0xfe) if length == 5 => {
                deprecated.get_or_insert(false);
                self.result_ended(u16_at(payload, 3).unwrap_or_default())
            }
            Some(0xfe) if (7..crate::mysql::wire::PAYLOAD_MAX).contains(&length) => {
                *deprecated = Some(true);
                match ok_status(payload) {
                    Some(flags) => self.result_ended(flags),
                    None => Progress::Broken,
                }
            }
            // The EOF packet of clients without `CLIENT_PROTOCOL_41`, which servers before 5.0 send behind a list of fields to
            // others, too. No row and no definition is a length without its number.
            Some(0xfe) if length == 1 => self.ends(),
            Some(0xff) => Self::fails(payload),
            Some(_) => Progress::Continues,
            None => Progress::Broken,
        }
    }

    /// `00`, id (4), columns (2), parameters (2), a zero, warnings (2); MySQL: whether definitions follow (1).
    fn prepared(&mut self, payload: &[u8], length: usize) -> Progress {
        let numbers = (payload.first() == Some(&0) && (12..=16).contains(&length))
            .then(|| Some((u32_at(payload, 1)?, u16_at(payload, 5)?, u16_at(payload, 7)?)))
            .flatten();
        let Some((id, columns, parameters)) = numbers else { return Progress::Broken };
        self.prepared = Some(id);
        let none = columns == 0 && parameters == 0;
        if none || (length > 12 && payload.get(12) == Some(&0)) {
            return self.ends();
        }
        self.stage = Stage::Definitions(u64::from(parameters), u64::from(columns));
        Progress::Continues
    }

    /// A definition went by.
    fn definition(&mut self, deprecated: Option<bool>) -> Progress {
        let Stage::Definitions(parameters, columns) = self.stage else { return Progress::Broken };
        self.stage = match (parameters, columns) {
            (2.., _) => Stage::Definitions(parameters - 1, columns),
            (1, 1..) if deprecated == Some(true) => Stage::Definitions(0, columns),
            (1, 1..) => Stage::BehindParameters(columns),
            (0, 2..) => Stage::Definitions(0, columns - 1),
            // The last. When it is unknown whether an EOF follows, the parser passes over one that does.
            _ if deprecated == Some(false) => Stage::LastEof,
            _ => return self.ends(),
        };
        Progress::Continues
    }
}

/// Bytes of a tail in which an error is looked for: its text has at most 512.
const TAIL_MAX: usize = 560;

/// How an answer ended of which only the tail was captured: with the packet that stands at the end of these bytes, if
/// it is one that ends rows, and nothing follows it.
pub(super) fn tail(bytes: &[u8], deprecated: Option<bool>) -> Option<End> {
    let last = |length: usize| bytes.len().checked_sub(length).and_then(|at| bytes.get(at..));
    let flags = match (last(9), last(11)) {
        (Some([5, 0, 0, _, 0xfe, _, _, low, high]), _) if deprecated != Some(true) => Some([*low, *high]),
        (_, Some([7, 0, 0, _, 0xfe, 0, 0, low, high, _, _])) if deprecated != Some(false) => {
            Some([*low, *high])
        }
        _ => None,
    };
    if let Some(flags) = flags.map(u16::from_le_bytes) {
        return (flags & (status::MORE_RESULTS | status::CURSOR_EXISTS) == 0).then(End::default);
    }
    let bytes = bytes.get(bytes.len().saturating_sub(TAIL_MAX)..).unwrap_or_default();
    memchr::memchr_iter(0xff, bytes).find_map(|at| {
        let rest = bytes.get(at.checked_sub(HEADER_BYTES)?..)?;
        let (header, payload) = packet(rest)?;
        let failure = failure(payload).filter(|_| HEADER_BYTES + header.length == rest.len())?;
        failure
            .state?
            .iter()
            .all(u8::is_ascii_alphanumeric)
            .then_some(End { failure: Some(failure), prepared: None })
    })
}
