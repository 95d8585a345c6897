//! Seccomp profiles of containers.
//!
//! [`profile`] reads the specification's `linux.seccomp`, [`compile`] makes a filter of it with the numbers of [`numbers`],
//! and [`execute`] installs it as the last step before a container's program is executed, in its first process and in
//! further ones. The meaning is that of runc with libseccomp, for which profiles are written: names that an architecture
//! does not have are skipped there, and calls from an architecture that the profile does not name end the thread.
//!
//! Without `noNewPrivileges` the kernel installs a filter for those only who have `CAP_SYS_ADMIN`, at a time when the
//! process has the container's capabilities already. [`prepare`] adds that one to the permitted and effective sets. It is
//! in no set that execve(2) hands on, so that the container's program does not have it.

use serde_json::{Value, json};

pub mod compile;
pub mod execute;
pub mod numbers;
pub mod profile;

pub use compile::Filter;

/// The capability by which a filter may be installed.
const SYS_ADMIN: &str = "CAP_SYS_ADMIN";

/// A profile that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// It is no profile, or has a word that is not known.
    #[error("seccomp profile: {0}")]
    Invalid(#[from] serde_json::Error),
    /// Its calls would have to be answered by a program on the host.
    #[error(
        "seccomp profile: SCMP_ACT_NOTIFY is not supported: no program on the host can act for a guest's call"
    )]
    Notify,
    /// A condition on an argument that no call has.
    #[error("seccomp profile: {name} has no argument {index}")]
    Argument {
        /// The call.
        name: String,
        /// The argument.
        index: u8,
    },
    /// An error number that a call cannot return.
    #[error("seccomp profile: {0} is no error number")]
    Errno(u32),
    /// More than the kernel takes.
    #[error("seccomp profile: {0} instructions are more than the kernel's 4096")]
    TooLong(usize),
    /// seccompiler refused a condition.
    #[error("seccomp profile: {0}")]
    Condition(#[from] seccompiler::BackendError),
}

/// The filter of a specification's `linux.seccomp`, if it has one. `process` is the OCI `process` object that it is for;
/// it is changed so that the filter can be installed.
pub fn prepare(seccomp: Option<&Value>, process: Option<&mut Value>) -> Result<Option<Filter>, SeccompError> {
    let Some(seccomp) = seccomp.filter(|seccomp| !seccomp.is_null()) else { return Ok(None) };
    let filter = compile::compile(&serde_json::from_value(seccomp.clone())?)?;
    if let Some(process) = process.filter(|process| process["noNewPrivileges"] != true) {
        allow_installing(process);
    }
    Ok(Some(filter))
}

/// A set that is not there is not limited.
fn allow_installing(process: &mut Value) {
    for set in ["permitted", "effective"] {
        let Some(set) = process.pointer_mut(&format!("/capabilities/{set}")).and_then(Value::as_array_mut)
        else {
            continue;
        };
        if !set.iter().any(|capability| capability == SYS_ADMIN) {
            set.push(json!(SYS_ADMIN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(mut process: Value) -> Value {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        prepare(Some(&profile), Some(&mut process)).expect("prepared").expect("a filter");
        process["capabilities"].clone()
    }

    #[test]
    fn the_capability_to_install_a_filter_is_in_no_set_that_outlives_it() {
        let sets =
            json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": [], "ambient": []});
        let changed = capabilities(json!({"capabilities": sets}));
        assert_eq!(changed["permitted"], json!(["CAP_KILL", SYS_ADMIN]));
        assert_eq!(changed["effective"], json!([SYS_ADMIN]));
        assert_eq!((&changed["bounding"], &changed["ambient"]), (&json!(["CAP_KILL"]), &json!([])));
        let bound = capabilities(json!({"capabilities": sets, "noNewPrivileges": true}));
        assert_eq!(bound, sets, "without new privileges none is needed");
        assert_eq!(capabilities(json!({})), Value::Null, "no limits stay no limits");
    }

    #[test]
    fn no_profile_is_no_filter() {
        for none in [None, Some(Value::Null)] {
            assert!(prepare(none.as_ref(), None).expect("nothing to do").is_none());
        }
    }

    #[test]
    fn what_cannot_be_applied_is_refused_by_name() {
        let refused = |profile: Value| prepare(Some(&profile), None).expect_err("refused").to_string();
        assert!(refused(json!({"defaultAction": "SCMP_ACT_NOTIFY"})).contains("SCMP_ACT_NOTIFY"));
        let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        let notify = json!({"names": ["mount"], "action": "SCMP_ACT_NOTIFY"});
        assert!(refused(rule(notify)).contains("SCMP_ACT_NOTIFY"));
        assert!(refused(json!({"defaultAction": "SCMP_ACT_SING"})).contains("SCMP_ACT_SING"));
        let flags = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]});
        assert!(refused(flags).contains("SECCOMP_FILTER_FLAG_X"));
        let architectures = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]});
        assert!(refused(architectures).contains("SCMP_ARCH_VAX"));
        let condition = json!({"index": 6, "value": 1, "op": "SCMP_CMP_EQ"});
        let argument = json!({"names": ["mount"], "action": "SCMP_ACT_ERRNO", "args": [condition]});
        assert!(refused(rule(argument)).contains("mount has no argument 6"));
        let errno = json!({"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096});
        assert!(refused(rule(errno)).contains("4096"));
    }
}
