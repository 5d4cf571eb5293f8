//! The findings: layers ranked by harm, in words and figures.

use super::{Activation, Alone, Proposal, Sqnr, Survey, WeightFigures};

/// Where the ranges come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    /// The checkpoint was trained with --qat.
    Checkpoint,
    /// Calibrated on so many training images.
    Calibrated {
        /// Images.
        images: u64,
        /// Ranges that were set.
        ranges: usize,
    },
}

/// What was analyzed.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// Name of the network.
    pub model: String,
    /// The checkpoint.
    pub checkpoint: String,
    /// Runtime whose placement holds.
    pub target: String,
    /// Bits of weight codes.
    pub weight_bits: u32,
    /// `--qat-skip` patterns that held from the start.
    pub skip: Vec<String>,
    /// Where the ranges come from.
    pub ranges: Ranges,
}

/// One layer's findings; accuracy is in percent, losses in points, ratios in dB.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerFigures {
    /// Name.
    pub name: String,
    /// Operator.
    pub op: &'static str,
    /// Quantizers it reads.
    pub quantizers: Vec<String>,
    /// Top-1 with only this layer quantized.
    pub top1: f64,
    /// Points lost with only this layer quantized (negative: won).
    pub loss: f64,
    /// Percent of predictions that stay with only this layer quantized.
    pub agreement: f64,
    /// Points won back when everything but this layer is quantized, if measured.
    pub regained: Option<f64>,
    /// Its weight.
    pub weight: Option<WeightFigures>,
    /// Noise in its output, its BatchNorm included.
    pub output: Sqnr,
    /// Noise in the logits.
    pub logits: Sqnr,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What was analyzed.
    pub subject: Subject,
    /// Images evaluated.
    pub images: u64,
    /// Top-1 in floating point.
    pub top1_float: f64,
    /// Top-1 with everything quantized.
    pub top1_quantized: f64,
    /// Percent of predictions that stay with everything quantized.
    pub agreement: f64,
    /// Noise in the logits with everything quantized.
    pub logits: Sqnr,
    /// Layers, the most harmful first.
    pub layers: Vec<LayerFigures>,
    /// Quantizers in the network's order.
    pub activations: Vec<Activation>,
    /// Points that may be lost.
    pub budget: f64,
    /// What to do; none before it was looked for.
    pub proposal: Option<Proposal>,
}

impl Report {
    /// The findings of a survey.
    pub fn new(subject: Subject, survey: Survey, budget: f64) -> Self {
        let percent = |n: u64| 100.0 * n as f64 / survey.images.max(1) as f64;
        let float = percent(survey.float.right);
        let quantized = percent(survey.quantized.right);
        let figures = |a: Alone| LayerFigures {
            name: a.layer.name,
            op: a.layer.op,
            quantizers: a.layer.quantizers,
            top1: percent(a.hits.right),
            loss: float - percent(a.hits.right),
            agreement: percent(a.hits.agree),
            regained: a.others.map(|o| percent(o.right) - quantized),
            weight: a.weight,
            output: a.output,
            logits: a.logits,
        };
        let mut layers: Vec<LayerFigures> = survey.layers.into_iter().map(figures).collect();
        // A gain is chance: layers that lose nothing are told apart by what they do to the logits.
        let harm = |l: &LayerFigures| l.loss.max(0.0);
        layers.sort_by(|a, b| {
            harm(b)
                .total_cmp(&harm(a))
                .then(a.logits.db().total_cmp(&b.logits.db()))
                .then(a.name.cmp(&b.name))
        });
        Self {
            subject,
            images: survey.images,
            top1_float: float,
            top1_quantized: quantized,
            agreement: percent(survey.quantized.agree),
            logits: survey.logits,
            layers,
            activations: survey.activations,
            budget,
            proposal: None,
        }
    }

    /// Names of the layers, the most harmful first.
    pub fn ranked(&self) -> Vec<String> {
        self.layers.iter().map(|l| l.name.clone()).collect()
    }

    /// Points lost with everything quantized.
    pub fn loss(&self) -> f64 {
        self.top1_float - self.top1_quantized
    }

    /// The quantizer of this name.
    pub fn activation(&self, name: &str) -> Option<&Activation> {
        self.activations.iter().find(|a| a.name == name)
    }

    /// Layers that read a quantizer, in the order of the ranking.
    pub fn readers(&self, quantizer: &str) -> Vec<&str> {
        let reads = |l: &&LayerFigures| l.quantizers.iter().any(|q| q == quantizer);
        self.layers.iter().filter(reads).map(|l| l.name.as_str()).collect()
    }

    /// The quantizer a layer reads for which `key` is largest.
    pub fn worst<'a>(&'a self, layer: &LayerFigures, key: fn(&Activation) -> f64) -> Option<&'a Activation> {
        let all = layer.quantizers.iter().filter_map(|q| self.activation(q));
        all.max_by(|a, b| key(a).total_cmp(&key(b)))
    }

    /// What the proposal says, in one sentence.
    pub fn verdict(&self) -> String {
        let (loss, budget) = (self.loss(), self.budget);
        match &self.proposal {
            None => "No set of layers to skip was looked for.".into(),
            Some(Proposal::Met) => format!(
                "Everything quantized loses {loss:.2} points, within the budget of {budget}: nothing needs to be skipped."
            ),
            Some(Proposal::Skip { layers, top1 }) => format!(
                "Everything quantized loses {loss:.2} points, more than the budget of {budget}. With {} of {} layers left in floating point it loses {:.2} (top-1 {top1:.2}): --qat-skip {}",
                layers.len(),
                self.layers.len(),
                self.top1_float - top1,
                self.skip_flag(layers)
            ),
            Some(Proposal::OutOfReach { top1, skipped }) => format!(
                "Everything quantized loses {loss:.2} points, and the budget of {budget} cannot be met while any layer is quantized: the least loss found is {:.2} points with {skipped} of {} layers skipped. Train with --qat, choose another --qat-observer, or allow more with --max-accuracy-loss.",
                self.top1_float - top1,
                self.layers.len()
            ),
        }
    }

    /// The value for `--qat-skip`: what held from the start, and these layers.
    fn skip_flag(&self, layers: &[String]) -> String {
        let all: Vec<&str> = self.subject.skip.iter().chain(layers).map(String::as_str).collect();
        all.join(",")
    }

    /// Dead, constant and all-zero channels, one line for each value that has any.
    pub fn channel_notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut note = |what: &str, name: &str, channels: &[usize], of: usize| {
            if !channels.is_empty() {
                let list = listed(channels);
                notes.push(format!("{what} `{name}`: {} of {of} channels ({list})", channels.len()));
            }
        };
        for a in &self.activations {
            note("never anything but 0 in", &a.name, &a.dead(), a.channels());
            note("always the same in", &a.name, &a.constant(), a.channels());
        }
        for (layer, w) in self.layers.iter().filter_map(|l| Some((l, l.weight.as_ref()?))) {
            note("all weights 0 in", &layer.name, &w.dead, w.channels);
        }
        notes
    }
}

/// Indices, long runs of them shortened: `0, 3-6, 9`.
fn listed(indices: &[usize]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut i = 0;
    while i < indices.len() {
        let run = (i..indices.len()).take_while(|&j| indices[j] - indices[i] == j - i).count();
        parts.push(match run {
            1 => indices[i].to_string(),
            _ => format!("{}-{}", indices[i], indices[i + run - 1]),
        });
        i += run;
    }
    parts.join(", ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Hits, Layer};
    use super::*;
    use crate::graph::Quantizer;
    use crate::quant::scheme::{Scheme, Sign};
    use tch::Tensor;

    /// Three layers of a network on 100 images: `fc` loses most, `conv2` changes the logits more than `conv1`.
    pub fn report(proposal: Option<Proposal>) -> Report {
        let alone = |name: &str, op, quantizer: &str, right, noise| Alone {
            layer: Layer {
                name: name.into(),
                op,
                weight: (op != "Add").then(|| format!("{name}.weight")),
                quantizers: vec![quantizer.into()],
                output: name.into(),
            },
            weight: (op != "Add").then(|| WeightFigures {
                sqnr: Sqnr { signal: 1000.0, noise: 1.0 },
                worst: None,
                lost: 0.0,
                dead: if name == "conv2" { vec![1] } else { vec![] },
                channels: 4,
            }),
            hits: Hits { right, agree: right },
            output: Sqnr { signal: 100.0, noise },
            logits: Sqnr { signal: 100.0, noise },
            others: Some(Hits { right: 84, agree: 90 }),
        };
        let mut seen = Activation::new(
            &Quantizer { name: "input<0>".into(), scheme: Scheme::activation(Sign::Signed), active: true },
            1.0,
        );
        seen.see(&Tensor::from_slice(&[0.0f32, 0.5, 0.0, -2.0]).view([2, 2])).unwrap();
        let unseen = Activation::new(
            &Quantizer { name: "relu".into(), scheme: Scheme::activation(Sign::Unsigned), active: true },
            3.0,
        );
        let survey = Survey {
            images: 100,
            float: Hits { right: 90, agree: 100 },
            quantized: Hits { right: 84, agree: 88 },
            logits: Sqnr { signal: 1.0, noise: 0.5 },
            layers: vec![
                alone("conv1", "Conv", "input<0>", 91, 0.1),
                alone("conv2", "Conv", "relu", 90, 5.0),
                alone("fc", "Linear", "relu", 85, 1.0),
                alone("add", "Add", "relu", 90, 0.0),
            ],
            activations: vec![seen, unseen],
        };
        let subject = Subject {
            model: "Tiny".into(),
            checkpoint: "out/<1>".into(),
            target: "openvino".into(),
            weight_bits: 8,
            skip: vec!["stem*".into()],
            ranges: Ranges::Calibrated { images: 64, ranges: 2 },
        };
        Report { proposal, ..Report::new(subject, survey, 1.0) }
    }

    #[test]
    fn layers_are_ranked_by_loss_then_by_noise() {
        let r = report(None);
        assert_eq!(r.ranked(), ["fc", "conv2", "conv1", "add"]);
        assert_eq!((r.top1_float, r.top1_quantized, r.loss(), r.agreement), (90.0, 84.0, 6.0, 88.0));
        assert_eq!((r.layers[0].loss, r.layers[2].loss), (5.0, -1.0));
        assert_eq!(r.layers[0].regained, Some(0.0));
        assert_eq!(r.readers("relu"), ["fc", "conv2", "add"]);
    }

    #[test]
    fn the_verdict_says_what_to_do() {
        assert!(report(Some(Proposal::Met)).verdict().contains("nothing needs to be skipped"));
        let skip = Proposal::Skip { layers: vec!["fc".into(), "conv2".into()], top1: 89.5 };
        let text = report(Some(skip)).verdict();
        assert!(
            text.ends_with("--qat-skip stem*,fc,conv2") && text.contains("2 of 4") && text.contains("0.50"),
            "{text}"
        );
        let text = report(Some(Proposal::OutOfReach { top1: 88.0, skipped: 3 })).verdict();
        assert!(text.contains("cannot be met") && text.contains("2.00 points with 3 of 4"), "{text}");
    }

    #[test]
    fn channels_are_named() {
        let notes = report(None).channel_notes();
        assert_eq!(
            notes,
            [
                "never anything but 0 in `input<0>`: 1 of 2 channels (0)",
                "all weights 0 in `conv2`: 1 of 4 channels (1)"
            ]
        );
        assert_eq!(listed(&[0, 3, 4, 5, 6, 9, 11, 12]), "0, 3-6, 9, 11-12");
        assert_eq!(listed(&[]), "");
    }
}
