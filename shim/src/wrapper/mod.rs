//! The process that containerd starts: it passes the call to the delegate and, after a `start` that made a new
//! sandbox, starts a companion.
//!
//! - [`start`] runs the delegate and relays its output;
//! - [`delete`] lets a companion finish, then becomes the delegate;
//! - [`launch`] detaches a companion.
//!
//! Everything else becomes the delegate at once.

mod delete;
mod guard;
mod launch;
mod start;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use guard::{NO_DELEGATE, guarded};

use crate::{
    delegate,
    invocation::{Action, Invocation},
    log,
    settings::Settings,
};

/// Runs one call of containerd; `arguments` are those after the program's name.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let settings = guarded(Settings::load).unwrap_or_default();
    log::init(&settings.shim.log);
    let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let call = Invocation::parse(arguments, &directory);
    let delegate = match delegate::find(&settings.shim.delegate) {
        Ok(delegate) => delegate,
        Err(error) => {
            tracing::error!(?call, %error, "the call cannot be handed on");
            return ExitCode::from(NO_DELEGATE);
        }
    };
    match call.action {
        Action::Start => return start::run(&delegate, arguments, &call, &settings),
        Action::Delete => {
            guarded(|| delete::wait_for_companion(&call, &settings));
        }
        Action::Other => {}
    }
    let error = delegate::exec(&delegate, arguments);
    tracing::error!(delegate = %delegate.display(), %error, "cannot become the delegate");
    ExitCode::from(NO_DELEGATE)
}
