//! Constants in another shape, order or part, and what Reshape, Transpose, Slice and their like say of any value.

use super::attributes::{axis, integer, integers};
use super::fold::{at, list, take};
use super::strides::{elements, places};
use octrain_formats::onnx::{Constant, Node};

/// The shape that Reshape, Flatten, Squeeze and Unsqueeze make of another.
pub(super) fn reshaped(
    node: &Node,
    shape: Vec<usize>,
    given: &[Option<&Constant>],
) -> Result<Vec<usize>, String> {
    match node.op.as_str() {
        "Flatten" => {
            let (first, rest) =
                shape.split_at(usize::try_from(integer(node, "axis", 1)?).unwrap_or(1).min(shape.len()));
            Ok([first, rest].map(|part| part.iter().product()).to_vec())
        }
        "Reshape" => {
            let wanted = match integers(node, "shape")? {
                Some(shape) => shape,
                None => list(given, 1)?.ok_or("its shape is missing")?,
            };
            let zero = integer(node, "allowzero", 0)? != 0;
            let total = elements(&shape).ok_or("it is too large")?;
            let mut sizes = Vec::new();
            for (i, &n) in wanted.iter().enumerate() {
                sizes.push(match n {
                    0 if !zero => *shape.get(i).ok_or("it keeps a dimension that is not there")?,
                    -1 => 1,
                    n => usize::try_from(n).map_err(|_| format!("its shape is {wanted:?}"))?,
                });
            }
            if let Some(open) = wanted.iter().position(|&n| n == -1) {
                let others = elements(&sizes).filter(|&n| n > 0).ok_or("its open size cannot be told")?;
                sizes[open] = total / others;
            }
            match elements(&sizes) == Some(total) {
                true => Ok(sizes),
                false => Err(format!("makes {sizes:?} of {shape:?}")),
            }
        }
        op => {
            let axes = match integers(node, "axes")? {
                Some(axes) => Some(axes),
                None => list(given, 1)?,
            };
            match op {
                "Squeeze" => squeezed(&shape, axes.as_deref(), |&d| d == 1),
                _ => unsqueezed(&shape, &axes.ok_or("its axes are missing")?, 1),
            }
        }
    }
}

/// A shape without these dimensions, or without all that `is_one`.
pub(super) fn squeezed<T: Clone>(
    shape: &[T],
    axes: Option<&[i64]>,
    is_one: impl Fn(&T) -> bool,
) -> Result<Vec<T>, String> {
    let axes = axes.map(bounded).transpose()?;
    let gone: Vec<usize> = match axes {
        Some(axes) => axes.iter().map(|&a| axis(a, shape.len())).collect::<Result<_, _>>()?,
        None => (0..shape.len()).filter(|&i| is_one(&shape[i])).collect(),
    };
    if let Some(large) = gone.iter().find(|&&i| !is_one(&shape[i])) {
        return Err(format!("takes away dimension {large}, which is not 1"));
    }
    Ok(shape.iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, d)| d.clone()).collect())
}

/// Axes of a tensor that somebody can have meant.
fn bounded(axes: &[i64]) -> Result<&[i64], String> {
    match axes.len() {
        0..=16 => Ok(axes),
        many => Err(format!("names {many} axes, where tensors have 16 dimensions at most")),
    }
}

/// A shape with dimensions of `one` at these axes of the result.
pub(super) fn unsqueezed<T: Clone>(shape: &[T], axes: &[i64], one: T) -> Result<Vec<T>, String> {
    let rank = shape.len() + bounded(axes)?.len();
    let new: Vec<usize> = axes.iter().map(|&a| axis(a, rank)).collect::<Result<_, _>>()?;
    let mut old = shape.iter();
    let sizes: Option<Vec<T>> =
        (0..rank).map(|i| if new.contains(&i) { Some(one.clone()) } else { old.next().cloned() }).collect();
    sizes.filter(|_| old.next().is_none()).ok_or_else(|| format!("names axes {axes:?} twice"))
}

/// The order of dimensions that a Transpose wants.
pub(super) fn permutation(node: &Node, rank: usize) -> Result<Vec<usize>, String> {
    let Some(perm) = integers(node, "perm")? else { return Ok((0..rank).rev().collect()) };
    let order: Vec<usize> = perm.iter().map(|&a| axis(a, rank)).collect::<Result<_, _>>()?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    match sorted.into_iter().eq(0..rank) {
        true => Ok(order),
        false => Err(format!("its order of dimensions is {perm:?}")),
    }
}

pub(super) fn transposed(node: &Node, c: &Constant) -> Result<Constant, String> {
    Ok(turned(c, &permutation(node, c.shape.len())?))
}

/// A constant with its dimensions in another order.
pub(super) fn turned(c: &Constant, perm: &[usize]) -> Constant {
    let strides = super::strides::of(&c.shape);
    let shape: Vec<usize> = perm.iter().map(|&i| c.shape[i]).collect();
    let strides: Vec<usize> = perm.iter().map(|&i| strides[i]).collect();
    Constant { numbers: c.numbers.at(places(&shape, &strides)), shape }
}

pub(super) fn gather(node: &Node, given: &[Option<&Constant>], room: &mut usize) -> Result<Constant, String> {
    let c = at(given, 0)?;
    let along = axis(integer(node, "axis", 0)?, c.shape.len())?;
    let (index, wanted) = (at(given, 1)?, list(given, 1)?.unwrap_or_default());
    let wanted = wanted.iter().map(|&n| axis(n, c.shape[along])).collect::<Result<Vec<_>, _>>()?;
    let shape = [&c.shape[..along], &index.shape, &c.shape[along + 1..]].concat();
    take(room, &shape)?;
    let (outer, inner): (usize, usize) =
        (c.shape[..along].iter().product(), c.shape[along + 1..].iter().product());
    let side = c.shape[along];
    let places = (0..outer)
        .flat_map(|o| wanted.iter().flat_map(move |&w| (0..inner).map(move |i| (o * side + w) * inner + i)));
    Ok(Constant { numbers: c.numbers.at(places), shape })
}

/// What is taken along a dimension: first index, count and step.
pub(super) type Part = (usize, usize, i64);

/// What a Slice takes of every dimension; none of those that stay whole.
pub(super) fn slices(
    node: &Node,
    inputs: [Option<Vec<i64>>; 4],
    shape: &[Option<usize>],
) -> Result<Vec<Option<Part>>, String> {
    let [starts, ends, axes, steps] = inputs;
    let of = |name: &str, input: Option<Vec<i64>>| match integers(node, name)? {
        Some(given) => Ok::<_, String>(Some(given)),
        None => Ok(input),
    };
    let starts = of("starts", starts)?.ok_or("its starts are missing")?;
    let ends = of("ends", ends)?.ok_or("its ends are missing")?;
    let axes = of("axes", axes)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err("its starts, ends, axes and steps are of several lengths".into());
    }
    let mut parts = vec![None; shape.len()];
    for (((&start, &end), &along), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let along = axis(along, shape.len())?;
        let Some(side) = shape[along] else {
            if (start, end, step) == (0, i64::MAX, 1) {
                continue;
            }
            return Err("takes a part of the batch".into());
        };
        let side = side as i64;
        let from_front = |at: i64| if at < 0 { at.saturating_add(side) } else { at };
        let (first, count) = match step {
            0 => return Err("its step is 0".into()),
            1.. => {
                let (first, last) = (from_front(start).clamp(0, side), from_front(end).clamp(0, side));
                (first, (last - first).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
            }
            _ => {
                let (first, last) =
                    (from_front(start).clamp(-1, side - 1), from_front(end).clamp(-1, side - 1));
                (first, (first - last).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
            }
        };
        parts[along] = Some((first.max(0) as usize, count as usize, step));
    }
    Ok(parts)
}

pub(super) fn sliced(node: &Node, given: &[Option<&Constant>]) -> Result<Constant, String> {
    let c = at(given, 0)?;
    let inputs = [list(given, 1)?, list(given, 2)?, list(given, 3)?, list(given, 4)?];
    let sides: Vec<Option<usize>> = c.shape.iter().map(|&d| Some(d)).collect();
    let parts = slices(node, inputs, &sides)?;
    let mut made = c.clone();
    for (along, part) in parts.into_iter().enumerate() {
        let Some((first, count, step)) = part else { continue };
        let (outer, inner): (usize, usize) =
            (made.shape[..along].iter().product(), made.shape[along + 1..].iter().product());
        let side = made.shape[along];
        let index = |i: usize| (first as i64 + i as i64 * step) as usize;
        let places = (0..outer).flat_map(|o| {
            (0..count).flat_map(move |i| (0..inner).map(move |n| (o * side + index(i)) * inner + n))
        });
        made.numbers = made.numbers.at(places);
        made.shape[along] = count;
    }
    Ok(made)
}
