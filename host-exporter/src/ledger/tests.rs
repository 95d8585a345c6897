use std::{fs, path::Path, time::Duration};

use super::*;
use crate::fleet::Retention;

fn fleet() -> Fleet {
    Fleet::new(10, Retention { scrapes: 2, at_least: Duration::ZERO, at_most: Duration::from_mins(1) })
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .expect("listing")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_ledger_that_cannot_be_used_is_moved_aside_and_nothing_crashes() {
    let good = {
        let directory = tempfile::tempdir().expect("directory");
        save(&fleet(), directory.path()).expect("saved");
        fs::read(directory.path().join(FILE)).expect("read")
    };
    let mut flipped = good.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    let future = String::from_utf8(good.clone()).expect("text").replacen(" 1 ", " 2 ", 1).into_bytes();
    for bad in [&b""[..], b"\n", b"{}", &good[..good.len() - 1], &flipped, &future, &[0xff; 100]] {
        let directory = tempfile::tempdir().expect("directory");
        fs::write(directory.path().join(FILE), bad).expect("written");
        restore(&fleet(), directory.path()).expect("the exporter starts");
        let names = entries(directory.path());
        assert_eq!(names.len(), 1, "{names:?}");
        assert!(names[0].starts_with("ledger.unusable-"), "{names:?}");
        assert_eq!(fs::read(directory.path().join(&names[0])).expect("kept"), bad);
    }
}

#[test]
fn a_good_ledger_stays_and_leaves_no_staging_file() {
    let directory = tempfile::tempdir().expect("directory");
    save(&fleet(), directory.path()).expect("saved");
    restore(&fleet(), directory.path()).expect("restored");
    assert_eq!(entries(directory.path()), [FILE]);
}

#[test]
fn a_second_exporter_is_kept_out_of_the_state_directory() {
    let directory = tempfile::tempdir().expect("directory");
    let state = directory.path().join("a/b");
    let held = file::take_directory(&state).expect("taken");
    assert!(matches!(file::take_directory(&state), Err(LedgerError::InUse(_))));
    drop(held);
    file::take_directory(&state).expect("free again");
}
