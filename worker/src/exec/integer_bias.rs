//! Biases as an integer engine has them. ONNX Runtime adds biases as INT32 in units of input step times weight scale;
//! a bias that is rounded to that grid moves 0.01 to 0.15 % of a layer's codes, and these others behind them. Evaluation
//! therefore computes with rounded biases where the target has integer ones, so what it measures is what is deployed.
//! Training steps do not: their BatchNorm follows the batch.

use super::weights::weight_steps;
use super::{ExecError, Weights};
use crate::graph::{BatchNorm, Graph, Layer, NodeId, Op};
use crate::quant::scheme::{MIN_STEP, bias_code};
use tch::{Device, Tensor};

fn host(t: &Tensor) -> Result<Vec<f32>, tch::TchError> {
    Vec::<f32>::try_from(&t.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?)
}

/// The BatchNorm that reads a layer.
fn batch_norm(graph: &Graph, layer: NodeId) -> Option<&BatchNorm> {
    graph.nodes.iter().find_map(|n| match &n.op {
        Op::BatchNorm(b) if n.inputs == [layer] => Some(b),
        _ => None,
    })
}

/// `leaf`, the bias or beta of a layer, moved so that the layer's whole bias lies on the grid.
struct Moved {
    name: String,
    values: Vec<f32>,
}

fn moved(graph: &Graph, weights: &Weights, id: NodeId, steps: &[f32]) -> Result<Option<Moved>, ExecError> {
    let node = graph.node(id);
    let Some(Layer { weight, bias, scheme: Some(scheme), integer_bias: true, .. }) = node.op.layer() else {
        return Ok(None);
    };
    let Some(quantizer) = graph.quantizer_behind(node.inputs[0]) else { return Ok(None) };
    let unknown =
        || ExecError::State { name: quantizer.name.clone(), what: "is not among the weights".into() };
    let input = weights.layout.quantizers.iter().position(|n| n == &quantizer.name).ok_or_else(unknown)?;
    let get = |name: &str| {
        let missing = || ExecError::State { name: name.into(), what: "is not among the weights".into() };
        weights.get(name).ok_or_else(missing)
    };
    let scales = host(&weight_steps(&get(weight)?, *scheme)?)?;
    let own = bias.as_deref().map(|b| Ok::<_, ExecError>(host(&get(b)?)?)).transpose()?;
    let bn = batch_norm(graph, id);
    let Some(leaf) = bn.map(|b| b.beta.as_str()).or(bias.as_deref()) else { return Ok(None) };
    let (mut factors, mut shifts) = (vec![1.0f64; scales.len()], vec![0.0f64; scales.len()]);
    if let Some(bn) = bn {
        let [gamma, beta, mean, var] = bn.names().map(|n| get(n).and_then(|t| Ok(host(&t)?)));
        let (gamma, beta, mean, var) = (gamma?, beta?, mean?, var?);
        for c in 0..scales.len() {
            factors[c] = f64::from(gamma[c]) / (f64::from(var[c]) + bn.eps).sqrt();
            shifts[c] = f64::from(beta[c]) - f64::from(mean[c]) * factors[c];
        }
    }
    let mut values = host(&get(leaf)?)?;
    for c in 0..scales.len() {
        // The same formulas as those of the exported file.
        let scale = (f64::from(scales[c]) * factors[c].abs()) as f32;
        let scale = if scale < MIN_STEP { 1.0 } else { scale };
        let whole = (own.as_ref().map_or(0.0, |b| f64::from(b[c])) * factors[c] + shifts[c]) as f32;
        if let Some((code, unit)) = bias_code(whole, steps[input], scale) {
            let apart = f64::from(code) * f64::from(unit) - f64::from(whole);
            values[c] = (f64::from(values[c]) + apart) as f32;
        }
    }
    Ok(Some(Moved { name: leaf.into(), values }))
}

/// Moves the biases among `leaves` (in the order of the trainable parameters) to the grid of integers.
pub(super) fn round_biases(
    graph: &Graph,
    weights: &Weights,
    steps: &Tensor,
    leaves: &mut [Tensor],
) -> Result<(), ExecError> {
    let steps = host(steps)?;
    for (id, _) in graph.iter() {
        let Some(Moved { name, values }) = moved(graph, weights, id, &steps)? else { continue };
        if let Some(i) = weights.layout.trainable_index(&name) {
            let leaf = &leaves[i];
            let new = Tensor::f_from_slice(&values)?.f_view(leaf.size().as_slice())?;
            leaves[i] = new.f_to_device(leaf.device())?.f_to_kind(leaf.kind())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Prepared, initialise};
    use crate::strategy::{Amp, Purpose, Qat, Strategy, Target};
    use crate::{models, passes};
    use tch::Kind;

    /// ResNet20 for ONNX Runtime as training and evaluation have it, with every pass of that precision.
    fn trained(amp: Amp) -> Graph {
        let qat = Some(Qat { target: Target::Onnxruntime, ..Qat::default() });
        let strategy = Strategy { amp, qat, ..Strategy::default() };
        let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        passes::run(graph, &strategy, Purpose::Train).unwrap()
    }

    /// Shifts of all BatchNorms: as they are, and as an evaluation uses them.
    fn shifts(graph: &Graph) -> Vec<(String, Tensor, Tensor)> {
        let mut weights = Weights::zeros(graph, true, Device::Cpu).unwrap();
        initialise(&mut weights, 3, false).unwrap();
        let _ = weights.ranges.fill_(2.5);
        let layout = weights.layout.clone();
        for (slot, t) in layout.trainable.iter().zip(weights.trainable()) {
            if slot.name.ends_with("bias") {
                let wave: Vec<f32> = (0..slot.len).map(|i| ((i * 37) % 17) as f32 / 17.0 - 0.45).collect();
                let _guard = tch::no_grad_guard();
                let mut t = t;
                t.copy_(&Tensor::from_slice(&wave).view_as(&t));
            }
        }
        let prepared = Prepared::new(graph, &weights, true, false).unwrap();
        let norms = graph.nodes.iter().filter_map(|n| match &n.op {
            Op::BatchNorm(b) => Some(b.beta.clone()),
            _ => None,
        });
        norms
            .map(|name| {
                let i = layout.trainable_index(&name).unwrap();
                (name, weights.trainable()[i].copy(), prepared.leaves[i].copy())
            })
            .collect()
    }

    #[test]
    fn mixed_precision_rounds_every_bias_to_the_grid_that_fp32_rounds_it_to() {
        let float = shifts(&trained(Amp::Off));
        assert_eq!(float.len(), 21);
        for amp in [Amp::Bf16, Amp::Fp16] {
            for ((name, master, want), (_, _, got)) in float.iter().zip(shifts(&trained(amp))) {
                assert_eq!(got.kind(), Kind::Float, "{name}");
                assert!(!want.equal(master), "{name} is not rounded");
                assert!(got.equal(want), "{amp:?}: {name} is rounded to another grid, or not at all");
            }
        }
    }
}
