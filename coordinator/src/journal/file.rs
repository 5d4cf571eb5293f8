//! The file of a journal: one coordinator at a time has it, and what it appends is on the disk when that returns.

use super::format::{self, Content, Damage, MAGIC};
use super::record::Record;
use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a coordinator that had the file before may take to be gone.
const PREDECESSOR: Duration = Duration::from_secs(3);
/// Between tries.
const AGAIN: Duration = Duration::from_millis(50);

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refuses.
    #[error("cannot {what} the journal {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A folder, a device, a pipe, a link.
    #[error("the journal {} is no regular file: name another one", path.display())]
    NotAFile {
        /// What is there.
        path: PathBuf,
    },
    /// Another user could read it.
    #[error(
        "the journal {} belongs to another user ({owner}; this one is {ours}), who could read the tokens of the job's workers in it: name another file, in a folder where nobody else writes",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// User id.
        owner: u32,
        /// Effective user id of this process.
        ours: u32,
    },
    /// Another coordinator has it.
    #[error(
        "the journal {} belongs to a coordinator that runs: there is one for a job at a time; stop that one, or give this job a journal of its own",
        path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Not what was written.
    #[error(
        "the journal {} cannot be relied on: {damage}; move it away, end the workers that are left, and start the job anew from its last checkpoint",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        damage: Damage,
    },
    /// Another coordinator writes to it.
    #[error(
        "another coordinator has written to the journal {}: it has taken over, and this one ends",
        path.display()
    )]
    TakenOver {
        /// The file.
        path: PathBuf,
    },
}

/// A journal that is this process's until it is dropped or the process ends.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Appends to it.
    appends: u64,
    /// Bytes in it.
    length: u64,
    /// Brings what was written to the disk.
    sync: fn(&File) -> io::Result<()>,
}

/// A journal and what stood in it.
#[derive(Debug)]
pub struct Opened {
    /// To be appended to.
    pub journal: Journal,
    /// What stands in it; empty where it is new.
    pub records: Vec<Record>,
    /// Bytes at its end that were never finished, and are cut off.
    pub cut: u64,
}

impl Journal {
    /// Opens the journal at `path`, or makes one. Waits a moment for a predecessor to be gone.
    ///
    /// # Errors
    /// When another process has it, when it cannot be read or written, and when it is damaged.
    pub fn open(path: &Path) -> Result<Opened, JournalError> {
        let failed = |what| move |source| JournalError::Io { what, path: path.into(), source };
        let no_file = || JournalError::NotAFile { path: path.into() };
        // Before it is opened, which of a pipe may take for ever.
        if std::fs::symlink_metadata(path).is_ok_and(|m| !m.is_file()) {
            return Err(no_file());
        }
        // It has the tokens of the workers. Somebody else's link might lead to a file that others read.
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(path)
            .map_err(|e| match Errno::from_io_error(&e) {
                Some(Errno::LOOP) => no_file(),
                _ => failed("open")(e),
            })?;
        let there = file.metadata().map_err(failed("look at"))?;
        if !there.is_file() {
            return Err(no_file());
        }
        own(path, there.uid(), geteuid().as_raw())?;
        lock(&file, path)?;
        if there.mode() & 0o7777 != 0o600 {
            let made = fchmod(&file, Mode::RUSR | Mode::WUSR).map_err(io::Error::from);
            made.map_err(failed("keep others from reading"))?;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let Content { records, appends, whole } =
            format::decode(&bytes).map_err(|damage| JournalError::Damaged { path: path.into(), damage })?;
        let cut = (bytes.len() - whole) as u64;
        if cut > 0 {
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(failed("cut the end off"))?;
        }
        let mut journal =
            Self { file, path: path.into(), appends, length: whole as u64, sync: File::sync_data };
        if whole == 0 {
            journal.write(MAGIC)?;
            // Its name is to be there as well.
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder).and_then(|f| f.sync_all()).map_err(failed("sync the folder of"))?;
        }
        Ok(Opened { journal, records, cut })
    }

    /// Appends records, all of them or none; they are on the disk when this returns.
    ///
    /// # Errors
    /// When they cannot be written, or brought to the disk: they are cut off again, as nobody is told of them. When another process has written
    /// to it, which a lock that was lost lets happen.
    pub fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if records.is_empty() {
            return Ok(());
        }
        let there = self.file.metadata().map_err(self.failed("look at"))?.len();
        if there != self.length {
            return Err(JournalError::TakenOver { path: self.path.clone() });
        }
        self.write(&format::encode(self.appends, records))?;
        self.appends += 1;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if let Err(source) = self.file.write_all(bytes).and_then(|()| (self.sync)(&self.file)) {
            // Whoever opens it next is not to find what this one, which ends, has told nobody.
            let cut = self.file.set_len(self.length);
            let what = if cut.is_ok() { "write to" } else { "write to, nor cut off what was written to," };
            return Err(self.failed(what)(source));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> JournalError + use<> {
        let path = self.path.clone();
        move |source| JournalError::Io { what, path, source }
    }
}

/// Refuses the file of another user.
fn own(path: &Path, owner: u32, ours: u32) -> Result<(), JournalError> {
    if owner == ours { Ok(()) } else { Err(JournalError::Foreign { path: path.into(), owner, ours }) }
}

fn lock(file: &File, path: &Path) -> Result<(), JournalError> {
    let begun = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < PREDECESSOR => std::thread::sleep(AGAIN),
            Err(Errno::WOULDBLOCK) => return Err(JournalError::Locked { path: path.into() }),
            Err(e) => {
                return Err(JournalError::Io { what: "lock", path: path.into(), source: e.into() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn nobody_else_reads_it_whoever_made_it_and_however() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("journal"), dir.path().join("link"));
        std::fs::write(&path, b"").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
        drop(Journal::open(&path).unwrap());
        assert_eq!(mode(&path), 0o600);
        symlink(&path, &link).unwrap();
        assert!(matches!(Journal::open(&link), Err(JournalError::NotAFile { .. })));
        symlink(dir.path().join("nowhere"), dir.path().join("dangling")).unwrap();
        assert!(matches!(Journal::open(&dir.path().join("dangling")), Err(JournalError::NotAFile { .. })));
        assert!(!dir.path().join("nowhere").exists());
        let e = own(&path, 1000, 0).unwrap_err().to_string();
        assert!(e.contains("another user (1000; this one is 0)"), "{e}");
    }

    #[test]
    fn what_did_not_reach_the_disk_does_not_count_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path).unwrap().journal;
        journal.append(&[Record::Term(1)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        journal.sync = |_| Err(Errno::IO.into());
        let e = journal.append(&[Record::Term(2)]).unwrap_err();
        assert!(e.to_string().starts_with("cannot write to the journal"), "{e}");
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().records, [Record::Term(1)]);
    }
}
