//! The modules of a crate, and which of them use which.
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

use anyhow::{Context, Result};

use crate::lint::source;

/// A module's path below its crate's root.
pub type Module = Vec<String>;

/// Which of the modules at one level of the tree uses which.
pub type Edges = BTreeMap<String, BTreeSet<String>>;

/// One crate's modules, with the text of each.
#[derive(Debug, Default)]
pub struct Modules(BTreeMap<Module, String>);

impl Modules {
    /// Those of the crate whose sources are in this folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut modules = Self::default();
        for path in source::files(folder)? {
            let name = path.strip_prefix(folder).context("a path below its folder")?;
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            modules.add(&name.to_string_lossy(), &text);
        }
        Ok(modules)
    }

    /// Adds a file by its path below the crate's sources; those of tests and of other programs are left out.
    pub fn add(&mut self, path: &str, text: &str) {
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

    /// The edges at each level, by the module that the level is in.
    pub fn levels(&self) -> BTreeMap<Module, Edges> {
        let mut levels = BTreeMap::<Module, Edges>::new();
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
        levels
    }

    /// The modules at the top of the crate.
    pub fn top(&self) -> BTreeSet<&str> {
        self.0.keys().filter_map(|module| module.first()).map(String::as_str).collect()
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
