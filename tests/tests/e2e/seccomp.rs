//! Are the seccomp profiles of specifications applied in the guest?
//!
//! One sandbox: its own container has containerd's default profile, further ones have profiles of the test's own.

use std::fs;

use anyhow::{Context, Result, ensure};
use porthole_testbed::{
    container::{Launch, MICROVM},
    environment::Environment,
};
use serde_json::{Value, json};

use crate::{Test, stage::Stage};

pub const TESTS: &[Test] = &[("seccomp::profiles_of_specifications_are_applied_in_the_guest", profiles)];

const NAMESPACE: &str = "globex";

/// Prints a process' filter, whether it may gain privileges, and its effective capabilities.
const STATUS: &[&str] = &["grep", "-E", "^(Seccomp|NoNewPrivs|CapEff):", "/proc/self/status"];

/// Creates a user namespace, which needs no capability, and which the default profile denies.
const NEW_USER_NAMESPACE: &[&str] = &["/bin/busybox", "unshare", "-U", "true"];

const SYS_ADMIN: u64 = 1 << 21;

/// Calls with a file that has the profile; `ctr` reads it before it returns.
fn with_profile<T>(
    environment: &Environment,
    profile: &Value,
    call: impl FnOnce(&str) -> Result<T>,
) -> Result<T> {
    let path = environment.directory().join("profile.json");
    fs::write(&path, profile.to_string()).with_context(|| format!("write {}", path.display()))?;
    let called = call(&path.to_string_lossy());
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    called
}

fn field<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name} in {status:?}"))?.trim())
}

fn profiles(stage: &Stage) -> Result<()> {
    let environment = stage.environment()?;
    let containerd = &environment.containerd;
    let id = environment.unique("confined");
    let nginx = ["/usr/sbin/nginx", "-c", "/srv/blog.conf"];
    let sandbox =
        Launch::new(NAMESPACE, &id, MICROVM, &nginx).with_options(&["--seccomp"]).start(containerd)?;
    let status = sandbox.exec(STATUS)?.text();
    ensure!(field(&status, "Seccomp")? == "2" && field(&status, "NoNewPrivs")? == "1", "{status}");
    let first = sandbox.exec(&["grep", "Seccomp:", "/proc/1/status"])?.text();
    ensure!(field(&first, "Seccomp")? == "2", "the container's first process: {first}");
    let denied = sandbox.exec(NEW_USER_NAMESPACE)?;
    ensure!(!denied.status.success() && denied.complaint().contains("Operation not permitted"), "{denied}");
    let page = sandbox.exec(&["wget", "-q", "-O", "-", "http://127.0.0.1/"])?;
    ensure!(page.status.success(), "nginx does not work below the default profile: {page}");

    let annotations =
        [("io.kubernetes.cri.container-type", "container"), ("io.kubernetes.cri.sandbox-id", id.as_str())];
    let own = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71},
            {"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS",
             "args": [{"index": 1, "value": 23, "op": "SCMP_CMP_EQ"}]}
        ]
    });
    let member = environment.unique("own-profile");
    let member = Launch::new(NAMESPACE, &member, MICROVM, &["sleep", "600"]).annotated(&annotations);
    // Who may gain privileges needs CAP_SYS_ADMIN to install a filter; the container has it neither before nor after.
    let member = with_profile(&environment, &own, |file| {
        let options = ["--seccomp", "--seccomp-profile", file, "--allow-new-privs"];
        member.with_options(&options).start(containerd)
    })?;
    let status = member.exec(STATUS)?.text();
    ensure!(field(&status, "Seccomp")? == "2" && field(&status, "NoNewPrivs")? == "0", "{status}");
    for pid in ["1", "self"] {
        let status = member.exec(&["grep", "Cap", &format!("/proc/{pid}/status")])?.text();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let held = u64::from_str_radix(field(&status, set)?, 16).context("a set of capabilities")?;
            ensure!(held & SYS_ADMIN == 0, "process {pid} has CAP_SYS_ADMIN:\n{status}");
        }
    }
    let denied = member.exec(&["mkdir", "/tmp/new"])?;
    ensure!(denied.complaint().contains("Protocol error"), "another error than the profile's: {denied}");
    let allowed = member.exec(&["sh", "-c", "kill -0 $$ && echo alive"])?;
    ensure!(allowed.text().trim() == "alive", "{allowed}");
    let killed = member.exec(&["sh", "-c", "kill -23 $$; echo alive"])?;
    ensure!(killed.status.code() == Some(128 + 31), "not ended by SIGSYS: {killed}");
    ensure!(!member.exec(NEW_USER_NAMESPACE)?.complaint().contains("Operation not permitted"));
    member.remove()?;

    let notify = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]});
    let refused = environment.unique("notify-profile");
    let refused = Launch::new(NAMESPACE, &refused, MICROVM, &["true"]).annotated(&annotations);
    let refused = with_profile(&environment, &notify, |file| {
        refused.with_options(&["--seccomp", "--seccomp-profile", file]).run(containerd)
    })?;
    ensure!(refused.complaint().contains("SCMP_ACT_NOTIFY is not supported"), "{refused}");
    ensure!(sandbox.status()?.as_deref() == Some("RUNNING"), "the sandbox is {:?}", sandbox.status()?);
    sandbox.remove()
}
