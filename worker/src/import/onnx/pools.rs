//! Pooling, and means.

use super::attributes::{integer, sizes, text};
use super::layers::{padding, span};
use super::patterns::axes;
use super::translate::{Reads, Translation};
use super::value::Place;
use crate::graph::{AvgPool, NodeId, Op, Pad, Padding, Reshape, Window};
use octrain_formats::onnx::Node;

/// Windows of a pooling.
struct Windows {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: Padding,
    /// Whether some of the padding is there because the number of windows is rounded up.
    rounded: bool,
}

/// The windows of a node over an image `[height, width]`; where their number is rounded up, with what the last of them read
/// beyond the image as padding.
fn windows(node: &Node, size: [usize; 2]) -> Result<Windows, String> {
    let kernel: [usize; 2] = sizes(node, "kernel_shape", 0)?;
    let stride: [usize; 2] = sizes(node, "strides", 1)?;
    let dilation: [usize; 2] = sizes(node, "dilations", 1)?;
    if dilation != [1, 1] {
        return Err(format!("its windows have dilations {dilation:?}"));
    }
    let told = padding(node, size, span(kernel, dilation)?, stride)?;
    let mut padding = told;
    if integer(node, "ceil_mode", 0)? != 0 && text(node, "auto_pad", "NOTSET")? == "NOTSET" {
        let beyond = |size: usize, kernel: usize, stride: usize, [before, behind]: [usize; 2]| {
            let free = (size + before + behind).saturating_sub(kernel);
            let mut steps = free.div_ceil(stride);
            // The last window begins within the image or the zeros before it.
            if steps * stride >= size + before {
                steps -= 1;
            }
            (steps * stride + kernel).saturating_sub(size + before)
        };
        let Padding { top, left, bottom, right } = padding;
        padding.bottom = beyond(size[0], kernel[0], stride[0], [top, bottom]);
        padding.right = beyond(size[1], kernel[1], stride[1], [left, right]);
    }
    Ok(Windows { kernel, stride, padding, rounded: padding != told })
}

impl Translation<'_> {
    /// Zeros around an image.
    fn zeros(&mut self, node: &Node, x: NodeId, padding: Padding) -> Result<NodeId, String> {
        let Padding { top, left, bottom, right } = padding;
        let pad = Pad { before: vec![0, top, left], after: vec![0, bottom, right] };
        self.made.push(&format!("{}.pad", node.name), Op::Pad(pad), &[x])
    }

    pub(super) fn max_pool(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let (mut x, [_, h, w]) = self.image(reads, 0)?;
        if node.outputs.get(1).is_some_and(|o| !o.is_empty()) {
            return Err("it makes the places of its maxima, too".into());
        }
        let Windows { kernel, stride, padding, .. } = windows(node, [h, w])?;
        if kernel[0] != kernel[1] || stride[0] != stride[1] {
            return Err(format!("its windows are {kernel:?} with strides {stride:?}; square ones are taken"));
        }
        let padding = match padding.as_symmetric() {
            Some([a, b]) if a == b => a,
            // Where nothing is below 0, zeros change no maximum.
            _ if self.made.is_positive(x) => {
                x = self.zeros(node, x, padding)?;
                0
            }
            _ => return Err("its padding is not the same on all sides, and its input may be below 0".into()),
        };
        let window = Window { kernel: kernel[0], stride: stride[0], padding };
        Ok(Place::first(self.made.push(&node.name, Op::MaxPool(window), &[x])?))
    }

    pub(super) fn average_pool(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let (mut x, [_, h, w]) = self.image(reads, 0)?;
        let Windows { kernel, stride, padding, rounded } = windows(node, [h, w])?;
        if kernel == [h, w] && padding == Padding::default() {
            return Ok(Place::first(self.made.push(&node.name, Op::GlobalAvgPool, &[x])?));
        }
        let mut count_include_pad = integer(node, "count_include_pad", 0)? != 0;
        if rounded && count_include_pad {
            return Err("its windows reach beyond the padding, whose zeros count in the mean, and what lies there does not".into());
        }
        let padding = match padding.as_symmetric() {
            Some(sides) => sides,
            None if count_include_pad => {
                x = self.zeros(node, x, padding)?;
                count_include_pad = false;
                [0; 2]
            }
            None => {
                return Err(
                    "its padding is not the same on both sides, and does not count in the mean".into()
                );
            }
        };
        let pool = AvgPool { kernel, stride, padding, count_include_pad };
        Ok(Place::first(self.made.push(&node.name, Op::AvgPool(pool), &[x])?))
    }

    pub(super) fn global_average_pool(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let (x, _) = self.image(reads, 0)?;
        Ok(Place::first(self.made.push(&node.name, Op::GlobalAvgPool, &[x])?))
    }

    /// The mean over neighbouring dimensions.
    pub(super) fn mean(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let shape = self.made.shape(x.id).to_vec();
        let rank = x.sizes(&shape).len();
        let given = axes(self.net, node)?.unwrap_or_else(|| (0..rank as i64).collect());
        let of_file =
            given.iter().map(|&a| super::attributes::axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        let over: Option<Vec<usize>> = of_file.iter().map(|&a| x.axis(a)).collect();
        let mut over = over.ok_or("takes the mean over the batch")?;
        over.sort_unstable();
        if over.is_empty() || over.windows(2).any(|w| w[1] != w[0] + 1) {
            return Err(format!("takes the mean over dimensions {given:?}, which are no neighbours"));
        }
        let (first, last) = (over[0], over[over.len() - 1]);
        let mut kept = shape.clone();
        over.iter().for_each(|&i| kept[i] = 1);
        let id = if shape.len() == 3 && (first, last) == (1, 2) {
            self.made.push(&node.name, Op::GlobalAvgPool, &[x.id])?
        } else {
            let part = |range: std::ops::Range<usize>| shape[range].iter().product::<usize>();
            let image = vec![part(0..first), part(first..last + 1), part(last + 1..shape.len())];
            let rows = image[1];
            let flat = self.made.push(
                &format!("{}.rows", node.name),
                Op::Reshape(Reshape { shape: image }),
                &[x.id],
            )?;
            let pool =
                AvgPool { kernel: [rows, 1], stride: [1, 1], padding: [0; 2], count_include_pad: false };
            let mean = self.made.push(&format!("{}.mean", node.name), Op::AvgPool(pool), &[flat])?;
            self.made.push(&node.name, Op::Reshape(Reshape { shape: kept.clone() }), &[mean])?
        };
        let mut place = Place { id, ..x };
        if integer(node, "keepdims", 1)? == 0 {
            let gone = |i: &usize| over.contains(i);
            let left: Vec<usize> = (0..kept.len()).filter(|i| !gone(i)).map(|i| kept[i]).collect();
            place.batch -= of_file.iter().filter(|&&a| a < x.batch).count();
            place.id = self.shaped(node, id, left)?;
        }
        Ok(place)
    }
}
