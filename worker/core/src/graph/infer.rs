//! Shape and type inference, one operator at a time.

use super::{DType, Graph, GraphError, NodeId, Op, TensorType};

/// Type of the value that node `id` makes, from the types of the values it reads.
pub fn infer_type(graph: &Graph, id: NodeId) -> Result<TensorType, GraphError> {
    let node = graph.node(id);
    let fail = |what: String| GraphError::Node { node: node.name.clone(), op: node.op.kind(), what };
    let (fits, arity) = match (&node.op, node.inputs.len()) {
        (Op::Input, n) => (n == 0, "no"),
        (Op::Add, n) => (n == 2, "2"),
        (Op::Concat, n) => (n >= 2, "2 or more"),
        (_, n) => (n == 1, "1"),
    };
    if !fits {
        return Err(fail(format!("takes {arity} inputs, has {}", node.inputs.len())));
    }
    if let Some(late) = node.inputs.iter().find(|i| i.0 >= id.0) {
        return Err(fail(format!("reads value {} which is not made before it", late.0)));
    }
    let input = |i: usize| &graph.node(node.inputs[i]).ty;
    let param = |name: &str| {
        graph
            .param(name)
            .map(|p| p.shape.as_slice())
            .ok_or_else(|| fail(format!("parameter `{name}` is not declared")))
    };
    let spatial = |ty: &TensorType| match ty.shape[..] {
        [c, h, w] => Ok([c, h, w]),
        _ => Err(fail(format!("wants an input [C,H,W], has {ty}"))),
    };
    let window = |size: usize, k: usize, s: usize, p: usize| {
        if s == 0 || k == 0 || size + 2 * p < k {
            return Err(fail(format!("window {k} (stride {s}, padding {p}) does not fit a side of {size}")));
        }
        Ok((size + 2 * p - k) / s + 1)
    };
    let typed = |shape: Vec<usize>, dtype: DType| Ok(TensorType { shape, dtype });
    match &node.op {
        Op::Input => Ok(node.ty.clone()),
        Op::Conv(conv) => {
            let [c, h, w] = spatial(input(0))?;
            let weight = param(&conv.weight)?;
            let [out, per_group, kh, kw] = weight[..] else {
                return Err(fail(format!("weight `{}` wants 4 dimensions, has {weight:?}", conv.weight)));
            };
            if conv.groups == 0 || per_group * conv.groups != c || out % conv.groups != 0 {
                return Err(fail(format!(
                    "{c} input channels do not fit weight {weight:?} with {} groups",
                    conv.groups
                )));
            }
            if let Some(bias) = &conv.bias
                && param(bias)? != [out]
            {
                return Err(fail(format!("bias `{bias}` wants shape [{out}]")));
            }
            let oh = window(h, kh, conv.stride[0], conv.padding[0])?;
            let ow = window(w, kw, conv.stride[1], conv.padding[1])?;
            typed(vec![out, oh, ow], conv.compute)
        }
        Op::Linear(linear) => {
            let weight = param(&linear.weight)?;
            match (&input(0).shape[..], weight) {
                ([features], [out, inn]) if features == inn => typed(vec![*out], linear.compute),
                (shape, _) => Err(fail(format!("input {shape:?} does not fit weight {weight:?}"))),
            }
        }
        Op::BatchNorm(bn) => {
            let channels = input(0).shape.first().copied().unwrap_or(0);
            for name in [&bn.gamma, &bn.beta, &bn.mean, &bn.var] {
                if param(name)? != [channels] {
                    return Err(fail(format!("parameter `{name}` wants shape [{channels}]")));
                }
            }
            Ok(input(0).clone())
        }
        Op::Concat => {
            let [mut channels, h, w] = spatial(input(0))?;
            for other in node.inputs[1..].iter().map(|i| &graph.node(*i).ty) {
                match spatial(other)? {
                    [c, oh, ow] if [oh, ow] == [h, w] && other.dtype == input(0).dtype => channels += c,
                    _ => return Err(fail(format!("joins {} and {other}", input(0)))),
                }
            }
            typed(vec![channels, h, w], input(0).dtype)
        }
        Op::Relu | Op::Sigmoid | Op::Quantize(_) => Ok(input(0).clone()),
        Op::MaxPool(w) => {
            let [c, h, wd] = spatial(input(0))?;
            if 2 * w.padding > w.kernel {
                return Err(fail(format!("padding {} exceeds half the window {}", w.padding, w.kernel)));
            }
            typed(
                vec![
                    c,
                    window(h, w.kernel, w.stride, w.padding)?,
                    window(wd, w.kernel, w.stride, w.padding)?,
                ],
                input(0).dtype,
            )
        }
        Op::GlobalAvgPool => typed(vec![spatial(input(0))?[0], 1, 1], input(0).dtype),
        Op::Flatten => typed(vec![input(0).shape.iter().product()], input(0).dtype),
        Op::Add => {
            if input(0) != input(1) {
                return Err(fail(format!("adds {} and {}", input(0), input(1))));
            }
            Ok(input(0).clone())
        }
        Op::Cast(dtype) => typed(input(0).shape.clone(), *dtype),
    }
}
