//! Panels as SVG: figures and graphs at their places, with titles, axes and legends.

use std::fmt::Write as _;

use rolegate_tests::dashboard::{Dashboard, Panel, PanelKind};

use crate::scale::{Unit, nice_ceiling};

/// Pixels of a column and of a line of the grid, and between two panels.
const CELL: (f64, f64) = (60.0, 30.0);
const GAP: f64 = 4.0;
const TITLE: f64 = 22.0;
/// Left of the graph, for the axis; below it, for the time.
const AXIS: (f64, f64) = (58.0, 20.0);
const LEGEND_LINE: f64 = 14.0;
const LEGEND_LINES: usize = 3;
/// Grafana's classic palette.
const COLOURS: [&str; 12] = [
    "#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#96d98d", "#ffee52",
    "#c0d8ff", "#ffb357", "#ff7383",
];

/// One line of a graph: its legend, and a value or none at each step.
pub(crate) struct Line {
    pub(crate) legend: String,
    pub(crate) values: Vec<Option<f64>>,
}

/// What a panel shows.
pub(crate) enum Shown {
    Nothing,
    Figure(Option<f64>),
    Lines(Vec<Line>),
}

/// A rectangle.
#[derive(Clone, Copy)]
struct Area {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
}

/// The whole picture; `seconds` is the time from the first step to the last.
pub(crate) fn dashboard(dashboard: &Dashboard, shown: &[Shown], seconds: f64) -> String {
    let bottom = dashboard.panels.iter().map(|panel| panel.y + panel.h).max().unwrap_or_default();
    let (width, height) = (24.0 * CELL.0 + GAP, number(bottom) * CELL.1 + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"11\" fill=\"#ccccdc\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#111217\"/>\n"
    );
    for (panel, shown) in dashboard.panels.iter().zip(shown) {
        let area = Area {
            x: number(panel.x) * CELL.0 + GAP,
            y: number(panel.y) * CELL.1 + GAP,
            w: number(panel.w) * CELL.0 - GAP,
            h: number(panel.h) * CELL.1 - GAP,
        };
        match shown {
            Shown::Nothing => {
                text(&mut svg, area.x + 4.0, area.y + 18.0, "font-size=\"14\"", &panel.title);
                continue;
            }
            Shown::Figure(value) => {
                frame(&mut svg, area, &panel.title);
                figure(&mut svg, area, panel, *value);
            }
            Shown::Lines(lines) => {
                frame(&mut svg, area, &panel.title);
                graph(&mut svg, area, panel, lines, seconds);
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn frame(svg: &mut String, area: Area, title: &str) {
    let Area { x, y, w, h } = area;
    put(
        svg,
        &format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"2\" fill=\"#181b1f\" stroke=\"#2c3235\"/>"
        ),
    );
    text(svg, x + 8.0, y + 15.0, "font-size=\"12\" font-weight=\"bold\"", title);
}

fn figure(svg: &mut String, area: Area, panel: &Panel, value: Option<f64>) {
    let colour = panel
        .thresholds
        .iter()
        .rfind(|(from, _)| from.is_none_or(|from| value.is_some_and(|value| value >= from)))
        .map_or("green", |(_, colour)| colour.as_str());
    let colour = match colour {
        "green" => "#73bf69",
        "orange" => "#ff9830",
        _ => "#f2495c",
    };
    let shown = value.map_or_else(|| "No data".into(), |value| Unit::of(&panel.unit).show(value));
    let style = format!("font-size=\"30\" text-anchor=\"middle\" fill=\"{colour}\"");
    text(svg, area.x + area.w / 2.0, area.y + area.h / 2.0 + 20.0, &style, &shown);
}

fn graph(svg: &mut String, area: Area, panel: &Panel, lines: &[Line], seconds: f64) {
    let stacked = panel.kind == PanelKind::Graph { stacked: true };
    let below = legend(svg, area, lines);
    let plot = Area {
        x: area.x + AXIS.0,
        y: area.y + TITLE + 6.0,
        w: area.w - AXIS.0 - 20.0,
        h: area.h - TITLE - 6.0 - AXIS.1 - below,
    };
    let curves = curves(lines, stacked);
    let highest = curves.iter().flat_map(|(_, top)| top.iter().flatten()).fold(0.0, |a: f64, b| a.max(*b));
    let limit = panel.thresholds.iter().find_map(|(from, _)| *from).filter(|from| *from <= 3.0 * highest);
    let unit = Unit::of(&panel.unit);
    let top = panel.max.unwrap_or_else(|| nice_ceiling(highest.max(limit.unwrap_or(0.0)), &unit));
    axes(svg, plot, top, &unit, seconds);
    for (index, (bottom, line)) in curves.iter().enumerate().rev() {
        curve(svg, plot, top, bottom, line, COLOURS[index % COLOURS.len()], stacked);
    }
    if let Some(limit) = limit {
        let y = plot.y + plot.h * (1.0 - limit / top);
        let (from, to) = (plot.x, plot.x + plot.w);
        put(
            svg,
            &format!("<path d=\"M{from:.1} {y:.1}H{to:.1}\" stroke=\"#e02f44\" stroke-dasharray=\"6 4\"/>"),
        );
    }
}

/// The lower and the upper edge of each line: those of stacked ones lie on each other.
fn curves(lines: &[Line], stacked: bool) -> Vec<(Vec<f64>, Vec<Option<f64>>)> {
    let steps = lines.iter().map(|line| line.values.len()).max().unwrap_or_default();
    let mut floor = vec![0.0; steps];
    lines
        .iter()
        .map(|line| {
            let bottom = if stacked { floor.clone() } else { vec![0.0; steps] };
            let line: Vec<Option<f64>> =
                line.values.iter().zip(&bottom).map(|(value, bottom)| value.map(|it| it + bottom)).collect();
            for (floor, value) in floor.iter_mut().zip(&line) {
                *floor = value.unwrap_or(*floor);
            }
            (bottom, line)
        })
        .collect()
}

fn curve(
    svg: &mut String,
    plot: Area,
    top: f64,
    bottom: &[f64],
    line: &[Option<f64>],
    colour: &str,
    fill: bool,
) {
    let steps = line.len().saturating_sub(1).max(1);
    let x = |step: usize| plot.x + plot.w * count(step) / count(steps);
    let y = |value: f64| plot.y + plot.h * (1.0 - (value / top).clamp(0.0, 1.0));
    let mut step = 0;
    while step < line.len() {
        let piece = line[step..].iter().take_while(|value| value.is_some()).count();
        if piece > 0 {
            let points = (step..step + piece).filter_map(|at| Some((at, line[at]?)));
            let mut path = String::new();
            for (index, (at, value)) in points.enumerate() {
                let command = if index == 0 { 'M' } else { 'L' };
                // Writing to a string cannot fail.
                let _ = write!(path, "{command}{:.1} {:.1}", x(at), y(value));
            }
            if fill {
                let back: String = (step..step + piece)
                    .rev()
                    .map(|at| format!("L{:.1} {:.1}", x(at), y(bottom[at])))
                    .collect();
                put(svg, &format!("<path d=\"{path}{back}Z\" fill=\"{colour}\" fill-opacity=\"0.25\"/>"));
            }
            put(svg, &format!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.4\"/>"));
        }
        step += piece.max(1);
    }
}

fn axes(svg: &mut String, plot: Area, top: f64, unit: &Unit, seconds: f64) {
    let dim = "fill=\"#9a9ca5\" font-size=\"10\"";
    for quarter in 0..=4_u8 {
        let part = f64::from(quarter) / 4.0;
        let y = plot.y + plot.h * (1.0 - part);
        let (from, to) = (plot.x, plot.x + plot.w);
        put(svg, &format!("<path d=\"M{from:.1} {y:.1}H{to:.1}\" stroke=\"#2c3235\"/>"));
        text(svg, from - 6.0, y + 3.5, &format!("{dim} text-anchor=\"end\""), &unit.show(top * part));
    }
    let mut minute = 0.0;
    while minute * 60.0 <= seconds {
        let x = plot.x + plot.w * minute * 60.0 / seconds;
        text(
            svg,
            x,
            plot.y + plot.h + 13.0,
            &format!("{dim} text-anchor=\"middle\""),
            &format!("{minute:.0} min"),
        );
        minute += 1.0;
    }
}

/// Draws it at the bottom, and returns how high it is.
fn legend(svg: &mut String, area: Area, lines: &[Line]) -> f64 {
    let mut rows: Vec<Vec<(f64, usize)>> = vec![Vec::new()];
    let mut x = 0.0;
    for (index, line) in lines.iter().enumerate() {
        let width = 26.0 + 6.4 * count(line.legend.chars().count());
        if x + width > area.w - 16.0 && x > 0.0 {
            rows.push(Vec::new());
            x = 0.0;
        }
        if let Some(row) = rows.last_mut() {
            row.push((x, index));
        }
        x += width;
    }
    rows.truncate(LEGEND_LINES);
    let height = LEGEND_LINE * count(rows.len()) + 6.0;
    for (number, row) in rows.iter().enumerate() {
        let y = area.y + area.h - height + LEGEND_LINE * (count(number) + 0.8);
        for (x, index) in row {
            let (x, colour) = (area.x + 10.0 + x, COLOURS[index % COLOURS.len()]);
            let bar = y - 5.0;
            put(
                svg,
                &format!("<rect x=\"{x:.1}\" y=\"{bar:.1}\" width=\"12\" height=\"3\" fill=\"{colour}\"/>"),
            );
            text(svg, x + 16.0, y, "", &lines[*index].legend);
        }
    }
    height
}

fn text(svg: &mut String, x: f64, y: f64, style: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    put(svg, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>"));
}

fn put(svg: &mut String, element: &str) {
    svg.push_str(element);
    svg.push('\n');
}

fn number(cells: u64) -> f64 {
    f64::from(u32::try_from(cells).unwrap_or(u32::MAX))
}

fn count(things: usize) -> f64 {
    f64::from(u32::try_from(things).unwrap_or(u32::MAX))
}
