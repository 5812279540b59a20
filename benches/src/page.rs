//! docs/performance.md: its tables are made from figures and put between markers, and nothing else of it is touched.

pub mod goals;
pub mod others;
pub mod steps;
pub mod tables;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// What stands before a table, with its name; and how what stands behind it begins.
const BEGIN: &str = "<!-- begin: ";
const END: &str = "<!-- end";

/// The page with these tables by name in the places of the old ones.
///
/// # Errors
/// When a table has no place, or a place has no end.
pub fn with_tables(page: &str, tables: &BTreeMap<&str, String>) -> Result<String> {
    let mut written = String::with_capacity(page.len());
    let mut rest = page;
    let mut placed = 0;
    while let Some(at) = rest.find(BEGIN) {
        let line_end = rest[at..].find('\n').map_or(rest.len(), |end| at + end + 1);
        let name = rest[at..line_end].trim().trim_start_matches(BEGIN).trim_end_matches(" -->");
        let end = rest[line_end..].find(END).with_context(|| format!("{name} has no end"))? + line_end;
        written.push_str(&rest[..line_end]);
        match tables.get(name) {
            Some(table) => {
                placed += 1;
                written.push_str(table.trim());
                written.push('\n');
            }
            None => written.push_str(&rest[line_end..end]),
        }
        rest = &rest[end..];
    }
    ensure!(placed == tables.len(), "the page has {placed} places for {:?}", tables.keys());
    written.push_str(rest);
    Ok(written)
}

/// A table in Markdown.
#[must_use]
pub fn markdown(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut table = line(head.to_vec()) + &line(vec!["---"; head.len()]);
    for row in rows {
        table.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str =
        "a\n<!-- begin: one -->\nold\n<!-- end -->\nb\n<!-- begin: two -->\nkept\n<!-- end: two -->\n";

    #[test]
    fn only_what_is_given_is_replaced() {
        let tables = BTreeMap::from([("one", "new\n".to_owned())]);
        let page = with_tables(PAGE, &tables).unwrap();
        assert_eq!(page, PAGE.replace("old", "new"));
        assert_eq!(with_tables(&page, &tables).unwrap(), page);
    }

    #[test]
    fn a_table_without_a_place_is_an_error() {
        assert!(with_tables(PAGE, &BTreeMap::from([("three", String::new())])).is_err());
        assert!(with_tables("<!-- begin: one -->\n", &BTreeMap::new()).is_err());
    }

    #[test]
    fn a_table_is_a_line_a_row() {
        assert_eq!(
            markdown(&["a", "b"], &[vec!["1".into(), "2".into()]]),
            "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
        );
    }
}
