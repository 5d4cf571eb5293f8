//! Where a step's numbers first cease to be finite, over all of its microbatches and ranks.

use super::TrainError;
use crate::collective::Collective;
use tch::{Device, Tensor};

/// A node of the graph with values that are not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NonFinite {
    /// Its place in the graph, from 0.
    pub node: usize,
    /// How many of its values are not finite.
    pub count: u64,
}

/// The one whose node comes first; what was found at one node is counted together.
pub(super) fn first(found: impl IntoIterator<Item = NonFinite>) -> Option<NonFinite> {
    found.into_iter().reduce(|a, b| match a.node.cmp(&b.node) {
        std::cmp::Ordering::Less => a,
        std::cmp::Ordering::Greater => b,
        std::cmp::Ordering::Equal => NonFinite { count: a.count + b.count, ..a },
    })
}

/// The first of what all ranks have found; to be called on all of them. The same on each, as they run the same graph.
pub(super) fn of_all_ranks(
    own: Option<NonFinite>,
    collective: &dyn Collective,
    device: Device,
) -> Result<Option<NonFinite>, TrainError> {
    let row = own.map_or([-1.0, 0.0], |own| [own.node as f64, own.count as f64]);
    let rows = collective.all_gather(&Tensor::f_from_slice(&row)?.f_to_device(device)?)?;
    let mut found = Vec::new();
    for row in rows {
        let row = Vec::<f64>::try_from(&row.f_to_device(Device::Cpu)?)?;
        if row[0] >= 0.0 {
            found.push(NonFinite { node: row[0] as usize, count: row[1] as u64 });
        }
    }
    Ok(first(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{Abort, Gloo, MemoryStore};
    use std::sync::Arc;
    use std::time::Duration;

    const AT: fn(usize, u64) -> NonFinite = |node, count| NonFinite { node, count };

    #[test]
    fn the_node_that_comes_first_counts_with_all_that_was_found_there() {
        assert_eq!(first([]), None);
        assert_eq!(first([AT(7, 1), AT(2, 3), AT(9, 4), AT(2, 5)]), Some(AT(2, 8)));
    }

    #[test]
    fn every_rank_is_told_what_the_one_has_found_whose_images_overflow() {
        let told = |found: [Option<NonFinite>; 2]| {
            let store = Arc::new(MemoryStore::default());
            std::thread::scope(|s| {
                let ranks: Vec<_> = (0..2)
                    .map(|rank| {
                        let store = store.clone();
                        s.spawn(move || {
                            let patience = Duration::from_secs(60);
                            let ranks =
                                Gloo::connect(store, rank, 2, "127.0.0.1", patience, &Abort::new()).unwrap();
                            of_all_ranks(found[rank], &ranks, Device::Cpu).unwrap()
                        })
                    })
                    .collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
            })
        };
        assert_eq!(told([None, Some(AT(4, 9))]), [Some(AT(4, 9)); 2]);
        assert_eq!(told([Some(AT(0, 1)), Some(AT(4, 9))]), [Some(AT(0, 1)); 2]);
        assert_eq!(told([None, None]), [None; 2]);
    }
}
