//! The wrapper is not there: containerd and the delegate see each other as if it were not between them.

mod support;

use std::{
    io::Write,
    path::Path,
    process::{Output, Stdio},
};

use support::{PROGRAM, Setup};

/// Runs the same call once through the wrapper and once on the delegate, and returns both outputs.
fn both(setup: &Setup, bundle: &Path, arguments: &[&str]) -> (Output, Output) {
    let run = |program: &Path| setup.command(program, bundle, arguments).output().expect("run");
    (run(Path::new(PROGRAM)), run(&setup.path("delegate")))
}

fn recorded(setup: &Setup, name: &str) -> Vec<u8> {
    std::fs::read(setup.path("recorded").join(name)).expect(name)
}

#[test]
fn the_delegate_is_called_as_containerd_called_the_wrapper() {
    let setup = Setup::new();
    let bundle = setup.bundle("s1", &[]);
    for arguments in [
        &["-namespace", "n s", "-address", "", "-publish-binary", "/c", "-id", "s1", "start"][..],
        &["-namespace", "n", "-id", "s1", "-bundle", bundle.to_str().expect("path"), "-debug", "delete"],
        &["-info"],
        &["-v"],
        &["something", "-else", "\u{fc}\n"],
        &[],
    ] {
        let mut seen = Vec::new();
        for program in [Path::new(PROGRAM), &setup.path("delegate")] {
            let mut command = setup.command(program, &bundle, arguments);
            let mut child = command.stdin(Stdio::piped()).spawn().expect("run");
            // What newer versions of containerd send: protobuf.
            child.stdin.take().expect("stdin").write_all(b"\x0a\x00\xffbootstrap").expect("sent");
            assert!(child.wait_with_output().expect("output").status.success());
            let names = ["arguments", "environment", "directory", "stdin", "descriptors"];
            seen.push(names.map(|name| String::from_utf8_lossy(&recorded(&setup, name)).into_owned()));
        }
        assert_eq!(seen[0], seen[1], "{arguments:?}");
        assert!(seen[0][1].contains("TTRPC_ADDRESS=/x y/ttrpc\n"), "the test records the environment");
        assert_eq!(recorded(&setup, "stdin"), b"\x0a\x00\xffbootstrap");
    }
}

#[test]
fn output_and_exit_code_are_the_delegates() {
    let setup = Setup::new();
    let bundle = setup.bundle("s1", &[]);
    let large: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for (stdout, stderr, code) in [
        (&b"unix:///nonexistent/s"[..], &b""[..], 0),
        (b"\xff\x00\n\n", b"warning\xfe\n", 1),
        (b"", b"no", 42),
        (&large, &large, 0),
    ] {
        setup.delegate_says(stdout, stderr, code);
        for action in ["start", "delete", "-info"] {
            let (wrapped, alone) = both(&setup, &bundle, &["-namespace", "n", "-id", "s1", action]);
            assert_eq!(wrapped.status.code(), Some(code), "{action}");
            assert!(wrapped.stdout == alone.stdout && wrapped.stdout == stdout, "{action}: stdout");
            assert!(wrapped.stderr == alone.stderr && wrapped.stderr == stderr, "{action}: stderr");
        }
    }
}

#[test]
fn a_delegate_killed_by_a_signal_looks_killed() {
    use std::os::unix::process::ExitStatusExt;
    let setup = Setup::new();
    let bundle = setup.bundle("s1", &[]);
    std::fs::write(setup.path("delegate.hook"), "kill -TERM $$\n").expect("hook");
    for action in ["start", "delete"] {
        let (wrapped, alone) = both(&setup, &bundle, &["-namespace", "n", "-id", "s1", action]);
        assert_eq!(alone.status.signal(), Some(15));
        assert_eq!(wrapped.status.signal(), Some(15), "{action}");
    }
}

#[test]
fn a_delegate_dies_with_a_wrapper_that_containerd_kills() {
    let setup = Setup::new();
    let bundle = setup.bundle("s1", &[]);
    let pid_file = setup.path("pid");
    std::fs::write(
        setup.path("delegate.hook"),
        format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600\n", pid_file.display()),
    )
    .expect("hook");
    let mut child =
        setup.command(PROGRAM, &bundle, &["-namespace", "n", "-id", "s1", "start"]).spawn().expect("run");
    let pid = support::wait("the delegate runs", || std::fs::read_to_string(&pid_file).ok());
    child.kill().expect("killed");
    child.wait().expect("reaped");
    let status = format!("/proc/{}/status", pid.trim());
    support::wait("the delegate is gone", || {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        (status.is_empty() || status.contains("State:\tZ")).then_some(())
    });
}

#[test]
fn output_of_what_the_delegate_leaves_behind_still_arrives() {
    let setup = Setup::new();
    let bundle = setup.bundle("s1", &[]);
    setup.delegate_says(b"first ", b"", 0);
    std::fs::write(setup.path("delegate.hook"), "(while [ -e /proc/$$/fd/1 ]; do :; done; echo last) &\n")
        .expect("hook");
    let (wrapped, alone) = both(&setup, &bundle, &["-namespace", "n", "-id", "s1", "start"]);
    assert_eq!(String::from_utf8_lossy(&alone.stdout), "first last\n");
    assert_eq!(wrapped.stdout, alone.stdout);
}

#[test]
fn whatever_is_wrong_on_our_side_the_call_goes_through_in_silence() {
    let setup = Setup::new();
    setup.delegate_says(b"unix:///nonexistent/s", b"", 0);
    let good = setup.configuration("");
    let blocked =
        good.replace("/log/shim.log", "/delegate/shim.log").replace("/registry", "/delegate/registry");
    for (case, configuration) in [
        ("unknown key", setup.configuration("colour = 1")),
        ("wrong type", setup.configuration("enabled = \"yes\"")),
        ("directories that cannot be made", blocked.replace("/state", "/delegate/state")),
        ("tenant that cannot be a label", format!("{good}\n[tenants.by_namespace]\nacme = \"\"\n")),
        ("switched off", setup.configuration("enabled = false")),
    ] {
        setup.configure(&configuration);
        for bundle in [setup.bundle("s1", &[]), setup.path("sidecar")] {
            for action in ["start", "delete", "-info"] {
                let (wrapped, _) = both(&setup, &bundle, &["-namespace", "n", "-id", "s1", action]);
                assert_eq!(
                    String::from_utf8_lossy(&wrapped.stdout),
                    "unix:///nonexistent/s",
                    "{case} {action}"
                );
                assert!(wrapped.stderr.is_empty() && wrapped.status.success(), "{case} {action}");
            }
        }
        support::wait("companions end", || setup.companion("s1").is_none().then_some(()));
    }
}

#[test]
fn a_configuration_that_is_no_toml_leaves_the_default_delegate() {
    let setup = Setup::new();
    let bundle = setup.bundle("s1", &[]);
    // The program beside the default delegate is a copy: the tests' own directory stays as it is.
    std::fs::copy(PROGRAM, setup.path("wrapper")).expect("copied");
    std::fs::copy(setup.path("delegate"), setup.path("containerd-shim-porthole-microvm-v2")).expect("copied");
    setup.configure("[shim\n");
    setup.delegate_says(b"unix:///nonexistent/s", b"", 0);
    // The log's place is not known either: the default one is used.
    let output =
        setup.command(setup.path("wrapper"), &bundle, &["-id", "s1", "-info"]).output().expect("run");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "unix:///nonexistent/s");
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn without_a_delegate_the_wrapper_fails_in_silence_and_says_why_in_the_log() {
    let setup = Setup::new();
    let bundle = setup.bundle("s1", &[]);
    for (name, reason) in [("no-such-delegate", "neither beside"), ("/nonexistent/d", "No such file")] {
        let configuration = setup.configuration("");
        let own = format!("{}/delegate\"", setup.path("").display().to_string().trim_end_matches('/'));
        setup.configure(&configuration.replace(&own, &format!("{name}\"")));
        for action in ["start", "delete", "-info"] {
            let output = setup
                .command(PROGRAM, &bundle, &["-namespace", "n", "-id", "s1", action])
                .output()
                .expect("run");
            assert_eq!(output.status.code(), Some(127));
            assert!(output.stdout.is_empty() && output.stderr.is_empty());
        }
        assert!(setup.log().contains(reason), "{}", setup.log());
    }
    setup.configure(&setup.configuration("").replace(&setup.path("delegate").display().to_string(), PROGRAM));
    let output = setup.command(PROGRAM, &bundle, &["-info"]).output().expect("run");
    assert_eq!(output.status.code(), Some(127), "itself as delegate is refused, not started for ever");
}

#[test]
fn a_workload_that_opts_out_has_no_companion_only_where_that_is_allowed() {
    let setup = Setup::new();
    setup.delegate_says(b"unix:///nonexistent/s", b"", 0);
    setup.bundle("s1", &[("io.porthole.enabled", "false")]);
    setup.configure(&setup.configuration("allow_opt_out = true"));
    assert!(setup.start("s1").status.success());
    assert!(setup.log().contains("opted out") && setup.companion("s1").is_none(), "{}", setup.log());
    setup.configure(&setup.configuration(""));
    assert!(setup.start("s1").status.success());
    support::wait("a companion has been there", || setup.log().contains("shim_unreachable").then_some(()));
}
