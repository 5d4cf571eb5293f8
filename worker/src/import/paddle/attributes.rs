//! Attributes of Paddle's operators as those of a graph's.

use crate::graph::{AvgPool, Conv, Layer, Padding, Window};
use octrain_formats::paddle::Op;

/// A size of images or windows: what is larger is no network's, and sums of such numbers can be counted.
fn size(n: i64) -> Option<usize> {
    usize::try_from(n).ok().filter(|&n| n <= 1 << 24)
}

/// Height and width.
fn pair(all: &[i64], what: &str) -> Result<[usize; 2], String> {
    let number = |n: &i64| size(*n).ok_or_else(|| format!("has {what} {all:?}"));
    match all {
        [both] => Ok([number(both)?; 2]),
        [h, w] => Ok([number(h)?, number(w)?]),
        _ => Err(format!("has {what} {all:?}, where two numbers are expected")),
    }
}

/// Zeros (or infinities) around the image, by whatever rule.
fn padding(op: &Op, side: [usize; 2], kernel: [usize; 2], stride: [usize; 2]) -> Result<Padding, String> {
    let told = op.ints("paddings").unwrap_or(&[0]);
    let number = |n: i64| size(n).ok_or_else(|| format!("has paddings {told:?}"));
    match (op.text("padding_algorithm").unwrap_or("EXPLICIT"), told) {
        ("VALID", _) => Ok(Padding::all(0)),
        ("SAME", _) => Ok(Padding::same(side, kernel, stride)),
        (_, &[top, bottom, left, right]) => Ok(Padding {
            top: number(top)?,
            bottom: number(bottom)?,
            left: number(left)?,
            right: number(right)?,
        }),
        (_, told) => {
            let [h, w] = pair(told, "paddings")?;
            Ok(Padding { top: h, bottom: h, left: w, right: w })
        }
    }
}

/// Height and width of a value `[C, H, W]`.
fn sides(shape: &[usize]) -> Result<[usize; 2], String> {
    match shape {
        [_, h, w] => Ok([*h, *w]),
        other => Err(format!("reads {other:?}, which is no image")),
    }
}

/// A convolution with a weight of this shape.
pub(super) fn convolution(op: &Op, weight: String, image: &[usize], shape: &[usize]) -> Result<Conv, String> {
    let [_, _, kh, kw] = shape else { return Err(format!("has a filter of shape {shape:?}")) };
    let stride = pair(op.ints("strides").unwrap_or(&[1]), "strides")?;
    let dilation = pair(op.ints("dilations").unwrap_or(&[1]), "dilations")?;
    let span = |kernel: usize, gap: usize| kernel.saturating_sub(1).saturating_mul(gap).saturating_add(1);
    // By the rule, the whole side is filled up without dilations.
    let same = op.text("padding_algorithm") == Some("SAME");
    let gaps = if same { [1, 1] } else { dilation };
    let kernel = [span(*kh, gaps[0]), span(*kw, gaps[1])];
    let groups = op.int("groups").unwrap_or(1);
    let groups = usize::try_from(groups).map_err(|_| format!("has {groups} groups"))?;
    let padding = padding(op, sides(image)?, kernel, stride)?;
    let dilation = if same { [1, 1] } else { dilation };
    Ok(Conv { layer: Layer::new(weight, None), stride, padding, dilation, groups })
}

/// Kernel, stride and padding of a pooling of an image. Windows that reach beyond the image are refused where there are any.
fn window(op: &Op, kernel: &[i64], shape: &[usize]) -> Result<([usize; 2], [usize; 2], Padding), String> {
    let (kernel, side) = (pair(kernel, "a window")?, sides(shape)?);
    let stride = pair(op.ints("strides").unwrap_or(&[1]), "strides")?;
    let padding = padding(op, side, kernel, stride)?;
    let free = |i: usize, both: usize| (side[i] + both).checked_sub(kernel[i]);
    let frees = [free(0, padding.top + padding.bottom), free(1, padding.left + padding.right)];
    let rest =
        |(free, stride): (Option<usize>, &usize)| free.is_some_and(|free| *stride > 0 && free % stride != 0);
    if op.bool("ceil_mode") && frees.into_iter().zip(&stride).any(rest) {
        return Err("has windows that reach beyond the image (ceil_mode)".into());
    }
    Ok((kernel, stride, padding))
}

/// A maximum over square windows.
pub(super) fn max_pool(op: &Op, kernel: &[i64], shape: &[usize]) -> Result<Window, String> {
    let (kernel, stride, padding) = window(op, kernel, shape)?;
    if kernel[0] != kernel[1] || stride[0] != stride[1] || padding != Padding::all(padding.top) {
        return Err("is a maximum over windows that are not square, or not padded alike".into());
    }
    Ok(Window { kernel: kernel[0], stride: stride[0], padding: padding.top })
}

/// A mean over windows.
pub(super) fn average_pool(op: &Op, kernel: &[i64], shape: &[usize]) -> Result<AvgPool, String> {
    let (kernel, stride, Padding { top, bottom, left, right }) = window(op, kernel, shape)?;
    if (top, left) != (bottom, right) {
        return Err("is a mean over windows that are not padded alike on both sides".into());
    }
    Ok(AvgPool { kernel, stride, padding: [top, left], count_include_pad: !op.bool("exclusive") })
}

/// Whether an operator makes one row of a value and nothing else.
pub(super) fn flat(
    op: &Op,
    shape: &[usize],
    channels_last: bool,
    operand: Option<Vec<i64>>,
) -> Result<(), String> {
    let long = shape.iter().filter(|side| **side != 1).count() > 1;
    if channels_last && long {
        return Err(format!(
            "makes a row of {shape:?}, channels last: its numbers would come in another order"
        ));
    }
    let row = match op.kind.as_str() {
        "flatten_contiguous_range" | "flatten" | "flatten2" => {
            let from = op.int("start_axis").or(op.int("axis")).unwrap_or(1);
            let to = op.int("stop_axis").unwrap_or(-1);
            from == 1 && (to == -1 || to == shape.len() as i64)
        }
        // What is left of dimensions of 1.
        "squeeze2" | "squeeze" => !long,
        _ => {
            let told = op.ints("shape").map(<[i64]>::to_vec).or(operand).unwrap_or_default();
            let all: usize = shape.iter().product();
            let rest = |dim: i64| dim == -1 || usize::try_from(dim) == Ok(all);
            matches!(told[..], [first, second] if (first == 0 || first == -1) && rest(second) && (first, second) != (-1, -1))
        }
    };
    if row { Ok(()) } else { Err("gives a value another shape than that of one row".into()) }
}
