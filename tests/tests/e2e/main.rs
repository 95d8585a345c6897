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
mod isolation;
mod leaks;
mod parity;
mod stage;

use std::process::ExitCode;

use porthole_trials::{CannotRun, Trial};
use stage::Stage;

/// Tells that root, containerd and guests are ours to use.
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
        capture::TESTS,
        hostile::TESTS,
        isolation::TESTS,
        exposition::TESTS,
        parity::TESTS,
        faults::TESTS,
        leaks::TESTS,
        stage::LAST,
    ];
    let trials = all.concat().into_iter().map(|(name, test)| {
        let stage = stage.clone();
        Trial::new(name, move || {
            if !enabled {
                let why = "needs root, containerd and guests: run it with `cargo xtask test`";
                return Err(CannotRun::because(why).into());
            }
            test(&stage).map_err(|error| anyhow::anyhow!("{error:#}\n{}", stage.last_words()))
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
