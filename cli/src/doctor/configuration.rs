//! The configuration file, key by key.
//!
//! Each part reads its own section. All keys are listed in `docs/operations.md`, and each part's tests hold
//! that page to the part's code; so the page is built in, and gives the keys and their types.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use porthole_config::{CONFIG_ENV, DEFAULT_PATH};
use toml::{Table, Value};

use super::{Check, program};

const REFERENCE: &str = include_str!("../../../docs/operations.md");

const NAME: &str = "configuration";

/// What other checks need of the configuration.
#[derive(Debug, Default)]
pub struct Settings {
    /// The file, when there is one.
    file: Option<PathBuf>,
    /// Values that are set, by section.
    set: Table,
}

impl Settings {
    /// The text at a key: the configured one, else the documented default, else nothing.
    pub fn text(&self, section: &str, key: &str) -> Option<String> {
        let configured = self.set.get(section).and_then(|section| section.get(key)).and_then(Value::as_str);
        configured.map(str::to_owned).or_else(|| {
            let default = reference().get(section)?.get(key)?.clone()?;
            default.as_str().map(str::to_owned)
        })
    }

    /// The file, as an argument for the parts' own programs.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// Checks the file's keys, and has the exporter check its own section's values.
pub fn check(explicit: Option<&Path>, checks: &mut Vec<Check>) -> Settings {
    let named = explicit.map(Path::to_owned).or_else(|| std::env::var_os(CONFIG_ENV).map(PathBuf::from));
    let path = named.clone().unwrap_or_else(|| DEFAULT_PATH.into());
    let shown = path.display();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            checks.push(Check::ok(NAME, format!("{shown} is not there: the defaults are in force")));
            return Settings::default();
        }
        Err(error) => {
            let remedy = format!("correct the path ({CONFIG_ENV} or --config), or make the file readable");
            checks.push(Check::fail(NAME, format!("{shown}: {error}"), remedy));
            return Settings::default();
        }
    };
    let set: Table = match text.parse() {
        Ok(set) => set,
        Err(error) => {
            let found = format!("{shown} is no TOML: {}", one_line(&error.to_string()));
            checks.push(Check::fail(NAME, found, "correct that line"));
            return Settings { file: Some(path), set: Table::new() };
        }
    };
    let problems = problems(&set);
    if problems.is_empty() {
        checks.push(Check::ok(NAME, format!("{shown}: every key is known")));
    }
    for (found, remedy) in problems {
        checks.push(Check::fail(NAME, format!("{shown}: {found}"), remedy));
    }
    let settings = Settings { file: Some(path), set };
    exporters_opinion(&settings, checks);
    settings
}

/// What is wrong with keys, and what to do.
fn problems(set: &Table) -> Vec<(String, String)> {
    let reference = reference();
    let mut problems = Vec::new();
    for (section, value) in set {
        let Some(known) = reference.get(section.as_str()) else {
            let names: Vec<_> = reference.keys().map(|name| format!("[{name}]")).collect();
            problems
                .push((format!("unknown section [{section}]"), format!("sections are {}", names.join(", "))));
            continue;
        };
        let Some(keys) = value.as_table() else {
            problems.push((
                format!("`{section}` is no section"),
                format!("write [{section}] and its keys below"),
            ));
            continue;
        };
        for (key, value) in keys {
            let Some(default) = known.get(key) else {
                let names: Vec<_> = known.keys().map(String::as_str).collect();
                let remedy = format!("remove or correct it; [{section}] has {}", names.join(", "));
                problems.push((format!("unknown key `{key}` in [{section}]"), remedy));
                continue;
            };
            // What has no default is the path of a program.
            let wanted = default.as_ref().map_or("string", Value::type_str);
            let found = value.type_str();
            if wanted != found && !(wanted == "float" && found == "integer") {
                let remedy = format!("give it a value of type {wanted}");
                problems.push((format!("`{key}` in [{section}] is of type {found}"), remedy));
            }
        }
    }
    problems
}

/// Values that are of the right type and yet cannot be used.
fn exporters_opinion(settings: &Settings, checks: &mut Vec<Check>) {
    let (Some(exporter), Some(file)) = (program::find("porthole-exporter", &[]), settings.file()) else {
        return;
    };
    let mut command = Command::new(&exporter);
    command.arg("--check-config").arg("--config").arg(file);
    match program::run(&mut command) {
        Ok(finished) if !finished.success => {
            let message = one_line(&finished.errors);
            checks.push(Check::fail("exporter configuration", message, "correct the key that it names"));
        }
        Ok(_) => checks.push(Check::ok("exporter configuration", "porthole-exporter accepts it")),
        Err(error) => checks.push(Check::warn(
            "exporter configuration",
            format!("{}: {error:#}", exporter.display()),
            "look whether the program can run",
        )),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Sections, keys, and defaults; no default where the reference has `unset`.
fn reference() -> BTreeMap<&'static str, BTreeMap<String, Option<Value>>> {
    let mut sections = BTreeMap::new();
    for part in REFERENCE.split("\n### ").skip(1) {
        let Some(name) = part.lines().next().and_then(|line| line.strip_prefix("`[")?.strip_suffix("]`"))
        else {
            continue;
        };
        let part = part.split("\n## ").next().unwrap_or(part);
        let keys = part.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            let key = cells.next()?.trim().trim_end_matches('`').to_owned();
            let default = cells.next()?.trim().trim_matches('`');
            let value = format!("value = {default}").parse::<Table>().ok();
            Some((key, value.and_then(|mut table| table.remove("value"))))
        });
        sections.insert(name, keys.collect());
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        problems(&text.parse().expect("TOML")).into_iter().map(|(found, _)| found).collect()
    }

    #[test]
    fn the_reference_names_every_section_with_its_defaults() {
        let reference = reference();
        let names: Vec<_> = reference.keys().copied().collect();
        assert_eq!(names, ["exporter", "microvm", "names", "objectives", "registry", "shim", "tenants"]);
        assert_eq!(reference["microvm"]["memory_mib"], Some(Value::Integer(512)));
        assert_eq!(reference["microvm"]["qemu"], None);
        assert_eq!(
            Settings::default().text("registry", "directory").as_deref(),
            Some("/run/porthole/sandboxes")
        );
    }

    #[test]
    fn what_no_part_knows_is_named() {
        assert_eq!(found("[shim]\ndelegat = \"x\""), ["unknown key `delegat` in [shim]"]);
        assert_eq!(found("[shimm]\nx = 1"), ["unknown section [shimm]"]);
        assert_eq!(found("[microvm]\nmemory_mib = \"1\""), ["`memory_mib` in [microvm] is of type string"]);
        assert_eq!(found("shim = 1"), ["`shim` is no section"]);
    }

    #[test]
    fn what_the_parts_know_is_right() {
        let text = "[shim]\ndelegate = \"x\"\n[tenants.by_namespace]\na = \"b\"\n[names]\ntenant = [\"{namespace}\"]\n[microvm]\nqemu = \"/q\"\n\
                    [exporter]\nrescan_seconds = 5\n[registry]\ndirectory = \"/r\"\n\
                    [[objectives.override]]\ntenant = \"acme\"\navailability = 0.999\n";
        assert_eq!(found(text), Vec::<String>::new());
    }
}
