//! Histograms with marked values.

use super::axis::Axis;
use super::{escape, number};
use std::fmt::Write;

/// A vertical line.
#[derive(Debug, Clone, PartialEq)]
pub struct Marker {
    /// Where; one that is not finite is said in the caption instead.
    pub value: f64,
    /// What it means.
    pub label: String,
}

/// Counts in equally wide bins.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    title: String,
    note: String,
    low: f64,
    high: f64,
    counts: Vec<u64>,
    markers: Vec<Marker>,
    log: bool,
}

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 150.0;
const SIDE: f64 = 14.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 130.0;

impl Histogram {
    /// Counts of the bins between `low` and `high`, drawn on a linear scale.
    pub fn new(title: impl Into<String>, low: f64, high: f64, counts: Vec<u64>) -> Self {
        Self { title: title.into(), note: String::new(), low, high, counts, markers: Vec::new(), log: false }
    }

    /// Adds small print under the title.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Marks a value; the picture widens to show it.
    #[must_use]
    pub fn marker(mut self, value: f64, label: impl Into<String>) -> Self {
        self.markers.push(Marker { value, label: label.into() });
        self
    }

    /// Draws counts on a logarithmic scale (`log(1 + count)`, so that an empty bin stays empty).
    #[must_use]
    pub fn log(mut self) -> Self {
        self.log = true;
        self
    }

    fn height(&self, count: u64) -> f64 {
        if self.log { (count as f64).ln_1p() } else { count as f64 }
    }

    pub(super) fn render(&self) -> String {
        let total: u64 = self.counts.iter().sum();
        let mut note = self.note.clone();
        for m in self.markers.iter().filter(|m| !m.value.is_finite()) {
            let gap = if note.is_empty() { "" } else { "; " };
            let _ = write!(note, "{gap}{} is {}", m.label, number(m.value));
        }
        let note = if note.is_empty() { note } else { format!("<small>{}</small>", escape(&note)) };
        let mut out = format!("<figure><figcaption>{}{note}</figcaption>", escape(&self.title));
        let drawable = self.low.is_finite() && self.high.is_finite() && self.low <= self.high;
        if total == 0 || !drawable {
            let why = match (total, drawable) {
                (0, _) => "No values.".to_string(),
                _ => format!("Not drawn: values from {} to {}.", number(self.low), number(self.high)),
            };
            let _ = writeln!(out, "<p>{why}</p></figure>");
            return out;
        }
        let marks = || self.markers.iter().filter(|m| m.value.is_finite());
        let low = marks().map(|m| m.value).fold(self.low, f64::min);
        let high = marks().map(|m| m.value).fold(self.high, f64::max);
        let axis = Axis::linear(low, high, SIDE, WIDTH - SIDE);
        let tallest = self.counts.iter().map(|&c| self.height(c)).fold(0.0, f64::max);
        let _ = write!(
            out,
            "\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(&self.title)
        );
        let bins = self.counts.len() as f64;
        let edge = |i: usize| {
            let share = i as f64 / bins;
            self.low * (1.0 - share) + self.high * share
        };
        for (i, &count) in self.counts.iter().enumerate().filter(|(_, c)| **c > 0) {
            let (x, end) = (axis.at(edge(i)), axis.at(edge(i + 1)));
            let h = (self.height(count) / tallest * (BOTTOM - TOP)).max(0.5);
            let _ = write!(
                out,
                "<rect class=\"bar\" x=\"{x:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{h:.2}\"><title>{} to {}: {count}</title></rect>",
                BOTTOM - h,
                (end - x).max(0.4),
                number(edge(i)),
                number(edge(i + 1)),
            );
        }
        let (from, to) = (SIDE, WIDTH - SIDE);
        let _ =
            write!(out, "<line class=\"axis\" x1=\"{from}\" y1=\"{BOTTOM}\" x2=\"{to}\" y2=\"{BOTTOM}\"/>");
        for tick in axis.ticks(4) {
            let _ = write!(
                out,
                "<text class=\"dim m\" x=\"{:.1}\" y=\"{}\">{}</text>",
                axis.at(tick),
                BOTTOM + 14.0,
                number(tick)
            );
        }
        for m in marks() {
            let x = axis.at(m.value);
            // The text keeps to the picture.
            let anchor = if x < WIDTH * 0.3 {
                ""
            } else if x > WIDTH * 0.7 {
                " e"
            } else {
                " m"
            };
            let _ = write!(
                out,
                "<line class=\"mark\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{BOTTOM}\"/><text class=\"marked{anchor}\" x=\"{x:.1}\" y=\"{}\">{}</text>",
                TOP - 5.0,
                escape(&m.label)
            );
        }
        out.push_str("</svg></figure>\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes_are_finite(html: &str) {
        for a in html.split('"').skip(1).step_by(2) {
            assert!(!a.contains("NaN") && !a.contains("inf"), "{a} in {html}");
        }
    }

    #[test]
    fn bins_and_markers_are_drawn_and_the_picture_widens_for_a_marker() {
        let h = Histogram::new("a<b", -1.0, 1.0, vec![4, 0, 2, 1]).marker(3.0, "range").note("5 % saturated");
        let html = h.clone().render();
        assert_eq!((html.matches("<rect").count(), html.matches("class=\"mark\"").count()), (3, 1));
        assert!(
            html.contains("a&lt;b") && html.contains("5 % saturated") && html.contains("-1 to -0.5: 4"),
            "{html}"
        );
        // The last bin ends in the middle of -1..3.
        assert!(html.contains("x=\"123.50\"") && html.contains("width=\"36.50\""), "{html}");
        attributes_are_finite(&html);
        let tall = |h: &Histogram| h.height(4) / h.height(1);
        assert_eq!(tall(&h), 4.0);
        assert!(tall(&h.log()) < 3.0);
    }

    #[test]
    fn what_cannot_be_drawn_is_said() {
        for (h, want) in [
            (Histogram::new("t", 0.0, 1.0, vec![]), "No values."),
            (Histogram::new("t", 0.0, 1.0, vec![0, 0]), "No values."),
            (Histogram::new("t", 0.0, f64::INFINITY, vec![1]), "values from 0 to inf"),
            (Histogram::new("t", f64::NAN, 1.0, vec![1]), "values from NaN to 1"),
        ] {
            let html = h.render();
            assert!(html.contains(want) && !html.contains("<svg"), "{html}");
        }
        let html = Histogram::new("t", 2.0, 2.0, vec![7]).marker(f64::NAN, "range").render();
        assert!(html.contains("<svg") && html.contains("range is NaN"), "{html}");
        attributes_are_finite(&html);
    }
}
