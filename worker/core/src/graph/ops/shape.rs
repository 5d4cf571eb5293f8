//! The same numbers in another shape.

use super::super::TensorType;
use super::operator::kept;
use super::{Given, OnnxInput, OnnxNode, OnnxScope, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// How many numbers a value has.
fn count(ty: &TensorType) -> Result<usize, String> {
    let all = ty.shape.iter().try_fold(1usize, |all, &side| all.checked_mul(side));
    all.ok_or_else(|| format!("{ty} has more values than can be counted"))
}

fn dims(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// All values of an image in one row: `[C, H, W] -> [C * H * W]`.
#[derive(Debug)]
pub(super) struct Flatten;

impl Operator for Flatten {
    fn kind(&self) -> &'static str {
        "Flatten"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let input = given.inputs[0];
        Ok(TensorType { shape: vec![count(input)?], dtype: input.dtype })
    }

    fn hands_on(&self) -> bool {
        true
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::unary("Flatten").int("axis", 1)])
    }
}

/// The same numbers in row-major order, in another shape. The batch stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reshape {
    /// The shape, without the batch.
    pub shape: Vec<usize>,
}

impl Operator for Reshape {
    fn kind(&self) -> &'static str {
        "Reshape"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let input = given.inputs[0];
        let made = TensorType { shape: self.shape.clone(), dtype: input.dtype };
        match count(&made)? == count(input)? {
            true => Ok(made),
            false => Err(format!("makes {made} of {input}, which has another number of values")),
        }
    }

    fn hands_on(&self) -> bool {
        true
    }

    /// Where an image becomes tokens: the convolution that makes it wants a quantized result where every node wants integer
    /// neighbours.
    fn quantized_inputs(&self, target: Target, site: &Site) -> Option<Vec<usize>> {
        let tokens = site.ranks == [3] && self.shape.len() == 2;
        Some(if target.integer_neighbours() && tokens { vec![0] } else { vec![] })
    }

    /// A 0 keeps the input's first dimension, the batch.
    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let shape = [0].into_iter().chain(self.shape.iter().map(|&side| side as i64)).collect();
        Ok(vec![OnnxNode::new("Reshape", vec![OnnxInput::Value(0), OnnxInput::Ints(shape)])])
    }

    fn describe(&self, _: &Shapes) -> String {
        format!("Reshape[{}]", dims(&self.shape))
    }
}

/// Dimensions in another order; the batch stays first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transpose {
    /// For every dimension of the result, which of the input's it is, both counted without the batch.
    pub perm: Vec<usize>,
}

impl Operator for Transpose {
    fn kind(&self) -> &'static str {
        "Transpose"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let input = given.inputs[0];
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..input.shape.len()) {
            return Err(format!("orders dimensions {:?} of {input}", self.perm));
        }
        Ok(TensorType { shape: self.perm.iter().map(|&i| input.shape[i]).collect(), dtype: input.dtype })
    }

    fn hands_on(&self) -> bool {
        true
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let perm: Vec<usize> = [0].into_iter().chain(self.perm.iter().map(|i| 1 + i)).collect();
        Ok(vec![OnnxNode::unary("Transpose").sizes("perm", &perm)])
    }

    fn describe(&self, _: &Shapes) -> String {
        format!("Transpose[{}]", self.perm.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
    }
}

/// A part of a value along one dimension. A quantizer of the part stands behind it, for parts such as the queries and keys of
/// an attention have ranges of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The dimension, counted without the batch.
    pub axis: usize,
    /// The first index.
    pub start: usize,
    /// How many.
    pub len: usize,
}

impl Operator for Slice {
    fn kind(&self) -> &'static str {
        "Slice"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let input = given.inputs[0];
        let mut shape = input.shape.clone();
        match (shape.get_mut(self.axis), self.start.checked_add(self.len)) {
            (Some(side), Some(end)) if end <= *side && self.len > 0 => *side = self.len,
            _ => {
                let Slice { axis, start, len } = self;
                return Err(format!("takes {len} from {start} on of dimension {axis} of {input}"));
            }
        }
        Ok(TensorType { shape, dtype: input.dtype })
    }

    fn sign(&self, inputs: &[Sign]) -> Sign {
        kept(inputs)
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let ints =
            [self.start, self.start + self.len, 1 + self.axis].map(|v| OnnxInput::Ints(vec![v as i64]));
        Ok(vec![OnnxNode::new("Slice", [OnnxInput::Value(0)].into_iter().chain(ints).collect())])
    }

    fn describe(&self, _: &Shapes) -> String {
        format!("Slice[{} {}..{}]", self.axis, self.start, self.start + self.len)
    }
}

/// Zeros before and behind a value, by dimension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pad {
    /// How many before it, one number a dimension without the batch.
    pub before: Vec<usize>,
    /// How many behind it.
    pub after: Vec<usize>,
}

impl Operator for Pad {
    fn kind(&self) -> &'static str {
        "Pad"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let input = given.inputs[0];
        let rank = input.shape.len();
        if self.before.len() != rank || self.after.len() != rank {
            return Err(format!("pads {} and {} dimensions of {input}", self.before.len(), self.after.len()));
        }
        let side = |i: usize| input.shape[i].checked_add(self.before[i])?.checked_add(self.after[i]);
        let shape = (0..rank).map(side).collect::<Option<_>>();
        let shape = shape.ok_or_else(|| format!("pads {input} beyond what can be counted"))?;
        Ok(TensorType { shape, dtype: input.dtype })
    }

    /// Zero is a code.
    fn hands_on(&self) -> bool {
        true
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let sides =
            |sides: &[usize]| [0].into_iter().chain(sides.iter().map(|&v| v as i64)).collect::<Vec<_>>();
        let pads = [sides(&self.before), sides(&self.after)].concat();
        Ok(vec![OnnxNode::new("Pad", vec![OnnxInput::Value(0), OnnxInput::Ints(pads)])])
    }

    fn describe(&self, _: &Shapes) -> String {
        format!("Pad[{} {}]", dims(&self.before), dims(&self.after))
    }
}
