//! The kernel modules that a guest needs, each after those that it depends on.
//!
//! Dependencies come from the modules themselves (`depends=` in their `.modinfo` section): the package carries no
//! `modules.dep`, which is made at installation.

use std::collections::{BTreeMap, BTreeSet};

use object::{Object as _, ObjectSection as _};

use crate::ImageError;

/// What a guest uses, in the order in which it needs them: the bus, the host's channel, files, the network; overlay for
/// what runs inside containers. A module that the kernel has built in is left out.
pub const GUEST_MODULES: &[&str] =
    &["virtio_pci", "vmw_vsock_virtio_transport", "virtiofs", "virtio_net", "af_packet", "overlay"];

/// A module's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Name with underscores, as `/proc/modules` shows it.
    pub name: String,
    /// The object file.
    pub bytes: Vec<u8>,
}

/// The wanted modules and what they depend on, in load order. `builtin` names what the kernel has without modules.
pub fn in_load_order(
    available: &BTreeMap<String, Vec<u8>>,
    wanted: &[&str],
    builtin: &BTreeSet<String>,
) -> Result<Vec<Module>, ImageError> {
    let mut order = Vec::new();
    let mut placed = BTreeSet::new();
    for name in wanted {
        place(name, available, builtin, &mut placed, &mut order)?;
    }
    Ok(order)
}

fn place(
    name: &str,
    available: &BTreeMap<String, Vec<u8>>,
    builtin: &BTreeSet<String>,
    placed: &mut BTreeSet<String>,
    order: &mut Vec<Module>,
) -> Result<(), ImageError> {
    if builtin.contains(name) || !placed.insert(name.to_owned()) {
        return Ok(());
    }
    let failed = |reason: String| ImageError::Module { name: name.to_owned(), reason };
    let bytes = available.get(name).ok_or_else(|| failed("is not in the package".to_owned()))?;
    for dependency in dependencies(bytes).map_err(failed)? {
        place(&dependency, available, builtin, placed, order)?;
    }
    order.push(Module { name: name.to_owned(), bytes: bytes.clone() });
    Ok(())
}

/// Names in a module's `depends=`.
fn dependencies(module: &[u8]) -> Result<Vec<String>, String> {
    let file = object::File::parse(module).map_err(|error| error.to_string())?;
    let section = file.section_by_name(".modinfo").ok_or("has no .modinfo section")?;
    let data = section.data().map_err(|error| error.to_string())?;
    Ok(parse_depends(data))
}

fn parse_depends(modinfo: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for entry in modinfo.split(|byte| *byte == 0) {
        if let Some(list) = entry.strip_prefix(b"depends=") {
            let list = String::from_utf8_lossy(list);
            names.extend(list.split(',').filter(|name| !name.is_empty()).map(module_name));
        }
    }
    names
}

/// A module's name from its file's: dashes and underscores are the same to the kernel.
pub(crate) fn module_name(stem: &str) -> String {
    stem.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object file with a `.modinfo` section, written by the same crate that reads it.
    fn module(depends: &str) -> Vec<u8> {
        use object::write::Object;
        let mut file =
            Object::new(object::BinaryFormat::Elf, object::Architecture::X86_64, object::Endianness::Little);
        let section = file.add_section(Vec::new(), b".modinfo".to_vec(), object::SectionKind::ReadOnlyData);
        file.append_section_data(section, format!("license=GPL\0depends={depends}\0").as_bytes(), 1);
        file.write().expect("object")
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn dependencies_load_first_and_once() {
        let available = BTreeMap::from([
            ("net".to_owned(), module("failover,ring")),
            ("failover".to_owned(), module("")),
            ("ring".to_owned(), module("core")),
            ("pci".to_owned(), module("ring")),
        ]);
        let order =
            in_load_order(&available, &["pci", "net"], &BTreeSet::from(["core".to_owned()])).expect("order");
        assert_eq!(names(&order), ["ring", "pci", "failover", "net"]);
    }

    #[test]
    fn a_missing_module_is_named() {
        let available = BTreeMap::from([("a".to_owned(), module("b-c"))]);
        let error = in_load_order(&available, &["a"], &BTreeSet::new()).expect_err("refused").to_string();
        assert!(error.contains("b_c"), "{error}");
    }
}
