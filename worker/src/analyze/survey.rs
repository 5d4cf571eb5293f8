//! The measurements: every image goes through the floating-point network, the quantized one, and the network with each
//! layer quantized alone.

use super::activations::sqnr;
use super::calibrate::calibrate;
use super::finite::ensure_finite;
use super::placement::layers;
use super::{Activation, AnalyzeError, Layer, Placement, Sqnr, WeightFigures};
use crate::checkpoint::State;
use crate::data::EvalLoader;
use crate::exec::{Evaluator, ExecError, Executor, Mode, Weights};
use crate::graph::{Graph, Node, Op};
use crate::quant::observer::RecipeObserver;
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// A network and its numbers, with everything quantized that can be.
pub struct Network {
    placement: Placement,
    graph: Graph,
    layers: Vec<Layer>,
    /// Its numbers; ranges that the state did not have are to be set by calibration.
    pub weights: Weights,
}

/// Predictions of one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hits {
    /// Images whose best class is right.
    pub right: u64,
    /// Images whose best class is that of the floating-point network.
    pub agree: u64,
}

/// What quantizing one layer alone does.
#[derive(Debug, Clone, PartialEq)]
pub struct Alone {
    /// The layer.
    pub layer: Layer,
    /// Its weight; none for operators without one.
    pub weight: Option<WeightFigures>,
    /// Predictions with only it quantized.
    pub hits: Hits,
    /// Noise in its output.
    pub output: Sqnr,
    /// Noise in the logits.
    pub logits: Sqnr,
    /// Predictions with everything but it quantized, if measured.
    pub others: Option<Hits>,
}

/// All measurements.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Survey {
    /// Images.
    pub images: u64,
    /// Predictions of the floating-point network; it agrees with itself.
    pub float: Hits,
    /// Predictions with everything quantized.
    pub quantized: Hits,
    /// Noise in the logits with everything quantized.
    pub logits: Sqnr,
    /// The layers in the network's order.
    pub layers: Vec<Alone>,
    /// The active quantizers in the network's order.
    pub activations: Vec<Activation>,
}

fn best(logits: &Tensor) -> Result<Tensor, tch::TchError> {
    logits.f_argmax(-1, false)
}

impl Hits {
    fn add(&mut self, best: &Tensor, labels: &Tensor, float: &Tensor) -> Result<(), tch::TchError> {
        let equal = |other: &Tensor| best.f_eq_tensor(other)?.f_sum(Kind::Int64)?.f_int64_value(&[]);
        self.right += equal(labels)? as u64;
        self.agree += equal(float)? as u64;
        Ok(())
    }
}

impl Network {
    /// A network as it is placed, with a checkpoint's numbers.
    pub fn new(placement: Placement, state: &State) -> Result<Self, AnalyzeError> {
        let graph = placement.skipping([])?;
        let layers = layers(&graph);
        if layers.is_empty() {
            return Err(AnalyzeError::NothingQuantized);
        }
        let weights = Weights::of_state(&graph, state, Device::Cpu)?;
        Ok(Self { placement, graph, layers, weights })
    }

    /// The graph with everything quantized.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The layers that are quantized.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// A graph with the weights that all of them share; its quantizers in force or not.
    fn evaluator(&self, graph: Graph, quantize: bool) -> Result<Evaluator, AnalyzeError> {
        let executor = Arc::new(Executor::new(graph, &self.weights)?);
        Ok(Evaluator::new(executor, &self.weights, Mode::evaluation(quantize))?)
    }

    /// Sets the ranges that are not known, as `octrain quantize` with the network's recipe would: from microbatches
    /// of training images, which `loader` begins anew. Returns how many ranges were set and on how many images; `None` when
    /// all are known.
    pub fn calibrate(
        &self,
        loader: impl FnMut() -> Result<EvalLoader, AnalyzeError>,
    ) -> Result<Option<(usize, u64)>, AnalyzeError> {
        let qat = self.placement.strategy.qat.as_ref().ok_or(AnalyzeError::NothingQuantized)?;
        calibrate(&self.graph, &self.weights, RecipeObserver::from(qat), loader)
    }

    /// Measures everything on all images of `loader`; every layer left out alone too if `leave_one_out`. All ranges must
    /// be known.
    pub fn survey(&self, mut loader: EvalLoader, leave_one_out: bool) -> Result<Survey, AnalyzeError> {
        let _guard = tch::no_grad_guard();
        let float = self.evaluator(self.graph.clone(), false)?;
        let quantized = self.evaluator(self.graph.clone(), true)?;
        let mut out = self.empty(leave_one_out)?;
        while let Some(batch) = loader.next()? {
            let (images, labels) = (&batch.images, &batch.labels);
            if labels.size()[0] == 0 {
                continue;
            }
            out.images += labels.size()[0] as u64;
            let (logits, outputs) = self.observe(&float, images, &mut out.activations)?;
            let predicted = best(&logits)?;
            out.float.add(&predicted, labels, &predicted)?;
            let changed = quantized.logits(images)?;
            ensure_finite("the quantized network", &changed, "validation")?;
            out.quantized.add(&best(&changed)?, labels, &predicted)?;
            out.logits.add(sqnr(&logits, &changed)?);
            for alone in &mut out.layers {
                let name = &alone.layer.name;
                let network = self.evaluator(self.placement.only(&self.layers, name)?, true)?;
                let mut output = None;
                let mut watch = |node: &Node, value: &Tensor| {
                    if node.name == alone.layer.output {
                        output = Some(value.shallow_clone());
                    }
                };
                let changed = network.watched(images, Some(&mut watch))?;
                ensure_finite(name, &changed, "validation")?;
                alone.hits.add(&best(&changed)?, labels, &predicted)?;
                alone.logits.add(sqnr(&logits, &changed)?);
                if let (Some(was), Some(is)) = (outputs.get(&alone.layer.output), output) {
                    alone.output.add(sqnr(was, &is)?);
                }
                if let Some(others) = &mut alone.others {
                    let network = self.evaluator(self.placement.skipping([name.as_str()])?, true)?;
                    let changed = network.logits(images)?;
                    others.add(&best(&changed)?, labels, &predicted)?;
                }
            }
        }
        if out.images == 0 {
            return Err(AnalyzeError::NoImages { set: "validation" });
        }
        Ok(out)
    }

    /// A survey of no images.
    fn empty(&self, leave_one_out: bool) -> Result<Survey, AnalyzeError> {
        let mut out = Survey::default();
        for layer in &self.layers {
            let node = self.graph.find(&layer.name).map(|id| self.graph.node(id));
            let scheme = node.and_then(|node| node.op.layer()?.scheme);
            let weight = match layer.weight.as_ref().zip(scheme) {
                None => None,
                Some((name, scheme)) => {
                    let w = self.weights.get(name).expect("the weights were made for this graph");
                    ensure_finite(&layer.name, &w, "validation")?;
                    Some(WeightFigures::of(&w, scheme)?)
                }
            };
            out.layers.push(Alone {
                layer: layer.clone(),
                weight,
                hits: Hits::default(),
                output: Sqnr::default(),
                logits: Sqnr::default(),
                others: leave_one_out.then(Hits::default),
            });
        }
        let ranges = self.weights.ranges_host()?;
        for (_, q) in self.graph.quantizers().filter(|(_, q)| q.active) {
            let i = self.weights.layout.quantizer_index(&q.name);
            let range = i.and_then(|i| ranges[i]).ok_or_else(|| ExecError::NoRange(q.name.clone()))?;
            if !range.is_finite() {
                let what = format!("is {range}; a range is a finite number");
                return Err(ExecError::State { name: crate::checkpoint::range_key(&q.name), what }.into());
            }
            out.activations.push(Activation::new(q, range));
        }
        Ok(out)
    }

    /// Runs the floating-point network: its logits, and the outputs of all layers. The quantizers' inputs go to
    /// `activations`.
    fn observe(
        &self,
        float: &Evaluator,
        images: &Tensor,
        activations: &mut [Activation],
    ) -> Result<(Tensor, BTreeMap<String, Tensor>), AnalyzeError> {
        let (mut outputs, mut failed) = (BTreeMap::new(), None);
        let mut watch = |node: &Node, value: &Tensor| {
            if failed.is_some() {
                return;
            }
            let done = match &node.op {
                Op::Quantize(q) if q.active => {
                    activations.iter_mut().find(|a| a.name == q.name).map_or(Ok(()), |a| a.see(value))
                }
                Op::Quantize(_) => Ok(()),
                _ => ensure_finite(&node.name, value, "validation"),
            };
            failed = done.err();
            if self.layers.iter().any(|l| l.output == node.name) {
                outputs.insert(node.name.clone(), value.shallow_clone());
            }
        };
        let logits = float.watched(images, Some(&mut watch))?;
        match failed {
            Some(e) => Err(e),
            None => Ok((logits, outputs)),
        }
    }

    /// Top-1 in percent with everything quantized but these layers.
    pub fn top1_skipping(&self, skip: &[String], mut loader: EvalLoader) -> Result<f64, AnalyzeError> {
        let _guard = tch::no_grad_guard();
        let network = self.evaluator(self.placement.skipping(skip.iter().map(String::as_str))?, true)?;
        let (mut hits, mut images) = (Hits::default(), 0u64);
        while let Some(batch) = loader.next()? {
            let count = batch.labels.size()[0] as u64;
            if count > 0 {
                let best = best(&network.logits(&batch.images)?)?;
                hits.add(&best, &batch.labels, &best)?;
                images += count;
            }
        }
        if images == 0 {
            return Err(AnalyzeError::NoImages { set: "validation" });
        }
        Ok(100.0 * hits.right as f64 / images as f64)
    }
}
