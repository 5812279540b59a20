//! The pages: their fenced blocks, links and headings.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

/// A page of the repository.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its path from the root of the repository.
    pub(crate) name: String,
    /// Its text.
    pub(crate) text: String,
}

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Its language.
    pub(crate) language: String,
    /// Its text, without the indent of the list that it is in.
    pub(crate) text: String,
    /// The line of the page that its fence is on, from 1.
    pub(crate) line: usize,
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every page for people: those at the root, `docs/` and `deploy/`.
pub(crate) fn all() -> Vec<Page> {
    let root = root();
    let mut names: Vec<String> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .collect();
    for dir in ["docs", "deploy"] {
        collect(&root, dir, &mut names);
    }
    names.sort();
    names
        .into_iter()
        .map(|name| Page { text: std::fs::read_to_string(root.join(&name)).unwrap(), name })
        .collect()
}

fn collect(root: &Path, dir: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(dir)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{dir}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &name, names);
        } else if name.ends_with(".md") {
            names.push(name);
        }
    }
}

// === impl Page ===

impl Page {
    /// The page of that name.
    pub(crate) fn named(name: &str) -> Self {
        Self { text: std::fs::read_to_string(root().join(name)).unwrap(), name: name.to_owned() }
    }

    /// Its fenced blocks, in order.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(usize, Block)> = None;
        for (number, line) in self.text.lines().enumerate() {
            let trimmed = line.trim_start();
            match (&mut open, trimmed.strip_prefix("```")) {
                (None, Some(language)) => {
                    let block = Block { language: language.into(), text: String::new(), line: number + 1 };
                    open = Some((line.len() - trimmed.len(), block));
                }
                (Some(_), Some("")) => blocks.extend(open.take().map(|(_, block)| block)),
                (Some((indent, block)), _) => {
                    let inside = line.get(*indent..).unwrap_or_default();
                    block.text.push_str(inside);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fence is not closed", self.name);
        blocks
    }

    /// Its text without fenced blocks.
    pub(crate) fn prose(&self) -> String {
        let mut inside = false;
        let mut prose = String::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                inside = !inside;
            } else if !inside {
                prose.push_str(line);
                prose.push('\n');
            }
        }
        prose
    }

    /// The targets of its links.
    pub(crate) fn links(&self) -> Vec<String> {
        let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
        link.captures_iter(&self.prose()).map(|found| found[1].to_owned()).collect()
    }

    /// The anchors of its headings, as forges make them.
    pub(crate) fn anchors(&self) -> BTreeSet<String> {
        let heading = Regex::new(r"(?m)^#+ +(.+?) *$").unwrap();
        let mut anchors = BTreeSet::new();
        for found in heading.captures_iter(&self.prose()) {
            let anchor: String = found[1]
                .to_lowercase()
                .chars()
                .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
                .map(|letter| if letter == ' ' { '-' } else { letter })
                .collect();
            let again = (1..).map(|n| format!("{anchor}-{n}")).find(|name| !anchors.contains(name));
            if !anchors.insert(anchor) {
                anchors.extend(again);
            }
        }
        anchors
    }
}

#[test]
fn blocks_are_found_in_lists_and_headings_become_anchors() {
    let text =
        "# A `b` page, of -- things\n\n1. Do\n\n   ```sh\n   a\n     b\n   ```\n## Do\n## Do\n```\nc\n```\n";
    let page = Page { name: "p".into(), text: text.into() };
    let block =
        |language: &str, text: &str, line| Block { language: language.into(), text: text.into(), line };
    assert_eq!(page.blocks(), [block("sh", "a\n  b\n", 5), block("", "c\n", 11)]);
    let anchors = ["a-b-page-of----things", "do", "do-1"].map(String::from);
    assert_eq!(page.anchors(), anchors.into());
}
