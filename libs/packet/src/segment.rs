//! A segment of a TCP connection, and one that is kept for later.

/// A segment of either direction.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Index of the direction.
    pub from: usize,
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// What its sender expected next.
    pub acknowledged: Option<u32>,
    /// The captured head of its bytes.
    pub bytes: &'a [u8],
    /// How many bytes it has.
    pub length: u64,
    /// Whether the direction begins with it.
    pub syn: bool,
    /// Whether the direction ends behind it.
    pub fin: bool,
    /// Whether the connection ends with it.
    pub rst: bool,
    /// When it was captured, nanoseconds.
    pub time_ns: u64,
}

impl Segment<'_> {
    /// The end that opens the connection, if this segment begins a direction.
    pub(crate) fn opener(&self) -> usize {
        if self.syn && self.acknowledged.is_some() { 1 - self.from } else { self.from }
    }
}

/// A segment that is kept.
#[derive(Debug)]
pub(crate) struct Held {
    head: Segment<'static>,
    bytes: Vec<u8>,
}

impl Held {
    pub fn of(segment: &Segment<'_>) -> Self {
        Self { head: Segment { bytes: &[], ..*segment }, bytes: segment.bytes.to_vec() }
    }

    pub fn segment(&self) -> Segment<'_> {
        Segment { bytes: &self.bytes, ..self.head }
    }
}
