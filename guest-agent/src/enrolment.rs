//! The secret of an agent that is built into the guest's image.
//!
//! Such an agent starts with the guest, before there is a secret for it. The companion hands it over on its first
//! connection (`Enroll`). It is kept in a file in memory that the supervisor made and that each agent it starts inherits, so
//! that an agent which replaces another can prove the same. The kernel seals the file with the secret in it: it is
//! written once in a guest's life. No other process has the file, and this process cannot be traced
//! by others.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::FileExt,
    },
    sync::OnceLock,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl::set_dumpable,
    },
};
use porthole_registry::{AgentSecret, SECRET_BYTES};

use crate::notice::Notices;

/// Makes the file, with nothing in it.
pub fn create_file() -> io::Result<OwnedFd> {
    Ok(memfd_create(c"porthole-secret", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?)
}

/// What an agent can prove that it holds.
#[derive(Debug)]
pub enum Credential {
    /// Nothing: it is in no sandbox.
    None,
    /// What it was started with.
    Given(AgentSecret),
    /// What it gets by `Enroll`.
    Enrolled(Enrolment),
}

/// Why a secret is not taken.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// This agent gets its secret in another way.
    #[error("this agent is not enrolled by a call")]
    NotWanted,
    /// There is one.
    #[error("enrolled already")]
    Already,
    /// It has another length.
    #[error("a secret has {SECRET_BYTES} bytes")]
    Length,
    /// It could not be kept.
    #[error("keeping the secret: {0}")]
    File(#[from] io::Error),
}

/// The agent does not have its secret yet.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not enrolled yet")]
pub struct NotEnrolled;

impl Credential {
    /// The secret; none outside a sandbox.
    pub fn secret(&self) -> Result<Option<&AgentSecret>, NotEnrolled> {
        match self {
            Self::None => Ok(None),
            Self::Given(secret) => Ok(Some(secret)),
            Self::Enrolled(enrolment) => enrolment.secret.get().map(Some).ok_or(NotEnrolled),
        }
    }

    /// Takes the secret.
    pub fn enrol(&self, secret: &[u8]) -> Result<(), EnrolError> {
        match self {
            Self::None | Self::Given(_) => Err(EnrolError::NotWanted),
            Self::Enrolled(enrolment) => enrolment.take(secret),
        }
    }
}

/// The file, what is in it, and to whom it is reported.
#[derive(Debug)]
pub struct Enrolment {
    file: File,
    notices: Notices,
    secret: OnceLock<AgentSecret>,
}

impl Enrolment {
    /// Takes over the file that the supervisor made.
    ///
    /// # Safety
    ///
    /// The descriptor must be open, and nothing else may own it.
    pub unsafe fn inherit(descriptor: RawFd, notices: Notices) -> io::Result<Self> {
        // SAFETY: the caller guarantees that the descriptor is open and has no other owner.
        Self::of(unsafe { OwnedFd::from_raw_fd(descriptor) }, notices)
    }

    fn of(file: OwnedFd, notices: Notices) -> io::Result<Self> {
        fcntl(file.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        let file = File::from(file);
        let secret = OnceLock::new();
        let mut bytes = [0; SECRET_BYTES];
        if file.metadata()?.len() > 0 {
            file.read_exact_at(&mut bytes, 0)?;
            // An earlier agent may have died before it had sealed the file.
            seal(&file)?;
            secret.get_or_init(|| AgentSecret::from(bytes));
        }
        // /proc/PID is root's from now on: not even a process of the same user may trace this one or open its files there.
        set_dumpable(false)?;
        Ok(Self { file, notices, secret })
    }

    fn take(&self, secret: &[u8]) -> Result<(), EnrolError> {
        let secret: [u8; SECRET_BYTES] = secret.try_into().map_err(|_| EnrolError::Length)?;
        if self.secret.get().is_some() {
            return Err(EnrolError::Already);
        }
        self.file.write_all_at(&secret, 0)?;
        seal(&self.file)?;
        self.secret.set(AgentSecret::from(secret)).map_err(|_| EnrolError::Already)?;
        self.notices.enrolled();
        Ok(())
    }
}

/// Forbids every change of the file from now on.
fn seal(file: &File) -> io::Result<()> {
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    match fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals)) {
        // Sealed already.
        Ok(_) | Err(nix::errno::Errno::EPERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::IntoRawFd};

    use super::*;

    fn enrolment(file: &OwnedFd, notices: Notices) -> Credential {
        Credential::Enrolled(Enrolment::of(file.try_clone().expect("another"), notices).expect("opened"))
    }

    #[test]
    fn a_secret_is_taken_once_and_survives_the_agent_and_only_the_taking_is_reported() {
        let file = create_file().expect("file");
        let (mut steps, write) = std::io::pipe().expect("pipe");
        // SAFETY: the descriptor was taken out of its owner.
        let notices = unsafe { Notices::inherit(Some(OwnedFd::from(write).into_raw_fd())) };
        let first = enrolment(&file, notices.clone());
        assert!(first.secret().is_err(), "not before it was handed over");
        assert!(matches!(first.enrol(&[1; 31]), Err(EnrolError::Length)));
        first.enrol(&[1; 32]).expect("enrolled");
        assert_eq!(first.secret().expect("there").map(AgentSecret::bytes), Some(&[1; 32]));
        assert!(matches!(first.enrol(&[1; 32]), Err(EnrolError::Already)));
        drop(first);
        let second = enrolment(&file, notices);
        assert_eq!(second.secret().expect("there").map(AgentSecret::bytes), Some(&[1; 32]));
        assert!(matches!(second.enrol(&[2; 32]), Err(EnrolError::Already)));
        drop(second);
        let mut reported = String::new();
        steps.read_to_string(&mut reported).expect("read");
        assert_eq!(reported, "e");
        File::from(file).write_all_at(&[2; 32], 0).expect_err("sealed");
    }

    #[test]
    fn an_agent_that_has_or_needs_no_secret_is_not_enrolled() {
        let given = Credential::Given(AgentSecret::from([3; 32]));
        for credential in [Credential::None, given] {
            assert!(matches!(credential.enrol(&[1; 32]), Err(EnrolError::NotWanted)));
            assert!(credential.secret().is_ok());
        }
    }
}
