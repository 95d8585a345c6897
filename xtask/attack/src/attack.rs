//! The attacks of hostile agents and hostile clients by name.

macro_rules! attacks {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $kind:ident;)+) => {
        /// What all hostile agents, or all hostile clients, do at the same time.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Attack {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Attack {
            /// Every attack.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name on the command line and in reports.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// Where it comes from.
            pub fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind),+ }
            }
        }
    };
}

/// Where an attack comes from, and whether anything of it may be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Agents that prove who they are, and whose batches are hostile.
    Batches,
    /// Agents that do not keep to the protocol; what they report may be counted.
    Channel,
    /// Agents of which nothing may be counted.
    Refused,
    /// Clients of the exporter's HTTP server.
    Web,
}

attacks! {
    /// Fields that the contract does not have: two bytes each on the wire, many in memory.
    UnknownFields = "unknown-fields", Batches;
    /// A hundred thousand series without content in one batch.
    EmptySeries = "empty-series", Batches;
    /// Texts of many kilobytes wherever there is a text.
    GiantTexts = "giant-texts", Batches;
    /// The longest labels that are allowed, of characters that take two bytes when they are written.
    GiantLabels = "giant-labels", Batches;
    /// As many series as fit, with as many buckets as there are.
    ManySeries = "many-series", Batches;
    /// A new life of the agent every moment, each time with other labels.
    Churn = "churn", Channel;
    /// Counts at the bound, beyond it, and near the largest number.
    HugeCounts = "huge-counts", Batches;
    /// Values that become smaller.
    GoingBackwards = "going-backwards", Batches;
    /// Histograms that contradict themselves, numbers that end nowhere.
    ImpossibleNumbers = "impossible-numbers", Batches;
    /// One series with all the bytes of a frame as buckets.
    BucketFlood = "bucket-flood", Batches;
    /// Another epoch in each batch.
    EpochChanges = "epoch-changes", Batches;
    /// The same batch, as fast as it is taken.
    Replays = "replays", Batches;
    /// Sequence numbers that fall, jump and return.
    SequenceNumbers = "sequence-numbers", Batches;
    /// Ids of thousands of containers, and of other tenants' containers.
    ManyContainers = "many-containers", Batches;
    /// Spans with other sandboxes' addresses and unknown series.
    ForeignSpans = "foreign-spans", Batches;
    /// Quotes, line ends and terminal escapes in every text.
    ControlTexts = "control-texts", Batches;
    /// Texts that are not UTF-8.
    InvalidUtf8 = "invalid-utf8", Batches;
    /// Times before the epoch, in the far future, and never.
    Clocks = "clocks", Batches;
    /// Good batches, as fast as they are taken.
    Flood = "flood", Batches;
    /// Counts of the agent about itself that are huge, and fall.
    Counters = "counters", Batches;
    /// Connections to thousands of addresses, of any number, and of other tenants' containers.
    Dependencies = "dependencies", Batches;
    /// Resources of any value, of many containers, and of other tenants' containers.
    Resources = "resources", Batches;
    /// A byte of a frame every now and then.
    ByteByByte = "byte-by-byte", Channel;
    /// Half a frame, then nothing.
    HalfFrames = "half-frames", Channel;
    /// Frames with a length of four gigabytes.
    GiantFrames = "giant-frames", Channel;
    /// Frames without a body.
    EmptyFrames = "empty-frames", Channel;
    /// Accepts, answers, closes, again.
    ConnectLoop = "connect-loop", Channel;
    /// Accepts and never answers.
    Silence = "silence", Refused;
    /// Answers to no call, and batches before Hello.
    NoHello = "no-hello", Refused;
    /// A proof under another secret.
    WrongProof = "wrong-proof", Refused;
    /// Nonces of other lengths, and the host's own proof of an earlier connection.
    WrongNonce = "wrong-nonce", Refused;
    /// Every call is answered by an error of many words, with escapes.
    ErrorTexts = "error-texts", Refused;
    /// Does not read what the exporter writes, and answers blindly.
    NeverReads = "never-reads", Channel;
    /// Frames of any type for any stream, and requests of other methods.
    UnsolicitedFrames = "unsolicited-frames", Channel;
    /// Clients that request everything and read a byte a second.
    SlowReaders = "slow-readers", Web;
    /// Two thousand connections on which nothing is sent.
    IdleConnections = "idle-connections", Web;
    /// A byte of a request's header now and then.
    SlowHeaders = "slow-headers", Web;
    /// Connections that are opened and closed.
    ConnectionFlood = "connection-flood", Web;
    /// Other servers' names in `Host`.
    ForeignHosts = "foreign-hosts", Web;
    /// Every path of the HTTP interface, by many at once.
    ScrapeFlood = "scrape-flood", Web;
    /// Bytes that are no request, and requests that do not end.
    HttpGarbage = "http-garbage", Web;
}

impl Attack {
    /// The attack with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|attack| attack.name() == name)
    }

    /// A number of its own, for the seed.
    pub fn number(self) -> u64 {
        Self::ALL.iter().position(|&attack| attack == self).map_or(0, |at| at as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let names: BTreeSet<_> = Attack::ALL.iter().map(|attack| attack.name()).collect();
        assert_eq!(names.len(), Attack::ALL.len());
        for &attack in Attack::ALL {
            assert_eq!(Attack::from_name(attack.name()), Some(attack));
        }
        assert_eq!(Attack::from_name("kindness"), None);
    }
}
