//! No circles between the modules of a crate.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Result, ensure};

use crate::lint::modules::{Edges, Modules};

/// Fails on circles in the crates whose sources are in these folders, relative to the top.
pub fn check(root: &Path, sources: &[String]) -> Result<()> {
    let mut found = Vec::new();
    for folder in sources {
        let modules = Modules::read(&root.join(folder))?;
        found.extend(circles(&modules).into_iter().map(|circle| format!("{folder}: {circle}")));
    }
    ensure!(found.is_empty(), "modules use each other in a circle:\n  {}", found.join("\n  "));
    Ok(())
}

/// The circles, each as the names of its modules behind the module that they are in.
fn circles(modules: &Modules) -> Vec<String> {
    let mut circles = Vec::new();
    for (level, edges) in modules.levels() {
        let names = edges.keys().filter(|name| reaches(&edges, name, name));
        // Those that reach each other make one circle.
        let mut groups: Vec<Vec<&str>> = Vec::new();
        for name in names {
            let same = |group: &&mut Vec<&str>| {
                group.iter().any(|one| reaches(&edges, one, name) && reaches(&edges, name, one))
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(name),
                None => groups.push(vec![name]),
            }
        }
        for group in groups {
            let inside = if level.is_empty() { String::new() } else { level.join("::") + "::" };
            circles.push(format!("{inside}{{{}}}", group.join(", ")));
        }
    }
    circles
}

/// Whether edges lead from one to the other.
fn reaches(edges: &Edges, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = vec![from];
    while let Some(name) = open.pop() {
        for next in edges.get(name).into_iter().flatten() {
            if next == to {
                return true;
            }
            if seen.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lint::dependencies, workspace::Workspace};

    #[test]
    fn this_repository_has_no_circle() {
        let workspace = Workspace::find().unwrap();
        let packages = dependencies::packages(&workspace).unwrap();
        let sources: Vec<String> = packages.iter().map(dependencies::Package::sources).collect();
        check(&workspace.root, &sources).unwrap();
    }

    fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
        let mut modules = Modules::default();
        for (path, text) in files {
            modules.add(path, text);
        }
        circles(&modules)
    }

    #[test]
    fn a_circle_of_declarations_and_of_paths_is_found() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a.rs", "use crate::{b::B, d};"),
            ("b.rs", "fn f() { crate::c::g(); }"),
            ("c.rs", "use super::a::{self, A};"),
            ("d.rs", "use std::fmt;"),
        ];
        assert_eq!(circles_of(&files), ["{a, b, c}"]);
    }

    #[test]
    fn circles_deeper_in_the_tree_are_found_and_two_are_two() {
        let files = [
            ("p/mod.rs", ""),
            ("p/a.rs", "use super::b::B;"),
            ("p/b.rs", "use crate::p::a::A;"),
            ("q.rs", "use crate::r::R;"),
            ("r.rs", "use crate::q::Q;"),
        ];
        assert_eq!(circles_of(&files), ["{q, r}", "p::{a, b}"]);
    }

    #[test]
    fn parents_tests_and_comments_make_no_circle() {
        let files = [
            ("a.rs", "use crate::b::B; // crate::c\n"),
            ("b.rs", "#[cfg(test)]\nmod tests { use crate::a::A; fn f() {} }\nconst C: char = '\"';"),
            ("b_tests.rs", "use crate::a::A;"),
            ("p/mod.rs", "use self::c::C; const D: u8 = c::X;"),
            ("p/c.rs", "use super::D; use crate::p::E;"),
        ];
        assert_eq!(circles_of(&files), Vec::<String>::new());
    }
}
