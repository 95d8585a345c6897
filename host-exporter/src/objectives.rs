//! Service level objectives: which share of its requests an application should answer, and how fast.
//!
//! The exposition has the objectives beside the counts that they bound, so that one set of Prometheus rules serves every
//! application of every tenant.

use porthole_config::Section;
use porthole_histogram::{Histogram, bucket_index, bucket_upper_bound_seconds};
use serde::Deserialize;

use crate::{config::InvalidValue, http_url::HttpUrl, identity::Application};

/// `[objectives]`: values for all applications, and others for some.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Objectives {
    /// Share of the requests to an application that do not fail by its fault.
    pub availability: f64,
    /// Duration within which requests should be answered.
    pub latency_seconds: f64,
    /// Share of the requests that should be answered within it.
    pub latency_share: f64,
    /// `http` URL to which applications that miss an objective far too often are posted, as Alertmanager's webhooks are;
    /// nothing is posted when absent.
    pub webhook: Option<String>,
    /// How long until what still misses its objective is posted again.
    pub webhook_repeat_seconds: f64,
    /// Other values for a tenant or for one of its applications.
    #[serde(rename = "override")]
    pub overrides: Vec<Override>,
}

/// Values that differ for a tenant, or for one application of it. The last one that names an application and has a value
/// counts, before the last one that names its tenant alone.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Tenant.
    pub tenant: String,
    /// Application; all of the tenant's when absent.
    pub service_name: Option<String>,
    /// Share of the requests that do not fail.
    pub availability: Option<f64>,
    /// Duration within which requests should be answered.
    pub latency_seconds: Option<f64>,
    /// Share of the requests that should be answered within it.
    pub latency_share: Option<f64>,
}

/// What is expected of one application.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// Share of the requests that do not fail.
    pub availability: f64,
    /// Duration within which requests should be answered.
    pub latency: Threshold,
    /// Share of the requests that should be answered within it.
    pub latency_share: f64,
}

/// A duration, rounded up to the next bound of the histograms' buckets (2^(1/8) apart).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold(i32);

impl Threshold {
    fn of_seconds(seconds: f64) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Self(bucket_index((seconds * 1e9) as u64))
    }

    /// The bound, seconds.
    pub fn seconds(self) -> f64 {
        bucket_upper_bound_seconds(self.0)
    }

    /// How many durations are longer.
    pub fn exceeded(self, durations: &Histogram) -> u64 {
        let above = durations.buckets().iter().filter(|&&(index, _)| index > self.0);
        above.fold(0, |sum, &(_, count)| sum.saturating_add(count))
    }
}

impl Default for Objectives {
    fn default() -> Self {
        Self {
            availability: 0.99,
            latency_seconds: 1.0,
            latency_share: 0.99,
            webhook: None,
            webhook_repeat_seconds: 14_400.0,
            overrides: Vec::new(),
        }
    }
}

impl Objectives {
    /// What is expected of an application.
    pub fn of(&self, application: &Application) -> Objective {
        let rules = self.overrides.iter().filter(|rule| rule.concerns(application));
        let (own, of_tenant): (Vec<_>, Vec<_>) = rules.partition(|rule| rule.service_name.is_some());
        let mut values = [self.availability, self.latency_seconds, self.latency_share];
        for rule in of_tenant.into_iter().chain(own) {
            for (value, other) in values.iter_mut().zip(rule.values()) {
                *value = other.unwrap_or(*value);
            }
        }
        let [availability, latency_seconds, latency_share] = values;
        Objective { availability, latency: Threshold::of_seconds(latency_seconds), latency_share }
    }

    /// Checks what types do not express.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        if self.webhook.as_deref().is_some_and(|url| HttpUrl::parse(url).is_none()) {
            let requirement = "must be an http URL, for example http://127.0.0.1:9099/alerts";
            return Err(InvalidValue::new(Self::NAME, "webhook", requirement));
        }
        if !(1.0..=31_536_000.0).contains(&self.webhook_repeat_seconds) {
            let requirement = "must lie between 1 and 31536000 seconds";
            return Err(InvalidValue::new(Self::NAME, "webhook_repeat_seconds", requirement));
        }
        let own = [Some(self.availability), Some(self.latency_seconds), Some(self.latency_share)];
        let of_overrides = self
            .overrides
            .iter()
            .enumerate()
            .map(|(at, rule)| (format!("override[{at}] of tenant {:?}: ", rule.tenant), rule.values()));
        for (of, [availability, latency_seconds, latency_share]) in
            std::iter::once((String::new(), own)).chain(of_overrides)
        {
            let refuse =
                |key, requirement| Err(InvalidValue::new(Self::NAME, format!("{of}{key}"), requirement));
            let is_share = |value: f64| value > 0.0 && value < 1.0;
            if !availability.is_none_or(is_share) {
                return refuse("availability", "must lie between 0 and 1, for example 0.999");
            }
            if !latency_seconds.is_none_or(|seconds| (0.001..=32.0).contains(&seconds)) {
                return refuse("latency_seconds", "must lie between 0.001 and 32 seconds");
            }
            if !latency_share.is_none_or(is_share) {
                return refuse("latency_share", "must lie between 0 and 1, for example 0.99");
            }
        }
        Ok(())
    }
}

impl Section for Objectives {
    const NAME: &'static str = "objectives";
}

impl Override {
    /// Whether it names the application, or its tenant alone.
    fn concerns(&self, application: &Application) -> bool {
        self.tenant == application.tenant
            && self.service_name.as_ref().is_none_or(|name| *name == application.service_name)
    }

    /// Availability, latency and its share, where they differ.
    fn values(&self) -> [Option<f64>; 3] {
        [self.availability, self.latency_seconds, self.latency_share]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(tenant: &str, service_name: &str) -> Application {
        Application { tenant: tenant.to_owned(), service_name: service_name.to_owned() }
    }

    #[test]
    fn the_value_that_is_nearest_to_the_application_counts() {
        let objectives: Objectives = toml::from_str(
            r#"
            availability = 0.9
            [[override]]
            tenant = "acme"
            service_name = "shop"
            latency_seconds = 0.25
            [[override]]
            tenant = "acme"
            availability = 0.99
            latency_seconds = 2
            "#,
        )
        .expect("parsed");
        let shop = objectives.of(&application("acme", "shop"));
        assert!((shop.availability - 0.99).abs() < 1e-9, "the tenant's: {shop:?}");
        assert!((0.25..0.28).contains(&shop.latency.seconds()), "its own: {shop:?}");
        let blog = objectives.of(&application("globex", "blog"));
        assert!((blog.availability - 0.9).abs() < 1e-9, "that of all: {blog:?}");
        assert!((blog.latency_share - 0.99).abs() < 1e-9, "the default: {blog:?}");
    }

    #[test]
    fn durations_beyond_the_threshold_are_counted_by_the_bucket() {
        let mut durations = Histogram::default();
        for ms in [100, 249, 251, 300, 5_000] {
            durations.record(ms * 1_000_000);
        }
        let threshold = Threshold::of_seconds(0.26);
        assert!((0.26..0.28).contains(&threshold.seconds()), "rounded up: {}", threshold.seconds());
        assert_eq!(threshold.exceeded(&durations), 2);
        assert_eq!(Threshold::of_seconds(32.0).exceeded(&durations), 0);
    }

    #[test]
    fn the_key_of_what_cannot_be_used_is_named() {
        for (text, key) in [
            ("availability = 1.0", "section [objectives]: `availability`"),
            ("latency_seconds = nan", "`latency_seconds`"),
            (
                "[[override]]\ntenant = \"acme\"\nlatency_share = 99",
                "override[0] of tenant \"acme\": latency_share",
            ),
        ] {
            let objectives: Objectives = toml::from_str(text).expect("parsed");
            let invalid = objectives.validate().expect_err("refused").to_string();
            assert!(invalid.contains(key), "{invalid}");
        }
        Objectives::default().validate().expect("the defaults are valid");
    }
}
