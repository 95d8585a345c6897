//! The end-to-end tests: real containerd, real guests, real Prometheus, nothing mocked.
//!
//! Tests are sorted by the question that they answer, a file each. They run one after another, because emulated
//! guests leave no core for a second, and share one environment; guests are shared where isolation is not what is
//! asked. The last test takes everything down and looks whether anything is left.

mod capture;
mod counts;
mod exposition;
mod faults;
mod hostile;
mod leaks;
mod parity;
mod stage;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use stage::Stage;

/// Tells that root, containerd and guests are ours to use.
const E2E_ENV: &str = "PORTHOLE_E2E";

/// A test of this program: its name and what it does.
type Test = (&'static str, fn(&Stage) -> anyhow::Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let enabled = std::env::var_os(E2E_ENV).is_some();
    if enabled && let Err(error) = porthole_testbed::interrupt::install() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let stage = Stage::new();
    let all = [
        counts::TESTS,
        capture::TESTS,
        hostile::TESTS,
        exposition::TESTS,
        parity::TESTS,
        faults::TESTS,
        leaks::TESTS,
        stage::LAST,
    ];
    let trials = all.concat().into_iter().map(|(name, test)| {
        let stage = stage.clone();
        Trial::ignorable_test(name, move || {
            if !enabled {
                let why = "needs root, containerd and guests: run it with `cargo xtask test`";
                return Ok(Completion::ignored_with(why));
            }
            test(&stage).map(|()| Completion::Completed).map_err(|error| {
                let log = stage.last_words();
                format!("{error:#}\n{log}").into()
            })
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let taken_down = stage.take_down();
    if let Err(error) = &taken_down {
        eprintln!("{error:#}");
    }
    if taken_down.is_err() { ExitCode::FAILURE } else { conclusion.exit_code() }
}
