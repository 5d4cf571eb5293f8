//! One run at a time in a folder: an advisory lock that the kernel lets go when its process ends, however it ends.

use super::CheckpointError;
use super::identity::date;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The file that is locked; what it says is for people.
const LOCK: &str = ".lock";
/// Between tries.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a predecessor on this host may take to end: its devices have to be freed.
const SAME_HOST: Duration = Duration::from_secs(3);
/// How long one on another host may: a file server lets go of a lost host's locks after its lease, mostly 90 s.
const OTHER_HOST: Duration = Duration::from_secs(120);

/// Who holds a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holder {
    /// Name of the host.
    pub host: String,
    /// The kernel's id of this start of the host: a pod keeps its host name on another node.
    #[serde(default)]
    pub boot: String,
    /// Process id there.
    pub pid: u32,
    /// Seconds since 1970.
    pub since_unix: u64,
}

impl Holder {
    /// This process, from now on.
    pub fn here(host: &str) -> Self {
        let since_unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        // Where the kernel does not tell, the name alone decides.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { host: host.into(), boot: boot.trim().into(), pid: std::process::id(), since_unix }
    }
}

impl Holder {
    fn same_host(&self, other: &Self) -> bool {
        self.host == other.host && self.boot == other.boot
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} on {}, since {}", self.pid, self.host, date(self.since_unix))
    }
}

/// A folder that is this process's until it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

/// How long to wait for a holder, by where it is.
fn patience(holder: Option<&Holder>, me: &Holder) -> Duration {
    match holder {
        Some(h) if !h.same_host(me) => OTHER_HOST,
        _ => SAME_HOST,
    }
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

impl FolderLock {
    /// Locks `folder`, which is there. A holder is waited for a little (it may be about to end), unless
    /// `interrupted` says that this process is asked to stop.
    pub fn take(folder: &Path, me: &Holder, interrupted: &dyn Fn() -> bool) -> Result<Self, CheckpointError> {
        let path = folder.join(LOCK);
        let opened = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path);
        let mut file = opened.map_err(CheckpointError::unwritable("make a file", folder))?;
        let begun = Instant::now();
        let mut told = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {}
                Err(e) => return Err(CheckpointError::unwritable("lock a file", folder)(e.into())),
            }
            let holder = read(&mut file);
            if begun.elapsed() >= patience(holder.as_ref(), me) || interrupted() {
                return Err(CheckpointError::in_use(folder, holder.as_ref()));
            }
            if let Some(other) = holder.filter(|h| !h.same_host(me) && !told) {
                tracing::warn!(
                    "the output folder {} is held by {other}; waiting at most {} s for it to be let go",
                    folder.display(),
                    OTHER_HOST.as_secs()
                );
                told = true;
            }
            std::thread::sleep(AGAIN);
        }
        let text = serde_json::to_string(me).map_err(|e| CheckpointError::damaged(&path, e))?;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{text}\n").as_bytes()))
            .map_err(CheckpointError::unwritable("write a file", folder))?;
        Ok(Self { _file: file })
    }
}

/// Whether a run works in `folder` right now, and who says so. A folder no run was ever in is free.
pub fn holder(folder: &Path) -> Result<Option<String>, CheckpointError> {
    let path = folder.join(LOCK);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CheckpointError::io("open", &path)(e)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(Errno::WOULDBLOCK) => {
            Ok(Some(read(&mut file).map_or_else(|| "an unknown process".into(), |h| h.to_string())))
        }
        Err(e) => Err(CheckpointError::io("ask for the lock of", &path)(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let me = Holder::here("node-a");
        assert_eq!(holder(dir.path()).unwrap(), None);
        let first = FolderLock::take(dir.path(), &me, &|| false).unwrap();
        // It is asked to stop, so it does not wait.
        let e = FolderLock::take(dir.path(), &me, &|| true).unwrap_err().to_string();
        for want in [&me.to_string()[..], "take another folder"] {
            assert!(e.contains(want), "{want} in {e}");
        }
        assert_eq!(holder(dir.path()).unwrap(), Some(me.to_string()));
        drop(first);
        assert_eq!(holder(dir.path()).unwrap(), None);
        FolderLock::take(dir.path(), &me, &|| true).unwrap();
    }

    #[test]
    fn a_predecessor_that_is_about_to_end_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let me = Holder::here("node-a");
        let first = FolderLock::take(dir.path(), &me, &|| false).unwrap();
        let end = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(first);
        });
        FolderLock::take(dir.path(), &me, &|| false).unwrap();
        end.join().unwrap();
    }

    #[test]
    fn a_holder_elsewhere_gets_the_time_a_file_server_needs() {
        let me = Holder::here("node-a");
        assert_eq!(patience(Some(&Holder::here("node-b")), &me), OTHER_HOST);
        assert_eq!(patience(Some(&Holder::here("node-a")), &me), SAME_HOST);
        assert_eq!(patience(None, &me), SAME_HOST);
        // A pod of the same name on another node.
        assert_eq!(patience(Some(&Holder { boot: "other".into(), ..me.clone() }), &me), OTHER_HOST);
    }
}
