//! Which samples a step takes: pure functions of seed, epoch and position, so that runs resume anywhere and do not
//! depend on the number of ranks.

use super::rng::CounterRng;
use crate::strategy::Rank;
use std::ops::Range;

/// Stream of permutations; sample streams have the sample's index here, which is smaller.
const ORDER: u64 = u64::MAX;

/// The order of `n` samples in an epoch.
pub fn permutation(seed: u64, epoch: u32, n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut rng = CounterRng::new(seed, [u64::from(epoch), ORDER]);
    for i in (1..n).rev() {
        order.swap(i, rng.below(i as u64 + 1) as usize);
    }
    order
}

/// How a global batch is cut: M microbatches of b images, shared out to ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharding {
    /// This rank.
    pub rank: usize,
    /// Ranks.
    pub world: usize,
    /// Microbatches in a global batch.
    pub microbatches: usize,
    /// Images in a microbatch.
    pub batch: usize,
}

impl Sharding {
    /// One rank, whose global batch is one microbatch of `batch` images.
    pub fn alone(batch: usize) -> Self {
        Self { rank: 0, world: 1, microbatches: 1, batch }
    }

    /// This rank among all.
    pub fn place(&self) -> Rank {
        Rank { rank: self.rank, world: self.world }
    }

    /// Images of a global batch.
    pub fn global_batch(&self) -> usize {
        self.microbatches * self.batch
    }

    /// Full global batches among `n` images; the rest drops out of the epoch.
    pub fn steps(&self, n: usize) -> u64 {
        (n / self.global_batch()) as u64
    }

    /// Batches of the rank that has most, when `n` images are shared out one by one for an evaluation.
    pub fn evaluation_rounds(&self, n: usize) -> usize {
        self.place().rounds(n).div_ceil(self.batch)
    }

    /// This rank's microbatches of a step.
    pub fn local_microbatches(&self) -> Range<usize> {
        self.place().local_microbatches(self.microbatches)
    }

    /// Positions in the permutation of this rank's microbatches of one step.
    pub fn step(&self, step: u64) -> impl Iterator<Item = Range<usize>> + use<> {
        let (start, b) = (step as usize * self.global_batch(), self.batch);
        self.local_microbatches().map(move |m| start + m * b..start + (m + 1) * b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn permutations_hold_everything_once_and_differ_by_epoch_and_seed() {
        let p = permutation(1, 0, 1000);
        assert_eq!(p.iter().collect::<BTreeSet<_>>().len(), 1000);
        assert_eq!(p, permutation(1, 0, 1000));
        assert!(p != permutation(1, 1, 1000) && p != permutation(2, 0, 1000));
        assert!(p.iter().enumerate().filter(|&(i, &x)| i as u32 == x).count() < 20);
    }

    #[test]
    fn every_world_size_takes_the_same_microbatches() {
        let all = |world: usize| -> Vec<Range<usize>> {
            (0..world)
                .flat_map(|rank| {
                    Sharding { rank, world, microbatches: 5, batch: 3 }.step(2).collect::<Vec<_>>()
                })
                .collect()
        };
        assert_eq!(all(1), [30..33, 33..36, 36..39, 39..42, 42..45]);
        for world in 2..=5 {
            assert_eq!(all(world), all(1));
        }
        let two = Sharding { rank: 1, world: 2, microbatches: 5, batch: 3 };
        assert_eq!(Sharding { world: 1, rank: 0, ..two }.steps(44), 2);
        assert_eq!([0, 1, 6, 7, 13].map(|n| two.evaluation_rounds(n)), [0, 1, 1, 2, 3]);
    }
}
