//! The file of a journal: one coordinator at a time has it, and what it appends is on the disk when that returns.

use super::format::{self, Content, Damage, MAGIC};
use super::record::Record;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
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
    /// A folder, a device, a pipe.
    #[error("the journal {} is no regular file: name another one", path.display())]
    NotAFile {
        /// What is there.
        path: PathBuf,
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
        if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
            return Err(JournalError::NotAFile { path: path.into() });
        }
        // It has the tokens of the workers.
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(failed("open"))?;
        lock(&file, path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let Content { records, appends, whole } =
            format::decode(&bytes).map_err(|damage| JournalError::Damaged { path: path.into(), damage })?;
        let cut = (bytes.len() - whole) as u64;
        if cut > 0 {
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(failed("cut the end off"))?;
        }
        let mut journal = Self { file, path: path.into(), appends, length: whole as u64 };
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
    /// When they cannot be written: what is there then is cut off by whoever opens it next. When another process has written
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
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        written.map_err(self.failed("write to"))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> JournalError + use<> {
        let path = self.path.clone();
        move |source| JournalError::Io { what, path, source }
    }
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
