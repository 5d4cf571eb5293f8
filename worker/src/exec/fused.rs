//! How a chain of operators runs as one.

use super::chains::Chain;
use super::forward::Step;
use super::ops::{ensure_variance, quantize};
use super::{ExecError, Pass, integer};
use crate::graph::{Graph, NodeId, Op};
use crate::native::{self, Codes, Norm, Pointwise, Rounding};
use tch::Tensor;

/// What of a chain is wanted.
pub(super) struct Of<'a> {
    /// The chain.
    pub chain: &'a Chain,
    /// Its value once more for its second reader, where the gradients of the two come apart.
    pub twice: bool,
    /// The codes of its value, where its quantizer makes it.
    pub encodes: bool,
}

/// The value of a chain's last node, from the value it starts from and the one it adds, and what else is wanted.
pub(super) fn run(
    graph: &Graph,
    steps: &[Step],
    Of { chain, twice, encodes }: Of,
    x: &Tensor,
    residual: Option<&Tensor>,
    pass: &Pass,
) -> Result<(Tensor, Option<Tensor>, Option<Codes>), ExecError> {
    let mode = pass.mode;
    let index = |id: NodeId| steps[id.0].quantizer.expect("resolved for every quantizer");
    let statistics = match chain.norm {
        Some((id, _)) => {
            let [mean, var] = steps[id.0].buffers[..] else { return Err(incomplete(graph, id)) };
            Some([pass.statistic(mean)?, pass.statistic(var)?])
        }
        None => None,
    };
    let norm = match (&statistics, chain.norm) {
        (Some([mean, var]), Some((id, eps))) => {
            let [gamma, beta] = steps[id.0].leaves[..] else { return Err(incomplete(graph, id)) };
            if mode.batch_stats {
                ensure_variance(&graph.node(id).name, x)?;
            }
            let leaf = |i: usize| &pass.prepared.leaves[i];
            Some(Norm { gamma: leaf(gamma), beta: leaf(beta), mean, var, eps, batch: mode.batch_stats })
        }
        _ => None,
    };
    let quantizer = chain.quantizer.map(|id| match &graph.node(id).op {
        Op::Quantize(q) => (index(id), q.scheme, q.active && mode.quantize),
        other => unreachable!("{other:?} is no quantizer"),
    });
    // A scale that is learned keeps what it quantizes, and is an operator of its own.
    let learned = quantizer.filter(|&(.., quantizes)| quantizes && pass.prepared.learns_scales);
    let fused = quantizer.filter(|_| learned.is_none());
    let scale = fused.map(|(i, ..)| pass.prepared.scales.narrow(0, i as i64, 1));
    let rounding = match (fused, &scale) {
        (Some((_, scheme, true)), Some(scale)) => Some(Rounding { scale, scheme, unclipped: mode.unclipped }),
        _ => None,
    };
    let row = |id: Option<NodeId>| match id.filter(|_| mode.observe) {
        Some(id) => Ok::<_, ExecError>(Some(pass.record.row(index(id))?)),
        None => Ok(None),
    };
    let (normed, last) = (row(chain.normed)?, row(chain.quantizer.filter(|_| fused.is_some()))?);
    let of =
        Pointwise { norm, residual, cut: chain.cut, rounding, normed: normed.as_ref(), last: last.as_ref() };
    let at = |source| ExecError::Native { node: graph.node(chain.last).name.clone(), source };
    if let Some((i, scheme, _)) = learned {
        let y = native::pointwise(x, &of).map_err(at)?;
        let codes = encodes.then(|| integer::encode(graph.node(chain.last), &y, scheme, i, pass.prepared));
        return Ok((quantize(&y, pass.prepared, i, scheme, mode).map_err(at)?.0, None, codes.transpose()?));
    }
    if encodes && of.rounding.is_some() {
        let (y, second, codes) = native::pointwise_with_codes(x, &of, twice).map_err(at)?;
        return Ok((y, second, Some(codes)));
    }
    if twice {
        let [y, second] = native::pointwise_for_two(x, &of).map_err(at)?;
        return Ok((y, Some(second), None));
    }
    Ok((native::pointwise(x, &of).map_err(at)?, None, None))
}

fn incomplete(graph: &Graph, id: NodeId) -> ExecError {
    let what = "is a BatchNorm without gamma, beta, running mean and variance".into();
    ExecError::State { name: graph.node(id).name.clone(), what }
}
