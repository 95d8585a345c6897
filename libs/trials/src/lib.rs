//! Test programs whose tests can find out at run time that they cannot run.
//!
//! The standard test harness has no such outcome: a test that finds no server and returns counts as passed. A [`Trial`]
//! returns [`CannotRun`] instead, through `?`, and is reported as ignored with the reason. [`needs`] has the usual
//! conditions, [`reasons`] the reasons that are accepted where everything that can be set up has been set up,
//! [`report`] what `cargo xtask test` reads to hold the one against the other.
//!
//! A test program with trials has `harness = false` in its `Cargo.toml`, lists its tests with [`trials!`](crate::trials)
//! (a test that is in no list is dead code, which the compiler reports) and ends with [`run`].
//!
//! Trials of a program run one after another: they share a kernel, a ring buffer, emulated guests.

pub mod needs;
pub mod ports;
pub mod reasons;
pub mod report;

use std::{borrow::Cow, process::ExitCode, time::Instant};

use libtest_mimic::{Arguments, Completion, Failed};

/// How a trial ends: an error that is or wraps [`CannotRun`] makes it ignored, any other error makes it fail.
pub type Outcome = anyhow::Result<()>;

/// Why a trial cannot run on this machine.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotRun(Cow<'static, str>);

impl CannotRun {
    /// With a reason, as it is printed behind `ignored`.
    pub fn because(reason: impl Into<Cow<'static, str>>) -> Self {
        Self(reason.into())
    }
}

/// A test with its name.
pub struct Trial {
    name: String,
    run: Box<dyn FnOnce() -> Outcome + Send>,
}

impl Trial {
    /// A test; `name` is a path as the standard harness prints it, `module::test`.
    pub fn new(name: impl Into<String>, run: impl FnOnce() -> Outcome + Send + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

/// The trials of functions without parameters, named by their module in the test program and their own name.
#[macro_export]
macro_rules! trials {
    ($($test:ident),+ $(,)?) => {
        vec![$($crate::Trial::new(
            concat!(module_path!(), "::", stringify!($test)).split_once("::").expect("a module path and a name").1,
            $test,
        )),+]
    };
}

/// Runs the trials that the program's arguments name, in order, as the standard harness would.
pub fn run(trials: impl IntoIterator<Item = Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = trials.into_iter().map(harnessed).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A trial as the harness takes it: timed, its outcome reported.
fn harnessed(trial: Trial) -> libtest_mimic::Trial {
    let Trial { name, run } = trial;
    libtest_mimic::Trial::ignorable_test(name.clone(), move || {
        let began = Instant::now();
        let outcome = run();
        let reason = outcome.as_ref().err().and_then(|error| error.downcast_ref::<CannotRun>());
        let entry = report::Entry {
            name,
            seconds: began.elapsed().as_secs_f64(),
            ignored: reason.map(ToString::to_string),
        };
        report::append(&entry).map_err(|error| Failed::from(format!("{error:#}")))?;
        match (entry.ignored, outcome) {
            (Some(reason), _) => Ok(Completion::ignored_with(reason)),
            (None, Ok(())) => Ok(Completion::Completed),
            (None, Err(error)) => Err(format!("{error:#}").into()),
        }
    })
}
