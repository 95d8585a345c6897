//! The table of parts in `docs/architecture.md` lists on what each part may depend. It is compared with `cargo
//! metadata`.
//!
//! The table covers what programs and libraries are built from. What only tests use is not in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace::{Workspace, output};

/// The page with the table, from the top.
const PAGE: &str = "docs/architecture.md";

/// Workspaces of their own with code that is part of the product.
const FURTHER_WORKSPACES: [&str; 1] = ["guest-bpf/programs"];

/// A package of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its folder from the top.
    pub folder: String,
    /// Its name.
    name: String,
    /// Folders of the packages of ours that it is built from.
    pub uses: BTreeSet<String>,
}

impl Package {
    /// The folder with its sources, from the top.
    pub fn sources(&self) -> String {
        format!("{}/src", self.folder)
    }

    /// What the table may call it: its folder's name, or the package's without the project's.
    fn is_called(&self, name: &str) -> bool {
        let short = self.name.strip_prefix("porthole-").unwrap_or(&self.name);
        short == name || self.folder.rsplit('/').next() == Some(name)
    }
}

/// The packages of this repository, by cargo's word.
pub fn packages(workspace: &Workspace) -> Result<Vec<Package>> {
    let mut all = Vec::new();
    for folder in std::iter::once("").chain(FURTHER_WORKSPACES) {
        let mut command = workspace.cargo();
        command.current_dir(workspace.root.join(folder));
        command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]);
        let metadata: Value = serde_json::from_str(&output(&mut command)?).context("read cargo metadata")?;
        all.extend(read(&metadata, &workspace.root)?);
    }
    Ok(all)
}

fn read(metadata: &Value, root: &Path) -> Result<Vec<Package>> {
    let relative = |path: &Path| path.strip_prefix(root).ok().map(|path| path.to_string_lossy().into_owned());
    let packages = metadata["packages"].as_array().context("packages")?;
    let package = |package: &Value| {
        let manifest = Path::new(package["manifest_path"].as_str()?);
        let dependencies = package["dependencies"].as_array()?.iter();
        let built_from = dependencies.filter(|dependency| dependency["kind"].as_str() != Some("dev"));
        Some(Package {
            folder: relative(manifest.parent()?)?,
            name: package["name"].as_str()?.to_owned(),
            uses: built_from.filter_map(|one| relative(Path::new(one["path"].as_str()?))).collect(),
        })
    };
    packages.iter().map(|one| package(one).context("a package in cargo metadata")).collect()
}

/// Fails where the table and cargo differ.
pub fn check(workspace: &Workspace, packages: &[Package]) -> Result<()> {
    let path = workspace.root.join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let differences = differences(&table(&page), packages);
    ensure!(differences.is_empty(), "{PAGE} and cargo differ:\n  {}", differences.join("\n  "));
    Ok(())
}

/// Names by folder in the table's last column.
fn table(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rows = page.lines().skip_while(|line| !line.starts_with("| folder |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).filter_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let folder = quoted(cells.first()?).next()?.trim_end_matches('/').to_owned();
        // A name with a slash is a path.
        Some((folder, quoted(cells.last()?).filter(|name| !name.contains('/')).map(str::to_owned).collect()))
    });
    rows.collect()
}

/// The words between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn differences(table: &BTreeMap<String, BTreeSet<String>>, packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    for folder in table.keys().filter(|folder| !packages.iter().any(|package| &package.folder == *folder)) {
        found.push(format!("{folder} is in the table and is no package"));
    }
    for package in packages {
        let Some(allowed) = table.get(&package.folder) else {
            found.push(format!("{} is not in the table", package.folder));
            continue;
        };
        let named = |name: &String| packages.iter().find(|other| other.is_called(name));
        for name in allowed.iter().filter(|name| named(name).is_none()) {
            found.push(format!("{}: the table names `{name}`, which is no package", package.folder));
        }
        let allowed: BTreeSet<&String> =
            allowed.iter().filter_map(named).map(|other| &other.folder).collect();
        for used in package.uses.iter().filter(|used| !allowed.contains(used)) {
            found.push(format!("{} depends on {used}, which the table does not allow", package.folder));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workspace::Workspace;

    const PAGE: &str = "text `x`\n\n| folder | package | builds | may depend on |\n|---|---|---|---|\n\
                        | `libs/a/` | `porthole-a` | library | nothing of ours |\n\
                        | `b/` | `porthole-b` | program | `a`, `other` (in `c/`) |\n\n| `d/` | `d` | x | `a` |\n";

    fn package(folder: &str, name: &str, uses: &[&str]) -> Package {
        let uses = uses.iter().map(|&folder| folder.to_owned()).collect();
        Package { folder: folder.to_owned(), name: name.to_owned(), uses }
    }

    #[test]
    fn the_table_is_what_cargo_says() {
        let workspace = Workspace::find().unwrap();
        check(&workspace, &packages(&workspace).unwrap()).unwrap();
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let good = [
            package("libs/a", "porthole-a", &[]),
            package("b", "porthole-b", &["libs/a", "c"]),
            package("c", "porthole-other", &[]),
        ];
        let found = |packages: &[Package]| differences(&table(PAGE), packages);
        assert_eq!(found(&good), ["c is not in the table"]);
        let mut one = good.clone();
        one[0].uses.insert("b".to_owned());
        assert!(found(&one).contains(&"libs/a depends on b, which the table does not allow".to_owned()));
        let found = found(&good[..2]);
        assert!(found.contains(&"b: the table names `other`, which is no package".to_owned()), "{found:?}");
    }

    #[test]
    fn what_only_tests_use_is_left_out() {
        let metadata = json!({"packages": [{
            "name": "porthole-b", "manifest_path": "/top/b/Cargo.toml", "dependencies": [
                {"name": "porthole-a", "kind": null, "path": "/top/libs/a"},
                {"name": "porthole-c", "kind": "dev", "path": "/top/c"},
                {"name": "porthole-d", "kind": "build", "path": "/top/d"},
                {"name": "serde", "kind": null},
            ],
        }]});
        assert_eq!(
            read(&metadata, Path::new("/top")).unwrap(),
            [package("b", "porthole-b", &["d", "libs/a"])]
        );
    }
}
