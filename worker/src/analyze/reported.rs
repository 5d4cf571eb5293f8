//! The report as text for a terminal and as JSON lines.

use super::{LayerFigures, Proposal, Ranges, Report};
use crate::metrics::table;
use crate::page::number;
use serde_json::{Value, json};

/// Decibels with one decimal.
pub(super) fn decibels(db: f64) -> String {
    if db.is_finite() { format!("{db:.1}") } else { number(db) }
}

/// A share in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

fn or_dash<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}

/// Names of the columns of a layer's row.
pub(super) const COLUMNS: [&str; 12] = [
    "layer",
    "op",
    "loss",
    "agree %",
    "regained",
    "logits dB",
    "output dB",
    "weight dB",
    "input range",
    "clipped %",
    "code 0 %",
    "dead",
];

/// Place of the column that is there only if every layer was left out alone.
const REGAINED: usize = 4;

/// A layer's row.
pub(super) fn row(report: &Report, l: &LayerFigures) -> [String; 12] {
    let clipped = report.worst(l, |a| a.saturated());
    let dead = report.worst(l, |a| a.dead().len() as f64);
    let zero = report.worst(l, |a| a.zero_codes());
    let range = report.worst(l, |a| f64::from(a.range));
    [
        l.name.clone(),
        l.op.into(),
        format!("{:.2}", l.loss + 0.0),
        format!("{:.2}", l.agreement),
        or_dash(l.regained, |r| format!("{:.2}", r + 0.0)),
        decibels(l.logits.db()),
        decibels(l.output.db()),
        or_dash(l.weight.as_ref(), |w| decibels(w.sqnr.db())),
        or_dash(range, |a| number(f64::from(a.range))),
        or_dash(clipped, |a| percent(a.saturated())),
        or_dash(zero, |a| percent(a.zero_codes())),
        or_dash(dead, |a| a.dead().len().to_string()),
    ]
}

fn without<const N: usize, const M: usize, T>(cells: [T; N], place: usize) -> [T; M] {
    let mut cells = Vec::from(cells);
    cells.remove(place);
    cells.try_into().unwrap_or_else(|_| unreachable!("one cell less"))
}

impl Report {
    /// What was analyzed and how, in two lines.
    pub fn introduction(&self) -> [String; 2] {
        let s = &self.subject;
        let ranges = match s.ranges {
            Ranges::Checkpoint => "ranges of the checkpoint".into(),
            Ranges::Calibrated { images, ranges } => {
                format!("{ranges} ranges calibrated on {images} training images")
            }
        };
        let skip = match s.skip.is_empty() {
            true => String::new(),
            false => format!(", --qat-skip {}", s.skip.join(",")),
        };
        [
            format!("{} from {} for {}, {} validation images", s.model, s.checkpoint, s.target, self.images),
            format!("INT8 activations, {}-bit weights, {ranges}{skip}", s.weight_bits),
        ]
    }

    /// The network as a whole, in one line.
    pub fn whole(&self) -> String {
        format!(
            "top-1 {:.2} in floating point, {:.2} with everything quantized: loss {:.2} points, {:.2} % of predictions equal, {} dB in the logits (one image is {:.2} points)",
            self.top1_float,
            self.top1_quantized,
            self.loss() + 0.0,
            self.agreement,
            decibels(self.logits.db()),
            100.0 / self.images.max(1) as f64
        )
    }

    /// The report for a terminal.
    pub fn text(&self) -> String {
        let rows: Vec<[String; 12]> = self.layers.iter().map(|l| row(self, l)).collect();
        let measured = self.layers.iter().any(|l| l.regained.is_some());
        let table = match measured {
            true => table(&COLUMNS, &rows),
            false => {
                let rows: Vec<[String; 11]> = rows.into_iter().map(|r| without(r, REGAINED)).collect();
                table(&without(COLUMNS, REGAINED), &rows)
            }
        };
        let [what, how] = self.introduction();
        let mut out =
            format!("{what}\n{how}\n\neach layer quantized alone, the most harmful first\n{table}\n");
        let mut line = |text: &str| {
            out.push_str(text);
            out.push('\n');
        };
        line(&self.whole());
        let clipped = self.activations.iter().max_by(|a, b| a.saturated().total_cmp(&b.saturated()));
        if let Some(a) = clipped.filter(|a| a.clipped > 0) {
            line(&format!(
                "most clipped: `{}`, {} % beyond its range of {}",
                a.name,
                percent(a.saturated()),
                number(f64::from(a.range))
            ));
        }
        let notes = self.channel_notes();
        notes.iter().for_each(|n| line(n));
        if notes.is_empty() {
            line("no dead or constant channels");
        }
        line(&self.verdict());
        out
    }

    /// The report as JSON lines: the whole, then each layer from the most harmful on, then each quantizer. Ratios are in
    /// dB, `null` where there is no noise at all; accuracy is in percent, losses in points, shares are parts of 1.
    pub fn json(&self) -> Vec<Value> {
        let (proposal, skip, top1) = match &self.proposal {
            None => ("none", None, None),
            Some(Proposal::Met) => ("met", Some(Vec::new()), Some(self.top1_quantized)),
            Some(Proposal::Skip { layers, top1 }) => ("skip", Some(layers.clone()), Some(*top1)),
            Some(Proposal::OutOfReach { top1, .. }) => ("out-of-reach", None, Some(*top1)),
        };
        let s = &self.subject;
        let mut lines = vec![json!({
            "kind": "analyze", "model": s.model, "target": s.target, "checkpoint": s.checkpoint,
            "analyze.images": self.images, "analyze.top1_float": self.top1_float,
            "analyze.top1_quantized": self.top1_quantized, "analyze.accuracy_loss": self.loss(),
            "analyze.agreement": self.agreement, "analyze.logits_sqnr_db": self.logits.db(),
            "analyze.max_accuracy_loss": self.budget, "analyze.proposal": proposal, "analyze.qat_skip": skip,
            "analyze.top1_proposed": top1, "analyze.calibrated_ranges": match s.ranges {
                Ranges::Checkpoint => 0,
                Ranges::Calibrated { ranges, .. } => ranges,
            },
        })];
        for (rank, l) in self.layers.iter().enumerate() {
            lines.push(json!({
                "kind": "analyze-layer", "analyze.rank": rank + 1, "analyze.layer": l.name, "analyze.op": l.op,
                "analyze.quantizers": l.quantizers, "analyze.top1_alone": l.top1, "analyze.accuracy_loss": l.loss,
                "analyze.agreement": l.agreement, "analyze.top1_regained": l.regained,
                "analyze.logits_sqnr_db": l.logits.db(), "analyze.output_sqnr_db": l.output.db(),
                "analyze.weight_sqnr_db": l.weight.as_ref().map(|w| w.sqnr.db()),
                "analyze.worst_channel": l.weight.as_ref().and_then(|w| w.worst).map(|w| w.0),
                "analyze.worst_channel_sqnr_db": l.weight.as_ref().and_then(|w| w.worst).map(|w| w.1.db()),
                "analyze.weights_lost": l.weight.as_ref().map(|w| w.lost),
                "analyze.zero_weight_channels": l.weight.as_ref().map(|w| w.dead.clone()),
            }));
        }
        for a in &self.activations {
            let (low, high, counts) = a.spread.trimmed().unwrap_or_default();
            lines.push(json!({
                "kind": "analyze-quantizer", "analyze.quantizer": a.name, "analyze.sign": a.scheme.sign,
                "analyze.largest_code": a.scheme.qmax(),
                "analyze.range": a.range, "analyze.min": a.min, "analyze.max": a.max, "analyze.mean": a.mean(),
                "analyze.sqnr_db": a.sqnr.db(), "analyze.saturated": a.saturated(),
                "analyze.code_zero": a.zero_codes(), "analyze.lost": a.lost(),
                "analyze.dead_channels": a.dead(), "analyze.constant_channels": a.constant(),
                "analyze.channels": a.channels(), "analyze.read_by": self.readers(&a.name),
                "analyze.histogram_low": low, "analyze.histogram_high": high, "analyze.histogram": counts,
            }));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_text_has_a_row_a_layer_and_says_what_matters() {
        let text = report(Some(Proposal::Met)).text();
        let rows: Vec<&str> = text.lines().skip_while(|l| !l.starts_with("---")).skip(1).take(4).collect();
        assert!(rows[0].starts_with("fc ") && rows[3].starts_with("add "), "{text}");
        assert!(
            text.contains("regained")
                && text.contains("loss 6.00 points")
                && text.contains("nothing needs to be skipped")
        );
        assert!(text.contains("most clipped: `input<0>`, 25.00 % beyond its range of 1"), "{text}");
        let mut less = report(None);
        less.layers.iter_mut().for_each(|l| l.regained = None);
        let text = less.text();
        assert!(!text.contains("regained") && text.contains("clipped %"), "{text}");
        let headers = text.lines().find(|l| l.starts_with("layer ")).unwrap();
        assert!(headers.ends_with("dead"), "{headers}");
    }

    #[test]
    fn json_lines_are_by_kind_with_keys_of_their_own() {
        let skip = Proposal::Skip { layers: vec!["fc".into()], top1: 89.5 };
        let lines = report(Some(skip)).json();
        let kinds: Vec<&str> = lines.iter().map(|l| l["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds[..2], ["analyze", "analyze-layer"]);
        assert_eq!((kinds.len(), kinds[6]), (7, "analyze-quantizer"));
        assert_eq!(lines[0]["analyze.qat_skip"], json!(["fc"]));
        assert_eq!((&lines[1]["analyze.layer"], &lines[1]["analyze.rank"]), (&json!("fc"), &json!(1)));
        assert_eq!(lines[4]["analyze.output_sqnr_db"], Value::Null, "no noise");
        assert_eq!(lines[5]["analyze.dead_channels"], json!([0]));
        assert_eq!(lines[6]["analyze.histogram"], json!([]));
        let known = ["kind", "model", "target", "checkpoint"];
        for line in &lines {
            for key in line.as_object().unwrap().keys() {
                assert!(key.starts_with("analyze.") || known.contains(&key.as_str()), "{key}");
            }
        }
    }
}
