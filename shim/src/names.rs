//! `[names]`: from what the names of tenants, applications, pods and containers are made.
//!
//! Each name has a list of templates. The first one that gives a name counts: one of whose values the sandbox lacks gives none,
//! and neither does one whose text could not be a label. Values come from containerd and from annotations. An annotation is what
//! the author of the workload wrote, so it names a tenant only where the host trusts annotations ([`Names::problem`]).

use std::collections::BTreeMap;

use porthole_config::Section;
use serde::Deserialize;

use crate::{
    bundle::{Annotations, SERVICE, TENANT},
    deployment::without_generated_suffix,
    label::is_label_value,
};

/// What a template can contain in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// The pod's Kubernetes namespace; for plain containers containerd's.
    Namespace,
    /// containerd's namespace.
    ContainerdNamespace,
    /// The pod's name.
    Pod,
    /// The pod's name without the suffix that Kubernetes generated.
    Deployment,
    /// The container's name in its pod.
    Container,
    /// containerd's id: of the container for containers' names, of the sandbox otherwise.
    Id,
    /// An annotation.
    Annotation(String),
}

impl Placeholder {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "namespace" => Self::Namespace,
            "containerd_namespace" => Self::ContainerdNamespace,
            "pod" => Self::Pod,
            "deployment" => Self::Deployment,
            "container" => Self::Container,
            "id" => Self::Id,
            _ => Self::Annotation(text.strip_prefix("annotation:").filter(|key| !key.is_empty())?.to_owned()),
        })
    }
}

/// A template that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A brace without its other.
    #[error("{0:?}: a brace is missing")]
    Brace(String),
    /// Braces with something else in them.
    #[error(
        "{template:?}: unknown placeholder {{{found}}}; known are {{namespace}}, {{containerd_namespace}}, {{pod}}, \
         {{deployment}}, {{container}}, {{id}}, {{annotation:KEY}}"
    )]
    Unknown {
        /// The template.
        template: String,
        /// What is between the braces.
        found: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Placeholder),
}

/// A text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(Vec<Part>);

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(template: String) -> Result<Self, TemplateError> {
        let brace = || TemplateError::Brace(template.clone());
        let mut parts = Vec::new();
        let mut rest = template.as_str();
        while let Some(at) = rest.find(['{', '}']) {
            let (text, from) = rest.split_at(at);
            let inner = from.strip_prefix('{').ok_or_else(brace)?;
            let (found, after) = inner.split_once('}').ok_or_else(brace)?;
            let value = Placeholder::parse(found).ok_or_else(|| TemplateError::Unknown {
                template: template.clone(),
                found: found.to_owned(),
            })?;
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            parts.push(Part::Value(value));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }
}

impl Template {
    fn fill(&self, values: &Values<'_>) -> Option<String> {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Value(placeholder) => values.of(placeholder),
        });
        parts.collect::<Option<String>>().filter(|name| is_label_value(name))
    }

    fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.0.iter().filter_map(|part| if let Part::Value(value) = part { Some(value) } else { None })
    }
}

/// What a sandbox or a container has for templates.
#[derive(Debug)]
pub struct Values<'a> {
    /// The pod's Kubernetes namespace; for plain containers containerd's.
    pub namespace: &'a str,
    /// containerd's namespace.
    pub containerd_namespace: &'a str,
    /// The pod's name, where there is a pod.
    pub pod: Option<&'a str>,
    /// The container's name in its pod.
    pub container: Option<&'a str>,
    /// containerd's id.
    pub id: &'a str,
    /// Its annotations.
    pub annotations: &'a Annotations,
}

impl Values<'_> {
    fn of(&self, placeholder: &Placeholder) -> Option<&str> {
        let value = match placeholder {
            Placeholder::Namespace => Some(self.namespace),
            Placeholder::ContainerdNamespace => Some(self.containerd_namespace),
            Placeholder::Pod => self.pod,
            Placeholder::Deployment => self.pod.map(without_generated_suffix),
            Placeholder::Container => self.container,
            Placeholder::Id => Some(self.id),
            Placeholder::Annotation(key) => self.annotations.get(key),
        };
        value.filter(|value| is_label_value(value))
    }

    /// The name that the first template gives that gives one.
    pub fn name(&self, templates: &[Template]) -> Option<String> {
        templates.iter().find_map(|template| template.fill(self))
    }
}

/// `[names]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Names {
    /// Tenants that neither a trusted annotation nor `[tenants.by_namespace]` names.
    pub tenant: Vec<Template>,
    /// Applications.
    pub application: Vec<Template>,
    /// Pods.
    pub pod: Vec<Template>,
    /// Containers.
    pub container: Vec<Template>,
    /// Other names of applications, by `tenant/application` as they came out before.
    pub applications: BTreeMap<String, String>,
}

impl Default for Names {
    fn default() -> Self {
        let templates = |texts: &[&str]| {
            let parsed = texts.iter().map(|text| Template::try_from((*text).to_owned()));
            parsed.collect::<Result<_, _>>().expect("the defaults are templates")
        };
        Self {
            tenant: templates(&["{namespace}"]),
            application: templates(&[&format!("{{annotation:{SERVICE}}}"), "{deployment}", "{id}"]),
            pod: templates(&["{pod}"]),
            container: templates(&["{container}", "{id}"]),
            applications: BTreeMap::new(),
        }
    }
}

impl Section for Names {
    const NAME: &'static str = "names";
}

impl Names {
    /// What makes the section unusable, with its key; `trust_annotation` is that of `[tenants]`.
    pub fn problem(&self, trust_annotation: bool) -> Option<String> {
        if !trust_annotation
            && let Some(key) = self.tenant.iter().flat_map(Template::placeholders).find_map(annotation)
        {
            return Some(format!(
                "[names] tenant: {{annotation:{key}}} is written by the author of a workload; it names tenants only with \
                 [tenants] trust_annotation = true (as {TENANT} does)"
            ));
        }
        for (key, templates) in
            [("tenant", &self.tenant), ("application", &self.application), ("pod", &self.pod)]
        {
            if templates.iter().flat_map(Template::placeholders).any(|value| *value == Placeholder::Container)
            {
                return Some(format!(
                    "[names] {key}: {{container}} is of a container, and a sandbox has several"
                ));
            }
        }
        self.applications.iter().find_map(|(of, name)| {
            let named =
                of.split_once('/').is_some_and(|(tenant, name)| !tenant.is_empty() && !name.is_empty());
            if !named {
                return Some(format!("[names.applications] {of:?}: a key is `tenant/application`"));
            }
            let refused = || format!("[names.applications] {of:?}: {name:?} cannot be an application's name");
            (!is_label_value(name)).then(refused)
        })
    }
}

fn annotation(placeholder: &Placeholder) -> Option<&str> {
    if let Placeholder::Annotation(key) = placeholder { Some(key) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn template(text: &str) -> Result<Template, String> {
        Template::try_from(text.to_owned()).map_err(|error| error.to_string())
    }

    fn problem(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("written");
        let file = porthole_config::ConfigFile::load(Some(file.path())).expect("TOML");
        Settings::from_file(&file).problem.unwrap_or_default()
    }

    #[test]
    fn the_first_template_counts_whose_values_there_are_and_whose_text_can_be_a_label() {
        let annotations = [("team", "red"), ("bad", "a\nb")].into_iter().collect();
        let values = Values {
            namespace: "shop",
            containerd_namespace: "k8s.io",
            pod: Some("web-5d4b8c7f6b-x2vqz"),
            container: None,
            id: "c1",
            annotations: &annotations,
        };
        let name = |texts: &[&str]| {
            let templates: Vec<_> = texts.iter().map(|text| template(text).expect("a template")).collect();
            values.name(&templates)
        };
        let whole = "{annotation:team}/{namespace}.{containerd_namespace}-{deployment}";
        assert_eq!(name(&[whole]).as_deref(), Some("red/shop.k8s.io-web"));
        assert_eq!(
            name(&["{annotation:bad}", "{annotation:none}x", "{container}", "{pod}"]).as_deref(),
            values.pod
        );
        assert_eq!(name(&["", &"x".repeat(254)]), None);
    }

    #[test]
    fn what_is_no_template_is_named_with_its_key() {
        for bad in ["{", "}", "a}b{id}", "{id"] {
            assert!(template(bad).expect_err("refused").contains("brace"), "{bad}");
        }
        assert!(template("{annotation:}").expect_err("refused").contains("annotation:"));
        for (text, parts) in [
            ("[names]\napplication = [\"{id}\", \"{colour}\"]", ["application", "{colour}"]),
            ("[names]\ncolour = 1", ["[names]", "colour"]),
            ("[names]\npod = [\"{container}\"]", ["[names] pod", "{container}"]),
            ("[names]\ntenant = [\"{annotation:team}\"]", ["[names] tenant", "trust_annotation"]),
            ("[names.applications]\nshop = \"x\"", ["[names.applications] \"shop\"", "tenant/application"]),
            ("[names.applications]\n\"a/b\" = \"\"", ["[names.applications] \"a/b\"", "cannot be"]),
        ] {
            let problem = problem(text);
            assert!(parts.iter().all(|part| problem.contains(part)), "{problem}");
        }
        let trusting = "[tenants]\ntrust_annotation = true\n[names]\ntenant = [\"{annotation:team}\"]";
        assert_eq!(problem(trusting), "");
    }
}
