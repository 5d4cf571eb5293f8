//! Which layers compute their forward on INT8 codes: a pure function of the graph and of how many pixels there are; and how codes
//! come to them.

use super::{ExecError, Prepared, Weights};
use crate::graph::{DType, Graph, Layout, Node, NodeId, Op, Window};
use crate::native::{self, Codes};
use crate::quant::scheme::Scheme;
use tch::Tensor;

/// Fewest rows of a product (pixels of a convolution's result, over the microbatch) for which it is computed on codes. Packing a
/// weight's codes once a step costs as much as a number of rows whatever the layer's size, as both grow with the weight.
const FEWEST_ROWS: usize = 512;

/// Most products of the largest codes, 255 and 127, whose sum 32 bits hold.
const MOST_PRODUCTS: usize = i32::MAX as usize / (255 * 127);

/// The codes of a layer's input.
#[derive(Debug, Clone, PartialEq)]
struct Source {
    /// The values that have them: from the one that the layer reads back to the quantizer's.
    path: Vec<NodeId>,
    /// Rows of the layer's product for one image.
    rows: usize,
}

impl Source {
    /// Whether a microbatch of `batch` images is worth packing the weight.
    fn pays_for(&self, batch: i64) -> bool {
        usize::try_from(batch).is_ok_and(|batch| batch.saturating_mul(self.rows) >= FEWEST_ROWS)
    }
}

/// Why a layer does not compute on codes, whatever its microbatch.
pub(super) fn obstacle(graph: &Graph, layer: NodeId) -> Option<&'static str> {
    source(graph, layer).err()
}

fn source(graph: &Graph, id: NodeId) -> Result<Source, &'static str> {
    let node = graph.node(id);
    let layer = match &node.op {
        Op::Conv(conv) if conv.groups > 1 => return Err("it has groups"),
        Op::Conv(conv) if conv.padding.as_symmetric().is_none() => {
            return Err("it pads one side more than the other");
        }
        Op::Conv(conv) => &conv.layer,
        Op::Linear(linear) => &linear.layer,
        _ => return Err("it is no convolution or linear layer"),
    };
    if graph.layout != Layout::Nhwc {
        return Err("its images are in layout NCHW");
    }
    if layer.compute == DType::F16 {
        return Err("it computes in FP16");
    }
    if layer.scheme.is_none() {
        return Err("its weight is not quantized");
    }
    let weight = graph.param(&layer.weight).ok_or("it has no weight")?;
    if weight.len() / weight.shape[0] > MOST_PRODUCTS {
        return Err("its sums have more products than 32 bits hold");
    }
    let path = path(graph, node.inputs[0])?;
    // Channels come first in an image's shape, last in others.
    let shape = &node.ty.shape;
    let rows = match &node.op {
        Op::Conv(_) => shape[1..].iter().product(),
        _ => shape[..shape.len() - 1].iter().product(),
    };
    Ok(Source { path, rows })
}

/// From a value back to the quantizer in force whose codes it still has, through what [`hand_on`] knows.
fn path(graph: &Graph, mut value: NodeId) -> Result<Vec<NodeId>, &'static str> {
    let mut path = vec![];
    loop {
        let node = graph.node(value);
        path.push(value);
        match &node.op {
            Op::Quantize(q) if q.active => return Ok(path),
            Op::Quantize(_) | Op::Cast(_) | Op::MaxPool(_) | Op::Flatten => value = node.inputs[0],
            op if op.facts().hands_on() => return Err("its input's codes come through another operator"),
            _ => return Err("its input is not quantized"),
        }
    }
}

/// The codes of a value, from those of the value that its operator reads.
fn hand_on(node: &Node, codes: &Codes) -> Result<Codes, ExecError> {
    let of = match &node.op {
        Op::MaxPool(Window { kernel, stride, padding, .. }) => {
            let windows = [*kernel, *stride, *padding].map(|v| v as i64);
            let at = |source| ExecError::Native { node: node.name.clone(), source };
            native::max_pool_of_codes(&codes.codes, windows).map_err(at)?
        }
        Op::Flatten => codes.codes.f_flatten(1, -1)?,
        _ => codes.codes.shallow_clone(),
    };
    Ok(Codes { codes: of, ..*codes })
}

/// The layers of a graph that can compute on codes.
pub(super) struct Integers {
    /// By node, where it is such a layer.
    sources: Vec<Option<Source>>,
    /// By node: those whose codes come from its value, or through it.
    wanted_by: Vec<Vec<NodeId>>,
}

impl Integers {
    pub fn new(graph: &Graph) -> Self {
        let sources: Vec<_> = graph.iter().map(|(id, _)| source(graph, id).ok()).collect();
        let mut wanted_by = vec![vec![]; graph.nodes.len()];
        for ((id, _), source) in graph.iter().zip(&sources) {
            source.iter().flat_map(|s| &s.path).for_each(|value| wanted_by[value.0].push(id));
        }
        Self { sources, wanted_by }
    }

    /// Whether a node is a layer that computes on codes in a microbatch of `batch` images.
    pub fn computes(&self, id: NodeId, batch: i64) -> bool {
        self.sources[id.0].as_ref().is_some_and(|source| source.pays_for(batch))
    }

    /// Whether such a layer needs the codes of a node's value.
    pub fn wants(&self, id: NodeId, batch: i64) -> bool {
        self.wanted_by[id.0].iter().any(|layer| self.computes(*layer, batch))
    }
}

/// Codes of the value of a node by itself, where one of its operators has them to give: a quantizer that makes them of `x`, or what
/// hands on those of the value that it reads.
pub(super) fn codes(
    node: &Node,
    x: &Tensor,
    before: Option<&Codes>,
    quantizer: Option<usize>,
    prepared: &Prepared,
) -> Result<Option<Codes>, ExecError> {
    match (&node.op, quantizer) {
        (Op::Quantize(q), Some(index)) if q.active => encode(node, x, q.scheme, index, prepared).map(Some),
        _ => before.map(|codes| hand_on(node, codes)).transpose(),
    }
}

/// The codes that a quantizer makes of `x`.
pub(super) fn encode(
    node: &Node,
    x: &Tensor,
    scheme: Scheme,
    index: usize,
    prepared: &Prepared,
) -> Result<Codes, ExecError> {
    let scale = prepared.scales.f_double_value(&[index as i64])? as f32;
    native::codes(x, scale, scheme).map_err(|source| ExecError::Native { node: node.name.clone(), source })
}

/// How many layers compute on codes in a microbatch of `batch` images, and the names of the others with why they do not.
pub(super) fn layers(graph: &Graph, batch: i64) -> (usize, Vec<(String, String)>) {
    let mut others = vec![];
    let mut count = 0;
    for (id, node) in graph.iter().filter(|(_, n)| n.op.layer().is_some()) {
        match source(graph, id) {
            Err(why) => others.push((node.name.clone(), why.to_string())),
            Ok(source) if source.pays_for(batch) => count += 1,
            Ok(source) => others.push((
                node.name.clone(),
                format!(
                    "its product has {} rows, and packing its weight pays from {FEWEST_ROWS} on",
                    source.rows.saturating_mul(batch.max(0) as usize)
                ),
            )),
        }
    }
    (count, others)
}

/// Which trainable parameters are weights of layers that can compute on codes.
pub(super) fn weights(graph: &Graph, weights: &Weights) -> Vec<bool> {
    let mut all = vec![false; weights.layout.trainable.len()];
    for (id, node) in graph.iter().filter(|(id, _)| obstacle(graph, *id).is_none()) {
        let layer = node.op.layer().unwrap_or_else(|| panic!("{id:?} is a layer"));
        if let Some(i) = weights.layout.trainable_index(&layer.weight) {
            all[i] = true;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::Passes;
    use crate::strategy::{Amp, Purpose, Qat, Strategy};

    /// Of a network as it is trained: how many layers compute on codes in a microbatch, and why others never do.
    fn layers(name: &str, strategy: &Strategy, batch: i64) -> (usize, Vec<(String, &'static str)>) {
        let graph = crate::models::build(name, [3, 224, 224], 1000).unwrap();
        let graph = Passes::default().run(graph, strategy, Purpose::Train, |_, _| {}).unwrap();
        let integers = Integers::new(&graph);
        let all = || graph.iter().filter(|(_, n)| n.op.layer().is_some());
        let never = all().filter_map(|(id, n)| Some((n.name.clone(), obstacle(&graph, id)?)));
        let count = all().filter(|(id, _)| integers.computes(*id, batch)).count();
        let (said, others) = super::layers(&graph, batch);
        assert_eq!((said, said + others.len()), (count, all().count()));
        (count, never.collect())
    }

    fn qat() -> Strategy {
        Strategy { amp: Amp::Bf16, qat: Some(Qat::default()), ..Strategy::default() }
    }

    #[test]
    fn all_of_resnet50_computes_on_codes_where_the_microbatch_pays_for_it() {
        let (count, never) = layers("ResNet50", &qat(), 16);
        assert_eq!((count, never), (53, vec![]), "all but the classifier, which has 16 rows");
        // 7 by 7 pixels by 8 images are too few: the last three blocks but for what reads 14 by 14 at 1 by 1.
        assert_eq!(layers("ResNet50", &qat(), 8).0, 44);
        assert_eq!(layers("ResNet50", &qat(), 512).0, 54);
        for strategy in [Strategy { layout: Layout::Nchw, ..qat() }, Strategy { amp: Amp::Fp16, ..qat() }] {
            assert_eq!(layers("ResNet50", &strategy, 16).0, 0);
        }
        assert_eq!(layers("ResNet50", &qat().without_qat(), 16).0, 0);
    }

    #[test]
    fn layers_that_cannot_say_why() {
        let (count, never) = layers("MobileNetV2", &qat(), 16);
        assert_eq!(never.iter().filter(|(_, why)| *why == "it has groups").count(), 17);
        // Before the classifier values are left out at random, which makes the others larger.
        let last = never.iter().filter(|(_, why)| *why == "its input's codes come through another operator");
        assert_eq!((count, never.len(), last.count()), (35, 18, 1), "{never:?}");
        let skips = Qat { skip: vec!["layer1.*".into()], ..Qat::default() };
        let (_, never) = layers("ResNet20", &Strategy { qat: Some(skips), ..qat() }, 16);
        assert!(never.iter().any(|(_, why)| *why == "its weight is not quantized"), "{never:?}");
    }
}
