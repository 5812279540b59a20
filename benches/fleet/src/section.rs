//! Parts of pages that programs write, between two markers.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Puts `text` between `<!-- begin: name -->` and `<!-- end: name -->`, in place of what is there.
///
/// # Errors
/// When the page cannot be read or written, or has no such markers.
pub(crate) fn write(page: &Path, name: &str, text: &str) -> Result<()> {
    let old = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let new = replaced(&old, name, text);
    let new = new.with_context(|| format!("{} has no markers of {name}", page.display()))?;
    std::fs::write(page, new).with_context(|| page.display().to_string())
}

fn replaced(page: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- begin: {name} -->\n"), format!("<!-- end: {name} -->"));
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{text}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_markers_is_replaced_and_nothing_else() {
        let page = "a\n<!-- begin: x -->\nold\n<!-- end: x -->\nz\n";
        let new = replaced(page, "x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- begin: x -->\nnew\n<!-- end: x -->\nz\n");
        assert_eq!(replaced(page, "y", "new\n"), None);
    }
}
