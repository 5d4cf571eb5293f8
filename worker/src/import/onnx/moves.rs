//! What gives numbers another shape, another place or other neighbours, and computes nothing.

use super::attributes::{axis, float, integer, integers, text};
use super::counts;
use super::patterns::along;
use super::rearrange::{permutation, slices, squeezed, unsqueezed};
use super::translate::{Reads, Translation};
use super::value::{Count, Known, Merged, Place, Sizes, Value, reshaped, show};
use crate::graph::{ClassToken, Concat, NodeId, Op, Pad, ParamKind, Reshape, Slice, Transpose};
use octrain_formats::onnx::{Constant, Node};

/// What a Pad adds before and behind every dimension, where it adds zeros.
fn zeros(node: &Node, reads: &Reads) -> Result<(Vec<i64>, Vec<i64>), String> {
    let mode = text(node, "mode", "constant")?;
    let value = match reads.optional(2, "value")? {
        Some(value) => value.constant.number().ok_or("its value is not one known number")?,
        None => float(node, "value", 0.0)?,
    };
    if mode != "constant" || value != 0.0 {
        return Err(format!(
            "pads with {}; zeros are taken",
            if mode == "constant" { value.to_string() } else { mode.into() }
        ));
    }
    let pads = match integers(node, "pads")? {
        Some(pads) => pads,
        None => {
            let unknown = || "its pads depend on the size of the batch, which is open".to_string();
            let (pads, _) =
                reads.value(1).and_then(counts::row).ok_or("its pads are missing, or not known")?;
            pads.iter()
                .map(|c| (!c.batch).then_some(c.times).ok_or_else(unknown))
                .collect::<Result<_, _>>()?
        }
    };
    if reads.value(3).is_some() {
        return Err("names its axes; pads of all of them are taken".into());
    }
    let (before, after) = pads.split_at(pads.len() / 2);
    Ok((before.to_vec(), after.to_vec()))
}

impl Translation<'_> {
    /// A value in this shape, which is made only where it has another.
    pub(super) fn shaped(&mut self, node: &Node, x: NodeId, shape: Vec<usize>) -> Result<NodeId, String> {
        if self.made.shape(x) == shape {
            return Ok(x);
        }
        let op = if shape.len() == 1 { Op::Flatten } else { Op::Reshape(Reshape { shape }) };
        self.made.push(&node.name, op, &[x])
    }

    /// A value whose sizes in the file become these.
    fn resized(&mut self, node: &Node, x: Place, sizes: &Sizes) -> Result<Place, String> {
        let found = sizes.batch().zip(sizes.shape());
        let (batch, shape) = found.ok_or_else(|| format!("makes {}", show(&sizes.all)))?;
        if shape.is_empty() {
            return Err(format!("makes {}: one number an image has no dimension here", show(&sizes.all)));
        }
        Ok(Place { id: self.shaped(node, x.id, shape)?, batch, merged: sizes.merged })
    }

    fn sizes(&self, x: Place) -> Vec<Count> {
        x.sizes(self.made.shape(x.id))
    }

    pub(super) fn reshape(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let wanted = match integers(node, "shape")? {
            Some(shape) => shape.into_iter().map(Count::number).collect(),
            None => reads.value(1).and_then(counts::row).ok_or("its shape is not known")?.0,
        };
        let sizes = Sizes { all: self.sizes(x), merged: x.merged };
        let sizes = reshaped(&sizes, &wanted, integer(node, "allowzero", 0)? != 0, self.fixed_batch)?;
        self.resized(node, x, &sizes)
    }

    pub(super) fn flatten(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let at = integer(node, "axis", 1)?;
        let rank = self.sizes(x).len();
        if at != 1 && at != 1 - rank as i64 || x.batch != 0 || x.merged != Merged::Alone {
            return Err("it joins the images of a batch".into());
        }
        let all: usize = self.made.shape(x.id).iter().product();
        let all = vec![Count::BATCH, Count::number(all as i64)];
        self.resized(node, x, &Sizes { all, merged: Merged::Alone })
    }

    /// Squeeze and Unsqueeze: their axes are an attribute, since operator set 13 an input.
    pub(super) fn squeeze(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let axes = match integers(node, "axes")? {
            Some(axes) => Some(axes),
            None => reads.integers(1)?,
        };
        let sizes = self.sizes(x);
        let sizes = match node.op.as_str() {
            "Squeeze" => squeezed(&sizes, axes.as_deref(), |c| *c == Count::number(1))?,
            _ => unsqueezed(&sizes, &axes.ok_or("its axes are missing")?, Count::number(1))?,
        };
        self.resized(node, x, &Sizes { all: sizes, merged: x.merged })
    }

    pub(super) fn transpose(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let perm = permutation(node, self.sizes(x).len())?;
        let batch = perm.iter().position(|&i| i == x.batch).ok_or("it loses the batch")?;
        let perm: Vec<usize> = match x.merged {
            Merged::WithNext | Merged::WithLast => perm,
            Merged::Alone => perm.iter().filter_map(|&i| x.axis(i)).collect(),
        };
        Ok(Place { id: self.turned(&node.name, x.id, perm)?, batch, ..x })
    }

    /// A value with its dimensions in another order. One order after another is one, and none where they undo each other.
    pub(super) fn turned(&mut self, name: &str, x: NodeId, perm: Vec<usize>) -> Result<NodeId, String> {
        let before = self.made.graph.node(x);
        let (from, perm) = match &before.op {
            Op::Transpose(first) => (before.inputs[0], perm.iter().map(|&i| first.perm[i]).collect()),
            _ => (x, perm),
        };
        match perm.iter().copied().eq(0..perm.len()) {
            true => Ok(from),
            false => self.made.push(name, Op::Transpose(Transpose { perm }), &[from]),
        }
    }

    fn part(
        &mut self,
        name: &str,
        x: NodeId,
        axis: usize,
        start: usize,
        len: usize,
    ) -> Result<NodeId, String> {
        if start == 0 && self.made.shape(x).get(axis) == Some(&len) {
            return Ok(x);
        }
        self.made.push(name, Op::Slice(Slice { axis, start, len }), &[x])
    }

    pub(super) fn slice(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let sides: Vec<Option<usize>> =
            self.sizes(x).iter().map(|c| (!c.batch).then_some(c.times as usize)).collect();
        let inputs = [reads.integers(1)?, reads.integers(2)?, reads.integers(3)?, reads.integers(4)?];
        let mut id = x.id;
        for (of_file, part) in slices(node, inputs, &sides)?.into_iter().enumerate() {
            let Some((start, len, step)) = part else { continue };
            if step != 1 && len > 1 {
                return Err(format!("takes every {step}th element"));
            }
            let axis = x.axis(of_file).ok_or("takes a part of the batch")?;
            id = self.part(&node.name, id, axis, start, len)?;
        }
        Ok(Place { id, ..x })
    }

    pub(super) fn split(&mut self, node: &Node, reads: &Reads) -> Result<Vec<Place>, String> {
        let x = reads.made(0)?;
        let sizes = self.sizes(x);
        let axis = x.axis(along(node, 0, sizes.len())?).ok_or("takes the batch apart")?;
        let side = self.made.shape(x.id)[axis];
        let given = match integers(node, "split")? {
            Some(given) => Some(given),
            None => reads.integers(1)?,
        };
        let parts: Vec<usize> = match given {
            Some(given) => given.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect(),
            None => {
                let count = node.outputs.len().max(1);
                let part = side.div_ceil(count);
                (0..count).map(|i| part.min(side.saturating_sub(i * part))).collect()
            }
        };
        if parts.len() != node.outputs.len() || parts.iter().sum::<usize>() != side || parts.contains(&0) {
            return Err(format!("makes parts {parts:?} of {side}"));
        }
        let mut start = 0;
        let mut made = Vec::new();
        for (i, len) in parts.into_iter().enumerate() {
            made.push(Place { id: self.part(&format!("{}.{i}", node.name), x.id, axis, start, len)?, ..x });
            start += len;
        }
        Ok(made)
    }

    /// One element along a dimension, or several.
    pub(super) fn gather(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let sizes = self.sizes(x);
        let of_file = along(node, 0, sizes.len())?;
        let here = x.axis(of_file).ok_or("takes images out of a batch")?;
        let known = reads.known(1, "index")?;
        let index = known.constant.as_integers().ok_or("its index is no whole number")?;
        let side = self.made.shape(x.id)[here];
        let index = index.iter().map(|&n| axis(n, side)).collect::<Result<Vec<_>, _>>()?;
        let (Some(&start), true) = (index.first(), known.constant.shape.len() < 2) else {
            return Err("its index is a table".into());
        };
        let id = match index.windows(2).all(|w| w[1] == w[0] + 1) {
            true => self.part(&format!("{}.part", node.name), x.id, here, start, index.len())?,
            false => {
                let one = |i: usize| self.part(&format!("{}.part", node.name), x.id, here, i, 1);
                let parts = index.into_iter().map(one).collect::<Result<Vec<_>, _>>()?;
                self.made.push(&node.name, Op::Concat(Concat { axis: here }), &parts)?
            }
        };
        let place = Place { id, ..x };
        if !known.constant.shape.is_empty() {
            return Ok(place);
        }
        let mut left = sizes;
        left.remove(of_file);
        self.resized(node, place, &Sizes { all: left, merged: x.merged })
    }

    pub(super) fn concat(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let made = reads.all().find_map(|v| if let Value::Made(place) = v { Some(*place) } else { None });
        let Some(like) = made else {
            return Err("joins nothing that depends on the image".into());
        };
        let rank = self.sizes(like).len();
        let axis = like.axis(along(node, 0, rank)?).ok_or("joins batches")?;
        let values: Vec<Value> = reads.all().map(|value| self.one_image(value)).collect();
        // A token before all others.
        if let ([Value::Spread(token), Value::Made(x)], 0, 2) =
            (&values[..], axis, self.made.shape(like.id).len())
            && let [1, 1, width] = token.constant.shape[..]
            && x.batch == 0
        {
            let data =
                token.constant.as_floats().ok_or("its token is not of floating-point numbers")?.to_vec();
            let name = format!("{}.token", node.name);
            let token = self.made.param(token, &name, &[1, 1, width], data, ParamKind::Embedding)?;
            return Ok(Place {
                id: self.made.push(&node.name, Op::ClassToken(ClassToken { token }), &[x.id])?,
                ..*x
            });
        }
        let mut inputs = Vec::new();
        for value in &values {
            inputs.push(match value {
                Value::Made(x)
                    if (x.batch, x.merged) == (like.batch, like.merged) && self.sizes(*x).len() == rank =>
                {
                    x.id
                }
                Value::Spread(known) if like.batch == 0 && like.merged == Merged::Alone => {
                    self.spread(node, known)?
                }
                _ => return Err("joins values whose images lie differently".into()),
            });
        }
        if let [only] = inputs[..] {
            return Ok(Place { id: only, ..like });
        }
        Ok(Place { id: self.made.push(&node.name, Op::Concat(Concat { axis }), &inputs)?, ..like })
    }

    /// A value; of a constant that a file for batches of one size holds for every image alike, that for one of them.
    fn one_image(&self, value: &Value) -> Value {
        let (Value::Known(known), Some(batch)) = (value, self.fixed_batch) else { return value.clone() };
        let Constant { shape, numbers } = known.constant.as_ref();
        let row = numbers.len() / batch.max(1);
        let (Some(floats), true) = (known.constant.as_floats(), shape.first() == Some(&batch) && row > 0)
        else {
            return value.clone();
        };
        let (first, others) = floats.split_at(row);
        match others.chunks(row).all(|other| other == first) {
            true => {
                let constant = Constant::floats([&[1], &shape[1..]].concat(), first.to_vec());
                Value::Spread(Known { constant: constant.into(), origin: known.origin.clone() })
            }
            false => value.clone(),
        }
    }

    /// A constant `[1, ...]` that is repeated for every image.
    fn spread(&mut self, node: &Node, known: &Known) -> Result<NodeId, String> {
        let shape = known.constant.shape.get(1..).unwrap_or_default().to_vec();
        self.made.value_of(known, &node.name, shape, ParamKind::Embedding)
    }

    pub(super) fn expand(&mut self, reads: &Reads) -> Result<Value, String> {
        let (wanted, _) = reads.value(1).and_then(counts::row).ok_or("its shape is not known")?;
        match reads.value(0) {
            Some(Value::Made(x)) => {
                let same = wanted.len() == self.sizes(*x).len()
                    && wanted
                        .iter()
                        .zip(self.sizes(*x))
                        .all(|(w, size)| *w == Count::number(1) || *w == size);
                if same { Ok(Value::Made(*x)) } else { Err("repeats what depends on the image".into()) }
            }
            Some(Value::Known(known)) => {
                let shape = &known.constant.shape;
                let (batch, rest) = wanted.split_first().ok_or("its shape is empty")?;
                let rest_is_same = shape.len() == wanted.len()
                    && shape[1..]
                        .iter()
                        .zip(rest)
                        .all(|(&d, w)| *w == Count::number(d as i64) || *w == Count::number(1));
                match *batch == Count::BATCH && shape.first() == Some(&1) && rest_is_same {
                    true => Ok(Value::Spread(known.clone())),
                    false => Err(format!("repeats a constant {shape:?} to {}", show(&wanted))),
                }
            }
            _ => Err("repeats what is not known".into()),
        }
    }

    pub(super) fn pad(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let (before, after) = zeros(node, reads)?;
        let rank = self.sizes(x).len();
        if before.len() != rank || after.len() != rank {
            return Err(format!("pads {} dimensions of a value with {rank}", before.len()));
        }
        let mut sides = [vec![0; self.made.shape(x.id).len()], vec![0; self.made.shape(x.id).len()]];
        for (to, from) in sides.iter_mut().zip([before, after]) {
            for (of_file, n) in from.into_iter().enumerate().filter(|(_, n)| *n != 0) {
                let axis = x.axis(of_file).ok_or("adds images to a batch")?;
                to[axis] = usize::try_from(n).map_err(|_| "cuts away, which a Slice says")?;
            }
        }
        let [before, after] = sides;
        if before.iter().chain(&after).all(|&n| n == 0) {
            return Ok(x);
        }
        Ok(Place { id: self.made.push(&node.name, Op::Pad(Pad { before, after }), &[x.id])?, ..x })
    }
}
