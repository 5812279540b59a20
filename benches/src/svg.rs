//! Pictures as text: lines, bars and words, readable on light and on dark pages, with a title and a description for those
//! who cannot see them.

use std::fmt::Write as _;

/// Sizes are in pixels.
pub const WIDTH: f64 = 760.0;

/// Colours and dashes in their order; neither means anything by itself.
const STROKES: [(&str, &str); 10] = [
    ("#d9480f", ""),
    ("#d9480f", "7 4"),
    ("#d9480f", "2 3"),
    ("#1971c2", ""),
    ("#1971c2", "7 4"),
    ("#1971c2", "2 3"),
    ("#2f9e44", ""),
    ("#2f9e44", "7 4"),
    ("#868e96", ""),
    ("#9c36b5", ""),
];

/// As pages are: dark text on white, or the other way round where the reader's system is dark.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}\
    .page{fill:#fff}.grid{stroke:#d0d7de;stroke-width:1}.line{fill:none;stroke-width:2}\
    .end{text-anchor:end}.middle{text-anchor:middle}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.grid{stroke:#3d444d}}";

/// A picture in the making.
#[derive(Debug)]
pub struct Picture {
    height: f64,
    title: String,
    description: String,
    body: String,
}

/// Where a text stands to its point.
#[derive(Clone, Copy, Debug)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// It is around it.
    Middle,
    /// It ends there.
    End,
}

// === impl Picture ===

impl Picture {
    /// An empty one.
    #[must_use]
    pub fn new(height: f64, title: &str, description: &str) -> Self {
        Self { height, title: title.into(), description: description.into(), body: String::new() }
    }

    /// A word.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let class = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " class=\"middle\"",
            Anchor::End => " class=\"end\"",
        };
        let _ = writeln!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\"{class}>{}</text>", escaped(text));
    }

    /// A line of the grid.
    pub fn grid(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _ = writeln!(
            self.body,
            "<line class=\"grid\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    /// A curve through these points, in the `nth` stroke.
    pub fn curve(&mut self, nth: usize, points: &[(f64, f64)]) {
        let points: String = points.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
        let (colour, dashes) = stroke(nth);
        let _ = writeln!(
            self.body,
            "<polyline class=\"line\" stroke=\"{colour}\" stroke-dasharray=\"{dashes}\" points=\"{}\"/>",
            points.trim_end()
        );
    }

    /// A bar in the `nth` colour; a faint one is the part of it that is told apart.
    pub fn bar(&mut self, nth: usize, (x, y): (f64, f64), (width, height): (f64, f64), faint: bool) {
        let opacity = if faint { 0.45 } else { 1.0 };
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{}\" \
             fill-opacity=\"{opacity}\"/>",
            stroke(nth).0
        );
    }

    /// What the `nth` stroke is.
    pub fn legend(&mut self, nth: usize, (x, y): (f64, f64), text: &str) {
        self.curve(nth, &[(x, y - 4.0), (x + 26.0, y - 4.0)]);
        self.text((x + 32.0, y), Anchor::Start, text);
    }

    /// All of it.
    #[must_use]
    pub fn finish(self) -> String {
        let Self { height, title, description, body } = self;
        let (title, description) = (escaped(&title), escaped(&description));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\" \
             aria-labelledby=\"title description\">\n<title id=\"title\">{title}</title>\n\
             <desc id=\"description\">{description}</desc>\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"100%\" height=\"100%\"/>\n\
             <text class=\"title\" x=\"12\" y=\"22\">{title}</text>\n{body}</svg>\n"
        )
    }
}

/// A scale of logarithms.
#[derive(Clone, Copy, Debug)]
pub struct Logarithmic {
    /// The least and the most that is shown.
    pub values: (f64, f64),
    /// Where these are.
    pub places: (f64, f64),
}

// === impl Logarithmic ===

impl Logarithmic {
    /// Where a value is.
    #[must_use]
    pub fn at(self, value: f64) -> f64 {
        let (low, high) = (self.values.0.ln(), self.values.1.ln());
        let share = (value.clamp(self.values.0, self.values.1).ln() - low) / (high - low);
        self.places.0 + share * (self.places.1 - self.places.0)
    }

    /// Round numbers on it: 1, 2 and 5 of every power of ten.
    #[must_use]
    pub fn ticks(self) -> Vec<f64> {
        let powers = (0..9).map(|power| 10_f64.powi(power));
        powers
            .flat_map(|power| [power, 2.0 * power, 5.0 * power])
            .filter(|tick| (self.values.0..=self.values.1).contains(tick))
            .collect()
    }
}

fn stroke(nth: usize) -> (&'static str, &'static str) {
    STROKES[nth % STROKES.len()]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_its_ends_and_round_numbers() {
        let scale = Logarithmic { values: (100.0, 10_000.0), places: (300.0, 0.0) };
        assert!((scale.at(100.0) - 300.0).abs() < 1e-9 && scale.at(10_000.0).abs() < 1e-9);
        assert!((scale.at(1_000.0) - 150.0).abs() < 1e-9);
        assert_eq!(scale.ticks(), [100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0]);
    }

    #[test]
    fn words_cannot_break_a_picture() {
        let mut picture = Picture::new(10.0, "a < b", "c & d");
        picture.text((0.0, 0.0), Anchor::Start, "`<script>`");
        let drawn = picture.finish();
        assert!(drawn.contains("a &lt; b") && drawn.contains("c &amp; d"));
        assert!(drawn.contains("&lt;script&gt;") && !drawn.contains("<script>"));
    }
}
