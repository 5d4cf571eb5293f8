//! Which part of shared work is a rank's: pure functions of rank and world size that the plan, the loaders, the step and
//! every evaluation ask.

use std::ops::Range;

/// A rank among the ranks of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// Its number, from 0.
    pub rank: usize,
    /// How many ranks there are, at least 1.
    pub world: usize,
}

impl Rank {
    /// Its local microbatches of a step of M microbatches over all ranks: `[rank * M / world, (rank + 1) * M / world)`, in
    /// whole numbers. The ranks' ranges follow one another and cover all; their lengths differ by 1 at most.
    pub fn local_microbatches(self, microbatches: usize) -> Range<usize> {
        let (each, rest) = (microbatches / self.world, microbatches % self.world);
        // rank * M / world, without a product that could overflow.
        let first = |rank: usize| rank * each + rank * rest / self.world;
        first(self.rank)..first(self.rank + 1)
    }

    /// Its own of `items` that are dealt out in turn, as in evaluation and calibration: those with `i % world == rank`.
    pub fn dealt(self, items: usize) -> impl Iterator<Item = usize> + use<> {
        (self.rank..items).step_by(self.world)
    }

    /// Items of the rank that is dealt most: the rounds in which all ranks take part.
    pub fn rounds(self, items: usize) -> usize {
        items.div_ceil(self.world)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(world: usize) -> impl Iterator<Item = Rank> {
        (0..world).map(move |rank| Rank { rank, world })
    }

    #[test]
    fn local_microbatches_cover_all_microbatches_once() {
        for world in 1..9 {
            for m in 0..40 {
                let local: Vec<Range<usize>> = ranks(world).map(|r| r.local_microbatches(m)).collect();
                assert_eq!(local.iter().cloned().flatten().collect::<Vec<_>>(), (0..m).collect::<Vec<_>>());
                assert!(local.iter().all(|l| l.len() == m / world || l.len() == m.div_ceil(world)));
                for (r, local) in ranks(world).zip(local) {
                    assert_eq!(local, r.rank * m / world..(r.rank + 1) * m / world);
                }
            }
        }
        let huge = Rank { rank: 1, world: 2 };
        assert_eq!(huge.local_microbatches(usize::MAX).end, usize::MAX);
    }

    #[test]
    fn what_is_dealt_out_in_turn_is_dealt_once_and_in_rounds() {
        for world in 1..6 {
            for items in 0..20 {
                let mut all: Vec<usize> = ranks(world).flat_map(|r| r.dealt(items)).collect();
                all.sort_unstable();
                assert_eq!(all, (0..items).collect::<Vec<_>>());
                for r in ranks(world) {
                    assert!(r.dealt(items).all(|i| i % world == r.rank));
                    assert!(r.dealt(items).count() <= r.rounds(items));
                }
                let most = ranks(world).map(|r| r.dealt(items).count()).max();
                assert_eq!(most, Some(Rank { rank: 0, world }.rounds(items)));
            }
        }
    }
}
