//! The table of criterion's benches, where they were run.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::markdown;
use super::others::number;

/// What criterion left below `directory`, or nothing if it was not run.
///
/// # Errors
/// When a file cannot be read.
pub fn steps(directory: &Path) -> Result<Option<String>> {
    let mut rows = Vec::new();
    collect(directory, &mut rows)?;
    rows.sort();
    Ok((!rows.is_empty()).then(|| markdown(&["Step", "median of the estimates"], &rows)))
}

/// `GROUP/NAME/new/{benchmark,estimates}.json`, at any depth.
fn collect(directory: &Path, rows: &mut Vec<Vec<String>>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.ends_with("new") {
            let read = |name: &str| -> Result<Value> {
                Ok(serde_json::from_slice(&std::fs::read(path.join(name))?)?)
            };
            let (bench, estimates) = (read("benchmark.json")?, read("estimates.json")?);
            let title = bench["title"].as_str().unwrap_or_default();
            rows.push(vec![format!("`{title}`"), nanos(number(&estimates["median"]["point_estimate"]))]);
        } else if path.is_dir() {
            collect(&path, rows)?;
        }
    }
    Ok(())
}

fn nanos(nanos: f64) -> String {
    if nanos < 1e3 { format!("{nanos:.0} ns") } else { format!("{:.1} us", nanos / 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_criterion_left_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("route/token/new");
        std::fs::create_dir_all(&new).unwrap();
        std::fs::write(new.join("benchmark.json"), r#"{"title": "route/token"}"#).unwrap();
        std::fs::write(new.join("estimates.json"), r#"{"median": {"point_estimate": 1750.4}}"#).unwrap();
        let table = steps(dir.path()).unwrap().unwrap();
        assert!(table.ends_with("| `route/token` | 1.8 us |\n"), "{table}");
        assert_eq!(steps(&dir.path().join("none")).unwrap(), None);
    }
}
