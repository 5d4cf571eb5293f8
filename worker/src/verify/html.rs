//! The report as one page with plots per layer, in the file's order, so that one sees where a difference begins.

use super::{LayerReport, Limits, Report};
use crate::engine::{NodeProfile, Precision};
use crate::page::{Bar, Bars, Page, Table};

/// The page of a report; `nodes` are the engine's, `limits` those that were held against it.
pub fn html(report: &Report, nodes: &[NodeProfile], limits: &Limits) -> String {
    let mut page = Page::new(format!("octrain verify: {} file in {}", report.profile, report.engine));
    verdict(&mut page, report, limits);
    layers(&mut page, report, limits);
    kernels(&mut page, report, nodes);
    page.render()
}

fn verdict(page: &mut Page, report: &Report, limits: &Limits) {
    let failures = report.failures(limits);
    page.heading(if failures.is_empty() { "Within the limits" } else { "Beyond the limits" });
    for failure in failures {
        page.paragraph(failure);
    }
    let t = &report.tally;
    let mut rows = vec![
        ["Images".to_string(), t.images.to_string()],
        ["Top-1 of the training graph, %".into(), format!("{:.2}", t.top1_graph())],
        ["Top-1 of the engine, %".into(), format!("{:.2}", t.top1_engine())],
        ["Equal predictions, %".into(), format!("{:.3}", t.agreement())],
        ["Largest difference of a logit".into(), format!("{:.4}", t.largest)],
        [
            format!("Training graph, ms per batch of {}", report.batch_size),
            format!("{:.3}", report.latency_graph),
        ],
        [format!("Engine, ms per batch of {}", report.batch_size), format!("{:.3}", report.latency_engine)],
        ["Layers in INT8".into(), report.kernels.int8.to_string()],
        ["Layers in floating point that were not to be".into(), report.kernels.float.len().to_string()],
    ];
    if let Some(worst) = report.lsb_within_1() {
        let all = report.all_codes();
        rows.extend([
            ["Codes within 1 in the worst layer, %".into(), format!("{worst:.4}")],
            ["Codes within 1 in all layers, %".into(), format!("{:.4}", all.within_one())],
            ["Equal codes in all layers, %".into(), format!("{:.4}", all.equal())],
        ]);
    }
    page.table(Table::new(["Whole network", "value"], rows));
}

fn layers(page: &mut Page, report: &Report, limits: &Limits) {
    if report.layers.is_empty() {
        return;
    }
    page.heading("Layer by layer").paragraph(format!(
        "Every layer of the engine is fed what the same layer of the training graph was fed ({} images), and the codes \
         that come out are compared. Layers are in the order of the file.",
        report.layer_images
    ));
    let bars = |of: fn(&LayerReport) -> f64| -> Vec<Bar> {
        report.layers.iter().map(|l| Bar::new(&l.name, of(l))).collect()
    };
    page.bars(Bars::new("Codes that differ by 1", "%", bars(|l| l.codes.within_one() - l.codes.equal())));
    let limit = 100.0 - limits.min_lsb_within_1;
    page.bars(
        Bars::new("Codes that differ by more than 1", "%", bars(|l| 100.0 - l.codes.within_one()))
            .threshold(limit, "limit", true),
    );
    let rows = report.layers.iter().map(|l| {
        let c = &l.codes;
        let largest = if c.largest == u64::MAX { "NaN".into() } else { c.largest.to_string() };
        [l.name.clone(), c.values.to_string(), c.by_one.to_string(), c.by_more.to_string(), largest]
    });
    page.table(Table::new(["Layer", "codes", "differ by 1", "by more", "largest"], rows));
    page.paragraph(format!(
        "Logits of the last layer, fed the same: {:.2e} of the largest logit at most.",
        report.logits_difference
    ));
}

fn kernels(page: &mut Page, report: &Report, nodes: &[NodeProfile]) {
    page.heading("What the engine runs");
    for (what, names) in [
        ("In floating point, though training quantizes them", &report.kernels.float),
        ("In floating point, as --qat-skip wants it", &report.kernels.skipped),
        ("Not spoken of by the engine", &report.kernels.unseen),
    ] {
        if !names.is_empty() {
            page.paragraph(format!("{what}: {}.", names.join(", ")));
        }
    }
    let timed: Vec<Bar> = nodes.iter().filter_map(|n| Some(Bar::new(&n.name, n.milliseconds?))).collect();
    if !timed.is_empty() {
        page.bars(Bars::new("Time of each node", format!("ms for a batch of {}", report.batch_size), timed));
    }
    let rows = nodes.iter().map(|n| {
        let precision = match n.precision {
            Precision::Int8 => "INT8",
            Precision::Float => "floating point",
            Precision::Other => "",
        };
        [n.name.as_str(), n.op.as_str(), n.kernel.as_str(), precision]
    });
    page.table(Table::new(["Node", "operation", "kernel", "computes in"], rows));
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{LIMITS, report};
    use super::*;

    #[test]
    fn the_page_shows_every_layer_and_names_what_is_beyond_the_limits() {
        let node = NodeProfile {
            name: "conv1/WithoutBiases".into(),
            op: "Convolution".into(),
            kernel: "brgconv_avx512_I8".into(),
            precision: Precision::Int8,
            milliseconds: Some(0.25),
        };
        let text = html(&report(), &[node], &LIMITS);
        for wanted in
            ["Beyond the limits", "layer `c`", "99.8900", "<svg", "brgconv_avx512_I8", "Time of each node"]
        {
            assert!(text.contains(wanted), "{wanted}");
        }
        assert!(["a", "b", "c"].iter().all(|l| text.contains(&format!("<td>{l}</td>"))));
        let mut fine = report();
        fine.layers.truncate(2);
        assert!(html(&fine, &[], &LIMITS).contains("Within the limits"));
    }
}
