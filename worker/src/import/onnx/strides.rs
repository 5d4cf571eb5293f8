//! Where the elements of a tensor lie.

/// How many elements a shape has; none where they cannot be counted.
pub(super) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Elements from one index to the next, for each dimension of a tensor in row-major order.
pub(super) fn of(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// The shape that two are repeated to, by NumPy's rule; none where they do not fit.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let side = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |at| shape[at]);
    (0..rank)
        .map(|i| match (side(a, i), side(b, i)) {
            (x, y) if x == y => Some(x),
            (1, other) | (other, 1) => Some(other),
            _ => None,
        })
        .collect()
}

/// Strides of a tensor that is repeated to a shape of `rank` dimensions.
pub(super) fn repeated(shape: &[usize], rank: usize) -> Vec<usize> {
    let own = of(shape);
    let own = shape.iter().zip(own).map(|(&d, stride)| if d == 1 { 0 } else { stride });
    std::iter::repeat_n(0, rank - shape.len()).chain(own).collect()
}

/// The places of all elements of a view, in row-major order.
pub(super) fn places(shape: &[usize], strides: &[usize]) -> impl Iterator<Item = usize> {
    let (shape, strides) = (shape.to_vec(), strides.to_vec());
    let mut index = vec![0usize; shape.len()];
    let mut at = 0;
    (0..elements(&shape).unwrap_or(0)).map(move |_| {
        let here = at;
        for i in (0..shape.len()).rev() {
            index[i] += 1;
            at += strides[i];
            if index[i] < shape[i] {
                break;
            }
            at -= strides[i] * shape[i];
            index[i] = 0;
        }
        here
    })
}
