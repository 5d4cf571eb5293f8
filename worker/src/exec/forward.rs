//! Running a graph forward.

use super::{ExecError, Prepared, Record, Weights, kind, with_layout};
use crate::graph::{Graph, Layout, Node, Op};
use crate::native::{self, NativeError};
use crate::quant::scheme::{QMAX, learned_gradient_scale};
use tch::{Device, Kind, TchError, Tensor};

/// How a graph runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// BatchNorm normalises with the batch's statistics and records them (else with the running ones).
    pub batch_stats: bool,
    /// Active quantizers fake-quantize.
    pub quantize: bool,
    /// Quantizers record what they see.
    pub observe: bool,
    /// Gradients pass where values were clipped.
    pub pass_through: bool,
}

impl Mode {
    /// Evaluation: running statistics, frozen ranges.
    pub const EVAL: Mode = Mode { batch_stats: false, quantize: true, observe: false, pass_through: false };
    /// Calibration: the floating-point network in evaluation, observed.
    pub const CALIBRATE: Mode =
        Mode { batch_stats: false, quantize: false, observe: true, pass_through: false };
}

/// Sees every node's value as it is made.
pub type Watch<'a> = dyn FnMut(&Node, &Tensor) + 'a;

/// A graph ready to run.
pub struct Executor {
    graph: Graph,
    /// Index of the last reader of every value.
    last_use: Vec<usize>,
    /// Whether a value has a single reader.
    single: Vec<bool>,
    steps: Vec<Step>,
}

/// Indices of a node's numbers.
#[derive(Clone, Default)]
struct Step {
    /// Trainable parameters, in the order of `Op::params`.
    leaves: Vec<usize>,
    /// Running mean, running variance among the buffers.
    buffers: Option<[usize; 2]>,
    /// Index of the quantizer.
    quantizer: Option<usize>,
}

impl Executor {
    /// Resolves names to indices. The weights must have been made for the same parameters and quantizers.
    pub fn new(graph: Graph, weights: &Weights) -> Result<Self, ExecError> {
        let unknown =
            |name: &str| ExecError::State { name: name.into(), what: "is not among the weights".into() };
        let buffer = |name: &str| {
            weights.layout.buffers.iter().position(|s| s.name == name).ok_or_else(|| unknown(name))
        };
        let mut steps = Vec::with_capacity(graph.nodes.len());
        let mut last_use: Vec<usize> = (0..graph.nodes.len()).collect();
        for (id, node) in graph.iter() {
            node.inputs.iter().for_each(|i| last_use[i.0] = id.0);
            let trainable = match &node.op {
                Op::BatchNorm(b) => vec![b.gamma.as_str(), b.beta.as_str()],
                op => op.params(),
            };
            let leaf = |name: &str| weights.layout.trainable_index(name).ok_or_else(|| unknown(name));
            if matches!(&node.op, Op::Conv(c) if c.folded.is_some()) {
                let what =
                    "belongs to a convolution with a folded BatchNorm, which is for export only".into();
                return Err(ExecError::State { name: node.name.clone(), what });
            }
            steps.push(Step {
                leaves: trainable.into_iter().map(leaf).collect::<Result<_, _>>()?,
                buffers: match &node.op {
                    Op::BatchNorm(b) => Some([buffer(&b.mean)?, buffer(&b.var)?]),
                    _ => None,
                },
                quantizer: match &node.op {
                    Op::Quantize(q) => {
                        let found = weights.layout.quantizers.iter().position(|n| n == &q.name);
                        Some(found.ok_or_else(|| unknown(&q.name))?)
                    }
                    _ => None,
                },
            });
        }
        last_use[graph.output.0] = usize::MAX;
        let single = graph.consumers().iter().map(|c| c.len() == 1).collect();
        Ok(Self { graph, last_use, single, steps })
    }

    /// The graph it runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Whether every active quantizer has a range; the first that has none is the error.
    pub fn ensure_ranges(&self, weights: &Weights) -> Result<(), ExecError> {
        let ranges = weights.ranges_host()?;
        for (_, q) in self.graph.quantizers().filter(|(_, q)| q.active) {
            let i = weights.layout.quantizers.iter().position(|n| n == &q.name);
            if i.is_none_or(|i| ranges[i].is_none()) {
                return Err(ExecError::NoRange(q.name.clone()));
            }
        }
        Ok(())
    }

    /// Runs images `[b, C, H, W]` (FP32) to logits `[b, classes]` (FP32). With gradients enabled the result can
    /// be differentiated by the leaves of `prepared`.
    pub fn forward(
        &self,
        images: &Tensor,
        prepared: &Prepared,
        weights: &Weights,
        mode: Mode,
        record: &mut Record,
        mut watch: Option<&mut Watch>,
    ) -> Result<Tensor, ExecError> {
        let mut values: Vec<Option<Tensor>> = vec![];
        values.resize_with(self.graph.nodes.len(), || None);
        for (id, node) in self.graph.iter() {
            let value = if matches!(node.op, Op::Input) {
                with_layout(images, self.graph.layout)?
            } else {
                let inputs: Vec<&Tensor> = node
                    .inputs
                    .iter()
                    .map(|i| values[i.0].as_ref().expect("still held: last use is later"))
                    .collect();
                // A value that only this node reads may be overwritten by ReLU.
                let own = node.inputs.first().is_some_and(|i| self.single[i.0]) && watch.is_none();
                self.node(id.0, &inputs, own, prepared, weights, mode, record)?
            };
            if let Some(watch) = watch.as_deref_mut() {
                watch(node, &value);
            }
            values[id.0] = Some(value);
            for input in &node.inputs {
                if self.last_use[input.0] == id.0 {
                    values[input.0] = None;
                }
            }
        }
        Ok(values[self.graph.output.0].take().expect("the output is made last"))
    }

    #[allow(clippy::too_many_arguments)] // one call site; a struct would only rename the list
    fn node(
        &self,
        index: usize,
        inputs: &[&Tensor],
        own: bool,
        prepared: &Prepared,
        weights: &Weights,
        mode: Mode,
        record: &mut Record,
    ) -> Result<Tensor, ExecError> {
        let node = &self.graph.nodes[index];
        let at = |source: tch::TchError| ExecError::Node { node: node.name.clone(), source };
        let native_at = |source| ExecError::Native { node: node.name.clone(), source };
        let step = &self.steps[index];
        let leaf = |i: usize| step.leaves.get(i).map(|&l| &prepared.leaves[l]);
        let x = inputs[0];
        let out = match &node.op {
            Op::Input => unreachable!("handled by the caller"),
            Op::Conv(c) => {
                let pair = |p: [usize; 2]| [p[0] as i64, p[1] as i64];
                let weight = leaf(0).expect("a convolution has a weight");
                let (stride, padding, groups) = (pair(c.stride), pair(c.padding), c.groups as i64);
                product(x, weight, leaf(1), |x, w, b| x.f_conv2d(w, b, stride, padding, [1, 1], groups))
            }
            Op::Linear(_) => {
                let weight = leaf(0).expect("a linear layer has a weight");
                product(x, weight, leaf(1), |x, w, b| x.f_linear(w, b))
            }
            Op::BatchNorm(b) => {
                let [mean, var] = step.buffers.expect("resolved for every BatchNorm");
                let (mean, var) = if mode.batch_stats {
                    (record.scratch[mean].shallow_clone(), record.scratch[var].shallow_clone())
                } else {
                    let slot = |i: usize| {
                        let s = &weights.layout.buffers[i];
                        weights.buffers.narrow(0, s.offset, s.len)
                    };
                    (slot(mean), slot(var))
                };
                // Momentum 1 leaves exactly this microbatch's statistics in the scratch; the step's update is
                // made once from the sum over all microbatches.
                x.f_batch_norm(leaf(0), leaf(1), Some(&mean), Some(&var), mode.batch_stats, 1.0, b.eps, true)
            }
            // Only where backward does not need the value that is overwritten, and nothing aliases it.
            Op::Relu
                if own
                    && matches!(
                        self.graph.node(node.inputs[0]).op,
                        Op::Conv(_) | Op::Linear(_) | Op::BatchNorm(_) | Op::Add
                    ) =>
            {
                x.shallow_clone().f_relu_()
            }
            Op::Relu => x.f_relu(),
            Op::MaxPool(w) => {
                let both = |v: usize| [v as i64, v as i64];
                x.f_max_pool2d(both(w.kernel), both(w.stride), both(w.padding), [1, 1], false)
            }
            Op::GlobalAvgPool => x.f_adaptive_avg_pool2d([1, 1]),
            Op::Flatten => x.f_flatten(1, -1),
            Op::Add => x.f_add(inputs[1]),
            Op::Concat => Tensor::f_cat(inputs, 1),
            Op::Sigmoid => x.f_sigmoid(),
            Op::Cast(dtype) => x.f_to_kind(kind(*dtype)),
            Op::Quantize(q) => {
                let i = step.quantizer.expect("resolved for every quantizer");
                if q.active && mode.quantize {
                    let (y, seen) = quantize(x, prepared, i, q.sign.qmin(), mode).map_err(native_at)?;
                    if let Some(seen) = seen {
                        record.observe(i, &seen)?;
                    }
                    return Ok(y);
                }
                if mode.observe {
                    record.observe(i, &native::abs_max(x).map_err(native_at)?)?;
                }
                return Ok(x.shallow_clone());
            }
        };
        out.map_err(at)
    }

    /// Memory order of its four-dimensional values.
    pub fn layout(&self) -> Layout {
        self.graph.layout
    }
}

/// A convolution or matrix product. In FP16 on the CPU it is computed in FP32 from the FP16 numbers and rounded once,
/// forward and backward, which is what a GPU's tensor cores do (products summed in FP32); libtorch's own FP16 kernels
/// for CPUs without FP16 arithmetic take many times as long.
fn product(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    f: impl Fn(&Tensor, &Tensor, Option<&Tensor>) -> Result<Tensor, TchError>,
) -> Result<Tensor, TchError> {
    if x.kind() != Kind::Half || x.device() != Device::Cpu {
        return f(x, weight, bias);
    }
    let wide = |t: &Tensor| t.f_to_kind(Kind::Float);
    let bias = bias.map(wide).transpose()?;
    f(&wide(x)?, &wide(weight)?, bias.as_ref())?.f_to_kind(Kind::Half)
}

/// Fake-quantizes by quantizer `index`; what it saw, if it observes.
fn quantize(
    x: &Tensor,
    prepared: &Prepared,
    index: usize,
    qmin: i64,
    mode: Mode,
) -> Result<(Tensor, Option<Tensor>), NativeError> {
    let step = prepared.steps.narrow(0, index as i64, 1);
    let scale = learned_gradient_scale(x.numel()) as f32;
    let through = mode.pass_through;
    let seen = |(y, seen)| (y, Some(seen));
    match (prepared.learns_scales, mode.observe) {
        (false, false) => native::fake_quant(x, &step, qmin, QMAX, through).map(|y| (y, None)),
        (false, true) => native::observe_fake_quant(x, &step, qmin, QMAX, through).map(seen),
        (true, false) => native::fake_quant_learned(x, &step, qmin, QMAX, scale).map(|y| (y, None)),
        (true, true) => native::observe_fake_quant_learned(x, &step, qmin, QMAX, scale).map(seen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp16_products_are_summed_in_fp32_and_rounded_once() {
        // Summed in FP16, 4096 ones end at 2048, where one more is below half a unit.
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Half, Device::Cpu)).set_requires_grad(true);
        let (x, w) = (ones(&[3, 4096]), ones(&[2, 4096]));
        let y = product(&x, &w, None, |x, w, b| x.f_linear(w, b)).unwrap();
        assert_eq!((y.kind(), y.eq(4096.0).all().int64_value(&[])), (Kind::Half, 1), "{y}");
        let (image, kernel) = (ones(&[1, 512, 3, 3]), ones(&[1, 512, 3, 3]));
        let z =
            product(&image, &kernel, None, |x, w, b| x.f_conv2d(w, b, [1, 1], [0, 0], [1, 1], 1)).unwrap();
        assert_eq!((z.kind(), z.double_value(&[0, 0, 0, 0])), (Kind::Half, 4608.0));
        // Backward too: the weight's gradient sums over 3 rows of 1, the input's over 2 outputs of 1.
        y.sum(Kind::Float).backward();
        for (t, value) in [(&x, 2.0), (&w, 3.0)] {
            let g = t.grad();
            assert_eq!((g.kind(), g.eq(value).all().int64_value(&[])), (Kind::Half, 1), "{g}");
        }
    }
}
