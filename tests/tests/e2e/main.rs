//! The end-to-end tests: real containerd, real guests, real Prometheus, nothing mocked.
//!
//! Tests are sorted by the question that they answer, a file each. They run one after another, because emulated
//! guests leave no core for a second, and share one environment; guests are shared where isolation is not what is
//! set. The last test takes everything down and looks whether anything is left.

mod abrupt;
mod capture;
mod clock;
mod counts;
mod ends;
mod exposition;
mod faults;
mod hostile;
mod isolation;
mod leaks;
mod pages;
mod parity;
mod pods;
mod privacy;
mod seccomp;
mod stage;
mod starts;
mod traces;
mod users;

use std::process::ExitCode;

use porthole_trials::{CannotRun, Trial};
use stage::Stage;

/// Set where root, containerd and guests may be used.
const E2E_ENV: &str = "PORTHOLE_E2E";

/// A test of this program: its name and what it does.
type Test = (&'static str, fn(&Stage) -> anyhow::Result<()>);

fn main() -> ExitCode {
    let enabled = std::env::var_os(E2E_ENV).is_some();
    if enabled && let Err(error) = porthole_testbed::interrupt::install() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let stage = Stage::new();
    let all = [
        counts::TESTS,
        pages::TESTS,
        starts::TESTS,
        clock::TESTS,
        capture::TESTS,
        hostile::TESTS,
        isolation::TESTS,
        seccomp::TESTS,
        exposition::TESTS,
        parity::TESTS,
        pods::TESTS,
        privacy::TESTS,
        users::TESTS,
        faults::TESTS,
        ends::TESTS,
        leaks::TESTS,
        abrupt::TESTS,
        stage::LAST,
    ];
    let trials = all.concat().into_iter().map(|(name, test)| {
        let stage = stage.clone();
        Trial::new(name, move || {
            if !enabled {
                let why = "needs root, containerd and guests: run it with `cargo xtask test`";
                return Err(CannotRun::because(why).into());
            }
            test(&stage).map_err(|error| {
                if error.is::<CannotRun>() {
                    error
                } else {
                    anyhow::anyhow!("{error:#}\n{}", stage.last_words())
                }
            })
        })
    });
    let code = porthole_trials::run(trials);
    match stage.take_down() {
        Ok(()) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
