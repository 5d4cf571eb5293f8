//! What is known of a value of a file while the graph is made.
//!
//! A graph of Octrain leaves out the batch, whose place is always first. In a file the batch is a dimension like others: it can
//! be moved by a Transpose, and merged with the dimension behind it by a Reshape, as attention does with its heads.

use super::strides::elements;
use crate::graph::NodeId;
use octrain_formats::onnx::Constant;
use std::cmp::Ordering;
use std::rc::Rc;

/// A number that is known but for the size of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    /// Whether it is so many times the batch.
    pub batch: bool,
    /// How many.
    pub times: i64,
}

impl Count {
    pub(super) const BATCH: Self = Self { batch: true, times: 1 };

    pub(super) const fn number(times: i64) -> Self {
        Self { batch: false, times }
    }
}

/// What else the batch's dimension in the file holds: the graph's dimension at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Merged {
    /// Nothing; the graph has no dimension for it.
    Alone,
    /// A dimension behind it: heads of attention, image after image.
    WithNext,
    /// A dimension before it: the images' tokens, token after token.
    WithLast,
}

/// Where the batch is in a value, and the node that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The node.
    pub id: NodeId,
    /// The batch's dimension in the file.
    pub batch: usize,
    /// What else is in that dimension.
    pub merged: Merged,
}

/// A constant of the file, with the name that its numbers have there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    pub constant: Rc<Constant>,
    /// The initializer that holds its numbers, in this or another shape; none where they were computed.
    pub origin: Option<String>,
}

/// What is known of a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// All of its numbers.
    Known(Known),
    /// Whole numbers, one or a row of them, some of which depend on the batch.
    Counts(Vec<Count>, bool),
    /// It depends on the image.
    Made(Place),
    /// A constant, repeated for every image of a batch, which is its first dimension.
    Spread(Known),
    /// It comes out of something that was refused.
    Refused,
}

impl Place {
    /// Behind the input, whose first dimension is the batch.
    pub(super) fn first(id: NodeId) -> Self {
        Self { id, batch: 0, merged: Merged::Alone }
    }

    /// The sizes that the file's value has, where the graph's has `shape`.
    pub(super) fn sizes(&self, shape: &[usize]) -> Vec<Count> {
        let mut sizes: Vec<Count> = shape.iter().map(|&d| Count::number(d as i64)).collect();
        match self.merged {
            Merged::Alone => sizes.insert(self.batch, Count::BATCH),
            _ => sizes[self.batch].batch = true,
        }
        sizes
    }

    /// The graph's dimension for one of the file's; none for that of the batch.
    pub(super) fn axis(&self, of_file: usize) -> Option<usize> {
        match (self.merged, of_file.cmp(&self.batch)) {
            (_, Ordering::Equal) => None,
            (Merged::Alone, Ordering::Greater) => Some(of_file - 1),
            _ => Some(of_file),
        }
    }
}

/// Sizes of a file's value, one of which depends on the batch, and what else that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sizes {
    pub all: Vec<Count>,
    pub merged: Merged,
}

impl Sizes {
    /// Where the batch is.
    pub fn batch(&self) -> Option<usize> {
        self.all.iter().position(|c| c.batch)
    }

    /// The graph's shape; none where the batch is in none of the sizes, or in several.
    pub fn shape(&self) -> Option<Vec<usize>> {
        let batch = self.batch()?;
        let kept = self.all.iter().enumerate().filter(|(i, _)| self.merged != Merged::Alone || *i != batch);
        let shape = kept.map(|(_, c)| usize::try_from(c.times).ok()).collect::<Option<Vec<_>>>()?;
        (self.all.iter().filter(|c| c.batch).count() == 1).then_some(shape)
    }

    /// Elements from one index of the batch to the one before it: as many as stand outside of it.
    fn outside(&self) -> Option<usize> {
        let batch = self.batch()?;
        let last = if self.merged == Merged::WithLast { batch + 1 } else { batch };
        whole(&self.all[..last])
    }
}

/// How many elements of one image sizes have.
fn whole(sizes: &[Count]) -> Option<usize> {
    let times: Option<Vec<usize>> = sizes.iter().map(|c| usize::try_from(c.times).ok()).collect();
    elements(&times?)
}

/// The sizes that a Reshape to `wanted` makes of a value with these, of which one depends on the batch. `fixed`: the size that
/// the file gives the batch, where it is not open.
///
/// # Errors
/// When they cannot be told, or take images apart.
pub(super) fn reshaped(
    sizes: &Sizes,
    wanted: &[Count],
    keeps_zero: bool,
    fixed: Option<usize>,
) -> Result<Sizes, String> {
    let shown = || format!("makes {} of {}", show(wanted), show(&sizes.all));
    let mut made = wanted.to_vec();
    for (i, size) in made.iter_mut().enumerate() {
        if *size == Count::number(0) && !keeps_zero {
            *size = *sizes.all.get(i).ok_or_else(shown)?;
        }
    }
    let total = whole(&sizes.all).ok_or_else(shown)?;
    let outside = sizes.outside().ok_or_else(shown)?;
    let open = made.iter().position(|c| *c == Count::number(-1));
    let others: Vec<Count> = made.iter().filter(|c| **c != Count::number(-1)).copied().collect();
    let others = whole(&others).filter(|n| *n > 0).ok_or_else(shown)?;
    let has_batch = made.iter().any(|c| c.batch);
    // A file for batches of one size has it among its numbers.
    match (open, has_batch, fixed) {
        (Some(open), true, _) => made[open] = Count::number(quotient(total, others).ok_or_else(shown)?),
        (Some(open), false, None) => {
            made[open] = Count { batch: true, times: quotient(total, others).ok_or_else(shown)? };
        }
        (Some(open), false, Some(fixed)) => {
            let all = total.checked_mul(fixed).ok_or_else(shown)?;
            made[open] = Count::number(quotient(all, others).ok_or_else(shown)?);
        }
        (None, true, _) | (None, false, Some(_)) => {}
        (None, false, None) => return Err(format!("{}, whatever the size of the batch", shown())),
    }
    if let (false, Some(fixed)) = (has_batch, fixed) {
        made = told(outside, made, fixed).ok_or_else(shown)?;
    }
    let batch = made.iter().position(|c| c.batch).ok_or_else(shown)?;
    let alone = if made[batch].times == 1 { Merged::Alone } else { Merged::WithNext };
    let fits = |merged| {
        let made = Sizes { all: made.clone(), merged };
        (made.outside() == Some(outside) && made.shape().is_some()).then_some(made)
    };
    let made_whole = whole(&made) == Some(total);
    let fitting = fits(alone).or_else(|| fits(Merged::WithLast)).filter(|_| made_whole);
    fitting.ok_or_else(|| format!("{}: it takes the images of a batch apart", shown()))
}

fn quotient(total: usize, by: usize) -> Option<i64> {
    (by > 0 && total.is_multiple_of(by)).then(|| i64::try_from(total / by).ok())?
}

/// Plain numbers of a file for batches of `fixed` images, with the batch found among them: it has as many elements outside of it
/// as before.
fn told(outside: usize, mut numbers: Vec<Count>, fixed: usize) -> Option<Vec<Count>> {
    let (fixed, outside) = (i64::try_from(fixed).ok()?, i64::try_from(outside).ok()?);
    let mut product = 1i64;
    let mut best: Option<(u8, usize)> = None;
    for (i, size) in numbers.iter().enumerate() {
        let next = product.checked_mul(size.times)?;
        // One that is the batch alone is taken before one that holds another dimension, too.
        let rank = match size.times % fixed {
            0 if product == outside && size.times == fixed => Some(0),
            0 if product == outside => Some(1),
            0 if next / fixed == outside => Some(2),
            _ => None,
        };
        if let Some(rank) = rank.filter(|rank| best.is_none_or(|(other, _)| *rank < other)) {
            best = Some((rank, i));
        }
        product = next;
    }
    let (_, at) = best?;
    numbers[at] = Count { batch: true, times: numbers[at].times / fixed };
    Some(numbers)
}

/// Sizes for people: `[N,3,8,8]`.
pub(super) fn show(sizes: &[Count]) -> String {
    let one = |c: &Count| match (c.batch, c.times) {
        (true, 1) => "N".into(),
        (true, times) => format!("{times}N"),
        (false, times) => times.to_string(),
    };
    format!("[{}]", sizes.iter().map(one).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(text: &str) -> Vec<Count> {
        let one = |word: &str| match word.strip_suffix('N') {
            Some("") => Count::BATCH,
            Some(times) => Count { batch: true, times: times.parse().unwrap() },
            None => Count::number(word.parse().unwrap()),
        };
        text.split_whitespace().map(one).collect()
    }

    #[test]
    fn a_reshape_keeps_images_together() {
        use Merged::{Alone, WithLast, WithNext};
        let of = |text: &str, merged| Sizes { all: sizes(text), merged };
        for (from, to, fixed, made) in [
            (("N 64 7 7", Alone), "N -1", None, ("N 3136", Alone)),
            (("N 64 7 7", Alone), "-1 3136", None, ("N 3136", Alone)),
            (("N 64 7 7", Alone), "0 -1", None, ("N 3136", Alone)),
            (("N 64 7 7", Alone), "1 -1", Some(1), ("N 3136", Alone)),
            (("N 64 7 7", Alone), "2 64 49", Some(2), ("N 64 49", Alone)),
            (("N 64 1 1", Alone), "-1 64", Some(1), ("N 64", Alone)),
            // Attention: tokens, images, heads.
            (("5 N 12", Alone), "5 3N 4", None, ("5 3N 4", WithNext)),
            (("5 3N 4", WithNext), "5 N 12", None, ("5 N 12", Alone)),
            (("5 N 12", Alone), "5 -1 4", None, ("5 3N 4", WithNext)),
            (("5 N 12", Alone), "5 6 4", Some(2), ("5 3N 4", WithNext)),
            (("5 N 12", Alone), "5 1 3 4", Some(1), ("5 N 3 4", Alone)),
            (("5 N 12", Alone), "5N 12", None, ("5N 12", WithLast)),
            (("5N 12", WithLast), "5 N 12", None, ("5 N 12", Alone)),
            (("5 N 12", Alone), "10 12", Some(2), ("5N 12", WithLast)),
        ] {
            let told = reshaped(&of(from.0, from.1), &sizes(to), false, fixed);
            assert_eq!(told, Ok(of(made.0, made.1)), "{from:?} to {to}");
        }
        for (from, to, fixed) in [
            ("N 64 7 7", "N 7", None),
            ("5 N 12", "N 60", None),
            ("N 64", "64 -1", None),
            ("N 64", "N -1 7", None),
        ] {
            assert!(reshaped(&of(from, Alone), &sizes(to), false, fixed).is_err(), "{from} to {to}");
        }
    }

    #[test]
    fn dimensions_of_the_file_are_those_of_the_graph_but_for_the_batch() {
        let place = |batch, merged| Place { id: NodeId(0), batch, merged };
        assert_eq!(show(&place(0, Merged::Alone).sizes(&[3, 8, 8])), "[N,3,8,8]");
        assert_eq!(show(&place(1, Merged::WithNext).sizes(&[5, 3, 4])), "[5,3N,4]");
        let axes = |place: Place| (0..3).map(|i| place.axis(i)).collect::<Vec<_>>();
        assert_eq!(axes(place(1, Merged::Alone)), [Some(0), None, Some(1)]);
        assert_eq!(axes(place(1, Merged::WithNext)), [Some(0), None, Some(2)]);
        let shape = |text: &str, merged| Sizes { all: sizes(text), merged }.shape();
        assert_eq!(shape("5 3N 4", Merged::WithNext), Some(vec![5, 3, 4]));
        assert_eq!(shape("5 N 4", Merged::Alone), Some(vec![5, 4]));
        assert_eq!((shape("5 4", Merged::Alone), shape("N N", Merged::Alone)), (None, None));
    }
}
