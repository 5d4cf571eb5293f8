//! A rendezvous store within one process: ranks as threads, for tests and for tools.

use super::{Abort, RendezvousStore, StoreError};
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between looks at the abort token.
const LOOK: Duration = Duration::from_millis(20);

/// Keys in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    keys: Mutex<BTreeMap<String, Vec<u8>>>,
    changed: Condvar,
}

impl MemoryStore {
    /// How many keys there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RendezvousStore for MemoryStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.lock().insert(key.into(), value.to_vec());
        self.changed.notify_all();
        Ok(())
    }

    fn get(&self, key: &str, timeout: Duration, abort: &Abort) -> Result<Vec<u8>, StoreError> {
        let deadline = Instant::now() + timeout;
        let mut keys = self.lock();
        loop {
            if let Some(value) = keys.get(key) {
                return Ok(value.clone());
            }
            if abort.is_tripped() {
                return Err(StoreError::Ended("the wait for a rendezvous key was aborted".into()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Timeout { key: key.into(), waited: timeout });
            }
            keys = self.changed.wait_timeout(keys, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        let mut keys = self.lock();
        let old = match keys.get(key).map(|v| String::from_utf8_lossy(v).parse::<i64>()) {
            None => 0,
            Some(Ok(n)) => n,
            Some(Err(_)) => {
                return Err(StoreError::Failed(format!("rendezvous key `{key}` is not a counter")));
            }
        };
        keys.insert(key.into(), (old + amount).to_string().into_bytes());
        self.changed.notify_all();
        Ok(old + amount)
    }

    fn check(&self, wanted: &[String]) -> Result<bool, StoreError> {
        let keys = self.lock();
        Ok(wanted.iter().all(|k| keys.contains_key(k)))
    }

    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.lock().remove(key).is_some())
    }
}
