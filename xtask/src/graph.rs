//! `cargo xtask graph`: which crate uses which, and which module of a crate uses which, as a drawing for Graphviz.
//!
//! The edges are those that `lint` checks: of crates, the dependencies that cargo knows; of modules, the paths in their
//! sources.

use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode};

use anyhow::{Result, ensure};

use crate::{
    lint::{
        dependencies::{self, Package},
        modules::{Edges, Modules},
    },
    workspace::Workspace,
};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  cargo xtask graph | dot -Tsvg > crates.svg
  cargo xtask graph libs/l7 guest-agent | dot -Tsvg > modules.svg";

/// Options of `cargo xtask graph`.
#[derive(clap::Args)]
pub struct Options {
    /// Folders of crates whose modules are drawn; without one, the crates are
    folders: Vec<String>,
}

/// Prints the drawing.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let packages = dependencies::packages(workspace)?;
    if options.folders.is_empty() {
        let edges = packages.iter().map(|package| (package.folder.clone(), package.uses.clone())).collect();
        print!("{}", drawing(&[cluster("", &edges, &[])]));
        return Ok(ExitCode::SUCCESS);
    }
    let mut clusters = Vec::new();
    for folder in &options.folders {
        let folder = folder.trim_end_matches('/');
        let package = packages.iter().find(|package| package.folder == folder);
        ensure!(package.is_some(), "{folder} is no crate; there are {}", names(&packages));
        let sources = package.map(Package::sources).unwrap_or_default();
        let modules = Modules::read(&workspace.root.join(sources))?;
        let edges = modules.levels().remove(&Vec::new()).unwrap_or_default();
        clusters.push(cluster(folder, &edges, &modules.top().into_iter().collect::<Vec<_>>()));
    }
    print!("{}", drawing(&clusters));
    Ok(ExitCode::SUCCESS)
}

fn names(packages: &[Package]) -> String {
    packages.iter().map(|package| package.folder.as_str()).collect::<Vec<_>>().join(", ")
}

/// The statements of one crate's modules, or of the crates where it has no name.
fn cluster(name: &str, edges: &Edges, alone: &[&str]) -> String {
    let node = |of: &str| if name.is_empty() { of.to_owned() } else { format!("{name}::{of}") };
    let mut labels = BTreeMap::new();
    for of in alone.iter().copied().chain(edges.keys().map(String::as_str)) {
        labels.insert(node(of), of.to_owned());
    }
    let mut out = String::new();
    for (node, label) in labels {
        let _ = writeln!(out, "  \"{node}\" [label=\"{label}\"]");
    }
    for (from, to) in edges.iter().flat_map(|(from, targets)| targets.iter().map(move |to| (from, to))) {
        let _ = writeln!(out, "  \"{}\" -> \"{}\"", node(from), node(to));
    }
    if name.is_empty() {
        out
    } else {
        format!("  subgraph \"cluster_{name}\" {{ label=\"{name}\"\n{out}  }}\n")
    }
}

fn drawing(clusters: &[String]) -> String {
    format!("digraph porthole {{\n  node [shape=box]\n{}}}\n", clusters.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_nodes_and_uses_are_edges() {
        let mut modules = Modules::default();
        modules.add("lib.rs", "mod a; mod b; mod c;");
        modules.add("a.rs", "use crate::b::B;");
        modules.add("b/mod.rs", "");
        modules.add("b/deep.rs", "use super::Other;");
        modules.add("c.rs", "");
        let edges = modules.levels().remove(&Vec::new()).unwrap();
        let drawn = drawing(&[cluster("libs/x", &edges, &["a", "b", "c"])]);
        assert_eq!(
            drawn,
            "digraph porthole {\n  node [shape=box]\n  subgraph \"cluster_libs/x\" { label=\"libs/x\"\n  \
             \"libs/x::a\" [label=\"a\"]\n  \"libs/x::b\" [label=\"b\"]\n  \"libs/x::c\" [label=\"c\"]\n  \
             \"libs/x::a\" -> \"libs/x::b\"\n  }\n}\n"
        );
    }
}
