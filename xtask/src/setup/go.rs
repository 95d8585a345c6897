//! Programs in Go for tests, which no distribution has, from their modules: a Collector of OpenTelemetry and Jaeger (`xtask/collector`);
//! oauth2-proxy and a mock of an `OpenID` Connect provider (`xtask/oidc`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::packages::{self, Need};
use crate::{
    report,
    workspace::{Workspace, output, run},
};

/// A Go module, and the programs that it gives.
pub struct GoModule {
    folder: &'static str,
    /// For people.
    name: &'static str,
    /// Each program, and the package that it is.
    programs: &'static [(&'static str, &'static str)],
}

/// A Collector and a backend of traces.
pub const COLLECTOR: GoModule = GoModule {
    folder: "xtask/collector",
    name: "the Collector and Jaeger",
    programs: &[("otelcol", "."), ("jaeger-all-in-one", "github.com/jaegertracing/jaeger/cmd/all-in-one")],
};

/// A log-in by `OpenID` Connect.
pub const OIDC: GoModule = GoModule {
    folder: "xtask/oidc",
    name: "oauth2-proxy and the mock of a provider",
    programs: &[("mock-oidc", "."), ("oauth2-proxy", "github.com/oauth2-proxy/oauth2-proxy/v7")],
};

/// The files that determine what is built.
const SOURCES: [&str; 3] = ["main.go", "go.mod", "go.sum"];

/// The first release of Go that gets the one that a module needs.
const GO_MIN: (u32, u32) = (1, 21);

/// The folder with the programs, which are built once; none where Go is too old, or its modules are out of reach.
pub fn programs(workspace: &Workspace, of: &GoModule) -> Result<Option<PathBuf>> {
    let tools = workspace.dist().tools;
    let module = workspace.root.join(of.folder);
    let wanted = sources(&module)?;
    // What was built, beside the programs.
    let stamp = tools.join(of.programs.first().map_or("", |(name, _)| name)).with_extension("sources");
    let is_there = of.programs.iter().all(|(name, _)| tools.join(name).exists());
    if is_there && fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(Some(tools));
    }
    packages::install(Need::GO)?;
    let version = output(Command::new("go").arg("version"))?;
    if release(&version).is_none_or(|release| release < GO_MIN) {
        report::note(&format!("{} is too old to build {}", version.trim(), of.name));
        return Ok(None);
    }
    fs::create_dir_all(&tools).with_context(|| format!("make {}", tools.display()))?;
    // Modules and compiled packages: some gigabytes, which nothing else needs.
    let work = workspace.target.join("tools-build/go");
    let go = || {
        let mut go = Command::new("go");
        go.current_dir(&module)
            .envs([("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "auto"), ("GOWORK", "off")])
            // So that what is kept can be removed, whatever else is set.
            .env("GOFLAGS", "-mod=readonly -modcacherw")
            .env("GOPATH", &work)
            .env("GOMODCACHE", work.join("modules"))
            .env("GOCACHE", work.join("packages"));
        go
    };
    let fetched = report::step(&format!("get the modules of {}", of.name), || {
        output(go().args(["list", "-deps", "-f", ""]).args(of.programs.iter().map(|(_, package)| package)))
    });
    if let Err(error) = fetched {
        report::note(&format!("the modules of {} are out of reach: {error:#}", of.name));
        return Ok(None);
    }
    for (name, package) in of.programs {
        report::step(&format!("build {name} (once)"), || {
            let mut build = go();
            build
                // Without tables for debuggers: half the size, and linked sooner.
                .args(["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
                .arg(tools.join(name))
                .arg(package);
            run(&mut build)
        })?;
    }
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))?;
    Ok(Some(tools))
}

/// The text of all sources.
fn sources(module: &Path) -> Result<String> {
    let read = |name: &&str| {
        let path = module.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    SOURCES.iter().map(read).collect()
}

/// Of `go version go1.26.8 linux/amd64`: 1.26.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split_whitespace().nth(2)?.strip_prefix("go")?.split('.');
    let major = numbers.next()?.parse().ok()?;
    // A release candidate is `1.27rc1`.
    let minor = numbers.next()?.split(|digit: char| !digit.is_ascii_digit()).next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_go_are_read() {
        for (version, expected) in [
            ("go version go1.26.8 linux/amd64\n", Some((1, 26))),
            ("go version go1.27rc1 linux/amd64", Some((1, 27))),
            ("go version devel +abc", None),
            ("", None),
        ] {
            assert_eq!(release(version), expected, "{version}");
        }
    }
}
