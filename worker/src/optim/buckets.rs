//! Cutting the flat gradient into buckets: contiguous ranges that end where a parameter ends.

use crate::exec::WeightsLayout;

/// A range of the flat communication buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// First element.
    pub offset: i64,
    /// Number of elements.
    pub len: i64,
}

/// Buckets of at least one parameter and, where possible, at most `bytes` (FP32); `tail` elements that follow
/// the gradients (statistics, loss) ride in the last one.
pub fn plan_buckets(layout: &WeightsLayout, tail: i64, bytes: usize) -> Vec<Bucket> {
    let most = (bytes / 4).max(1) as i64;
    let mut buckets: Vec<Bucket> = Vec::new();
    for slot in &layout.trainable {
        match buckets.last_mut() {
            Some(last) if last.len + slot.len <= most => last.len += slot.len,
            _ => buckets.push(Bucket { offset: slot.offset, len: slot.len }),
        }
    }
    match buckets.last_mut() {
        Some(last) => last.len += tail,
        None => buckets.push(Bucket { offset: 0, len: tail }),
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;

    #[test]
    fn buckets_cover_everything_once_and_cut_at_parameters() {
        let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        let layout = WeightsLayout::new(&graph);
        for bytes in [1, 40_000, 1 << 30] {
            let buckets = plan_buckets(&layout, 7, bytes);
            let mut next = 0;
            for b in &buckets {
                assert_eq!(b.offset, next);
                assert!(layout.trainable.iter().any(|s| s.offset == b.offset));
                next += b.len;
            }
            assert_eq!(next, layout.trainable_len + 7);
        }
        assert_eq!(plan_buckets(&layout, 7, 1 << 30).len(), 1);
        assert_eq!(plan_buckets(&layout, 7, 1).len(), layout.trainable.len());
    }
}
