//! Cutting the flat gradient into buckets: contiguous ranges that end where a parameter ends.

use crate::exec::WeightsLayout;
use crate::strategy::ReduceType;

/// A range of the flat communication buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// First element.
    pub offset: i64,
    /// Number of elements.
    pub len: i64,
    /// Type of the elements on their way.
    pub reduce_type: ReduceType,
}

/// Most elements of the last bucket: 1 MiB.
const LAST: i64 = 1 << 18;
/// Fewest that it is cut for: 64 KiB.
const LEAST: i64 = 1 << 14;
/// The part of all elements that it has in small networks.
const PART: i64 = 16;

/// Buckets of at least one parameter and, where possible, at most `bytes` (FP32), in the order in which they leave; `tail`
/// elements that follow the gradients (statistics, loss) ride in the last one, which is FP32 for their sake. The others are
/// `reduce_type` on their way.
///
/// The last one can leave only after backward, so that nothing hides it, and the one before it shortly before: it is small, and
/// each one before is twice as large as the one behind it until `bytes` are reached.
pub fn plan_buckets(layout: &WeightsLayout, tail: i64, bytes: usize, reduce_type: ReduceType) -> Vec<Bucket> {
    let most = (bytes / 4).max(1) as i64;
    let mut wanted = (layout.trainable_len / PART).clamp(LEAST, LAST).min(most);
    // From the end.
    let mut buckets = vec![Bucket { offset: layout.trainable_len, len: 0, reduce_type: ReduceType::Fp32 }];
    for slot in layout.trainable.iter().rev() {
        let last = buckets.last_mut().expect("there is one");
        if last.len == 0 || last.len + slot.len <= wanted {
            last.offset = slot.offset;
            last.len += slot.len;
        } else {
            wanted = (2 * wanted).min(most);
            buckets.push(Bucket { offset: slot.offset, len: slot.len, reduce_type });
        }
    }
    buckets[0].len += tail;
    buckets.reverse();
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;

    fn layout(name: &str, size: usize) -> WeightsLayout {
        WeightsLayout::new(&models::build(name, [3, size, size], 10).unwrap())
    }

    #[test]
    fn buckets_cover_everything_once_and_cut_at_parameters() {
        let layout = layout("ResNet20", 32);
        for bytes in [1, 40_000, 1 << 30] {
            let buckets = plan_buckets(&layout, 7, bytes, ReduceType::Bf16);
            let mut next = 0;
            for b in &buckets {
                assert_eq!(b.offset, next);
                assert!(layout.trainable.iter().any(|s| s.offset == b.offset));
                next += b.len;
                assert_eq!(
                    b.reduce_type == ReduceType::Fp32,
                    next > layout.trainable_len,
                    "what has statistics"
                );
            }
            assert_eq!(next, layout.trainable_len + 7);
        }
        assert_eq!(plan_buckets(&layout, 7, 1, ReduceType::Fp32).len(), layout.trainable.len());
        let nothing = WeightsLayout { trainable: vec![], trainable_len: 0, ..layout };
        let tail = Bucket { offset: 0, len: 7, reduce_type: ReduceType::Fp32 };
        assert_eq!(plan_buckets(&nothing, 7, 1, ReduceType::Bf16), [tail]);
    }

    #[test]
    fn what_leaves_late_is_small() {
        let most = 25 << 20;
        for (name, size, count) in [("ResNet50", 224, 6..=10), ("ResNet20", 32, 3..=6)] {
            let layout = layout(name, size);
            let buckets = plan_buckets(&layout, 0, most, ReduceType::Fp32);
            assert!(count.contains(&buckets.len()), "{name}: {}", buckets.len());
            let bytes: Vec<i64> = buckets.iter().map(|b| 4 * b.len).collect();
            let all: i64 = bytes.iter().sum();
            assert!(bytes[bytes.len() - 1] <= (all / 16).max(1 << 16), "{name}: {bytes:?}");
            let largest = 4 * layout.trainable.iter().map(|s| s.len).max().unwrap();
            let allowed = |b: &i64| *b <= (most as i64).max(largest);
            assert!(bytes.iter().all(allowed), "{name}: {bytes:?}");
        }
    }
}
