//! A rendezvous store in a folder: ranks as processes of one host, without a coordinator.

use super::{Abort, RendezvousStore, StoreError};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between looks for a key.
const LOOK: Duration = Duration::from_millis(20);

/// Keys as files of a folder that is there, and whose owner removes it.
#[derive(Debug, Clone)]
pub struct FolderStore {
    folder: PathBuf,
}

impl FolderStore {
    /// The store in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    /// A key may hold what a file's name may not.
    fn file(&self, key: &str) -> PathBuf {
        let name: String = key.bytes().map(|b| format!("{b:02x}")).collect();
        self.folder.join(name)
    }

    fn failed(&self, e: &io::Error) -> StoreError {
        StoreError::Failed(format!("the folder {} in which the ranks meet: {e}", self.folder.display()))
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match fs::read(self.file(key)) {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed(&e)),
        }
    }

    /// Nobody sees a part of a value.
    fn put(&self, key: &str, value: &[u8]) -> io::Result<()> {
        let part = tempfile::NamedTempFile::new_in(&self.folder)?;
        fs::write(part.path(), value)?;
        part.persist(self.file(key)).map(drop).map_err(|e| e.error)
    }
}

impl RendezvousStore for FolderStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.put(key, value).map_err(|e| self.failed(&e))
    }

    fn get(&self, key: &str, timeout: Duration, abort: &Abort) -> Result<Vec<u8>, StoreError> {
        let begun = Instant::now();
        loop {
            if let Some(value) = self.read(key)? {
                return Ok(value);
            }
            if begun.elapsed() >= timeout {
                return Err(StoreError::Timeout { key: key.into(), waited: begun.elapsed() });
            }
            if abort.wait(LOOK) {
                return Err(StoreError::Ended("while waiting for another rank".into()));
            }
        }
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        let lock = File::create(self.folder.join("lock")).and_then(|f| f.lock().map(|()| f));
        let _held = lock.map_err(|e| self.failed(&e))?;
        let old = self.read(key)?.map_or(Ok(0), |v| String::from_utf8_lossy(&v).parse::<i64>());
        let old = old.map_err(|_| StoreError::Failed(format!("key `{key}` does not hold a number")))?;
        self.set(key, (old + amount).to_string().as_bytes())?;
        Ok(old + amount)
    }

    fn check(&self, keys: &[String]) -> Result<bool, StoreError> {
        Ok(keys.iter().all(|key| self.file(key).exists()))
    }

    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        match fs::remove_file(self.file(key)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.failed(&e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stores_in_one_folder_are_one() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = [FolderStore::new(folder.path()), FolderStore::new(folder.path())];
        let abort = Abort::new();
        let waiting = std::thread::spawn({
            let (b, abort) = (b.clone(), abort.clone());
            move || b.get("nccl/unique-id", Duration::from_secs(60), &abort)
        });
        a.set("nccl/unique-id", &[0, 1, 255]).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), [0, 1, 255]);
        assert!(b.check(&["nccl/unique-id".into()]).unwrap() && !b.check(&["x".into()]).unwrap());
        std::thread::scope(|s| {
            for store in [&a, &b] {
                s.spawn(|| (0..50).for_each(|_| assert!(store.add("n", 2).unwrap() > 0)));
            }
        });
        assert_eq!(a.add("n", -1).unwrap(), 199);
        assert!(a.delete("n").unwrap() && !b.delete("n").unwrap());
        let e = a.get("n", Duration::from_millis(30), &abort).unwrap_err();
        assert!(matches!(e, StoreError::Timeout { .. }), "{e}");
        abort.trip();
        let e = a.get("n", Duration::from_secs(60), &abort).unwrap_err();
        assert!(matches!(e, StoreError::Ended(_)), "{e}");
        let gone = FolderStore::new(Path::new("/no/such/folder"));
        assert!(gone.set("x", b"").unwrap_err().to_string().contains("/no/such/folder"));
    }
}
