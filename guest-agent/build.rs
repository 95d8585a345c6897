//! Embeds the eBPF object that `PORTHOLE_BPF_OBJECT` names; without it the agent builds and reports at run time that
//! it has no probes.
//!
//! The object's DWARF is left out: it is most of the file, and in an emulated guest reading over it takes longer than
//! the verifier does.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=PORTHOLE_BPF_OBJECT");
    let embedded = PathBuf::from(env::var("OUT_DIR")?).join("porthole.bpf.o");
    match env::var_os("PORTHOLE_BPF_OBJECT").filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            let named =
                |error: &dyn std::fmt::Display| format!("PORTHOLE_BPF_OBJECT={}: {error}", path.display());
            let object = fs::read(&path).map_err(|error| named(&error))?;
            fs::write(&embedded, without_debug(&object).ok_or_else(|| named(&"not a 64-bit ELF object"))?)?;
        }
        None => fs::write(&embedded, [])?,
    }
    Ok(())
}

/// Size of a section header (`Elf64_Shdr`), and where its fields are.
mod header {
    pub const SIZE: usize = 64;
    pub const TYPE: usize = 4;
    pub const OFFSET: usize = 24;
    pub const LENGTH: usize = 32;
}

/// `SHT_NOBITS`: no contents in the file.
const NOBITS: u64 = 8;

/// The object without the contents of its `.debug` sections. All sections keep their numbers, which symbols refer to.
fn without_debug(object: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize, len: usize| {
        let bytes = object.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0_u64, |value, &byte| value << 8 | u64::from(byte)))
    };
    let position = |at: usize, len: usize| usize::try_from(number(at, len)?).ok();
    if object.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, count, names) = (position(40, 8)?, position(60, 2)?, position(62, 2)?);
    let names = position(table + names * header::SIZE + header::OFFSET, 8)?;
    let mut out = object.get(..64)?.to_vec();
    let mut headers = object.get(table..table + count * header::SIZE)?.to_vec();
    for section in 0..count {
        let at = table + section * header::SIZE;
        let name = object.get(names + position(at, 4)?..)?;
        let own = &mut headers[section * header::SIZE..][..header::SIZE];
        if name.starts_with(b".debug") || name.starts_with(b".rel.debug") {
            own[header::TYPE..][..4].fill(0);
            own[header::LENGTH..][..8].fill(0);
        } else if number(at + header::TYPE, 4)? != NOBITS {
            let (from, len) = (position(at + header::OFFSET, 8)?, position(at + header::LENGTH, 8)?);
            out.resize(out.len().next_multiple_of(16), 0);
            own[header::OFFSET..][..8].copy_from_slice(&(out.len() as u64).to_le_bytes());
            out.extend_from_slice(object.get(from..from + len)?);
        }
    }
    out.resize(out.len().next_multiple_of(16), 0);
    let table = (out.len() as u64).to_le_bytes();
    out[40..48].copy_from_slice(&table);
    out.extend_from_slice(&headers);
    Some(out)
}
