//! Route templates that the user gave: they win over what is found by looking at the traffic, and are not bounded by
//! it.
//!
//! A segment in braces (`/users/{id}`) stands for any one segment, a last segment `*` for any number of them.

use super::template::template;
use crate::Symbol;

/// Most templates.
pub const TEMPLATES_MAX: usize = 256;

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is no path.
    #[error("route template `{0}` does not begin with `/`")]
    NoPath(String),
    /// Only a last segment can stand for several.
    #[error("route template `{0}`: only the last segment can be `*`")]
    Star(String),
    /// Ids are taken out of paths before they are compared.
    #[error("route template `{0}`: segment `{1}` looks like an id; put a name in braces in its place")]
    Id(String, String),
    /// There are too many.
    #[error("more than {TEMPLATES_MAX} route templates")]
    TooMany,
}

/// One template.
#[derive(Clone, Debug)]
pub(crate) struct OwnTemplate {
    segments: Vec<Segment>,
    open: bool,
    pub(crate) symbol: Symbol,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Any,
    Word(Box<str>),
}

impl OwnTemplate {
    /// Reads a template; its name is `symbol`.
    pub(crate) fn parse(text: &str, symbol: Symbol) -> Result<Self, TemplateError> {
        let Some(path) = text.strip_prefix('/') else { return Err(TemplateError::NoPath(text.to_owned())) };
        let mut names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let open = names.last() == Some(&"*");
        if open {
            names.pop();
        }
        let mut segments = Vec::new();
        for name in names {
            if name == "*" {
                return Err(TemplateError::Star(text.to_owned()));
            }
            if name.starts_with('{') && name.ends_with('}') {
                segments.push(Segment::Any);
                continue;
            }
            // For itself: what comes before it may announce data, which the user knows better.
            let mut converged = String::new();
            template(format!("/{name}").as_bytes(), &mut converged);
            if converged.contains("{}") {
                return Err(TemplateError::Id(text.to_owned(), name.to_owned()));
            }
            segments.push(Segment::Word(name.into()));
        }
        Ok(Self { segments, open, symbol })
    }

    /// Whether a path is meant.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        for segment in &self.segments {
            let Some(name) = names.next() else { return false };
            if let Segment::Word(word) = segment
                && word.as_bytes() != name.split(|byte| *byte == b';').next().unwrap_or_default()
            {
                return false;
            }
        }
        self.open || names.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, ParserContext, ScopeId, Status, Timestamp, routes::learning::Sighting};

    fn parsed(text: &str) -> Result<OwnTemplate, TemplateError> {
        OwnTemplate::parse(text, Symbol(7))
    }

    #[test]
    fn braces_stand_for_one_segment_and_a_star_for_the_rest() {
        for (template, path, matches) in [
            ("/users/{id}", "/users/{}", true),
            ("/users/{id}", "/users/me", true),
            ("/users/{id}", "/users", false),
            ("/users/{id}", "/users/me/orders", false),
            ("/users/{id}/orders", "/users/{}/orders/", true),
            ("/static/*", "/static", true),
            ("/static/*", "/static/a/b.js", true),
            ("/static/*", "/dynamic/a", false),
            ("/", "/", true),
            ("/", "/a", false),
        ] {
            assert_eq!(
                parsed(template).expect("a template").matches(path.as_bytes()),
                matches,
                "{template} {path}"
            );
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        assert_eq!(parsed("users").err(), Some(TemplateError::NoPath("users".into())));
        assert_eq!(parsed("/*/a").err(), Some(TemplateError::Star("/*/a".into())));
        assert_eq!(parsed("/v/42").err(), Some(TemplateError::Id("/v/42".into(), "42".into())));
    }

    #[test]
    fn own_templates_win_and_are_not_bounded() {
        let mut context = ParserContext::new(Limits { routes_per_scope: 4, ..Limits::default() });
        context.set_route_templates(&["/shop/{product}", "/files/*"]).expect("templates");
        let scope = ScopeId(1);
        let mut name = |path: String| {
            let route = context.route(scope, path.as_bytes());
            let sighting = Sighting { client: 0, at: Timestamp(0) };
            let symbol = context.route_symbol(scope, route, Status::Code(200), sighting);
            context.name(symbol).to_owned()
        };
        for word in ["apple", "pear", "plum", "fig", "kiwi", "lime", "date", "nut"] {
            assert_eq!(name(format!("/shop/{word}")), "/shop/{product}");
            assert_eq!(name(format!("/files/{word}/x?y=1")), "/files/*");
            name(format!("/{word}"));
        }
        assert_eq!(name("/shop/last".to_owned()), "/shop/{product}");
        let too_many = vec!["/a"; TEMPLATES_MAX + 1];
        assert_eq!(context.set_route_templates(&too_many), Err(TemplateError::TooMany));
    }
}
