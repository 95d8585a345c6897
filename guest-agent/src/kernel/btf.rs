//! Struct offsets and functions from the running kernel's type information.
//!
//! Only a few dozen members and functions are wanted out of a hundred thousand types, before the first request can be seen and
//! without keeping anything in memory, so this walks the types once and builds no index of names. Format:
//! `Documentation/bpf/btf.rst`.

use std::{fs, io, path::PathBuf};

use porthole_bpf_types::{
    offset::{KernelOffsets, SOURCES, Source},
    syscall::{FUNCTION_PREFIX, FUNCTIONS},
};

use super::bpf;

/// Where the kernel offers its own type information.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Type information that lacks what is needed.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel offers none.
    #[error("{path}: {source}; the kernel needs CONFIG_DEBUG_INFO_BTF")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Not in the format.
    #[error("malformed kernel type information: {0}")]
    Malformed(&'static str),
    /// The kernel has no such member.
    #[error("this kernel's `struct {structure}` has no member `{member}`")]
    Missing {
        /// The struct.
        structure: &'static str,
        /// The member.
        member: &'static str,
    },
}

/// What the programs must know of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Offsets of everything that the programs read.
    pub offsets: KernelOffsets,
    /// The functions of the system calls that are looked at; or why they are not known.
    pub calls: Result<Vec<CallFunction>, String>,
    /// The tracepoints of sockets; or why they are not known.
    pub sockets: Result<SocketTracepoints, String>,
    /// The tracepoint of TCP's changes of state, `inet_sock_set_state`, by its number.
    pub state_changes: Option<u32>,
}

/// The tracepoints of sockets, by their numbers in the kernel's type information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketTracepoints {
    /// `sock_send_length`.
    pub sent: u32,
    /// `sock_recv_length`.
    pub received: u32,
    /// `inet_sock_set_state`.
    pub state: u32,
}

/// The kernel's function for a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallFunction {
    /// The system call: one of [`FUNCTIONS`].
    pub name: &'static str,
    /// The function's number in the kernel's type information.
    pub number: u32,
    /// Its prototype's number.
    pub prototype: u32,
}

/// What the programs must know of the running kernel.
pub fn kernel() -> Result<Kernel, BtfError> {
    let read = |source| BtfError::Read { path: VMLINUX.into(), source };
    // The file is read in pages, with a system call and two copies each.
    resolve(&bpf::kernel_types().or_else(|_| fs::read(VMLINUX)).map_err(read)?)
}

/// The same from type information in memory.
pub fn resolve(bytes: &[u8]) -> Result<Kernel, BtfError> {
    let btf = Btf::index(bytes)?;
    let mut offsets = [0; SOURCES.len()];
    for (offset, source) in offsets.iter_mut().zip(SOURCES) {
        *offset = btf.offset(source)?;
    }
    Ok(Kernel {
        offsets: KernelOffsets::from_array(offsets),
        calls: btf.calls(),
        sockets: btf.socket_tracepoints(),
        state_changes: btf.tracepoints[STATE_CHANGES],
    })
}

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNCTION: u32 = 12;
/// What the names of tracepoints' types begin with (`include/trace/bpf_probe.h`).
const TRACEPOINT_PREFIX: [u8; 10] = *b"btf_trace_";
/// What the names of system calls' functions begin with.
const CALL_PREFIX: [u8; FUNCTION_PREFIX.len()] = match FUNCTION_PREFIX.as_bytes().first_chunk() {
    Some(prefix) => *prefix,
    None => panic!("as long as itself"),
};
/// In the order of [`SocketTracepoints`].
const TRACEPOINTS: [&str; 3] = ["sock_send_length", "sock_recv_length", "inet_sock_set_state"];
/// Index of the changes of state among [`TRACEPOINTS`].
const STATE_CHANGES: usize = 2;
/// Qualifiers and type tags, through which a member's type is looked for.
const KINDS_TRANSPARENT: [u32; 5] = [8, 9, 10, 11, 18];
/// Anonymous structs in structs are nested no deeper than this.
const NESTING_MAX: usize = 8;

/// Types by number, and the wanted structs among them.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Position of each type; number 0 is `void`.
    positions: Vec<u32>,
    /// Numbers of the structs that [`SOURCES`] names.
    structures: Vec<(&'static str, u32)>,
    /// System calls' functions.
    functions: Vec<CallFunction>,
    /// Numbers of [`TRACEPOINTS`].
    tracepoints: [Option<u32>; TRACEPOINTS.len()],
}

struct Type {
    kind: u32,
    members: usize,
    /// Set when members' offsets carry the width of a bit field in their upper bits.
    bit_fields: bool,
    /// What a transparent type stands for.
    target: u32,
    /// Where the members begin.
    position: usize,
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map(|chunk| u32::from_ne_bytes(*chunk))
        .ok_or(BtfError::Malformed("cut short"))
}

impl<'a> Btf<'a> {
    fn index(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let malformed = BtfError::Malformed;
        let magic = bytes.first_chunk().ok_or(malformed("cut short"))?;
        if u16::from_ne_bytes(*magic) != MAGIC {
            return Err(malformed("wrong magic number"));
        }
        let section = |offset: usize| -> Result<&'a [u8], BtfError> {
            let start = word(bytes, 4)? as usize + word(bytes, offset)? as usize;
            let end = start + word(bytes, offset + 4)? as usize;
            bytes.get(start..end).ok_or(malformed("section out of range"))
        };
        let mut btf = Self {
            types: section(8)?,
            strings: section(16)?,
            positions: Vec::with_capacity(1 << 17),
            structures: Vec::with_capacity(32),
            functions: Vec::with_capacity(FUNCTIONS.len()),
            tracepoints: [None; TRACEPOINTS.len()],
        };
        let mut names: Vec<&'static str> = SOURCES.iter().map(|source| source.structure).collect();
        names.dedup();
        // Nearly all names are sorted out by their first letter.
        let mut initials = [false; 256];
        for name in &names {
            initials[usize::from(name.as_bytes()[0])] = true;
        }
        btf.positions.push(0);
        let mut position = 0;
        while let Some(rest) = btf.types.get(position..).filter(|rest| !rest.is_empty()) {
            let [name, info, target] = words(rest.first_chunk().ok_or(malformed("cut short"))?);
            let number = u32::try_from(btf.positions.len()).map_err(|_| malformed("too many types"))?;
            btf.positions.push(u32::try_from(position).map_err(|_| malformed("too large"))?);
            let kind = info >> 24 & 0x1f;
            if kind == KIND_FUNCTION {
                let name = btf.strings.get(name as usize..).unwrap_or_default();
                // Of a length that the compiler knows, a comparison takes two instructions and no call.
                if name.first_chunk() == Some(&CALL_PREFIX) {
                    let call = terminated(&name[CALL_PREFIX.len()..]);
                    let wanted = FUNCTIONS.iter().find(|name| name.as_bytes() == call);
                    btf.functions.extend(wanted.map(|&name| CallFunction {
                        name,
                        number,
                        prototype: target,
                    }));
                }
            } else if kind == KIND_TYPEDEF {
                let name = btf.strings.get(name as usize..).unwrap_or_default();
                if name.first_chunk() == Some(&TRACEPOINT_PREFIX) {
                    let tracepoint = terminated(&name[TRACEPOINT_PREFIX.len()..]);
                    if let Some(at) = TRACEPOINTS.iter().position(|name| name.as_bytes() == tracepoint) {
                        btf.tracepoints[at] = Some(number);
                    }
                }
            } else if kind == KIND_STRUCT {
                let name = btf.strings.get(name as usize..).unwrap_or_default();
                if name.first().is_some_and(|&initial| initials[usize::from(initial)]) {
                    let is = |wanted: &&&str| {
                        name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
                    };
                    btf.structures.extend(names.iter().find(is).map(|&wanted| (wanted, number)));
                }
            }
            position += 12 + trailer(info).ok_or(malformed("unknown kind of type"))?;
        }
        Ok(btf)
    }

    /// The functions of all system calls that are looked at.
    fn calls(&self) -> Result<Vec<CallFunction>, String> {
        let find = |wanted| {
            let found = self.functions.iter().find(|call| call.name == wanted);
            found.copied().ok_or_else(|| format!("this kernel has no function {FUNCTION_PREFIX}{wanted}"))
        };
        FUNCTIONS.into_iter().map(find).collect()
    }

    /// The tracepoints of sockets.
    fn socket_tracepoints(&self) -> Result<SocketTracepoints, String> {
        let find = |at: usize| {
            self.tracepoints[at].ok_or_else(|| format!("this kernel has no tracepoint {}", TRACEPOINTS[at]))
        };
        Ok(SocketTracepoints { sent: find(0)?, received: find(1)?, state: find(STATE_CHANGES)? })
    }

    /// Text at `offset`, without its terminating zero.
    fn string(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        // No wanted name is longer.
        terminated(&rest[..rest.len().min(64)])
    }

    fn get(&self, number: u32) -> Result<Type, BtfError> {
        let position = *self
            .positions
            .get(number as usize)
            .filter(|_| number != 0)
            .ok_or(BtfError::Malformed("type out of range"))? as usize;
        let info = word(self.types, position + 4)?;
        Ok(Type {
            kind: info >> 24 & 0x1f,
            members: info as usize & 0xffff,
            bit_fields: info >> 31 != 0,
            target: word(self.types, position + 8)?,
            position: position + 12,
        })
    }

    fn offset(&self, source: &Source) -> Result<u32, BtfError> {
        let missing = BtfError::Missing { structure: source.structure, member: source.member };
        for &(_, number) in self.structures.iter().filter(|(name, _)| *name == source.structure) {
            for name in std::iter::once(&source.member).chain(source.other) {
                if let Some(bits) = self.member(number, name.as_bytes(), 0)? {
                    return Ok(bits / 8);
                }
            }
        }
        Err(missing)
    }

    /// Offset in bits of a member of a struct or union, also inside anonymous ones.
    fn member(&self, number: u32, name: &[u8], depth: usize) -> Result<Option<u32>, BtfError> {
        let mut of = self.get(number)?;
        let mut steps = 0;
        while KINDS_TRANSPARENT.contains(&of.kind) && steps < NESTING_MAX {
            of = self.get(of.target)?;
            steps += 1;
        }
        if ![KIND_STRUCT, KIND_UNION].contains(&of.kind) || depth > NESTING_MAX {
            return Ok(None);
        }
        for index in 0..of.members {
            let at = of.position + index * 12;
            let (member_name, member_type) = (self.string(word(self.types, at)?), word(self.types, at + 4)?);
            let mut bits = word(self.types, at + 8)?;
            if of.bit_fields {
                bits &= 0x00ff_ffff;
            }
            if member_name == name {
                return Ok(Some(bits));
            }
            if member_name.is_empty()
                && let Some(inner) = self.member(member_type, name, depth + 1)?
            {
                return Ok(Some(bits + inner));
            }
        }
        Ok(None)
    }
}

/// Text up to its terminating zero.
fn terminated(text: &[u8]) -> &[u8] {
    &text[..text.iter().position(|&byte| byte == 0).unwrap_or(text.len())]
}

/// The three words that every type begins with.
fn words(bytes: &[u8; 12]) -> [u32; 3] {
    let (words, _) = bytes.as_chunks::<4>();
    [0, 1, 2].map(|index| words.get(index).map_or(0, |word| u32::from_ne_bytes(*word)))
}

/// Bytes that follow a type's common part.
#[inline]
fn trailer(info: u32) -> Option<usize> {
    let members = info as usize & 0xffff;
    let (fixed, each) = *TRAILERS.get((info >> 24 & 0x1f) as usize)?;
    (fixed != u8::MAX).then(|| usize::from(fixed) + members * usize::from(each))
}

/// By kind of type: bytes that follow its common part, and those of each member. A table, because a hundred thousand types
/// are looked up.
const TRAILERS: [(u8, u8); 20] = {
    let mut trailers = [(0, 0); 20];
    trailers[0].0 = u8::MAX;
    (trailers[1].0, trailers[3].0, trailers[14].0, trailers[17].0) = (4, 12, 4, 4);
    (trailers[4].1, trailers[5].1, trailers[15].1, trailers[19].1) = (12, 12, 12, 12);
    (trailers[6].1, trailers[13].1) = (8, 8);
    trailers
};

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;

    /// Builds type information of one struct each, with members at 8, 16, … and the last member of every struct
    /// inside an anonymous union.
    fn synthetic() -> Vec<u8> {
        let (mut types, mut strings) = (Vec::<u8>::new(), vec![0]);
        let put = |types: &mut Vec<u8>, words: &[u32]| {
            types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        };
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        // Number 1: an int, to have something in front.
        let int = name("int");
        put(&mut types, &[int, 1 << 24, 4, 32]);
        let mut number = 1;
        let mut structures: Vec<&str> = SOURCES.iter().map(|source| source.structure).collect();
        structures.dedup();
        for structure in structures {
            let members: Vec<_> = SOURCES.iter().filter(|source| source.structure == structure).collect();
            let (last, others) = members.split_last().expect("a member");
            let last = name(last.other.first().unwrap_or(&last.member));
            put(&mut types, &[0, KIND_UNION << 24 | 1, 8, last, 1, 0]);
            number += 1;
            let own = name(structure);
            put(&mut types, &[own, KIND_STRUCT << 24 | (others.len() as u32 + 1), 64]);
            for (index, member) in others.iter().enumerate() {
                let member = name(member.member);
                put(&mut types, &[member, 1, 64 * (index as u32 + 1)]);
            }
            put(&mut types, &[0, number, 64 * 100]);
            number += 1;
        }
        for call in FUNCTIONS {
            let function = name(&format!("{FUNCTION_PREFIX}{call}"));
            put(&mut types, &[function, KIND_FUNCTION << 24, 77]);
        }
        for tracepoint in TRACEPOINTS {
            let typedef = name(&format!("btf_trace_{tracepoint}"));
            put(&mut types, &[typedef, KIND_TYPEDEF << 24, 1]);
        }
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC.to_ne_bytes());
        bytes.extend_from_slice(&[1, 0]);
        let (types_len, strings_len) = (types.len() as u32, strings.len() as u32);
        put(&mut bytes, &[24, 0, types_len, types_len, strings_len]);
        bytes.extend_from_slice(&types);
        bytes.extend_from_slice(&strings);
        bytes
    }

    #[test]
    fn members_are_found_also_in_anonymous_unions_and_by_their_other_name() {
        let offsets = resolve(&synthetic()).expect("resolved").offsets;
        assert_eq!(offsets.task_files, 8);
        assert_eq!(offsets.task_signal, 16);
        assert_eq!(offsets.task_thread_pid, 800, "in the union at 800");
        assert_eq!(offsets.kernfs_parent, 800, "by its other name");
    }

    #[test]
    fn any_cut_is_an_error_and_never_a_panic() {
        let bytes = synthetic();
        for len in 0..bytes.len() {
            assert!(resolve(&bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn functions_of_system_calls_are_found_if_all_are_there() {
        let mut bytes = synthetic();
        let calls = resolve(&bytes).expect("resolved").calls.expect("all there");
        assert_eq!(calls.iter().map(|call| call.name).collect::<Vec<_>>(), FUNCTIONS);
        assert!(calls.windows(2).all(|pair| pair[1].number == pair[0].number + 1), "{calls:?}");
        assert!(calls.iter().all(|call| call.prototype == 77), "{calls:?}");
        let at = bytes.windows(9).position(|window| window == b"_connect\0").expect("there");
        bytes[at + 1] = b'x';
        let error = resolve(&bytes).expect("resolved").calls.expect_err("missing");
        assert!(error.contains("connect"), "{error}");
    }

    #[test]
    fn tracepoints_are_found_by_their_types_and_a_missing_one_is_named() {
        let mut bytes = synthetic();
        let found = resolve(&bytes).expect("resolved").sockets.expect("all there");
        assert_eq!((found.received, found.state), (found.sent + 1, found.sent + 2));
        assert_eq!(resolve(&bytes).expect("resolved").state_changes, Some(found.state));
        let at = bytes.windows(17).position(|window| window == b"sock_recv_length\0").expect("there");
        bytes[at] = b'x';
        let error = resolve(&bytes).expect("resolved").sockets.expect_err("missing");
        assert!(error.contains("sock_recv_length"), "{error}");
    }

    #[test]
    fn a_missing_member_is_named() {
        let mut bytes = synthetic();
        let at = bytes.windows(9).position(|window| window == b"nr_tasks\0").expect("there");
        bytes[at] = b'x';
        let error = resolve(&bytes).expect_err("missing").to_string();
        assert!(error.contains("css_set") && error.contains("nr_tasks"), "{error}");
    }
}
