//! containerd's command line (containerd: `core/runtime/v2/shim/shim.go`, `parseFlags`).
//!
//! It is only read here; the delegate gets the original. What is missing is taken from the bundle's path, which is
//! `…/<namespace>/<id>` in every containerd.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use porthole_registry::{Namespace, SandboxKey};

/// What containerd calls the shim for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make or find the shim of a container and print its address.
    Start,
    /// Clean up after a container whose shim is gone or going.
    Delete,
    /// `-info`, `-v`, or something that this build does not know.
    Other,
}

/// containerd's call, as far as the wrapper is concerned with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The requested action.
    pub action: Action,
    /// The container, as if it were a sandbox; none when containerd names no container or no namespace.
    pub container: Option<SandboxKey>,
    /// The container's bundle: `-bundle`, else the working directory.
    pub bundle: PathBuf,
}

/// Flags that take no value.
const SWITCHES: &[&[u8]] = &[b"debug", b"v", b"version", b"info"];

impl Invocation {
    /// Reads the arguments after the program's name; `directory` is the working directory.
    pub fn parse(arguments: &[OsString], directory: &Path) -> Self {
        let (mut id, mut namespace, mut bundle) = (None, None, None);
        let (mut action, mut asks_about_itself) = (Action::Other, false);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some((name, inline)) = flag(argument) else {
                action = match argument.as_bytes() {
                    b"start" => Action::Start,
                    b"delete" => Action::Delete,
                    _ => Action::Other,
                };
                break;
            };
            if SWITCHES.contains(&name) {
                asks_about_itself |= name != b"debug";
                continue;
            }
            let value = inline.or_else(|| rest.next().map(OsString::as_os_str));
            match name {
                b"id" => id = value,
                b"namespace" => namespace = value,
                b"bundle" => bundle = value,
                _ => {}
            }
        }
        let bundle =
            bundle.filter(|path| !path.is_empty()).map_or_else(|| directory.to_owned(), PathBuf::from);
        let text = |value: Option<&OsStr>| {
            value.and_then(OsStr::to_str).filter(|v| !v.is_empty()).map(str::to_owned)
        };
        let id = text(id).or_else(|| text(bundle.file_name()));
        let namespace = text(namespace).or_else(|| text(bundle.parent().and_then(Path::file_name)));
        Self {
            action: if asks_about_itself { Action::Other } else { action },
            container: key(namespace.as_deref(), id.as_deref()),
            bundle,
        }
    }
}

fn key(namespace: Option<&str>, id: Option<&str>) -> Option<SandboxKey> {
    let namespace: Namespace = namespace?.parse().ok()?;
    Some(SandboxKey { namespace, id: id?.parse().ok()? })
}

/// Splits `-name`, `--name`, `-name=value`; `None` for a word that is no flag.
fn flag(argument: &OsStr) -> Option<(&[u8], Option<&OsStr>)> {
    let bytes = argument.as_bytes();
    let name =
        bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-")).filter(|name| !name.is_empty())?;
    Some(match name.iter().position(|&b| b == b'=') {
        Some(at) => (&name[..at], Some(OsStr::from_bytes(&name[at + 1..]))),
        None => (name, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Invocation {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Invocation::parse(&arguments, Path::new("/run/c/io.containerd.runtime.v2.task/acme/shop-1"))
    }

    #[test]
    fn the_line_of_containerd_1_6_is_understood() {
        let call =
            parse("-namespace n -address /run/c.sock -publish-binary /usr/bin/containerd -id a -debug start");
        assert_eq!(call.action, Action::Start);
        assert_eq!(call.container.expect("key").to_string(), "n@a");
        let call = parse("-namespace n -address /run/c.sock -id a -bundle /b/a delete");
        assert_eq!((call.action, call.bundle), (Action::Delete, PathBuf::from("/b/a")));
    }

    #[test]
    fn what_is_missing_comes_from_the_bundle() {
        let call = parse("--debug start");
        assert_eq!(call.action, Action::Start);
        assert_eq!(call.container.expect("key").to_string(), "acme@shop-1");
    }

    #[test]
    fn version_and_info_are_no_start() {
        assert_eq!(parse("-info").action, Action::Other);
        assert_eq!(parse("-v start").action, Action::Other);
        assert_eq!(parse("-id=a -namespace=b").action, Action::Other);
    }

    #[test]
    fn an_id_that_could_leave_a_directory_is_no_id() {
        assert_eq!(parse("-id ../x start").container, None);
        assert_eq!(parse("-namespace ../x -id a start").container, None);
    }
}
