//! Reads an exposition back, strictly: what this cannot read, or reads twice, fails the test.

use std::collections::{BTreeMap, HashSet};

pub type Labels = BTreeMap<String, String>;

/// Samples by name and labels.
#[derive(Debug)]
pub struct Exposition {
    pub text: String,
    samples: Vec<(String, Labels, f64)>,
}

impl Exposition {
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with("# EOF\n"), "no end: {}", &text[text.len().saturating_sub(200)..]);
        let mut samples = Vec::new();
        let mut families = HashSet::new();
        let mut seen = HashSet::new();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let name = family.split(' ').next().expect("name").to_owned();
                assert!(families.insert(name), "family twice: {line}");
            }
            if line.starts_with('#') {
                continue;
            }
            let (name, labels, value) = sample(line);
            assert!(seen.insert((name.clone(), labels.clone())), "series twice: {line}");
            samples.push((name, labels, value));
        }
        Self { text: text.to_owned(), samples }
    }

    /// All samples.
    pub fn samples(&self) -> impl Iterator<Item = &(String, Labels, f64)> {
        self.samples.iter()
    }

    /// Sum over the samples of a name that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).iter().map(|(_, value)| value).sum()
    }

    /// Samples of a name that have these labels.
    pub fn select(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(&Labels, f64)> {
        self.samples
            .iter()
            .filter(|(sample, _, _)| sample == name)
            .filter(|(_, present, _)| {
                labels.iter().all(|(key, value)| present.get(*key).map_or("", String::as_str) == *value)
            })
            .map(|(_, labels, value)| (labels, *value))
            .collect()
    }
}

fn sample(line: &str) -> (String, Labels, f64) {
    let Some(brace) = line.find('{') else {
        let (name, value) = line.split_once(' ').expect("value");
        return (name.to_owned(), Labels::new(), value.parse().expect("number"));
    };
    let (name, mut rest) = (&line[..brace], &line[brace + 1..]);
    let mut labels = Labels::new();
    while !rest.starts_with('}') {
        let (key, after) = rest.split_once("=\"").expect("label");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().expect("closing quote") {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().expect("escaped").1 {
                    'n' => '\n',
                    escaped @ ('\\' | '"') => escaped,
                    other => panic!("escape \\{other} in {line}"),
                }),
                (_, c) => value.push(c),
            }
        };
        assert!(labels.insert(key.to_owned(), value).is_none(), "label twice: {line}");
        rest = after[end + 1..].trim_start_matches(',');
    }
    // An exemplar may be behind it.
    let value = rest[1..].split(" # ").next().expect("a value").trim().parse().expect("number");
    (name.to_owned(), labels, value)
}
