//! The report as one page with pictures.

use super::reported::{COLUMNS, decibels, percent, row};
use super::{Activation, LayerFigures, Proposal, Report};
use crate::page::{Bar, Bars, Histogram, Page, Table, number};
use crate::quant::scheme::Sign;

/// The page of a report.
pub fn html(report: &Report) -> String {
    let mut page =
        Page::new(format!("octrain analyze: {} for {}", report.subject.model, report.subject.target));
    for line in report.introduction() {
        page.paragraph(line);
    }
    page.heading(match &report.proposal {
        Some(Proposal::Met) => "Within the budget",
        Some(Proposal::Skip { .. }) => "Within the budget if layers are skipped",
        Some(Proposal::OutOfReach { .. }) => "Beyond the budget",
        None => "Accuracy",
    });
    page.paragraph(report.verdict()).paragraph(report.whole());
    layers(&mut page, report);
    quantizers(&mut page, report);
    channels(&mut page, report);
    page.render()
}

fn layers(page: &mut Page, report: &Report) {
    page.heading("Layers, the most harmful first").paragraph(
        "Each layer is quantized alone, everything else stays in floating point. `loss` is in points of top-1, `agree` \
         the share of predictions that stay. Ratios are signal to quantization noise: in the logits, in the layer's \
         output behind its BatchNorm, and in its weight; the lower, the worse, and 6 dB are one bit.",
    );
    let bars = |of: fn(&LayerFigures) -> f64| -> Vec<Bar> {
        report.layers.iter().map(|l| Bar::new(&l.name, of(l))).collect()
    };
    page.bars(
        Bars::new("Accuracy lost with only this layer quantized", "points of top-1", bars(|l| l.loss))
            .threshold(report.budget, format!("budget {}", report.budget), true),
    );
    if report.layers.iter().any(|l| l.regained.is_some()) {
        let regained = bars(|l| l.regained.unwrap_or(f64::NAN));
        page.bars(Bars::new(
            "Accuracy regained with everything but this layer quantized",
            "points of top-1",
            regained,
        ));
    }
    page.bars(Bars::new("Signal to noise in the logits", "dB", bars(|l| l.logits.db())));
    page.bars(Bars::new("Signal to noise in the layer's output", "dB", bars(|l| l.output.db())));
    let weights = report.layers.iter().filter_map(|l| Some((l, l.weight.as_ref()?)));
    page.bars(Bars::new(
        "Signal to noise in the weight",
        "dB",
        weights.clone().map(|(l, w)| Bar::new(&l.name, w.sqnr.db())),
    ));
    page.table(Table::new(COLUMNS, report.layers.iter().map(|l| row(report, l))));
    let rows = weights.map(|(l, w)| {
        let (channel, db) =
            w.worst.map_or(("-".into(), "-".into()), |(c, s)| (c.to_string(), decibels(s.db())));
        [l.name.clone(), decibels(w.sqnr.db()), channel, db, percent(w.lost), w.dead.len().to_string()]
    });
    page.heading("Weights").table(Table::new(
        ["layer", "dB", "worst channel", "its dB", "lost to code 0 %", "channels all 0"],
        rows,
    ));
}

fn histogram(a: &Activation) -> Histogram {
    let note = format!(
        "{} % clipped, {} % code 0, {} dB",
        percent(a.saturated()),
        percent(a.zero_codes()),
        decibels(a.sqnr.db())
    );
    let (low, high, counts) = a.spread.trimmed().unwrap_or_default();
    let range = f64::from(a.range);
    let picture = Histogram::new(&a.name, low, high, counts).note(note).log().marker(range, number(range));
    match a.scheme.sign {
        Sign::Signed => picture.marker(-range, number(-range)),
        Sign::Unsigned => picture,
    }
}

fn quantizers(page: &mut Page, report: &Report) {
    page.heading("Activations").paragraph(
        "What each quantizer sees in the floating-point network, in the network's order. The dashed lines are the ends \
         of the quantization range; counts are on a logarithmic scale.",
    );
    page.histograms(report.activations.iter().map(histogram).collect());
    let rows = report.activations.iter().map(|a| {
        [
            a.name.clone(),
            report.readers(&a.name).join(", "),
            number(f64::from(a.range)),
            number(a.min),
            number(a.max),
            number(a.mean()),
            decibels(a.sqnr.db()),
            percent(a.saturated()),
            percent(a.zero_codes()),
            percent(a.lost()),
            a.dead().len().to_string(),
            a.constant().len().to_string(),
            a.channels().to_string(),
        ]
    });
    page.table(Table::new(
        [
            "value",
            "read by",
            "range",
            "min",
            "max",
            "mean",
            "dB",
            "clipped %",
            "code 0 %",
            "lost to code 0 %",
            "dead",
            "constant",
            "channels",
        ],
        rows,
    ));
}

fn channels(page: &mut Page, report: &Report) {
    page.heading("Channels that carry nothing");
    let notes = report.channel_notes();
    if notes.is_empty() {
        page.paragraph("None.");
    }
    for note in notes {
        page.paragraph(note);
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_page_has_all_pictures_and_the_verdict() {
        let skip = Proposal::Skip { layers: vec!["fc".into()], top1: 89.5 };
        let text = html(&report(Some(skip)));
        for wanted in [
            "Within the budget if layers are skipped",
            "--qat-skip stem*,fc",
            "Accuracy lost with only this layer quantized",
            "Accuracy regained",
            "budget 1",
            "Signal to noise in the logits",
            "input&lt;0&gt;",
            "out/&lt;1&gt;",
            "25.00 % clipped, 50.00 % code 0",
            "all weights 0 in `conv2`",
        ] {
            assert!(text.contains(wanted), "{wanted}");
        }
        // Both ends of the signed range; the quantizer that saw nothing has no picture.
        assert_eq!(text.matches("class=\"mark\"").count(), 2 + 1, "the budget's line, and two of the range");
        assert!(text.contains("No values."));
        assert!(!text.contains("input<0>"));
    }
}
