//! That the ranks of a group are those of its generation: they share a key which the store alone tells, and each shows that it has
//! it. Where a library takes whoever connects for a rank, a process that cannot ask the store is found out before anything is reduced.

use super::error::Trouble;
use super::{Abort, Cause, RendezvousStore};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::time::Duration;
use tch::Tensor;

/// Where the key is in the store.
const KEY: &str = "group-key";

/// The key of a generation.
pub(super) struct Key(Vec<u8>);

impl Key {
    /// Rank 0 draws it. To be called before others can connect.
    pub(super) fn draw(store: &dyn RendezvousStore, rank: usize) -> Result<(), Trouble> {
        if rank != 0 {
            return Ok(());
        }
        let mut key = [0; 32];
        let drawn = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut key));
        drawn.map_err(|e| Trouble::own(format!("no key can be drawn from /dev/urandom: {e}")))?;
        Ok(store.set(KEY, &key)?)
    }

    /// As the store has it.
    pub(super) fn read(
        store: &dyn RendezvousStore,
        timeout: Duration,
        abort: &Abort,
    ) -> Result<Self, Trouble> {
        Ok(Self(store.get(KEY, timeout, abort)?))
    }

    /// What shows that a rank has it, and nothing of it.
    pub(super) fn shown(&self, rank: usize) -> [u8; 32] {
        let hash = Sha256::new().chain_update(b"octrain rank ").chain_update((rank as u64).to_le_bytes());
        hash.chain_update(&self.0).finalize().into()
    }

    /// Whether what all ranks have shown, in their order, is what those show that have it.
    ///
    /// # Errors
    /// When it is not: then somebody else is connected in a rank's place.
    pub(super) fn check(&self, all: &[Tensor]) -> Result<(), Trouble> {
        for (rank, theirs) in all.iter().enumerate() {
            let theirs: Vec<u8> = theirs.try_into()?;
            if theirs != self.shown(rank) {
                let why = format!(
                    "who is connected as rank {rank} does not have this generation's key, so a process that is not of the job has come in its place: let the job's hosts alone reach its data ports"
                );
                return Err(Trouble::new(Cause::Peers, why));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{CollectiveError, Gloo, MemoryStore, StoreError};
    use std::sync::Arc;

    /// The store of one that cannot read the key.
    struct Guessed(Arc<MemoryStore>);

    impl RendezvousStore for Guessed {
        fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
            self.0.set(key, value)
        }
        fn get(&self, key: &str, timeout: Duration, abort: &Abort) -> Result<Vec<u8>, StoreError> {
            let value = self.0.get(key, timeout, abort)?;
            Ok(if key == KEY { vec![0; 32] } else { value })
        }
        fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
            self.0.add(key, amount)
        }
        fn check(&self, keys: &[String]) -> Result<bool, StoreError> {
            self.0.check(keys)
        }
        fn delete(&self, key: &str) -> Result<bool, StoreError> {
            self.0.delete(key)
        }
    }

    fn connect(
        store: Arc<dyn RendezvousStore>,
        rank: usize,
        world: usize,
        at_most: Duration,
    ) -> Result<Gloo, CollectiveError> {
        Gloo::connect(store, rank, world, "127.0.0.1", at_most, &Abort::new())
    }

    #[test]
    fn who_has_not_the_key_is_found_out_by_all_before_anything_is_reduced() {
        let store = Arc::new(MemoryStore::default());
        let at_most = Duration::from_secs(20);
        let told: Vec<String> = std::thread::scope(|s| {
            let ranks: Vec<_> = (0..3)
                .map(|rank| {
                    let shared = store.clone();
                    s.spawn(move || match rank {
                        2 => connect(Arc::new(Guessed(shared)), rank, 3, at_most).err(),
                        _ => connect(shared, rank, 3, at_most).err(),
                    })
                })
                .collect();
            ranks.into_iter().map(|r| r.join().unwrap().expect("it is refused").to_string()).collect()
        });
        // Whoever ends first may cut off what another one is receiving.
        let found = "who is connected as rank 2 does not have this generation's key";
        assert!(told.iter().any(|told| told.contains(found)), "{told:?}");
    }
}
