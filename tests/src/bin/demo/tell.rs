//! How the demo speaks: steps, what was asked and answered, and whether that was right.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _};

use tokio::time::Instant;

/// Writes to standard output, in colours where that is a terminal.
pub(crate) struct Teller {
    colours: bool,
    started: Instant,
    step: Cell<u32>,
    wrong: Cell<u32>,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const CYAN: &str = "36";

// === impl Teller ===

impl Teller {
    pub(crate) fn new() -> Self {
        Self {
            colours: std::io::stdout().is_terminal(),
            started: Instant::now(),
            step: Cell::new(0),
            wrong: Cell::new(0),
        }
    }

    pub(crate) fn title(&self, text: &str) {
        self.line(&self.paint(BOLD, text));
    }

    /// What is being done while nothing is to be seen.
    pub(crate) fn progress(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs();
        self.line(&self.paint(DIM, &format!("  [{seconds:>2} s] {text} ...")));
    }

    pub(crate) fn step(&self, text: &str) {
        self.step.set(self.step.get() + 1);
        self.line("");
        self.line(&self.paint(BOLD, &format!("{}. {text}", self.step.get())));
    }

    pub(crate) fn say(&self, text: &str) {
        self.line(&format!("   {text}"));
    }

    /// A pod asks: who, with which command.
    pub(crate) fn asks(&self, who: &str, command: &str) {
        self.line(&format!("   {} $ {command}", self.paint(CYAN, who)));
    }

    /// What came back, and whether it is what should.
    pub(crate) fn gets(&self, answer: &str, right: bool, meaning: &str) {
        if !right {
            self.wrong.set(self.wrong.get() + 1);
        }
        for line in answer.trim_end().lines() {
            self.line(&format!("      {line}"));
        }
        let (mark, colour) = if right { ("ok", GREEN) } else { ("WRONG", RED) };
        self.line(&format!("      {} {meaning}", self.paint(colour, mark)));
    }

    pub(crate) fn bad(&self, text: &str) {
        self.line(&self.paint(RED, text));
    }

    /// Closes; true when nothing was wrong.
    pub(crate) fn end(&self) -> bool {
        let seconds = self.started.elapsed().as_secs();
        let wrong = self.wrong.get();
        self.line("");
        if wrong == 0 {
            self.line(&self.paint(GREEN, &format!("Everything as it should be, in {seconds} s.")));
        }
        wrong == 0
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, text: &str) {
        // A closed standard output leaves nobody to tell.
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}
