//! The host's configuration: one TOML file with a section for each part, so that a path that two parts share is
//! written once.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub mod watch;

/// Where the file is unless [`CONFIG_ENV`] names another.
pub const DEFAULT_PATH: &str = "/etc/porthole/porthole.toml";

/// Environment variable that names the configuration file. A file named this way must exist.
pub const CONFIG_ENV: &str = "PORTHOLE_CONFIG";

/// Environment variable with the log filter, in `tracing`'s syntax (`info`, `porthole_exporter=debug`).
pub const LOG_ENV: &str = "PORTHOLE_LOG";

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is no TOML, or a key is unknown or of the wrong type; the message names the key.
    #[error("configuration {path}, section [{section}]: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The section.
        section: &'static str,
        /// What is wrong, with the key.
        message: String,
    },
}

fn named_path() -> Option<PathBuf> {
    std::env::var_os(CONFIG_ENV).map(PathBuf::from)
}

/// The file that [`ConfigFile::load`] reads unless it is given another.
pub fn path() -> PathBuf {
    Location::new(None).path
}

/// Where the configuration is read, also when it is read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub path: PathBuf,
    /// It was not named: without it there are defaults.
    pub may_be_absent: bool,
}

impl Location {
    /// The file named by `explicit`, else by [`CONFIG_ENV`], else [`DEFAULT_PATH`], which alone may be absent.
    pub fn new(explicit: Option<&Path>) -> Self {
        let named = explicit.map(Path::to_owned).or_else(named_path);
        Self { may_be_absent: named.is_none(), path: named.unwrap_or_else(|| DEFAULT_PATH.into()) }
    }
}

/// A part's section of the configuration.
pub trait Section: DeserializeOwned + Default {
    /// The section's name.
    const NAME: &'static str;
}

/// A configuration file that was read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    sections: toml::Table,
}

impl ConfigFile {
    /// Reads the file of [`Location::new`].
    pub fn load(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_at(Location::new(explicit))
    }

    /// Reads the file there.
    pub fn load_at(Location { path, may_be_absent }: Location) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if may_be_absent && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        match text.parse() {
            Ok(sections) => Ok(Self { path, sections }),
            Err(error) => Err(ConfigError::Invalid { path, section: "*", message: error.to_string() }),
        }
    }

    /// One part's section; its defaults when the file has none.
    pub fn section<T: Section>(&self) -> Result<T, ConfigError> {
        match self.sections.get(T::NAME) {
            None => Ok(T::default()),
            Some(value) => value.clone().try_into().map_err(|error: toml::de::Error| ConfigError::Invalid {
                path: self.path.clone(),
                section: T::NAME,
                message: error.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Example {
        directory: PathBuf,
    }

    impl Default for Example {
        fn default() -> Self {
            Self { directory: "/default".into() }
        }
    }

    impl Section for Example {
        const NAME: &'static str = "example";
    }

    fn load(text: &str) -> Result<Example, ConfigError> {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("written");
        ConfigFile::load(Some(file.path()))?.section()
    }

    #[test]
    fn an_absent_section_has_its_defaults() {
        assert_eq!(load("[other]\nx = 1\n").expect("loaded"), Example::default());
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = load("[example]\ndirektory = \"/x\"\n").expect_err("refused").to_string();
        assert!(error.contains("direktory") && error.contains("[example]"), "{error}");
    }

    #[test]
    fn an_explicit_file_must_exist_and_the_default_one_need_not() {
        let error = ConfigFile::load(Some(Path::new("/nonexistent.toml"))).expect_err("refused");
        assert!(error.to_string().contains("/nonexistent.toml"));
        let by_default = Location { path: "/nonexistent.toml".into(), may_be_absent: true };
        let section: Example = ConfigFile::load_at(by_default).expect("none").section().expect("defaults");
        assert_eq!(section, Example::default());
    }
}
