//! The initrd: the guest's init, the agent and the kernel modules, uncompressed. Under emulation the kernel copies a few
//! megabytes faster than it decompresses them.

use crate::{cpio::Archive, modules::Module};

/// File in the initrd that lists the modules, one a line, in the order in which they load.
pub const MODULE_LIST: &str = "modules/order";

/// The agent's program in the initrd.
pub const AGENT: &str = "porthole-agent";

/// Packs an initrd.
pub fn pack(init: &[u8], agent: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "run", "sys", "tmp"] {
        archive.directory(directory);
    }
    // The kernel opens it as the init's standard streams before anything is mounted.
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("init", 0o755, init.to_vec());
    archive.file(AGENT, 0o755, agent.to_vec());
    let mut order = String::new();
    for module in modules {
        order.push_str(&module.name);
        order.push('\n');
        archive.file(&format!("modules/{}.ko", module.name), 0o644, module.bytes.clone());
    }
    archive.file(MODULE_LIST, 0o644, order.into_bytes());
    archive.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_inputs_give_the_same_bytes() {
        let modules =
            [Module { name: "b".into(), bytes: vec![1] }, Module { name: "a".into(), bytes: vec![2] }];
        let first = pack(b"init", b"agent", &modules);
        assert_eq!(first, pack(b"init", b"agent", &modules));
        let text = String::from_utf8_lossy(&first);
        assert!(text.contains("b\na\n"), "the list keeps the load order");
    }
}
