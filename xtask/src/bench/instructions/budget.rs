//! The committed budget: what a request may cost, so that a change that costs more is seen by its author.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::workspace::Workspace;

/// The budget file, from the repository's top.
const FILE: &str = "xtask/instructions.json";

/// How it is renewed.
const RENEW: &str = "cargo xtask bench instructions --short --budget renew";

/// What is added may grow by this share: compilers' and kernels' minor versions move it by about as much.
const GROWTH: f64 = 0.02;

/// Budgets by kernel series and workload.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget(BTreeMap<String, BTreeMap<String, Cost>>);

/// What a request may add.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Cost {
    /// Instructions of a request without the agent, for the tolerance.
    baseline: f64,
    /// Instructions added in the kernel.
    added_kernel: f64,
    /// Instructions of the agent's process.
    added_agent: f64,
    /// The share of the baseline to which figures repeat.
    noise: f64,
    /// Exchanges counted, of those that were sent.
    counted_share: f64,
}

impl Cost {
    fn of(result: &Value) -> Result<Self> {
        let figure = |key: &str| result[key].as_f64().with_context(|| format!("no `{key}` in a result"));
        Ok(Self {
            baseline: figure("baseline")?.round(),
            added_kernel: figure("added_kernel")?.round(),
            added_agent: figure("added_agent")?.round(),
            noise: figure("noise")?,
            counted_share: share(figure("counted")?, figure("sent")?),
        })
    }

    /// Added in all: what moves from the kernel to the agent costs the workload as much.
    fn added(self) -> f64 {
        self.added_kernel + self.added_agent
    }

    /// What may be added before it is too much.
    fn limit(self) -> f64 {
        self.added() + (self.added() * GROWTH).max(self.baseline * self.noise)
    }
}

/// What was counted of what was sent; all, where there was nothing to count.
fn share(counted: f64, sent: f64) -> f64 {
    if sent > 0.0 { (counted / sent * 1e4).round() / 1e4 } else { 1.0 }
}

impl Budget {
    fn path(workspace: &Workspace) -> PathBuf {
        workspace.root.join(FILE)
    }

    /// The committed one.
    pub fn read(workspace: &Workspace) -> Result<Self> {
        let path = Self::path(workspace);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Names of the workloads that have a budget on a kernel of this series.
    pub fn workloads(&self, series: &str) -> BTreeSet<String> {
        self.0.get(series).into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    /// An error that names every workload that costs more than it may, or whose exchanges are counted less completely.
    pub fn check(&self, series: &str, results: &[Value]) -> Result<()> {
        let mut complaints = Vec::new();
        for result in results {
            let name = result["workload"].as_str().context("no name in a result")?;
            let Some(budget) = self.0.get(series).and_then(|budgets| budgets.get(name)) else {
                complaints.push(format!("{name}: no budget on Linux {series}"));
                continue;
            };
            let now = Cost::of(result)?;
            if now.counted_share < budget.counted_share {
                let (sent, counted) = (&result["sent"], &result["counted"]);
                complaints.push(format!(
                    "{name}: {sent} exchanges sent, {counted} counted, the budget has a share of {}",
                    budget.counted_share
                ));
            }
            if now.added() > budget.limit() {
                complaints.push(format!(
                    "{name}: {:.0} instructions a request are added ({:.0} in the kernel, {:.0} by the agent), \
                     the budget is {:.0} ({:.0} and {:.0})",
                    now.added(),
                    now.added_kernel,
                    now.added_agent,
                    budget.added(),
                    budget.added_kernel,
                    budget.added_agent,
                ));
            }
        }
        ensure!(
            complaints.is_empty(),
            "the cost is not within the budget of {FILE}:\n  {}\nIf the cost is wanted, renew the budget with \
             `{RENEW}` and say in the commit why.",
            complaints.join("\n  ")
        );
        Ok(())
    }

    /// Writes what was measured in place of what was there for these workloads.
    pub fn renew(workspace: &Workspace, series: &str, results: &[Value]) -> Result<()> {
        let path = Self::path(workspace);
        // One of another form is replaced.
        let mut budget = Self::read(workspace).unwrap_or_default();
        let budgets = budget.0.entry(series.to_owned()).or_default();
        for result in results {
            let name = result["workload"].as_str().context("no name in a result")?;
            budgets.insert(name.to_owned(), Cost::of(result)?);
        }
        let text = serde_json::to_string_pretty(&budget).context("write the budget")? + "\n";
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn budget() -> Budget {
        let cost = Cost {
            baseline: 50_000.0,
            added_kernel: 6_000.0,
            added_agent: 1_000.0,
            noise: 0.002,
            counted_share: 1.0,
        };
        Budget(BTreeMap::from([("6.1".to_owned(), BTreeMap::from([("redis".to_owned(), cost)]))]))
    }

    fn result(added_kernel: f64, counted: u64) -> Value {
        json!({
            "workload": "redis", "baseline": 50_000.0, "added_kernel": added_kernel, "added_agent": 1_000.0,
            "sent": 20, "counted": counted, "noise": 0.002,
        })
    }

    #[test]
    fn the_committed_budget_is_readable_and_names_workloads() {
        let budget = Budget::read(&Workspace::find().unwrap()).unwrap();
        assert!(!budget.workloads("6.1").is_empty());
    }

    #[test]
    fn a_change_that_costs_more_fails_and_hears_how_to_renew() {
        assert!(budget().check("6.1", &[result(6_100.0, 20)]).is_ok(), "within the tolerance");
        let error = budget().check("6.1", &[result(6_200.0, 20)]).unwrap_err().to_string();
        assert!(error.contains("redis: 7200") && error.contains(RENEW), "{error}");
    }

    #[test]
    fn what_is_not_counted_or_has_no_budget_fails() {
        let error = budget().check("6.1", &[result(1.0, 19)]).unwrap_err().to_string();
        assert!(error.contains("20 exchanges sent, 19 counted"), "{error}");
        assert!(budget().check("6.12", &[result(1.0, 20)]).is_err());
    }
}
