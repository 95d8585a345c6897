//! `docs/operations.md` matches the embedded runtime's section.
#![cfg(feature = "shim")]

#[path = "../../libs/config/tests/support/reference.rs"]
mod reference;

use porthole_microvm::config::Microvm;

#[test]
fn every_key_of_the_microvm_is_documented_with_its_default() {
    let documented: Microvm = reference::section(include_str!("../../docs/operations.md"));
    assert_eq!(format!("{documented:#?}"), format!("{:#?}", Microvm::default()));
}
