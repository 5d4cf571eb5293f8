//! What was found, as JSON, as text, and as a verdict.

use super::{Codes, Kernels, Layers, Tally};
use crate::export::Profile;
use crate::metrics::table;
use serde_json::{Value, json};

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerReport {
    /// Name of the value it makes.
    pub name: String,
    /// Differences of its codes.
    pub codes: Codes,
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Name of the engine.
    pub engine: String,
    /// Profile of the file.
    pub profile: String,
    /// Whole network: predictions.
    pub tally: Tally,
    /// Images of the comparison layer by layer.
    pub layer_images: u64,
    /// Quantized layers, in the file's order.
    pub layers: Vec<LayerReport>,
    /// Largest difference of a logit when the last layer is fed the same, as a part of the largest logit.
    pub logits_difference: f32,
    /// What the engine runs in INT8 and what not.
    pub kernels: Kernels,
    /// Median milliseconds of a batch in the training graph.
    pub latency_graph: f64,
    /// Median milliseconds of a batch in the engine.
    pub latency_engine: f64,
    /// Images of a batch.
    pub batch_size: usize,
}

/// What is tolerated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Percent of images whose prediction may differ.
    pub max_disagreement: f64,
    /// Percent of the codes of every layer that must differ by 1 at most.
    pub min_lsb_within_1: f64,
}

impl Report {
    /// Takes what was counted layer by layer.
    pub fn take_layers(&mut self, layers: &Layers) {
        for layer in layers.layers() {
            match layer.quantized() {
                true => self.layers.push(LayerReport { name: layer.name().into(), codes: layer.codes }),
                false => self.logits_difference = layer.relative,
            }
        }
    }

    /// The layers, the one with most codes apart first.
    pub fn worst(&self) -> Vec<&LayerReport> {
        let mut worst: Vec<_> = self.layers.iter().collect();
        let order = |l: &LayerReport| (l.codes.within_one(), l.codes.equal());
        worst.sort_by(|a, b| order(a).partial_cmp(&order(b)).expect("percentages are finite"));
        worst
    }

    /// Percent of the codes within 1 in the worst layer; none for a file without quantized layers.
    pub fn lsb_within_1(&self) -> Option<f64> {
        self.layers.iter().map(|l| l.codes.within_one()).min_by(f64::total_cmp)
    }

    /// All layers together.
    pub fn all_codes(&self) -> Codes {
        let mut all = Codes::default();
        self.layers.iter().for_each(|l| all.merge(&l.codes));
        all
    }

    /// One line of the report file.
    pub fn json(&self) -> Value {
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|l| {
                json!({"name": l.name, "values": l.codes.values, "by-one": l.codes.by_one,
                       "by-more": l.codes.by_more, "largest": l.codes.largest})
            })
            .collect();
        let all = self.all_codes();
        json!({
            "kind": "verify", "engine": self.engine, "profile": self.profile,
            "verify.images": self.tally.images, "verify.agreement": self.tally.agreement(),
            "verify.top1_graph": self.tally.top1_graph(), "verify.top1_engine": self.tally.top1_engine(),
            "verify.largest_difference": self.tally.largest,
            "verify.lsb_within_1": self.lsb_within_1(),
            "verify.lsb_within_1_all": (all.values > 0).then(|| all.within_one()),
            "verify.lsb_equal_all": (all.values > 0).then(|| all.equal()),
            "verify.layer_images": self.layer_images, "verify.layers": layers,
            "verify.logits_difference": self.logits_difference,
            "verify.fp32_nodes": self.kernels.float.len(), "verify.fp32_node_names": self.kernels.float,
            "verify.skipped_nodes": self.kernels.skipped, "verify.int8_nodes": self.kernels.int8,
            "verify.unseen_nodes": self.kernels.unseen,
            "verify.latency_graph_ms": self.latency_graph, "verify.latency_engine_ms": self.latency_engine,
            "verify.batch_size": self.batch_size,
        })
    }

    /// For the terminal: the whole network, then the `rows` worst layers.
    pub fn text(&self, rows: usize) -> String {
        let t = &self.tally;
        let mut out = format!(
            "{} images: verify.top1_graph {:.2}, verify.top1_engine {:.2} ({}), verify.agreement {:.3} %, largest \
             difference of a logit {:.4}\nbatches of {}: training graph {:.2} ms, engine {:.2} ms (medians)\n",
            t.images,
            t.top1_graph(),
            t.top1_engine(),
            self.engine,
            t.agreement(),
            t.largest,
            self.batch_size,
            self.latency_graph,
            self.latency_engine,
        );
        out += &self.kernels_text();
        let Some(worst) = self.lsb_within_1() else { return out };
        out += &format!(
            "fed the same inputs ({} images): verify.lsb_within_1 {worst:.4} % in the worst layer, {:.4} % of all \
             codes; logits differ by {:.2e} of the largest\n",
            self.layer_images,
            self.all_codes().within_one(),
            self.logits_difference,
        );
        let row = |l: &&LayerReport| {
            let c = &l.codes;
            let largest = if c.largest == u64::MAX { "NaN".into() } else { c.largest.to_string() };
            let (equal, within) = (format!("{:.4}", c.equal()), format!("{:.4}", c.within_one()));
            [l.name.clone(), c.values.to_string(), equal, within, largest]
        };
        let listed: Vec<_> = self.worst().iter().take(rows).map(row).collect();
        out += &table(&["worst layers", "codes", "% equal", "% within 1", "largest"], &listed);
        out
    }

    fn kernels_text(&self) -> String {
        let k = &self.kernels;
        if self.profile == Profile::Fp32.name() {
            return format!("kernels: {} layers in floating point\n", k.float.len() + k.skipped.len());
        }
        let mut out = format!("kernels: {} layers in INT8, verify.fp32_nodes {}", k.int8, k.float.len());
        for (what, names) in
            [("", &k.float), ("left by --qat-skip: ", &k.skipped), ("not spoken of: ", &k.unseen)]
        {
            if !names.is_empty() {
                out += &format!("; {what}{}", names.join(", "));
            }
        }
        out + "\n"
    }

    /// What is beyond the limits, one sentence each.
    pub fn failures(&self, limits: &Limits) -> Vec<String> {
        let mut out = Vec::new();
        let disagreement = 100.0 - self.tally.agreement();
        if disagreement > limits.max_disagreement {
            out.push(format!(
                "engine and training graph differ on {disagreement:.3} % of the images, more than --max-disagreement {}",
                limits.max_disagreement
            ));
        }
        for layer in self.worst().iter().filter(|l| l.codes.within_one() < limits.min_lsb_within_1).take(3) {
            out.push(format!(
                "layer `{}`: {:.4} % of the codes are within 1 when it is fed the same inputs, less than \
                 --min-lsb-within-1 {}",
                layer.name,
                layer.codes.within_one(),
                limits.min_lsb_within_1
            ));
        }
        if self.profile != Profile::Fp32.name() && !self.kernels.float.is_empty() {
            out.push(format!(
                "{} runs {} layers of this {} file in floating point: {}; export the profile of this engine, or leave \
                 them out of quantization with --qat-skip",
                self.engine,
                self.kernels.float.len(),
                self.profile,
                self.kernels.float.join(", ")
            ));
        }
        out
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn layer(name: &str, values: u64, by_one: u64, by_more: u64) -> LayerReport {
        LayerReport { name: name.into(), codes: Codes { values, by_one, by_more, largest: 2 } }
    }

    pub fn report() -> Report {
        Report {
            engine: "openvino".into(),
            profile: "openvino".into(),
            tally: Tally { images: 1000, agree: 996, graph: 900, engine: 899, largest: 0.5 },
            layers: vec![layer("a", 10_000, 3, 0), layer("b", 10_000, 0, 10), layer("c", 10_000, 0, 11)],
            kernels: Kernels { int8: 3, ..Kernels::default() },
            ..Report::default()
        }
    }

    pub const LIMITS: Limits = Limits { max_disagreement: 0.5, min_lsb_within_1: 99.9 };

    #[test]
    fn every_limit_names_what_is_beyond_it() {
        let mut r = report();
        assert_eq!(r.failures(&LIMITS).len(), 1);
        assert!(r.failures(&LIMITS)[0].contains("layer `c`: 99.8900 %"), "{:?}", r.failures(&LIMITS));
        r.layers.pop();
        assert_eq!(r.failures(&LIMITS), [""; 0]);
        r.tally.agree = 994;
        assert!(r.failures(&LIMITS)[0].contains("0.600 %"));
        r.kernels.float = vec!["conv1 (jit_avx512_FP32)".into()];
        assert!(r.failures(&LIMITS)[1].contains("conv1 (jit_avx512_FP32)"));
        r.profile = "fp32".into();
        assert_eq!(r.failures(&LIMITS).len(), 1);
    }

    #[test]
    fn the_worst_layer_counts_and_comes_first() {
        let r = report();
        assert_eq!(r.worst().iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["c", "b", "a"]);
        assert_eq!(r.lsb_within_1(), Some(99.89));
        let json = r.json();
        for key in ["agreement", "lsb_within_1", "fp32_nodes", "top1_graph", "top1_engine", "images"] {
            assert!(json[format!("verify.{key}")].is_number(), "{key}");
        }
        assert_eq!(
            (json["verify.agreement"].as_f64(), json["verify.fp32_nodes"].as_u64()),
            (Some(99.6), Some(0))
        );
        let text = r.text(1);
        assert!(
            text.contains("99.8900 % in the worst layer") && text.ends_with("99.8900        2\n"),
            "{text}"
        );
        assert!(report_without_layers().lsb_within_1().is_none());
    }

    fn report_without_layers() -> Report {
        Report { layers: vec![], profile: "fp32".into(), ..report() }
    }
}
