use std::{fs, path::Path, time::Duration};

use super::*;
use crate::{
    accumulate::budget::Limits,
    clock::unix_ms,
    fleet::{ApplicationLimits, Retention},
};

fn fleet() -> Fleet {
    Fleet::new(
        Limits::of_series(10),
        Retention { scrapes: 2, at_least: Duration::ZERO, at_most: Duration::from_mins(1) },
    )
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
        drop(restore(&fleet(), directory.path()).expect("new"));
        fs::read(directory.path().join(FILE)).expect("read")
    };
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    let earlier = b"porthole-ledger 1 2 0\n{}".to_vec();
    for bad in [&b""[..], b"\n", b"{}", &good[..good.len() / 3], &flipped, &earlier, &[0xff; 100]] {
        let directory = tempfile::tempdir().expect("directory");
        fs::write(directory.path().join(FILE), bad).expect("written");
        drop(restore(&fleet(), directory.path()).expect("the exporter starts"));
        let names = entries(directory.path());
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[1].starts_with("ledger.unusable-"), "{names:?}");
        assert_eq!(fs::read(directory.path().join(&names[1])).expect("kept"), bad);
    }
}

#[test]
fn unusable_ledgers_do_not_pile_up() {
    let directory = tempfile::tempdir().expect("directory");
    for number in 0..6 {
        fs::write(directory.path().join(format!("{FILE}.unusable-{number}")), "old").expect("written");
    }
    fs::write(directory.path().join(FILE), "bad").expect("written");
    drop(restore(&fleet(), directory.path()).expect("restored"));
    assert_eq!(entries(directory.path()).len(), 3, "{:?}", entries(directory.path()));
}

#[test]
fn a_bad_entry_costs_that_entry_alone() {
    let directory = tempfile::tempdir().expect("directory");
    let store = restore(&fleet(), directory.path()).expect("new");
    let saturated = r#"{"tenant":"evil","service_name":"a","values":[{"side":"server","protocol":"http1",
        "errors":{"client":0,"server":0,"no_response":0},
        "durations":{"sum_ns":18446744073709551615,"buckets":[[0,18446744073709551615],[1,18446744073709551615]]}}]}"#;
    let good = saturated.replace("evil", "good").replace("18446744073709551615", "7");
    store.put_application("1", b"no JSON");
    store.put_application("2", saturated.as_bytes());
    store.put_application("3", good.as_bytes());
    drop(store);
    let fleet = fleet();
    drop(restore(&fleet, directory.path()).expect("restored"));
    assert_eq!(fleet.own.ledger_entries_dropped.get(), 1);
    let requests = |tenant: &str| -> u64 {
        let of_tenant =
            fleet.applications().into_iter().filter(|(application, _)| application.tenant == tenant);
        of_tenant
            .flat_map(|(_, table)| {
                table.iter().map(|(_, _, golden)| golden.durations.count()).collect::<Vec<_>>()
            })
            .sum()
    };
    assert_eq!(requests("good"), 14, "untouched by what another tenant left");
    assert_eq!(requests("evil"), u64::MAX, "a saturated count is read back");
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let directory = tempfile::tempdir().expect("directory");
    let fleet = fleet();
    let store = restore(&fleet, directory.path()).expect("new");
    assert!(!store.save(&fleet).expect("open").1.expect("saved"), "nothing to write");
    drop(save(&fleet, &store));
    assert_eq!(fleet.own.ledger_writes.get(), 0);
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

#[tokio::test]
async fn the_stopped_ledger_can_be_opened_again_while_an_encoding_still_holds_it() {
    let directory = tempfile::tempdir().expect("directory");
    let fleet = Arc::new(fleet());
    let held = Arc::new(restore(&fleet, directory.path()).expect("new"));
    let (stop, stopped) = watch::channel(true);
    keep(Arc::clone(&fleet), Arc::clone(&held), Duration::from_mins(1), stopped).await;
    drop(stop);
    drop(restore(&fleet, directory.path()).expect("free again"));
    assert!(save(&fleet, &held).is_none(), "what it would show could be taken back");
}

#[test]
fn an_application_and_its_tenant_have_been_idle_for_as_long_after_a_restart() {
    let directory = tempfile::tempdir().expect("directory");
    let limits = ApplicationLimits { idle: Duration::from_hours(24), ..ApplicationLimits::default() };
    let start = || {
        let fleet = fleet().with_applications(limits);
        let store = restore(&fleet, directory.path()).expect("restored");
        (fleet, store)
    };
    let known = |fleet: &Fleet| (fleet.applications().len(), fleet.tenant_counters().len());
    let (fleet, store) = start();
    let acme = r#"{"tenant":"acme","service_name":"shop","values":[]}"#;
    store.put_application(r#"["acme","shop"]"#, acme.as_bytes());
    drop((fleet, store));

    let hours = |hours: u64| unix_ms() + hours * 3_600_000;
    let (fleet, store) = start();
    fleet.retire(hours(0));
    drop(save(&fleet, &store));
    drop((fleet, store));
    let (fleet, store) = start();
    fleet.retire(hours(23));
    assert_eq!(known(&fleet).0, 1, "idle for less than a day");
    drop(save(&fleet, &store));
    drop((fleet, store));
    let (fleet, store) = start();
    fleet.retire(hours(25));
    assert_eq!(known(&fleet).0, 0, "idle for a day, through two restarts");
    drop(save(&fleet, &store));
    drop((fleet, store));
    let (fleet, _store) = start();
    assert_eq!(known(&fleet), (0, 0), "nor is it in the ledger");
}

#[test]
fn a_moment_of_an_earlier_run_that_lies_ahead_is_taken_for_now() {
    let directory = tempfile::tempdir().expect("directory");
    let limits = ApplicationLimits { idle: Duration::from_hours(1), ..ApplicationLimits::default() };
    let store = restore(&fleet(), directory.path()).expect("new");
    let ahead = unix_ms() + 1_000_000_000_000;
    let acme =
        format!(r#"{{"tenant":"acme","service_name":"shop","values":[],"idle_since_unix_ms":{ahead}}}"#);
    store.put_application(r#"["acme","shop"]"#, acme.as_bytes());
    drop(store);
    let fleet = fleet().with_applications(limits);
    let _store = restore(&fleet, directory.path()).expect("restored");
    fleet.retire(unix_ms() + 3_500_000);
    assert_eq!(fleet.applications().len(), 1);
    fleet.retire(unix_ms() + 3_700_000);
    assert!(fleet.applications().is_empty(), "its hour is over");
}
