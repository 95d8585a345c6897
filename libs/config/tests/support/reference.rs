//! Reads the tables of the reference in `docs/`, for the tests that compare them with the code.

use porthole_config::{ConfigFile, Section};

/// Cells of the rows of every table in a text, without the tables' heads.
pub fn rows(text: &str) -> Vec<Vec<String>> {
    let lines: Vec<_> = text.lines().collect();
    let is_rule = |line: &&str| line.starts_with("|---");
    let body = lines.iter().enumerate().filter(|(at, line)| {
        let head = lines.get(at + 1).is_some_and(is_rule);
        line.starts_with('|') && !head && !is_rule(line)
    });
    body.map(|(_, line)| {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

/// A cell without the marks of code.
pub fn code(cell: &str) -> String {
    cell.trim().trim_matches('`').to_owned()
}

/// A section of the configuration made from the defaults in its table, whose heading is its name in brackets: key,
/// default as TOML or `unset`, meaning. Fails when the table lists other keys than the section knows.
#[allow(dead_code, reason = "not every test reads the configuration")]
pub fn section<T: Section>(text: &str) -> T {
    let heading = format!("\n### `[{}]`\n", T::NAME);
    let (_, table) = text.split_once(&heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let table = table.split("\n#").next().expect("at least one part");
    let rows: Vec<_> = rows(table).into_iter().map(|row| (code(&row[0]), code(&row[1]))).collect();
    let mut documented: Vec<_> = rows.iter().map(|(key, _)| key.clone()).collect();
    documented.sort_unstable();
    // An unknown key is answered with the keys that are known.
    let answer = load::<T>("no_such_key = 1\n").err().expect("an unknown key is refused");
    let (_, expected) = answer.split_once("expected ").unwrap_or_else(|| panic!("no keys in {answer}"));
    let mut known: Vec<_> = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    known.sort_unstable();
    assert_eq!(documented, known, "keys of [{}]", T::NAME);
    let set = rows.iter().filter(|(_, default)| default != "unset");
    let lines: Vec<_> = set.map(|(key, default)| format!("{key} = {default}")).collect();
    load(&lines.join("\n")).unwrap_or_else(|error| panic!("{error}"))
}

#[allow(dead_code, reason = "not every test reads the configuration")]
fn load<T: Section>(keys: &str) -> Result<T, String> {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), format!("[{}]\n{keys}", T::NAME)).expect("written");
    ConfigFile::load(Some(file.path())).and_then(|file| file.section()).map_err(|error| error.to_string())
}
