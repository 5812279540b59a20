//! A Grafana dashboard as far as this project's has it: rows, figures and graphs, each with its queries.

use anyhow::{Context, Result, bail};
use regex::Regex;
use serde_json::Value;

/// A dashboard's panels, rows among them, in their order.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// Panels.
    pub panels: Vec<Panel>,
}

/// What a panel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanelKind {
    /// A heading.
    Row,
    /// One figure.
    Stat,
    /// Lines, or areas that add up.
    Graph {
        /// They add up.
        stacked: bool,
    },
}

/// One panel; places are in cells of the 24 columns.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What it is.
    pub kind: PanelKind,
    /// Its number.
    pub id: u64,
    /// Its title.
    pub title: String,
    /// Its description.
    pub description: String,
    /// Column.
    pub x: u64,
    /// Line.
    pub y: u64,
    /// Columns.
    pub w: u64,
    /// Lines.
    pub h: u64,
    /// Grafana's name of the unit.
    pub unit: String,
    /// Colours by value, from the lowest on: `None` is the first.
    pub thresholds: Vec<(Option<f64>, String)>,
    /// The highest value of the axis.
    pub max: Option<f64>,
    /// What it asks for.
    pub queries: Vec<Query>,
    /// Addresses of the pages that it names.
    pub links: Vec<String>,
}

/// One query of a panel.
#[derive(Clone, Debug)]
pub struct Query {
    /// As written, with variables.
    pub expr: String,
    /// Template of the legend.
    pub legend: String,
}

// === impl Dashboard ===

impl Dashboard {
    /// Reads Grafana's JSON.
    ///
    /// # Errors
    /// When something that a panel must have is missing.
    pub fn read(json: &str) -> Result<Self> {
        let whole: Value = serde_json::from_str(json)?;
        let panels = whole["panels"].as_array().context("no panels")?;
        Ok(Self { panels: panels.iter().map(Panel::read).collect::<Result<_>>()? })
    }
}

// === impl Panel ===

impl Panel {
    fn read(json: &Value) -> Result<Self> {
        let title = json["title"].as_str().context("a panel without a title")?.to_owned();
        let at = |name: &str| {
            json["gridPos"][name].as_u64().with_context(|| format!("{title}: no place ({name})"))
        };
        let defaults = &json["fieldConfig"]["defaults"];
        let kind = match json["type"].as_str() {
            Some("row") => PanelKind::Row,
            Some("stat") => PanelKind::Stat,
            Some("timeseries") => {
                PanelKind::Graph { stacked: defaults["custom"]["stacking"]["mode"] == "normal" }
            }
            other => bail!("{title}: a panel of type {other:?}"),
        };
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let steps = list(&defaults["thresholds"]["steps"]);
        let queries: Result<_> = list(&json["targets"]).iter().map(Query::read).collect();
        Ok(Self {
            kind,
            id: json["id"].as_u64().with_context(|| format!("{title}: no id"))?,
            description: text(&json["description"]),
            x: at("x")?,
            y: at("y")?,
            w: at("w")?,
            h: at("h")?,
            unit: text(&defaults["unit"]),
            thresholds: steps.iter().map(|step| (step["value"].as_f64(), text(&step["color"]))).collect(),
            max: defaults["max"].as_f64(),
            queries: queries.with_context(|| title.clone())?,
            links: list(&json["links"]).iter().map(|link| text(&link["url"])).collect(),
            title,
        })
    }
}

// === impl Query ===

impl Query {
    fn read(json: &Value) -> Result<Self> {
        let expr = json["expr"].as_str().context("a query without an expression")?.to_owned();
        Ok(Self { expr, legend: text(&json["legendFormat"]) })
    }

    /// With every node; rates are of `interval`, and `range` is what is shown.
    #[must_use]
    pub fn expanded(&self, interval: &str, range: &str) -> String {
        [("$__rate_interval", interval), ("$__range", range), ("$node", ".*"), ("$instance", ".*")]
            .iter()
            .fold(self.expr.clone(), |expr, (variable, value)| expr.replace(variable, value))
    }

    /// The labels that the legend shows.
    ///
    /// # Panics
    /// Never: the expression is a constant.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a constant expression")]
    pub fn legend_labels(&self) -> Vec<String> {
        let label = Regex::new(r"\{\{\s*(\w+)\s*\}\}").expect("valid");
        label.captures_iter(&self.legend).map(|found| found[1].to_owned()).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
