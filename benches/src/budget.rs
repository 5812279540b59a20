//! What a request may cost, kept in a file beside the code, and whether it does.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// What a kind of request costs from accept to close, counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// The kind of request.
    pub scenario: String,
    /// Instructions of the agent in user space; 0 where they were not counted.
    pub instructions: u64,
    /// Those of a bare hyper server that gives the same bytes.
    pub bare_instructions: u64,
    /// Allocations of the agent, reallocations included.
    pub allocations: u64,
    /// Those of the bare server.
    pub bare_allocations: u64,
}

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// With which compiler, for which architecture and with which of the C library's versions it was counted.
    pub counted_with: Here,
    /// How many percent more instructions are still within the budget.
    pub allowance_percent: u64,
    /// Instructions of a request, by kind.
    pub instructions: BTreeMap<String, u64>,
    /// Allocations of a request, by kind.
    pub allocations: BTreeMap<String, u64>,
    #[serde(skip)]
    file: PathBuf,
}

/// What instruction counts depend on besides the code.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Here {
    /// `rustc --version`'s number.
    pub rustc: String,
    /// As Rust names it: `x86_64`.
    pub arch: String,
}

/// What a budget says to what was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    exceeded: Vec<String>,
    remarks: Vec<String>,
}

// === impl Budget ===

impl Budget {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is not there, or does not say what a budget says.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let budget: Self = serde_saphyr::from_str(&text).with_context(|| file.display().to_string())?;
        Ok(Self { file: file.to_owned(), ..budget })
    }

    /// Holds what was counted `here` against it. Instructions of another compiler or architecture exceed nothing.
    #[must_use]
    pub fn judge(&self, costs: &[Cost], here: &Here) -> Judgement {
        let mut judgement = Judgement::default();
        let comparable = *here == self.counted_with;
        if !comparable {
            judgement.remarks.push(format!(
                "instructions are not judged: the budget was counted with {}, this is {here}",
                self.counted_with
            ));
        }
        for Cost { scenario, instructions, allocations, .. } in costs {
            let counts = [("instructions", *instructions, &self.instructions, self.allowance_percent)];
            let counts = counts.into_iter().filter(|_| comparable && *instructions > 0);
            for (what, counted, budget, percent) in
                counts.chain([("allocations", *allocations, &self.allocations, 0)])
            {
                let Some(&budget) = budget.get(scenario) else {
                    judgement.exceeded.push(format!("{scenario}: {counted} {what}, and no budget for them"));
                    continue;
                };
                let allowance = budget * percent / 100;
                if counted > budget + allowance {
                    judgement.exceeded.push(format!(
                        "{scenario}: {counted} {what}, {} more than the budget of {budget} (allowance: {allowance})",
                        counted - budget
                    ));
                } else if counted + allowance < budget {
                    judgement.remarks.push(format!(
                        "{scenario}: {counted} {what}, {} fewer than the budget of {budget}: lower it",
                        budget - counted
                    ));
                }
            }
        }
        if judgement.is_exceeded() {
            judgement.remarks.push(format!(
                "A request costs more than {} allows. Make it cheaper (`callgrind_annotate` shows where the instructions \
                 go, `--sites` where is allocated), or raise the budget in the same change and say there why.",
                self.file.display()
            ));
        }
        judgement
    }
}

// === impl Here ===

impl Here {
    /// The compiler that is here, which is the one that this was built with.
    ///
    /// # Errors
    /// When there is no `rustc`.
    pub fn now() -> Result<Self> {
        let told = std::process::Command::new("rustc").arg("--version").output().context("rustc")?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        let rustc = told.split(' ').nth(1).context("rustc says no version")?.to_owned();
        Ok(Self { rustc, arch: std::env::consts::ARCH.to_owned() })
    }
}

impl fmt::Display for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {} for {}", self.rustc, self.arch)
    }
}

// === impl Judgement ===

impl Judgement {
    /// Something costs more than it may.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        !self.exceeded.is_empty()
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.exceeded {
            writeln!(f, "EXCEEDED {line}")?;
        }
        for line in &self.remarks {
            writeln!(f, "{line}")?;
        }
        if self.exceeded.is_empty() { writeln!(f, "within the budget") } else { Ok(()) }
    }
}

/// What was counted, for people.
#[must_use]
pub fn table(costs: &[Cost]) -> String {
    let mut text = format!(
        "{:<10} {:>12} {:>12} {:>6} {:>12} {:>12}\n",
        "request", "instructions", "bare hyper", "ratio", "allocations", "bare hyper"
    );
    for cost in costs {
        let percent = (cost.instructions * 100).checked_div(cost.bare_instructions);
        let ratio = percent.map_or_else(|| "-".to_owned(), |it| format!("{}.{:02}", it / 100, it % 100));
        let _ = writeln!(
            text,
            "{:<10} {:>12} {:>12} {ratio:>6} {:>12} {:>12}",
            cost.scenario, cost.instructions, cost.bare_instructions, cost.allocations, cost.bare_allocations
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        let text = "counted_with: {rustc: 1.95.0, arch: x86_64}\nallowance_percent: 2\n\
                    instructions: {document: 10000}\nallocations: {document: 10}\n";
        serde_saphyr::from_str(text).unwrap()
    }

    fn cost(instructions: u64, allocations: u64) -> Cost {
        let scenario = "document".to_owned();
        Cost { scenario, instructions, bare_instructions: 8_000, allocations, bare_allocations: 5 }
    }

    #[test]
    fn more_than_the_allowance_exceeds_the_budget_and_says_by_how_much() {
        let (budget, here) = (budget(), budget().counted_with);
        assert_eq!(budget.judge(&[cost(10_200, 10)], &here), Judgement::default());
        let over = budget.judge(&[cost(10_201, 10)], &here);
        assert!(over.is_exceeded());
        let said = over.to_string();
        assert!(said.contains("document: 10201 instructions, 201 more than the budget of 10000"), "{said}");
        assert!(said.contains("raise the budget in the same change"), "{said}");
    }

    #[test]
    fn one_allocation_more_exceeds_the_budget_whatever_the_compiler() {
        let other = Here { rustc: "1.99.0".to_owned(), arch: "x86_64".to_owned() };
        assert!(budget().judge(&[cost(0, 11)], &other).is_exceeded());
        let unjudged = budget().judge(&[cost(99_999, 10)], &other);
        assert!(!unjudged.is_exceeded());
        assert!(unjudged.to_string().contains("counted with rustc 1.95.0 for x86_64, this is rustc 1.99.0"));
    }

    #[test]
    fn what_has_no_budget_exceeds_it_and_what_costs_much_less_is_said() {
        let (budget, here) = (budget(), budget().counted_with);
        let unknown = Cost { scenario: "other".to_owned(), ..cost(1, 1) };
        assert!(budget.judge(&[unknown], &here).is_exceeded());
        let less = budget.judge(&[cost(9_000, 8)], &here);
        assert!(!less.is_exceeded());
        assert!(less.to_string().contains("1000 fewer than the budget of 10000: lower it"));
    }
}
