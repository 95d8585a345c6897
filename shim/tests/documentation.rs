//! `docs/operations.md` matches the shim: keys, defaults, reasons.

#[path = "../../libs/config/tests/support/reference.rs"]
mod reference;

use std::collections::BTreeSet;

use porthole_shim::{
    companion::reason::ReasonCode,
    names::Names,
    settings::{Shim, Tenants},
};

const OPERATIONS: &str = include_str!("../../docs/operations.md");

#[test]
fn every_key_is_documented_with_its_default() {
    assert_eq!(reference::section::<Shim>(OPERATIONS), Shim::default());
    assert_eq!(reference::section::<Tenants>(OPERATIONS), Tenants::default());
    assert_eq!(reference::section::<Names>(OPERATIONS), Names::default());
}

#[test]
fn every_reason_is_documented() {
    let (_, table) = OPERATIONS.split_once("\n### A sandbox is `unmonitored`").expect("section");
    let (table, _) = table.split_once("\n### ").expect("another section");
    let documented: BTreeSet<_> = reference::rows(table).iter().map(|row| reference::code(&row[0])).collect();
    let known = ReasonCode::ALL.iter().map(|code| code.as_str().to_owned()).collect();
    assert_eq!(documented, known);
}
