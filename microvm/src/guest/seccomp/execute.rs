//! The end of a container process' making: its filter, then its program.

use std::ffi::CString;

use libcontainer::{
    oci_spec::runtime::Spec,
    workload::{Executor, ExecutorError, ExecutorValidationError, default::DefaultExecutor},
};
use nix::errno::Errno;

use super::Filter;

/// libcontainer's executor, with a filter.
#[derive(Clone)]
pub struct Confined {
    filter: Option<Filter>,
}

impl Confined {
    /// Executes below this filter, if there is one.
    pub fn by(filter: Option<Filter>) -> Self {
        Self { filter }
    }
}

impl Executor for Confined {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let Some(filter) = &self.filter else { return DefaultExecutor {}.exec(spec) };
        let arguments = spec.process().as_ref().and_then(|process| process.args().as_ref());
        let arguments = arguments.ok_or(ExecutorError::InvalidArg)?;
        let arguments: Result<Vec<CString>, _> =
            arguments.iter().map(|argument| CString::new(argument.as_bytes())).collect();
        let arguments = arguments.map_err(|_| ExecutorError::InvalidArg)?;
        let program = arguments.first().ok_or(ExecutorError::InvalidArg)?;
        // From here on the profile decides what this process may do.
        let failed = |errno: Errno| ExecutorError::Execution(Box::new(errno));
        install(filter).map_err(failed)?;
        let Err(errno) = nix::unistd::execvp(program, &arguments);
        Err(failed(errno))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        DefaultExecutor {}.validate(spec)
    }
}

/// Installs a filter for the calling thread and what it executes. seccompiler's own function sets `no_new_privs`, which
/// is the specification's to decide.
pub fn install(filter: &Filter) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.program.len()).map_err(|_| Errno::E2BIG)?,
        filter: filter.program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the program lives across the call and has so many instructions, whose layout is the kernel's.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, filter.flags, &raw const program)
    };
    match Errno::result(result)? {
        0 => Ok(()),
        // With TSYNC the number of a thread that could not follow.
        _ => Err(Errno::ESRCH),
    }
}
