//! The pages for operators: their commands are run, their links lead somewhere, and what they name exists.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "docs/desk.rs"]
mod desk;
#[path = "docs/errors.rs"]
mod errors;
#[path = "docs/kubelet.rs"]
mod kubelet;
#[path = "docs/names.rs"]
mod names;
#[path = "docs/pages.rs"]
mod pages;
#[path = "docs/policies.rs"]
mod policies;
#[path = "docs/table.rs"]
mod table;

use regex::Regex;

use self::desk::Desk;
use self::pages::{Block, Page};
use self::table::How;

#[test]
fn every_command_of_the_pages_is_run_or_has_a_reason_why_not() {
    let mut unlisted = Vec::new();
    for page in pages::all() {
        for block in page.blocks().iter().filter(|block| block.language == "sh") {
            if table::how(&page.name, block).is_none() {
                unlisted.push(format!("{}:{}", page.name, block.line));
            }
        }
    }
    assert!(unlisted.is_empty(), "neither run nor listed in table.rs: {unlisted:?}");
    let unused = table::unused(|page| Page::named(page).blocks());
    assert!(unused.is_empty(), "rows of table.rs without a block: {unused:?}");
}

#[test]
fn commands_of_the_pages_do_what_they_say() {
    let Some(desk) = Desk::for_test("commands_of_the_pages_do_what_they_say") else { return };
    // For whoever writes a page: the end of its name.
    let only = std::env::var_os("ROLEGATE_DOCS_PAGE").and_then(|only| only.into_string().ok());
    let mut failed = String::new();
    for page in pages::all().iter().filter(|page| only.as_ref().is_none_or(|only| page.name.ends_with(only)))
    {
        let directory = desk.directory(&page.name);
        let blocks = page.blocks();
        if !blocks.iter().any(|block| block.language == "sh") {
            continue;
        }
        desk.prepare(&page.name, &directory);
        for (n, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "sh") {
            let how = table::how(&page.name, block).unwrap();
            if matches!(how, How::No(_)) {
                continue;
            }
            let started = tokio::time::Instant::now();
            let output = desk.run(how, block, &directory);
            if only.is_some() {
                eprintln!("{}:{} {:?}", page.name, block.line, started.elapsed());
            }
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let shown = blocks.get(n + 1).filter(|next| next.language == "text" && how != How::Lines);
            let missing = shown.and_then(|shown| missing_line(shown, &said));
            if !output.status.success() || missing.is_some() {
                failed.push_str(&format!(
                    "\n=== {}:{} {} {}\n{}--- said\n{said}{}",
                    page.name,
                    block.line,
                    output.status,
                    missing.map(|line| format!("did not say {line:?}")).unwrap_or_default(),
                    block.text,
                    String::from_utf8_lossy(&output.stderr),
                ));
                // What follows builds on it.
                break;
            }
        }
        desk.clean(&page.name, &directory);
    }
    assert!(failed.is_empty(), "{failed}\n{}", desk.troubles().join("\n"));
}

/// The first line of a `text` block that what was said has not: they come in this order, blanks are alike, and `…`
/// stands for anything.
fn missing_line(shown: &Block, said: &str) -> Option<String> {
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut said = said.lines().map(squeezed);
    shown.text.lines().filter(|line| !line.trim().is_empty() && line.trim() != "…").find_map(|line| {
        let pattern: Vec<String> = squeezed(line).split('…').map(regex::escape).collect();
        let pattern = Regex::new(&format!("^{}$", pattern.join(".*"))).unwrap();
        (!said.any(|line| pattern.is_match(&line))).then(|| line.to_owned())
    })
}

#[test]
fn lines_are_looked_for_in_their_order() {
    let shown = |text: &str| Block { language: "text".into(), text: text.into(), line: 1 };
    assert_eq!(missing_line(&shown("a  … c\n…\nd\n"), "x\na b  c\ny\nd\n"), None);
    assert_eq!(missing_line(&shown("d\na\n"), "a\nd\n"), Some("a".into()));
    assert_eq!(missing_line(&shown("a.c\n"), "abc\n"), Some("a.c".into()));
}

#[test]
fn every_link_of_the_pages_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages::all() {
        let dir = std::path::Path::new(&page.name).parent().unwrap().to_owned();
        for link in page.links().into_iter().filter(|link| !link.starts_with("https://")) {
            let (file, anchor) =
                link.split_once('#').map_or((&*link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.name.clone().into() } else { dir.join(file) };
            let target = pages::root().join(target);
            let anchored = |anchor: &str| {
                let text = std::fs::read_to_string(&target).unwrap_or_default();
                Page { name: link.clone(), text }.anchors().contains(anchor)
            };
            if !target.exists() || anchor.is_some_and(|anchor| !anchored(anchor)) {
                broken.push(format!("{}: {link}", page.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
