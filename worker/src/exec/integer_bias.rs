//! Layers as an integer engine has them. ONNX Runtime adds biases as INT32 in units of input scale times weight scale; a
//! bias that is rounded to that grid moves 0.01 to 0.15 % of a layer's codes, and these others behind them. Where a bias
//! does not fit, the channel's weights get a wider scale too. Evaluation therefore computes with what `quant::fold` says
//! is deployed where the target has integer biases, so what it measures is what is deployed. Steps of training do not:
//! their BatchNorm follows the batch.

use super::weights::weight_scales;
use super::{ExecError, Weights};
use crate::graph::{Graph, Layer, NodeId};
use crate::quant::fold::{Behind, Norm};
use tch::{Device, Tensor};

fn host(t: &Tensor) -> Result<Vec<f32>, tch::TchError> {
    Vec::<f32>::try_from(&t.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?)
}

/// What differs between a layer's leaves and what is deployed.
struct Deployed {
    /// The bias of the layer or the beta behind it, moved so that the layer's whole bias lies on the grid.
    leaf: String,
    values: Vec<f32>,
    /// Output channels whose weights are rounded to another scale, with their weights.
    weight: String,
    raised: Vec<(i64, Vec<f32>)>,
}

fn deployed(
    graph: &Graph,
    weights: &Weights,
    id: NodeId,
    inputs: &[f32],
) -> Result<Option<Deployed>, ExecError> {
    let node = graph.node(id);
    let Some(Layer { weight, bias, scheme: Some(scheme), integer_bias: true, .. }) = node.op.layer() else {
        return Ok(None);
    };
    let Some(quantizer) = graph.quantizer_behind(node.inputs[0]) else { return Ok(None) };
    let unknown =
        |name: &str| ExecError::State { name: name.into(), what: "is not among the weights".into() };
    let input = weights.layout.quantizer_index(&quantizer.name).ok_or_else(|| unknown(&quantizer.name))?;
    let get = |name: &str| weights.get(name).ok_or_else(|| unknown(name));
    let norm = graph.batch_norm_behind(id).map(|(_, norm)| norm);
    let Some(leaf) = norm.map(|n| n.beta.as_str()).or(bias.as_deref()) else { return Ok(None) };
    let own = bias.as_deref().map(|b| Ok::<_, ExecError>(host(&get(b)?)?)).transpose()?;
    let numbers = norm.map(|n| n.names().map(|name| get(name).and_then(|t| Ok(host(&t)?))));
    let numbers = match numbers {
        Some([gamma, beta, mean, var]) => Some([gamma?, beta?, mean?, var?]),
        None => None,
    };
    let norm = norm.zip(numbers.as_ref());
    let norm = norm.map(|(n, [gamma, beta, mean, var])| Norm { gamma, beta, mean, var, eps: n.eps });
    let behind = Behind { bias: own.as_deref(), norm };
    let master = get(weight)?;
    let mut values = host(&get(leaf)?)?;
    let mut raised = Vec::new();
    for (c, scale) in host(&weight_scales(&master, *scheme)?)?.into_iter().enumerate() {
        let (channel, bias) = behind.with_integer_bias(c, scale, inputs[input]);
        values[c] = (f64::from(values[c]) + (bias.value() - f64::from(behind.bias(c)))) as f32;
        if channel.is_raised() {
            let row = host(&master.f_get(c as i64)?)?;
            let row = row.into_iter().map(|w| channel.trained_weight(scheme.code(w, scale)));
            raised.push((c as i64, row.collect()));
        }
    }
    Ok(Some(Deployed { leaf: leaf.into(), values, weight: weight.clone(), raised }))
}

/// Makes `leaves` (in the order of the trainable parameters, weights fake-quantized) those of the deployed network. `inputs`
/// are the scales of the quantizers.
pub(super) fn deploy(
    graph: &Graph,
    weights: &Weights,
    inputs: &Tensor,
    leaves: &mut [Tensor],
) -> Result<(), ExecError> {
    let inputs = host(inputs)?;
    for (id, _) in graph.iter() {
        let Some(Deployed { leaf, values, weight, raised }) = deployed(graph, weights, id, &inputs)? else {
            continue;
        };
        if let Some(i) = weights.layout.trainable_index(&leaf) {
            let leaf = &leaves[i];
            let new = Tensor::f_from_slice(&values)?.f_view(leaf.size().as_slice())?;
            leaves[i] = new.f_to_device(leaf.device())?.f_to_kind(leaf.kind())?;
        }
        if let Some(i) = weights.layout.trainable_index(&weight) {
            for (channel, row) in raised {
                // The leaf is a copy of the master already: it is fake-quantized.
                let mut there = leaves[i].f_get(channel)?;
                there.f_copy_(&Tensor::f_from_slice(&row)?.f_view(there.size().as_slice())?)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Mode;
    use crate::exec::{Prepared, initialise};
    use crate::graph::Op;
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
        let mut weights = Weights::zeros(graph, Device::Cpu).unwrap();
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
        let prepared = Prepared::new(graph, &weights, Mode::EVAL, false).unwrap();
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
