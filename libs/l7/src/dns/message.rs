//! DNS messages on the wire (RFC 1035 section 4; EDNS: RFC 6891; types and codes: IANA, DNS parameters).

use std::{net::IpAddr, ops::Range};

/// Header, bytes.
pub(super) const HEADER: usize = 12;

/// Longest name on the wire, bytes (RFC 1035 section 2.3.4).
pub(super) const NAME_MAX: usize = 255;

/// Most questions of one message that are read. Servers refuse more than one (RFC 9619), but some clients send them; the
/// first one stands for all.
const QUESTIONS_MAX: u16 = 4;

/// What was read of a message's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) id: u16,
    pub(super) flags: Flags,
    /// Questions, answers, authorities, additional records.
    pub(super) counts: [u16; 4],
    pub(super) question: Option<Question<'a>>,
    /// Where the records start.
    pub(super) records: usize,
}

/// The header's second word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    pub(super) fn is_response(self) -> bool {
        self.0 & 0x8000 != 0
    }

    pub(super) fn opcode(self) -> u8 {
        (self.0 >> 11 & 0xf) as u8
    }

    fn recursion_desired(self) -> bool {
        self.0 & 0x0100 != 0
    }

    fn recursion_available(self) -> bool {
        self.0 & 0x0080 != 0
    }

    pub(super) fn rcode(self) -> u16 {
        self.0 & 0xf
    }
}

pub(super) const QUERY: u8 = 0;
pub(super) const NOTIFY: u8 = 4;
pub(super) const UPDATE: u8 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question<'a> {
    /// Length-prefixed labels, without the root's.
    pub(super) labels: &'a [u8],
    pub(super) kind: u16,
    pub(super) class: u16,
}

impl<'a> Question<'a> {
    pub(super) fn labels(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.labels;
        std::iter::from_fn(move || {
            let (&length, tail) = rest.split_first()?;
            let (label, tail) = tail.split_at_checked(usize::from(length))?;
            rest = tail;
            Some(label)
        })
    }
}

/// Why nothing, or not all, was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The bytes end before.
    Cut,
    /// No DNS.
    Bad,
}

/// Reads header and question.
pub(super) fn read(bytes: &[u8]) -> Result<Message<'_>, Fault> {
    let word = |at: usize| be16(bytes, at);
    let (id, flags) = (word(0)?, Flags(word(2)?));
    let counts = [word(4)?, word(6)?, word(8)?, word(10)?];
    let (question, records) = match counts[0] {
        0 => (None, HEADER),
        questions @ 1..=QUESTIONS_MAX => {
            let end = question_name(bytes)?;
            let labels = bytes.get(HEADER..end - 1).ok_or(Fault::Cut)?;
            let question = Question { labels, kind: word(end)?, class: word(end + 2)? };
            let mut records = end + 4;
            for _ in 1..questions {
                records = name_end(bytes, records)? + 4;
            }
            (Some(question), records)
        }
        _ => return Err(Fault::Bad),
    };
    Ok(Message { id, flags, counts, question, records })
}

fn be16(bytes: &[u8], at: usize) -> Result<u16, Fault> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(Fault::Cut),
    }
}

/// Where the question's name ends. It is never compressed: nothing stands before it.
fn question_name(bytes: &[u8]) -> Result<usize, Fault> {
    let mut at = HEADER;
    loop {
        let length = *bytes.get(at).ok_or(Fault::Cut)?;
        at += 1;
        if length == 0 {
            return Ok(at);
        }
        at += usize::from(length);
        if length > 63 || at - HEADER >= NAME_MAX {
            return Err(Fault::Bad);
        }
    }
}

/// What a walk over the records found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// Where the walk ended.
    pub(super) end: usize,
    /// Records that were passed.
    pub(super) records: u32,
    /// The upper bits of the rcode, out of the OPT record.
    pub(super) rcode_high: u8,
    /// A record is none that a query may have: neither OPT nor a signature.
    pub(super) data: bool,
    /// It ended before all of the records: bytes are missing, or are none.
    pub(super) fault: Option<Fault>,
}

const SIG: u16 = 24;
const OPT: u16 = 41;
const TKEY: u16 = 249;
const TSIG: u16 = 250;
const IXFR: u16 = 251;

/// Types of records that are addresses.
pub(super) const A: u16 = 1;
pub(super) const AAAA: u16 = 28;

/// Addresses in one answer that are looked at.
const ADDRESSES_MAX: usize = 16;

/// The addresses among a message's answers, as far as its bytes are there; what follows a record that does not fit is passed.
pub(super) fn addresses<'a>(bytes: &'a [u8], message: &Message<'_>) -> impl Iterator<Item = IpAddr> + 'a {
    let mut walk = Walk { end: message.records, ..Walk::default() };
    let records = (0..message.counts[1]).map_while(move |_| record(bytes, bytes.len(), &mut walk).ok());
    let address = |Record { kind, data }| {
        let data = bytes.get(data)?;
        match kind {
            A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
            AAAA => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
            _ => None,
        }
    };
    records.filter_map(address).take(ADDRESSES_MAX)
}

/// A record's type, and where its data is.
struct Record {
    kind: u16,
    data: Range<usize>,
}

/// Passes the records behind the question. `length` is the message's.
pub(super) fn walk(bytes: &[u8], message: &Message<'_>, length: usize) -> Walk {
    let mut walk = Walk { end: message.records, ..Walk::default() };
    let records: u32 = message.counts[1..].iter().map(|count| u32::from(*count)).sum();
    while walk.records < records {
        if let Err(fault) = record(bytes, length, &mut walk) {
            walk.fault = Some(fault);
            break;
        }
    }
    walk
}

/// Where a name ends that may be compressed.
fn name_end(bytes: &[u8], start: usize) -> Result<usize, Fault> {
    let mut at = start;
    loop {
        match *bytes.get(at).ok_or(Fault::Cut)? {
            0 => return Ok(at + 1),
            label @ 1..=63 => at += 1 + usize::from(label),
            // A pointer, to before this name.
            high @ 0xc0.. => {
                let low = *bytes.get(at + 1).ok_or(Fault::Cut)?;
                let to = usize::from(u16::from_be_bytes([high & 0x3f, low]));
                if to < HEADER || to >= start {
                    return Err(Fault::Bad);
                }
                return Ok(at + 2);
            }
            _ => return Err(Fault::Bad),
        }
        if at - start > NAME_MAX {
            return Err(Fault::Bad);
        }
    }
}

fn record(bytes: &[u8], length: usize, walk: &mut Walk) -> Result<Record, Fault> {
    let at = name_end(bytes, walk.end)?;
    let kind = be16(bytes, at)?;
    let rcode_high = *bytes.get(at + 4).ok_or(Fault::Cut)?;
    let data = usize::from(be16(bytes, at + 8)?);
    if at + 10 + data > length {
        return Err(Fault::Bad);
    }
    if kind == OPT {
        walk.rcode_high = rcode_high;
    }
    walk.data |= !matches!(kind, OPT | TSIG | SIG);
    walk.records += 1;
    walk.end = at + 10 + data;
    Ok(Record { kind, data: at + 10..walk.end })
}

/// What the head of a message is, beyond doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageMatch {
    Query,
    Response,
    /// No DNS, or none that is counted: multicast DNS, names of Windows networks.
    No,
    /// More bytes are needed to decide.
    Cut,
}

/// Looks at the head of a message of this length. So strict that random bytes do not pass: every flag, every count
/// and every record must fit, and a message without records ends where its question ends.
pub(super) fn match_message(bytes: &[u8], length: usize) -> MessageMatch {
    // The header's first bytes exclude most others early.
    for (at, most) in [(4, 0), (5, QUESTIONS_MAX.to_be_bytes()[1]), (6, 1), (8, 1), (10, 1)] {
        if bytes.get(at).is_some_and(|byte| *byte > most) {
            return MessageMatch::No;
        }
    }
    if let Some(flags) = bytes.get(2..4)
        && !flags_fit(Flags(u16::from_be_bytes([flags[0], flags[1]])))
    {
        return MessageMatch::No;
    }
    if length < HEADER + 5 {
        return MessageMatch::No;
    }
    let message = match read(bytes) {
        Ok(message) if message.records <= length => message,
        Err(Fault::Cut) if bytes.len() < length => return MessageMatch::Cut,
        _ => return MessageMatch::No,
    };
    let Some(question) = message.question else { return MessageMatch::No };
    if !question_fits(&question, &message) || is_set_aside(&message) {
        return MessageMatch::No;
    }
    let walk = walk(bytes, &message, length);
    if walk.fault == Some(Fault::Bad) || walk.fault.is_none() && walk.end != length {
        return MessageMatch::No;
    }
    if message.flags.is_response() {
        return match walk.fault {
            // A record's header fits: that is enough of a long answer.
            Some(_) if walk.records == 0 => MessageMatch::Cut,
            _ => MessageMatch::Response,
        };
    }
    let [_, answers, authorities, additional] = message.counts;
    let fits = match message.flags.opcode() {
        // The client's version of the zone (RFC 1995 section 3), or its part of a key (RFC 2930 section 4).
        QUERY if question.kind == IXFR => answers == 0 && authorities <= 1 && additional <= 2,
        QUERY if question.kind == TKEY => answers == 0 && authorities == 0 && additional <= 3,
        QUERY => answers == 0 && authorities == 0 && additional <= 2 && !walk.data,
        NOTIFY => answers <= 1 && authorities == 0 && additional <= 2,
        _ => true,
    };
    match walk.fault {
        _ if !fits => MessageMatch::No,
        Some(_) if bytes.len() < length => MessageMatch::Cut,
        Some(_) => MessageMatch::No,
        None => MessageMatch::Query,
    }
}

fn flags_fit(flags: Flags) -> bool {
    // QR, opcode, AA, TC, RD, RA, Z, AD, CD, rcode.
    let known = matches!(flags.opcode(), QUERY | NOTIFY | UPDATE);
    let reserved = flags.0 & 0x0040 != 0;
    if flags.is_response() {
        return known && !reserved && flags.rcode() <= 11;
    }
    let authoritative = flags.0 & 0x0400 != 0 && flags.opcode() != NOTIFY;
    known && !reserved && !authoritative && flags.0 & 0x028f == 0
}

fn question_fits(question: &Question<'_>, message: &Message<'_>) -> bool {
    const SOA: u16 = 6;
    let class = matches!(question.class, 1 | 3 | 4 | 254 | 255);
    // Types are added every year: one without a mnemonic is accepted in an ordinary query for a name of two labels.
    let ordinary = question.kind != 0
        && question.class == 1
        && message.flags.recursion_desired()
        && question.labels().count() > 1;
    let kind = (type_name(question.kind).is_some() || ordinary)
        && (message.flags.opcode() == QUERY || question.kind == SOA);
    class && kind && question.labels().all(is_text)
}

/// Whether a label is text: names of services have blanks and letters of all languages (RFC 6763 section 4.1.1).
fn is_text(label: &[u8]) -> bool {
    let text = std::str::from_utf8(label);
    text.is_ok_and(|text| !text.chars().any(char::is_control))
}

/// Messages of DNS's format that are not DNS: multicast DNS, LLMNR, and the name service of `NetBIOS`.
pub(super) fn is_set_aside(message: &Message<'_>) -> bool {
    is_multicast(message)
        || message.question.is_some_and(|question| is_netbios(&question) || is_llmnr(message, &question))
}

/// The name service of `NetBIOS` (RFC 1002 section 4.2): types NB (32) and NBSTAT (33, which is SRV in DNS), and a first
/// label of 32 letters from A to P (section 4.1, a `NetBIOS` name in its encoding).
fn is_netbios(question: &Question<'_>) -> bool {
    let encoded = question
        .labels()
        .next()
        .is_some_and(|label| label.len() == 32 && label.iter().all(|byte| (b'A'..=b'P').contains(byte)));
    encoded && matches!(question.kind, 32 | 33)
}

/// LLMNR (RFC 4795 section 2.1.1): a query for the address of a single label, which does not desire recursion. Resolvers
/// that send the root a query for a single label query its name servers.
fn is_llmnr(message: &Message<'_>, question: &Question<'_>) -> bool {
    const ADDRESSES: [u16; 3] = [1, 28, 255];
    !message.flags.recursion_desired()
        && message.flags.opcode() == QUERY
        && !message.flags.recursion_available()
        && question.labels().count() == 1
        && ADDRESSES.contains(&question.kind)
}

/// Multicast DNS (RFC 6762): an id of 0, recursion not desired, and names, classes or counts that others do not have.
fn is_multicast(message: &Message<'_>) -> bool {
    if message.id != 0 || message.flags.recursion_desired() {
        return false;
    }
    let Some(question) = message.question else { return true };
    let zone = question.labels().last().unwrap_or_default();
    let local = zone.eq_ignore_ascii_case(b"local") || zone.eq_ignore_ascii_case(b"arpa");
    // The top bit of the class requests a unicast answer.
    local || question.class & 0x8000 != 0 || (!message.flags.is_response() && message.counts[1] > 0)
}

/// Mnemonic of a query type.
pub(super) fn type_name(kind: u16) -> Option<&'static str> {
    Some(match kind {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        13 => "HINFO",
        14 => "MINFO",
        15 => "MX",
        16 => "TXT",
        17 => "RP",
        18 => "AFSDB",
        24 => "SIG",
        25 => "KEY",
        28 => "AAAA",
        29 => "LOC",
        30 => "NXT",
        33 => "SRV",
        35 => "NAPTR",
        36 => "KX",
        37 => "CERT",
        38 => "A6",
        39 => "DNAME",
        42 => "APL",
        43 => "DS",
        44 => "SSHFP",
        45 => "IPSECKEY",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        49 => "DHCID",
        50 => "NSEC3",
        51 => "NSEC3PARAM",
        52 => "TLSA",
        53 => "SMIMEA",
        55 => "HIP",
        59 => "CDS",
        60 => "CDNSKEY",
        61 => "OPENPGPKEY",
        62 => "CSYNC",
        63 => "ZONEMD",
        64 => "SVCB",
        65 => "HTTPS",
        99 => "SPF",
        108 => "EUI48",
        109 => "EUI64",
        TKEY => "TKEY",
        IXFR => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        256 => "URI",
        257 => "CAA",
        _ => return None,
    })
}

/// Mnemonic of a response code.
pub(super) fn rcode_name(rcode: u16) -> Option<&'static str> {
    Some(match rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        11 => "DSOTYPENI",
        16 => "BADVERS",
        22 => "BADTRUNC",
        23 => "BADCOOKIE",
        _ => return None,
    })
}
