//! The generated parts of `docs/metrics.md`: tables of the families that an exporter serves, with their own descriptions.
//!
//! A part stands between a line with its name, as a comment, and `<!-- end -->`:
//!
//! - `<!-- families PREFIX… without LABEL… -->`: the families whose names begin so, without the labels that the text around the
//!   table names. Each family belongs to the part with the longest such prefix.
//! - `<!-- NAME -->`: a table that the caller gives.

use std::collections::BTreeMap;

/// The end of a generated part.
const END: &str = "<!-- end -->";

/// A family as it is served.
#[derive(Debug, Default)]
pub struct Family {
    /// Name of its samples; of a histogram without the suffixes.
    pub name: String,
    pub kind: String,
    pub unit: Option<String>,
    pub help: String,
    /// In the order in which they are written.
    pub labels: Vec<String>,
}

/// The families of an exposition, in its order.
pub fn families(exposition: &str) -> Vec<Family> {
    let mut families = Vec::<Family>::new();
    for line in exposition.lines() {
        let metadata = line.strip_prefix("# ").and_then(|line| line.split_once(' '));
        match metadata.and_then(|(kind, rest)| Some((kind, rest.split_once(' ')?))) {
            Some(("HELP", (name, help))) => families.push(Family {
                name: name.to_owned(),
                help: help.trim_end_matches('.').to_owned(),
                ..Family::default()
            }),
            Some(("TYPE", (name, kind))) => {
                let family = families.last_mut().expect("a family begins with its help");
                assert_eq!(family.name, name, "one family's lines are together");
                kind.clone_into(&mut family.kind);
                if kind == "counter" {
                    family.name.push_str("_total");
                }
            }
            Some(("UNIT", (_, unit))) => {
                families.last_mut().expect("a family begins with its help").unit = Some(unit.to_owned());
            }
            _ if line.starts_with('#') => {}
            _ => families.last_mut().expect("a sample has a family").add_labels(line),
        }
    }
    families
}

impl Family {
    /// Adds the labels of a sample, each behind the one that is before it there.
    fn add_labels(&mut self, sample: &str) {
        let Some((_, labels)) = sample.split_once('{') else { return };
        let mut at = 0;
        for (name, _) in labels
            .split("=\"")
            .map(|part| part.rsplit([',', '{']).next().unwrap_or(part))
            .zip(labels.matches("=\""))
        {
            if self.kind == "histogram" && name == "le" {
                continue;
            }
            at = if let Some(known) = self.labels.iter().position(|known| known == name) {
                known + 1
            } else {
                self.labels.insert(at, name.to_owned());
                at + 1
            };
        }
    }

    fn row(&self, without: &[&str]) -> String {
        let labels: Vec<_> = self.labels.iter().filter(|label| !without.contains(&label.as_str())).collect();
        let labels: Vec<_> = labels.into_iter().map(|label| format!("`{label}`")).collect();
        let cells = [
            format!("`{}`", self.name),
            self.kind.clone(),
            labels.join(", "),
            self.unit.clone().unwrap_or_default(),
            self.help.clone(),
        ];
        row(&cells)
    }
}

/// A row of a table.
pub fn row(cells: &[String]) -> String {
    let cells: Vec<_> = cells
        .iter()
        .map(|cell| format!("{}|", if cell.is_empty() { " ".to_owned() } else { format!(" {cell} ") }))
        .collect();
    format!("|{}\n", cells.concat())
}

/// A table with its head.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = String>) -> String {
    let head_row = row(&head.iter().map(ToString::to_string).collect::<Vec<_>>());
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    rows.into_iter().fold(head_row + &rule, |table, row| table + &row)
}

/// A part of the document that lists families.
struct Part<'a> {
    prefixes: Vec<&'a str>,
    without: Vec<&'a str>,
}

impl<'a> Part<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let words = line.strip_prefix("<!-- families ")?.strip_suffix(" -->")?;
        let (prefixes, without) = words.split_once(" without ").unwrap_or((words, ""));
        Some(Self { prefixes: prefixes.split(' ').collect(), without: without.split_whitespace().collect() })
    }

    /// Length of the longest prefix that a name has.
    fn fits(&self, name: &str) -> Option<usize> {
        self.prefixes.iter().filter(|prefix| name.starts_with(**prefix)).map(|prefix| prefix.len()).max()
    }
}

/// The document with its generated parts as they should be.
pub fn generated(document: &str, families: &[Family], others: &BTreeMap<&str, String>) -> String {
    let parts: Vec<_> = document.lines().filter_map(Part::of).collect();
    let mut of_parts: Vec<Vec<&Family>> = parts.iter().map(|_| Vec::new()).collect();
    for family in families {
        let fitting = parts.iter().enumerate().filter_map(|(at, part)| Some((part.fits(&family.name)?, at)));
        let (_, at) =
            fitting.max().unwrap_or_else(|| panic!("no part of the document lists {}", family.name));
        of_parts[at].push(family);
    }
    let mut of_parts = parts.iter().zip(of_parts);
    let mut made = String::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        made.push_str(line);
        made.push('\n');
        let Some(name) = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")) else {
            continue;
        };
        let table = if let Some(table) = others.get(name) {
            table.clone()
        } else {
            let (part, families) = of_parts.next().unwrap_or_else(|| panic!("unknown part {name}"));
            let labels = if part.without.is_empty() { "labels" } else { "further labels" };
            let head = ["metric", "type", labels, "unit", "meaning"];
            table(&head, families.iter().map(|family| family.row(&part.without)))
        };
        made.extend(["\n", &table, "\n", END, "\n"]);
        assert!(lines.any(|line| line == END), "no {END} after {name}");
    }
    made
}
