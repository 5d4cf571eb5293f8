//! What an operator is run with.

use super::super::forward::Step;
use super::super::{ExecError, Mode, Pass};
use crate::graph::{Layout, Node, NodeId};
use crate::native::{self, Codes, Int8Product, Taps};
use tch::{Device, Tensor};

/// One run of one operator.
pub struct Call<'a, 'r> {
    /// The node.
    pub node: &'a Node,
    /// The values it reads; for the graph's input the images `[b, C, H, W]`.
    pub inputs: &'a [&'a Tensor],
    /// Whether the first input may be overwritten: only this node reads it, and backward does not need it.
    pub may_overwrite: bool,
    pub(super) leaves: &'a [usize],
    pub(super) buffers: &'a [usize],
    pub(super) quantizer: Option<usize>,
    pub(super) layout: Layout,
    /// Where it computes on INT8 codes: those of the first value it reads.
    codes: Option<Option<&'a Codes>>,
    /// The node's place in the graph.
    place: usize,
    pub(super) pass: &'a mut Pass<'r>,
}

impl<'a, 'r> Call<'a, 'r> {
    pub(in super::super) fn new(
        (id, node): (NodeId, &'a Node),
        inputs: &'a [&'a Tensor],
        (resolved, codes): (&'a Step, Option<Option<&'a Codes>>),
        may_overwrite: bool,
        pass: &'a mut Pass<'r>,
    ) -> Self {
        let Step { leaves, buffers, quantizer, layout, .. } = resolved;
        let (quantizer, layout, place) = (*quantizer, *layout, id.0);
        Self { node, inputs, may_overwrite, leaves, buffers, quantizer, layout, codes, place, pass }
    }

    /// The first value it reads.
    pub fn x(&self) -> &'a Tensor {
        self.inputs[0]
    }

    /// The `i`th of the trainable parameters that its facts name, as this step computes with it: a layer's weight
    /// fake-quantized where it is quantized, weight and bias in the layer's type, others in FP32. `None` beyond the last.
    pub fn leaf(&self, i: usize) -> Option<&'r Tensor> {
        let prepared = self.pass.prepared;
        self.leaves.get(i).map(|&l| &prepared.leaves[l])
    }

    /// [`Call::leaf`], where one that is missing is an error.
    pub fn parameter(&self, i: usize) -> Result<&'r Tensor, ExecError> {
        let missing = || ExecError::State {
            name: self.node.name.clone(),
            what: format!("reads {} trainable parameters, not {}", self.leaves.len(), i + 1),
        };
        self.leaf(i).ok_or_else(missing)
    }

    /// A layer's product on INT8 codes, where it computes on them.
    pub(super) fn product_of_codes(&self, taps: Taps) -> Result<Option<Tensor>, ExecError> {
        let Some(codes) = self.codes else { return Ok(None) };
        let prepared = self.pass.prepared;
        let refused = |what| ExecError::Codes { node: self.node.name.clone(), what };
        if !native::int8_products() {
            return Err(refused("sums of products of codes are not exact on this CPU"));
        }
        let codes = codes.ok_or_else(|| refused("there are none of what it reads"))?;
        let of_weight = self.leaves.first().and_then(|&l| prepared.codes[l].as_ref());
        let of_weight = of_weight.ok_or_else(|| refused("there are none of its weight"))?;
        let at = |source| ExecError::Native { node: self.node.name.clone(), source };
        let x = self.x();
        let packed = match prepared.packed[self.place].get() {
            Some(packed) => packed,
            None => {
                let packed = native::int8_pack(of_weight, x, taps, codes.zero).map_err(at)?;
                prepared.packed[self.place].get_or_init(|| packed)
            }
        };
        let (weight, bias, scales) = (self.parameter(0)?, self.leaf(1), &of_weight.scales);
        let of = Int8Product { x, weight, bias, codes, packed, scales, taps };
        native::int8_product(&of).map(Some).map_err(at)
    }

    /// Where the weights live.
    pub fn device(&self) -> Device {
        self.pass.weights.device()
    }

    /// Key of this node's draws in training; `None` where nothing is left out at random.
    pub fn draw(&self) -> Option<[u64; 2]> {
        self.pass.mode.draws.map(|key| [key, self.place as u64])
    }

    /// How the graph runs.
    pub fn mode(&self) -> Mode {
        self.pass.mode
    }
}
