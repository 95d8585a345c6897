//! No circles between the modules of a crate.
//!
//! The modules are read from the files, and what they use from the paths that begin with `crate`, `super` or `self`, in
//! `use` declarations and elsewhere. At every level of the module tree the siblings are nodes; an edge leads from the
//! one below which something is used to the one below which it is declared. What a module and the modules inside it use
//! of each other is no edge, and neither is what tests use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail};

use crate::lint::source;

/// Circles that are known. The list may only shrink: one that is gone has to leave it.
const KNOWN: &[&str] = &[];

/// A module's path below its crate's root.
type Module = Vec<String>;

/// One crate's modules, with the text of each.
#[derive(Debug, Default)]
struct Modules(BTreeMap<Module, String>);

/// Fails on circles in the crates whose sources are in these folders, relative to the top.
pub fn check(root: &Path, sources: &[String]) -> Result<()> {
    let mut found = Vec::new();
    for folder in sources {
        let modules = Modules::read(&root.join(folder))?;
        found.extend(modules.circles().into_iter().map(|circle| format!("{folder}: {circle}")));
    }
    judge(&found, KNOWN)
}

/// Holds what was found against what is known.
fn judge(found: &[String], known: &[&str]) -> Result<()> {
    let new: Vec<&str> = found.iter().map(String::as_str).filter(|circle| !known.contains(circle)).collect();
    let gone: Vec<&str> =
        known.iter().copied().filter(|circle| !found.iter().any(|one| one == circle)).collect();
    if !new.is_empty() {
        bail!("modules use each other in a circle:\n  {}", new.join("\n  "));
    }
    if !gone.is_empty() {
        bail!("these circles are gone, take them off the list of known ones:\n  {}", gone.join("\n  "));
    }
    Ok(())
}

impl Modules {
    fn read(folder: &Path) -> Result<Self> {
        let mut modules = Self::default();
        for path in source::files(folder)? {
            let name = path.strip_prefix(folder).context("a path below its folder")?;
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            modules.add(&name.to_string_lossy(), &text);
        }
        Ok(modules)
    }

    /// Adds a file by its path below the crate's sources; those of tests and of other programs are left out.
    fn add(&mut self, path: &str, text: &str) {
        let Some(path) = path.strip_suffix(".rs") else { return };
        let mut module: Module = path.split('/').map(str::to_owned).collect();
        let is_test = |name: &String| name == "tests" || name.ends_with("_tests");
        if module.iter().any(is_test) || module.first().is_some_and(|name| name == "bin") {
            return;
        }
        if module.last().is_some_and(|name| name == "mod") || matches!(path, "lib" | "main") {
            module.pop();
        }
        self.0.entry(module).or_default().push_str(&source::without_tests(text));
    }

    /// The circles, each as the names of its modules behind the module that they are in.
    fn circles(&self) -> Vec<String> {
        let mut levels = BTreeMap::<Module, BTreeMap<String, BTreeSet<String>>>::new();
        for (module, text) in &self.0 {
            for path in source::paths(text) {
                let Some(target) = self.resolve(module, &path) else { continue };
                let common = module.iter().zip(&target).take_while(|(one, other)| one == other).count();
                if let (Some(from), Some(to)) = (module.get(common), target.get(common)) {
                    let level = levels.entry(module[..common].to_vec()).or_default();
                    level.entry(from.clone()).or_default().insert(to.clone());
                }
            }
        }
        let mut circles = Vec::new();
        for (level, edges) in levels {
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

    /// The module in which a path's item is declared: the longest module that the path begins with.
    fn resolve(&self, from: &Module, path: &[String]) -> Option<Module> {
        let mut target: Module = Vec::new();
        let mut rest = path.iter();
        match rest.next()?.as_str() {
            "crate" => {}
            "self" => target.clone_from(from),
            "super" => target = from.get(..from.len().checked_sub(1)?)?.to_vec(),
            _ => return None,
        }
        for name in rest {
            if name == "super" {
                target.pop()?;
                continue;
            }
            target.push(name.clone());
            if !self.0.contains_key(&target) {
                target.pop();
                break;
            }
        }
        Some(target)
    }
}

/// Whether edges lead from one to the other.
fn reaches(edges: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
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
    fn this_repository_has_no_circle_that_is_not_known() {
        let workspace = Workspace::find().unwrap();
        let packages = dependencies::packages(&workspace).unwrap();
        let sources: Vec<String> = packages.iter().map(dependencies::Package::sources).collect();
        check(&workspace.root, &sources).unwrap();
    }

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let mut modules = Modules::default();
        for (path, text) in files {
            modules.add(path, text);
        }
        modules.circles()
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
        assert_eq!(circles(&files), ["{a, b, c}"]);
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
        assert_eq!(circles(&files), ["{q, r}", "p::{a, b}"]);
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
        assert_eq!(circles(&files), Vec::<String>::new());
    }

    #[test]
    fn only_known_circles_pass_and_those_that_are_gone_do_not() {
        let found = ["l7/src: {a, b}".to_owned()];
        assert!(judge(&found, &["l7/src: {a, b}"]).is_ok());
        assert!(judge(&found, &[]).unwrap_err().to_string().contains("in a circle"));
        assert!(judge(&[], &["l7/src: {a, b}"]).unwrap_err().to_string().contains("are gone"));
    }
}
