//! What is computed of every element by itself.

use super::patterns::{along, bounds, is_sixth};
use super::translate::{Reads, Translation};
use super::value::{Count, Known, Merged, Place, Value};
use crate::graph::{Clip, Dropout, NodeId, Op, ParamKind, Scale};
use octrain_formats::onnx::Node;

/// Whether what is done along some dimensions of a value is done to all numbers of each image together.
fn goes_over_all(sizes: &[Count], x: Place, along: impl Fn(usize) -> bool) -> bool {
    let whole = |(i, size): (usize, &Count)| match i == x.batch {
        true => !along(i),
        false => along(i) || size.times == 1,
    };
    x.merged == Merged::Alone && sizes.iter().enumerate().all(whole)
}

impl Translation<'_> {
    fn unary(&mut self, node: &Node, x: Place, op: Op) -> Result<Place, String> {
        Ok(Place { id: self.made.push(&node.name, op, &[x.id])?, ..x })
    }

    pub(super) fn activation(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let op = match node.op.as_str() {
            "Relu" => Op::Relu,
            "Sigmoid" => Op::Sigmoid,
            "HardSigmoid" if is_sixth(node) => Op::HardSigmoid,
            "HardSigmoid" => return Err("its slope is not that of PyTorch, 1/6 with 1/2 at 0".into()),
            "HardSwish" => Op::HardSwish,
            "Swish" if super::attributes::float(node, "alpha", 1.0)? == 1.0 => Op::Silu,
            "Swish" => return Err("its alpha is not 1".into()),
            "Gelu" if super::attributes::text(node, "approximate", "none")? == "none" => Op::Gelu,
            "Gelu" => return Err("it is approximated by tanh; the one of erf is taken".into()),
            _ => Op::Scale(Scale { factor: -1.0 }),
        };
        self.unary(node, x, op)
    }

    pub(super) fn clip(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let op = match bounds(self.net, node)? {
            (None, None) => return Ok(x),
            (Some(0.0), None) => Op::Relu,
            // Nothing of a network in FP32 is beyond.
            (min, max) => Op::Clip(Clip { min: min.unwrap_or(f32::MIN), max: max.unwrap_or(f32::MAX) }),
        };
        self.unary(node, x, op)
    }

    /// Along the last dimension; before operator set 13 along all from the axis on. One at the end of a network is left out
    /// where it goes over all numbers of an image, which then are the logits of classes, whatever their shape.
    pub(super) fn softmax(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let sizes = x.sizes(self.made.shape(x.id));
        let old = self.opset < 13;
        let axis = along(node, if old { 1 } else { -1 }, sizes.len())?;
        if self.is_last_softmax(node) && goes_over_all(&sizes, x, |i| i == axis || (old && i > axis)) {
            self.left_out = Some(node.op.clone());
            return Ok(x);
        }
        if node.op != "Softmax" {
            return Err("it goes over a part of the scores; at the end of a network it is left out where it goes over all".into());
        }
        if axis + 1 != sizes.len() || x.axis(axis).is_none() {
            return Err("it is not along the last dimension".into());
        }
        self.unary(node, x, Op::Softmax)
    }

    pub(super) fn dropout(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        if node.outputs.get(1).is_some_and(|mask| self.is_read(mask)) {
            return Err("its mask is read".into());
        }
        let training = reads.optional(2, "mode")?.and_then(|k| k.constant.as_integers());
        if training.is_some_and(|mode| mode != [0]) {
            return Err(
                "it leaves out numbers at random; export the network for inference: model.eval()".into()
            );
        }
        let p = super::fold::dropout(node, reads.optional(1, "ratio")?.map(|k| k.constant.as_ref()))?;
        match p {
            0.0 => Ok(x),
            p => self.unary(node, x, Op::Dropout(Dropout { p })),
        }
    }

    /// Sums, differences, products and quotients of two values, or of a value and a constant; sums of several.
    pub(super) fn arithmetic(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let mut all = reads.all();
        let mut made = all.next().ok_or("reads nothing")?.clone();
        for value in all {
            let place = match (&made, value) {
                (Value::Made(a), Value::Made(b)) => self.of_values(node, *a, *b)?,
                (Value::Made(a), Value::Known(b) | Value::Spread(b)) => {
                    self.with_constant(node, *a, b, false)?
                }
                (Value::Known(a) | Value::Spread(a), Value::Made(b)) => {
                    self.with_constant(node, *b, a, true)?
                }
                _ => return Err("reads nothing that depends on the image".into()),
            };
            made = Value::Made(place);
        }
        match made {
            Value::Made(place) => Ok(place),
            _ => Err("reads one value".into()),
        }
    }

    fn of_values(&mut self, node: &Node, a: Place, b: Place) -> Result<Place, String> {
        let [rank_a, rank_b] = [a, b].map(|v| v.sizes(self.made.shape(v.id)).len());
        if (rank_a, a.batch, a.merged) != (rank_b, b.batch, b.merged) {
            return Err("joins values whose images lie differently".into());
        }
        let op = match node.op.as_str() {
            "Mul" => Op::Mul,
            "Div" => return Err("divides by what depends on the image".into()),
            _ => Op::Add,
        };
        let b = match node.op.as_str() {
            "Sub" => self.made.push(
                &format!("{}.negative", node.name),
                Op::Scale(Scale { factor: -1.0 }),
                &[b.id],
            )?,
            _ => b.id,
        };
        Ok(Place { id: self.made.push(&node.name, op, &[a.id, b])?, ..a })
    }

    /// A value and a constant, which stands first where it is `before`.
    fn with_constant(&mut self, node: &Node, x: Place, known: &Known, before: bool) -> Result<Place, String> {
        let floats = known.constant.as_floats().ok_or("reads whole numbers, and the image's are none")?;
        let (op, factor): (&str, fn(f32) -> f32) = match (node.op.as_str(), before) {
            ("Add" | "Sum", _) | ("Sub", true) => ("Add", |c| c),
            ("Sub", false) => ("Add", |c| -c),
            ("Mul", _) => ("Mul", |c| c),
            ("Div", false) => ("Mul", |c| 1.0 / c),
            _ => return Err("divides a constant by what depends on the image".into()),
        };
        let x = match (node.op.as_str(), before) {
            ("Sub", true) => self.unary(node, x, Op::Scale(Scale { factor: -1.0 }))?,
            _ => x,
        };
        let one = (floats.len() == 1).then(|| factor(floats[0]));
        match (op, one) {
            ("Mul", Some(1.0)) | ("Add", Some(0.0)) => return Ok(x),
            ("Mul", Some(factor)) => return self.unary(node, x, Op::Scale(Scale { factor })),
            _ => {}
        }
        let changed = !matches!((node.op.as_str(), before), ("Add" | "Sum" | "Mul", _) | ("Sub", true));
        let known = match changed {
            false => known.clone(),
            true => {
                let values = floats.iter().map(|&c| factor(c)).collect();
                let constant = octrain_formats::onnx::Constant::floats(known.constant.shape.clone(), values);
                // Its numbers are others than the file's, and so is its name.
                let origin = known
                    .origin
                    .as_ref()
                    .map(|name| format!("{name}.{}", if op == "Add" { "negative" } else { "inverse" }));
                Known { constant: constant.into(), origin }
            }
        };
        let other = self.beside(node, x, &known, op)?;
        let op = if op == "Add" { Op::Add } else { Op::Mul };
        Ok(Place { id: self.made.push(&node.name, op, &[x.id, other])?, ..x })
    }

    /// A constant as a value beside another, with as many dimensions as that has.
    fn beside(&mut self, node: &Node, x: Place, known: &Known, op: &str) -> Result<NodeId, String> {
        let rank = x.sizes(self.made.shape(x.id)).len();
        let own = &known.constant.shape;
        if own.len() > rank {
            return Err(format!("joins a value of {rank} dimensions with a constant of {}", own.len()));
        }
        let mut shape: Vec<usize> =
            std::iter::repeat_n(1, rank - own.len()).chain(own.iter().copied()).collect();
        if shape[x.batch] != 1 {
            return Err("its constant has numbers for every image of a batch".into());
        }
        if x.merged == Merged::Alone {
            shape.remove(x.batch);
        }
        let fits = shape.iter().zip(self.made.shape(x.id)).all(|(&c, &d)| c == 1 || c == d || d == 1);
        if !fits {
            return Err(format!("joins {:?} with a constant {own:?}", self.made.shape(x.id)));
        }
        let kind = if op == "Mul" { ParamKind::LayerScale } else { ParamKind::Embedding };
        self.made.value_of(known, &node.name, shape, kind)
    }
}
