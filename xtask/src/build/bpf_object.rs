//! What of the linked eBPF object the agent carries: all but the debug information, which is two thirds of it, and whose
//! relocations would be read at every start of the agent.

use anyhow::{Context, Result};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// Names of sections that only debuggers read begin with these. The relocations of the type information are done already:
/// nothing that reads it applies them.
const DEBUG: [&[u8]; 4] = [b".debug_", b".rel.debug_", b".rel.BTF", b".llvm_addrsig"];

/// Positions in the header of `.BTF.ext`: its length, and offset and length of the lines of the source
/// (kernel: `Documentation/bpf/btf.rst`).
const LINES_LENGTH: usize = 20;

/// The object without what only debuggers read.
pub fn without_debug_information(linked: &[u8]) -> Result<Vec<u8>> {
    let mut object = Builder::read(linked).context("read the object")?;
    for section in &mut object.sections {
        section.delete = DEBUG.iter().any(|name| section.name.starts_with(name));
        if section.name.as_slice() == b".BTF.ext"
            && let SectionData::Data(data) = &mut section.data
        {
            let length = data.to_mut().get_mut(LINES_LENGTH..LINES_LENGTH + 4);
            length.context("a header of type information that is cut short")?.fill(0);
        }
    }
    object.delete_orphans();
    // The linker has one table for the names of sections and symbols; the writer has one for each.
    if !object.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = object.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = SHT_STRTAB;
        names.data = SectionData::SectionString;
    }
    let mut bytes = Vec::new();
    object.write(&mut bytes).context("write the object")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use object::{
        Architecture, BinaryFormat, Endianness, Object as _, ObjectSection as _, SectionKind,
        write::{Object, Relocation, StandardSection, Symbol, SymbolSection},
    };

    use super::*;

    fn linked() -> Vec<u8> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let text = object.section_id(StandardSection::Text);
        object.append_section_data(text, &[7; 16], 8);
        let symbol = object.add_symbol(Symbol {
            name: b"program".to_vec(),
            value: 0,
            size: 16,
            kind: object::SymbolKind::Text,
            scope: object::SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(text),
            flags: object::SymbolFlags::None,
        });
        let mut add = |name: &str, data: Vec<u8>| {
            let section = object.add_section(Vec::new(), name.into(), SectionKind::Other);
            object.append_section_data(section, &data, 4);
            let flags = object::RelocationFlags::Elf { r_type: object::elf::R_BPF_64_32 };
            let relocation = Relocation { offset: 0, symbol, addend: 0, flags };
            object.add_relocation(section, relocation).expect("added");
        };
        add(".debug_info", vec![1; 4096]);
        add(".BTF", vec![2; 64]);
        add(".BTF.ext", (0..40).collect());
        object.write().expect("written")
    }

    #[test]
    fn programs_and_types_stay_and_what_debuggers_read_goes() {
        let linked = linked();
        let needed = without_debug_information(&linked).expect("taken out");
        let elf = object::File::parse(&*needed).expect("an object");
        let names: Vec<_> = elf.sections().filter_map(|section| section.name().ok()).collect();
        assert!(
            !names.iter().any(|name| name.contains("debug") || name.starts_with(".rel.BTF")),
            "{names:?}"
        );
        let data = |name: &str| elf.section_by_name(name).expect(name).data().expect("data").to_vec();
        assert_eq!((data(".text"), data(".BTF")), (vec![7; 16], vec![2; 64]));
        let mut header: Vec<u8> = (0..40).collect();
        header[LINES_LENGTH..LINES_LENGTH + 4].fill(0);
        assert_eq!(data(".BTF.ext"), header);
        assert!(elf.symbol_by_name("program").is_some());
        assert!(without_debug_information(b"no object").is_err());
    }
}
