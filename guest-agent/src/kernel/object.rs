//! The object file with the programs: whether it is of the agent's build, its maps.

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya::maps::{MapData, RingBuf};
use aya_obj::{Function, Object, ProgramSection};
use object::{Object as _, ObjectSection as _};
use porthole_bpf_types::layout;

use super::{ProbeError, bpf};
use crate::recorder::SpanPolicy;

/// The records that the programs send.
pub type Records = RingBuf<MapData>;

/// The map that is the section of the programs' settings.
pub const SETTINGS_MAP: &str = ".bss.settings";

/// Bounds of what the programs may use.
#[derive(Clone, Copy, Debug)]
pub struct ProbeLimits {
    /// Size of the ring buffer, bytes; a power of two and at least a page. By default what the programs need.
    pub ring_bytes: Option<u32>,
    /// Connections that the kernel keeps.
    pub connections: u32,
    /// Whether the programs aggregate exchanges themselves where they can.
    pub offload: bool,
    /// Which exchanges are sampled as spans.
    pub spans: SpanPolicy,
}

impl Default for ProbeLimits {
    fn default() -> Self {
        Self { ring_bytes: None, connections: 8192, offload: true, spans: SpanPolicy::default() }
    }
}

/// Parses an object file that was built with the same shared types as the agent.
pub fn parse(file: &[u8]) -> Result<Object, ProbeError> {
    check_layout(file)?;
    Object::parse(file).map_err(|error| malformed(&error))
}

/// That the object file is none of ours, or damaged.
pub fn malformed(error: &dyn std::fmt::Display) -> ProbeError {
    ProbeError::Object(error.to_string())
}

fn check_layout(file: &[u8]) -> Result<(), ProbeError> {
    let elf = object::File::parse(file).map_err(|error| malformed(&error))?;
    let section = elf.section_by_name(layout::SECTION);
    let data = section.map_or(Ok(&[][..]), |section| section.data()).map_err(|error| malformed(&error))?;
    let found = data.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    if found == Some(layout::HASH) {
        return Ok(());
    }
    let found = found.map_or("not said".to_owned(), |hash| format!("{hash:016x}"));
    Err(ProbeError::Layout { found, expected: layout::HASH })
}

/// A program's code with all that it calls, and its license.
pub type Program = (Function, CString);

/// An object whose programs are joined with the functions that they call when they are used: of those for all kinds of
/// hooks few are, and each of the large ones takes milliseconds in an emulated guest.
#[allow(missing_debug_implementations)]
pub struct Linker {
    object: Object,
    joined: HashMap<String, Program>,
}

impl Linker {
    /// The programs of an object whose maps were made.
    pub fn new(object: Object) -> Self {
        Self { object, joined: HashMap::new() }
    }

    /// Names of the programs of a kind.
    pub fn names(&self, is_wanted: impl Fn(&ProgramSection) -> bool) -> Vec<String> {
        let wanted = self.object.programs.iter().filter(|(_, program)| is_wanted(&program.section));
        wanted.map(|(name, _)| name.clone()).collect()
    }

    /// A program.
    pub fn get(&mut self, name: &str) -> Result<&Program, ProbeError> {
        if !self.joined.contains_key(name) {
            let missing = || malformed(&format!("no program {name}"));
            let (name, program) = self.object.programs.remove_entry(name).ok_or_else(missing)?;
            let (key, license) = (program.function_key(), program.license.clone());
            let others = std::mem::replace(&mut self.object.programs, [(name.clone(), program)].into());
            let text = text_sections(&self.object);
            let joined = self.object.relocate_calls(&text).map_err(|error| malformed(&error));
            self.object.programs = others;
            joined?;
            let function = self.object.functions.get(&key).ok_or_else(|| malformed(&"no code"))?.clone();
            self.joined.insert(name, (function, license));
        }
        self.joined.get(name).ok_or_else(|| malformed(&"no program"))
    }
}

/// Numbers of the sections that have code.
fn text_sections(object: &Object) -> HashSet<usize> {
    object.functions.keys().map(|(section, _)| *section).collect()
}

/// Makes the object's maps and puts them into its programs. `size` sets sizes that depend on the machine; maps for
/// which it returns none are not made, and no program that is left in the object may use them.
pub fn create_maps(
    object: &mut Object,
    size: impl Fn(&str, &mut aya_obj::Map) -> bool,
) -> Result<HashMap<String, OwnedFd>, ProbeError> {
    let failed = |name: &str, source| ProbeError::Map { name: name.to_owned(), source };
    let mut maps = Vec::new();
    for (name, mut map) in std::mem::take(&mut object.maps) {
        if !size(&name, &mut map) {
            continue;
        }
        let fd = bpf::create_map(&map).map_err(|error| failed(&name, error))?;
        if map.section_kind() == aya_obj::EbpfSectionKind::Rodata {
            bpf::fill_and_freeze(fd.as_fd(), map.data()).map_err(|error| failed(&name, error))?;
        }
        maps.push((name, fd, map));
    }
    let text = text_sections(object);
    object
        .relocate_maps(maps.iter().map(|(name, fd, map)| (name.as_str(), fd.as_raw_fd(), map)), &text)
        .map_err(|error| malformed(&error))?;
    Ok(maps.into_iter().map(|(name, fd, _)| (name, fd)).collect())
}

/// Takes a map out of those that were made.
pub fn take_map(maps: &mut HashMap<String, OwnedFd>, name: &str) -> Result<MapData, ProbeError> {
    let fd = maps.remove(name).ok_or_else(|| malformed(&format!("no map {name}")))?;
    Ok(MapData::from_fd(fd)?)
}

#[cfg(test)]
mod tests {
    use object::write;

    use super::*;

    /// An object file with this in its section of the layout.
    fn file(layout: Option<&[u8]>) -> Vec<u8> {
        let mut elf = write::Object::new(
            object::BinaryFormat::Elf,
            object::Architecture::Bpf,
            object::Endianness::Little,
        );
        if let Some(layout) = layout {
            let name = layout::SECTION.as_bytes().to_vec();
            let section = elf.add_section(Vec::new(), name, object::SectionKind::ReadOnlyData);
            elf.set_section_data(section, layout.to_vec(), 8);
        }
        elf.write().expect("written")
    }

    #[test]
    fn objects_of_another_build_are_refused_and_both_layouts_named() {
        assert!(check_layout(&file(Some(&layout::HASH.to_le_bytes()))).is_ok());
        let other = layout::HASH ^ 1;
        let error = parse(&file(Some(&other.to_le_bytes()))).map(drop).expect_err("refused").to_string();
        assert!(
            error.contains(&format!("{other:016x}")) && error.contains(&format!("{:016x}", layout::HASH))
        );
        for layout in [None, Some(&[1, 2, 3][..])] {
            let error = parse(&file(layout)).map(drop).expect_err("refused");
            assert!(matches!(error, ProbeError::Layout { .. }), "{error}");
        }
        assert!(matches!(parse(b"no object"), Err(ProbeError::Object(_))));
    }
}
