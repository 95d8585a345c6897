//! The tables of docs/security.md name the tests that hold each bound: every row names at least one, and each exists.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What is not ours, or not a test.
const LEFT_OUT: [&str; 3] = ["target", ".git", "node_modules"];

/// Title of the column with the tests.
const COLUMN: &str = "test";

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All sources of the repository, one after another.
fn sources() -> String {
    let mut all = String::new();
    let mut left = vec![top()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("a directory").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && !LEFT_OUT.iter().any(|left_out| name == *left_out) {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                all.push_str(&fs::read_to_string(&path).expect("a source in UTF-8"));
            }
        }
    }
    all
}

/// The last cell of each row of the tables whose last column is that of tests, with the row.
fn rows(page: &str) -> Vec<(&str, &str)> {
    let mut rows = Vec::new();
    let mut of_tests = false;
    for line in page.lines() {
        let Some(inner) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else {
            of_tests &= line.starts_with("|---");
            continue;
        };
        let last = inner.rsplit(" | ").next().unwrap_or_default();
        if last == COLUMN {
            of_tests = true;
        } else if of_tests {
            rows.push((last, line));
        }
    }
    rows
}

/// The names in backquotes.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Whether a test of this name is there: a file, a function, an end-to-end test, an attack.
fn exists(name: &str, sources: &str) -> bool {
    if name.contains('/') {
        return top().join(name).exists();
    }
    sources.contains(&format!("fn {name}("))
        || [',', ';'].iter().any(|end| sources.contains(&format!("\"{name}\"{end}")))
}

#[test]
fn every_bound_has_a_test_that_exists() {
    let page = fs::read_to_string(top().join("docs/security.md")).expect("docs/security.md");
    let (rows, sources) = (rows(&page), sources());
    assert!(rows.len() > 30, "{} rows", rows.len());
    for (cell, row) in rows {
        assert!(names(cell).next().is_some(), "no test: {row}");
        for name in names(cell) {
            assert!(exists(name, &sources), "no test `{name}`: {row}");
        }
    }
}

#[test]
fn a_test_that_does_not_exist_is_noticed() {
    let page = "| what | test |\n|---|---|\n| a | `missing`, `there` |\n| b | none yet |\n\n| c | d |\n";
    let found = rows(page);
    assert_eq!(found.iter().map(|(cell, _)| *cell).collect::<Vec<_>>(), ["`missing`, `there`", "none yet"]);
    let sources = "#[test]\nfn there() {}\n(\"module::other\", other),\n";
    assert_eq!(names(found[0].0).map(|name| exists(name, sources)).collect::<Vec<_>>(), [false, true]);
    assert!(exists("module::other", sources) && !exists("module::oth", sources));
    assert!(exists("docs/security.md", "") && !exists("docs/insecurity.md", ""));
    assert!(names(found[1].0).next().is_none());
}
