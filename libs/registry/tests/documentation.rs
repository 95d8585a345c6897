//! `docs/operations.md` matches the section that all parts share.

#[path = "../../config/tests/support/reference.rs"]
mod reference;

use porthole_registry::RegistrySettings;

#[test]
fn every_key_of_the_registry_is_documented_with_its_default() {
    let documented: RegistrySettings = reference::section(include_str!("../../../docs/operations.md"));
    assert_eq!(documented.directory, RegistrySettings::default().directory);
}
