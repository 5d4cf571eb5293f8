//! Horizontal bar charts.

use super::axis::Axis;
use super::{escape, number};
use std::fmt::Write;

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What it is.
    pub label: String,
    /// How long. One that cannot be drawn (NaN, infinite, or not positive on a logarithmic axis) is shown as text.
    pub value: f64,
}

impl Bar {
    /// A bar.
    pub fn new(label: impl Into<String>, value: f64) -> Self {
        Self { label: label.into(), value }
    }
}

/// A line across all bars.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    /// Where.
    pub value: f64,
    /// What it means.
    pub label: String,
    /// Bars beyond it are bad: above (`true`) or below it.
    pub above_is_bad: bool,
}

/// A chart of horizontal bars, from top to bottom.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    title: String,
    unit: String,
    bars: Vec<Bar>,
    threshold: Option<Threshold>,
    log: bool,
}

const WIDTH: f64 = 900.0;
const ROW: f64 = 20.0;
/// Width of a character of a label, on the safe side.
const LETTER: f64 = 7.0;
/// Room for the value behind the longest bar.
const VALUE: f64 = 90.0;
const TOP: f64 = 22.0;

impl Bars {
    /// A chart on a linear axis that begins at 0.
    pub fn new(
        title: impl Into<String>,
        unit: impl Into<String>,
        bars: impl IntoIterator<Item = Bar>,
    ) -> Self {
        Self {
            title: title.into(),
            unit: unit.into(),
            bars: bars.into_iter().collect(),
            threshold: None,
            log: false,
        }
    }

    /// Draws a line across and marks the bars on its bad side.
    #[must_use]
    pub fn threshold(mut self, value: f64, label: impl Into<String>, above_is_bad: bool) -> Self {
        self.threshold = Some(Threshold { value, label: label.into(), above_is_bad });
        self
    }

    /// Makes the axis logarithmic.
    #[must_use]
    pub fn log(mut self) -> Self {
        self.log = true;
        self
    }

    fn axis(&self, left: f64) -> Axis {
        let (right, threshold) = (WIDTH - VALUE, self.threshold.iter().map(|t| t.value));
        let drawable = |x: &f64| x.is_finite() && (!self.log || *x > 0.0);
        let values: Vec<f64> = self.bars.iter().map(|b| b.value).chain(threshold).filter(drawable).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match (values.is_empty(), self.log) {
            (true, false) => Axis::linear(0.0, 1.0, left, right),
            (true, true) => Axis::log(1.0, 10.0, left, right),
            (false, false) => Axis::linear(low.min(0.0), high.max(0.0), left, right),
            (false, true) => Axis::log(low, high, left, right),
        }
    }

    fn bad(&self, value: f64) -> bool {
        self.threshold
            .as_ref()
            .is_some_and(|t| if t.above_is_bad { value > t.value } else { value < t.value })
    }

    pub(super) fn render(&self) -> String {
        let unit = if self.unit.is_empty() {
            String::new()
        } else {
            format!(" <small>{}</small>", escape(&self.unit))
        };
        let mut out = format!("<figure><figcaption>{}{unit}</figcaption>\n", escape(&self.title));
        if self.bars.is_empty() {
            out.push_str("<p>No values.</p></figure>");
            return out;
        }
        let longest = self.bars.iter().map(|b| b.label.chars().count()).max().unwrap_or(0);
        let left = (longest as f64 * LETTER + 12.0).min(WIDTH / 2.0);
        let axis = self.axis(left);
        let bottom = TOP + ROW * self.bars.len() as f64;
        let height = bottom + 20.0;
        let _ = writeln!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
            escape(&self.title)
        );
        for tick in axis.ticks(6) {
            let x = axis.at(tick);
            let _ = writeln!(
                out,
                "<line class=\"axis\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/><text class=\"dim m\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 15.0,
                number(tick)
            );
        }
        let zero = if self.log { left } else { axis.at(0.0) };
        for (i, bar) in self.bars.iter().enumerate() {
            let y = TOP + ROW * i as f64;
            let (label, value) = (escape(&bar.label), number(bar.value));
            let _ = write!(
                out,
                "<g><title>{label}: {value}</title><text class=\"e\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                left - 6.0,
                y + 14.0
            );
            let mut end = zero;
            if axis.shows(bar.value) {
                let x = axis.at(bar.value);
                let class = if self.bad(bar.value) { "bad" } else { "bar" };
                let (from, width) = (zero.min(x), (x - zero).abs());
                let _ = write!(
                    out,
                    "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
                    y + 3.0,
                    ROW - 6.0
                );
                end = zero.max(x);
            }
            let _ = writeln!(
                out,
                "<text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\">{value}</text></g>",
                end + 5.0,
                y + 14.0
            );
        }
        if let Some(t) = self.threshold.as_ref().filter(|t| axis.shows(t.value)) {
            let x = axis.at(t.value);
            let _ = writeln!(
                out,
                "<line class=\"mark\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom}\"/><text class=\"marked m\" x=\"{x:.1}\" y=\"12\">{}</text>",
                TOP - 6.0,
                escape(&t.label)
            );
        }
        out.push_str("</svg></figure>");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values_and_the_bad_ones_are_marked() {
        let bars =
            Bars::new("loss", "points", [Bar::new("a<b", 10.0), Bar::new("c", 5.0), Bar::new("d", -10.0)]);
        let html = bars.threshold(6.0, "budget & more", true).render();
        assert!(html.contains("a&lt;b") && html.contains("budget &amp; more"), "{html}");
        assert_eq!((html.matches("class=\"bad\"").count(), html.matches("class=\"bar\"").count()), (1, 2));
        let width = |class: &str| -> Vec<f64> {
            html.split(&format!("class=\"{class}\""))
                .skip(1)
                .map(|s| s.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
                .collect()
        };
        let (bad, good) = (width("bad")[0], width("bar"));
        assert!((bad / 2.0 - good[0]).abs() < 0.2 && (bad - good[1]).abs() < 0.2, "{bad} {good:?}");
    }

    #[test]
    fn what_is_not_a_number_is_text_and_not_a_picture() {
        for values in [vec![f64::NAN, f64::INFINITY, 1.0], vec![f64::NAN], vec![f64::NEG_INFINITY, -1.0, 0.0]]
        {
            for log in [false, true] {
                let mut bars = Bars::new("t", "", values.iter().map(|&v| Bar::new("x", v)));
                bars.log = log;
                let html = bars.threshold(f64::NAN, "none", true).render();
                let drawn = values.iter().filter(|v| v.is_finite() && (!log || **v > 0.0)).count();
                assert_eq!(html.matches("<rect").count(), drawn, "{html}");
                assert_eq!(html.matches("x: ").count(), values.len());
                let attributes = html.split('"').skip(1).step_by(2);
                assert!(attributes.clone().count() > 10);
                for a in attributes {
                    assert!(!a.contains("NaN") && !a.contains("inf"), "{a} in {html}");
                }
            }
        }
    }

    #[test]
    fn no_bars_are_said() {
        let html = Bars::new("t", "dB", []).render();
        assert!(html.contains("No values.") && !html.contains("<svg"), "{html}");
    }
}
