//! `[shim]`, `[tenants]`, `[names]` and `[registry]` of the host's configuration.
//!
//! A configuration that cannot be used must not stop a workload: [`Settings::load`] always answers, with the delegate
//! that is named if that much can be read, and keeps what is wrong for the log and the record.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use porthole_config::{ConfigFile, Section};
use porthole_registry::{RegistrySettings, SandboxKey};
use serde::Deserialize;

use crate::{label::is_label_value, message::one_line, names::Names};

/// The delegate unless configured otherwise: the embedded runtime.
pub const DEFAULT_DELEGATE: &str = "containerd-shim-porthole-microvm-v2";

/// Which agent monitors a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentChoice {
    /// The one that the guest's image carries, and where it carries none the sidecar.
    #[default]
    Auto,
    /// The one that the guest's image carries, or none.
    BuiltIn,
    /// The sidecar; no connection to the guest is tried.
    Sidecar,
}

/// `[shim]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shim {
    /// `false`: calls go to the delegate and nothing else happens.
    pub enabled: bool,
    /// The real runtime's shim: an absolute path, or a name that is looked up beside this program, then in `PATH`.
    pub delegate: String,
    /// Which agent monitors a sandbox.
    pub agent: AgentChoice,
    /// Root file system of the sidecar; `/porthole-agent` in it is the agent.
    pub sidecar_rootfs: PathBuf,
    /// The log file. It is kept below 8 MiB with its predecessor.
    pub log: PathBuf,
    /// Where delegates answer `GET /agent-url`; `{id}` and `{namespace}` stand for the sandbox's, `{key}` for the digest
    /// of both ([`SandboxKey::digest`]).
    pub monitor_sockets: Vec<String>,
    /// Where companions keep the sidecars' bundles and what is needed to clean up after them.
    pub state_directory: PathBuf,
    /// Whether the annotation `io.porthole.enabled = "false"` is heeded.
    pub allow_opt_out: bool,
    /// Deadline of the delegate's answer to Create and Start of the sidecar, seconds.
    pub call_deadline_s: u64,
    /// How often an agent that ended while the workload runs is brought back in one sandbox.
    pub agent_restarts: u32,
    /// Least time between two starts of the agent in one sandbox, seconds.
    pub agent_restart_interval_s: u64,
    /// Further arguments of the sidecar's agent.
    pub agent_arguments: Vec<String>,
}

impl Default for Shim {
    fn default() -> Self {
        Self {
            enabled: true,
            delegate: DEFAULT_DELEGATE.into(),
            agent: AgentChoice::Auto,
            sidecar_rootfs: "/usr/lib/porthole/sidecar/rootfs".into(),
            log: "/var/log/porthole/shim.log".into(),
            monitor_sockets: [
                "/run/porthole/microvm/{key}/shim-monitor.sock",
                "/run/porthole/microvm/{id}/shim-monitor.sock",
                "/run/vc/sbs/{id}/shim-monitor.sock",
                "/run/kata/{id}/shim-monitor.sock",
            ]
            .map(String::from)
            .into(),
            state_directory: "/run/porthole/companion".into(),
            allow_opt_out: false,
            call_deadline_s: 30,
            agent_restarts: 3,
            agent_restart_interval_s: 60,
            agent_arguments: Vec::new(),
        }
    }
}

impl Section for Shim {
    const NAME: &'static str = "shim";
}

impl Shim {
    /// [`Self::call_deadline_s`]
    pub fn call_deadline(&self) -> Duration {
        Duration::from_secs(self.call_deadline_s)
    }

    /// [`Self::agent_restart_interval_s`]
    pub fn agent_restart_interval(&self) -> Duration {
        Duration::from_secs(self.agent_restart_interval_s)
    }

    /// The monitor sockets of one sandbox.
    pub fn monitor_sockets_of(&self, sandbox: &SandboxKey) -> Vec<PathBuf> {
        let fill = |path: &String| {
            path.replace("{key}", &sandbox.digest())
                .replace("{namespace}", sandbox.namespace.as_str())
                .replace("{id}", sandbox.id.as_str())
        };
        self.monitor_sockets.iter().map(|path| fill(path).into()).collect()
    }
}

/// `[tenants]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenants {
    /// Tenant by Kubernetes namespace, or by containerd's for plain containers. A namespace that is not listed is its
    /// own tenant.
    pub by_namespace: BTreeMap<String, String>,
    /// containerd's namespaces in which containers are made by CRI. In other namespaces CRI's annotations come from
    /// the user who runs the container, and name neither a tenant nor a pod.
    pub cri_namespaces: Vec<String>,
    /// Whether the annotation `io.porthole.tenant` may name the tenant.
    pub trust_annotation: bool,
}

impl Default for Tenants {
    fn default() -> Self {
        Self { by_namespace: BTreeMap::new(), cri_namespaces: vec!["k8s.io".into()], trust_annotation: false }
    }
}

impl Section for Tenants {
    const NAME: &'static str = "tenants";
}

/// The part of `[shim]` that a wrapper needs even when the rest of the section is wrong.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Essentials {
    delegate: Option<String>,
    log: Option<PathBuf>,
    state_directory: Option<PathBuf>,
}

impl Section for Essentials {
    const NAME: &'static str = "shim";
}

/// Everything the shim reads from the configuration.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `[shim]`
    pub shim: Shim,
    /// `[tenants]`
    pub tenants: Tenants,
    /// `[names]`
    pub names: Names,
    /// `[registry]`
    pub registry: RegistrySettings,
    /// Why the configuration cannot be used as it stands, one line. Sandboxes then run unmonitored.
    pub problem: Option<String>,
}

impl Settings {
    /// Reads the configuration file that the environment or the default names.
    pub fn load() -> Self {
        match ConfigFile::load(None) {
            Ok(file) => Self::from_file(&file),
            Err(error) => Self { problem: Some(one_line(&error.to_string())), ..Self::default() },
        }
    }

    /// Takes the shim's sections out of a file.
    pub fn from_file(file: &ConfigFile) -> Self {
        let mut problems = Vec::new();
        let shim = file.section().unwrap_or_else(|error| {
            problems.push(error.to_string());
            let found: Essentials = file.section().unwrap_or_default();
            let defaults = Shim::default();
            Shim {
                delegate: found.delegate.unwrap_or(defaults.delegate),
                log: found.log.unwrap_or(defaults.log),
                state_directory: found.state_directory.unwrap_or(defaults.state_directory),
                ..Shim::default()
            }
        });
        let tenants: Tenants = file.section().unwrap_or_else(|error| {
            problems.push(error.to_string());
            Tenants::default()
        });
        let names: Names = file.section().unwrap_or_else(|error| {
            problems.push(error.to_string());
            Names::default()
        });
        problems.extend(names.problem(tenants.trust_annotation));
        let registry = file.section().unwrap_or_else(|error| {
            problems.push(error.to_string());
            RegistrySettings::default()
        });
        if let Some((namespace, tenant)) =
            tenants.by_namespace.iter().find(|(_, tenant)| !is_label_value(tenant))
        {
            problems
                .push(format!("[tenants.by_namespace] {namespace:?}: {tenant:?} cannot be a tenant's name"));
        }
        let problem = (!problems.is_empty()).then(|| one_line(&problems.join("; ")));
        Self { shim, tenants, names, registry, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("written");
        Settings::from_file(&ConfigFile::load(Some(file.path())).expect("TOML"))
    }

    #[test]
    fn an_empty_file_means_defaults() {
        let settings = settings("");
        assert_eq!((settings.shim, settings.problem), (Shim::default(), None));
    }

    #[test]
    fn the_agent_is_one_of_three() {
        let choice = |text: &str| settings(&format!("[shim]\nagent = \"{text}\"\n"));
        assert_eq!(choice("built-in").shim.agent, AgentChoice::BuiltIn);
        assert_eq!(choice("sidecar").shim.agent, AgentChoice::Sidecar);
        assert!(choice("built_in").problem.expect("problem").contains("built-in"));
    }

    #[test]
    fn an_unknown_key_is_a_problem_and_the_delegate_is_kept() {
        let settings = settings("[shim]\ndelegate = \"/opt/kata\"\nlog = \"/l\"\ndelegatte = 1\n");
        assert_eq!((settings.shim.delegate.as_str(), settings.shim.log.to_str()), ("/opt/kata", Some("/l")));
        assert!(settings.problem.expect("problem").contains("delegatte"));
    }

    #[test]
    fn a_value_of_the_wrong_type_leaves_the_default_delegate() {
        let settings = settings("[shim]\ndelegate = 5\n");
        assert_eq!(settings.shim.delegate, DEFAULT_DELEGATE);
        assert!(settings.problem.is_some());
    }

    #[test]
    fn a_tenant_that_cannot_be_a_label_is_a_problem() {
        assert!(settings("[tenants.by_namespace]\na = \"\"\n").problem.is_some());
        assert_eq!(settings("[tenants.by_namespace]\na = \"b\"\n").problem, None);
    }

    #[test]
    fn templates_are_filled_with_the_sandbox() {
        let sandbox: SandboxKey = "n@s".parse().expect("key");
        let shim = Shim {
            monitor_sockets: vec!["/a/{key}/b".into(), "/{namespace}/{id}".into()],
            ..Shim::default()
        };
        assert_eq!(
            shim.monitor_sockets_of(&sandbox),
            [format!("/a/{}/b", sandbox.digest()), "/n/s".into()].map(PathBuf::from)
        );
    }
}
