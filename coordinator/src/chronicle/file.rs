//! The event file: a line of JSON for each happening, appended by a thread of its own, so that a disk that is slow, full or
//! gone holds nobody up; what does not fit, or cannot be written, is counted, and the count stands in its place. The log has
//! the report at the end, with an event file and without one.

use super::budget::Budget;
use super::happening::{Happening, Told};
use super::line::{self, Head};
use super::summary::Summary;
use crate::log;
use crate::membership::Now;
use crate::outlet::{self, Outlet, Target};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long the end waits for what was told to be written.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// An event file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot append to --event-file `{}`: {why}; name a file, in a folder that is there", path.display())]
pub struct EventFileError {
    /// The file.
    pub path: PathBuf,
    /// The system's words.
    pub why: io::Error,
}

/// Whom a coordinator tells what happens: the event file, if there is one, and the log at the end.
pub struct Teller {
    head: Head,
    outlet: Option<Outlet>,
    budget: Budget,
    summary: Summary,
    /// The report is told, and nothing is behind it.
    over: bool,
}

impl Teller {
    /// Opens the event file, if there is to be one, and appends to what it holds. `running` is a generation that runs already, with
    /// its workers.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(
        path: Option<&Path>,
        head: Head,
        running: Option<(u64, u32)>,
    ) -> Result<Self, EventFileError> {
        let opened = |path: &Path| {
            let file = Appended::open(path, head.clone())?;
            let (path, head) = (file.path.clone(), head.clone());
            let missing = Box::new(move |lines| left_out(&head, lines));
            // The file says itself what became of a line.
            let target = Target { file: Box::new(file), failed: Box::new(|_| {}), missing };
            let started = outlet::start(vec![target]).map(|mut outlets| outlets.pop());
            started.map_err(|why| EventFileError { path, why })
        };
        let outlet = path.map(opened).transpose()?.flatten();
        Ok(Self { head, outlet, budget: Budget::default(), summary: Summary::new(running), over: false })
    }

    /// Tells what has happened; waits for nobody. At the end the report is told, too.
    pub fn tell(&mut self, told: Vec<Told>) {
        for told in told {
            if self.over {
                return;
            }
            let Some(report) = self.summary.take(&told) else {
                self.write(&told);
                continue;
            };
            // The end is never left out, nor how much was before it.
            self.over = true;
            let lines = self.budget.left_out();
            let before = (lines > 0).then(|| left_out(&self.head, lines));
            let end = line::of(&self.head, SystemTime::now(), &told);
            self.outlet.iter().for_each(|o| before.iter().chain([&end]).for_each(|line| o.insist(line)));
            for line in report.lines() {
                log::info(told.generation, &line);
            }
            let line =
                line::line(&self.head, SystemTime::now(), told.generation, &Happening::Report(report.into()));
            self.outlet.iter().for_each(|outlet| outlet.insist(&line));
        }
    }

    /// The same of one thing.
    pub fn tell_of(&mut self, at: Now, generation: u64, what: Happening) {
        self.tell(vec![Told { at, generation, what }]);
    }

    fn write(&mut self, told: &Told) {
        let Some(outlet) = &self.outlet else { return };
        let line = line::of(&self.head, SystemTime::now(), told);
        if !self.budget.takes(told.at, line.len()) {
            return;
        }
        match self.budget.left_out() {
            0 => {}
            lines => outlet.put(&left_out(&self.head, lines)),
        }
        outlet.put(&line);
    }

    /// Where the event file's lines wait; none without one.
    pub fn outlet(&self) -> Option<Outlet> {
        self.outlet.clone()
    }
}

/// What stands in the place of lines that are missing.
fn left_out(head: &Head, lines: u64) -> Vec<u8> {
    line::line(head, SystemTime::now(), 0, &Happening::LeftOut { lines })
}

/// A file that lines are appended to, which goes on after errors.
struct Appended {
    file: File,
    path: PathBuf,
    head: Head,
    /// It ends within a line.
    torn: bool,
    /// Lines that could not be written since the last one that could.
    lost: u64,
}

impl Appended {
    fn open(path: &Path, head: Head) -> Result<Self, EventFileError> {
        let opened = || {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                // A pipe that nobody reads is an error, and not waited for.
                .custom_flags(OFlags::NONBLOCK.bits() as i32)
                .open(path)?;
            fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
            let torn = file.metadata()?.is_file() && !whole(path, &mut file)?;
            Ok((file, torn))
        };
        let (file, torn) = opened().map_err(|why| EventFileError { path: path.into(), why })?;
        Ok(Self { file, path: path.into(), head, torn, lost: 0 })
    }

    /// Writes one or more whole lines.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.torn {
            self.whole(b"\n")?;
        }
        if self.lost > 0 {
            self.whole(&left_out(&self.head, self.lost))?;
            tracing::info!(
                "the event file `{}` is written again; {} events are missing in it",
                self.path.display(),
                self.lost
            );
            self.lost = 0;
        }
        self.whole(lines)
    }

    fn whole(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.torn = bytes[n - 1] != b'\n';
                    bytes = &bytes[n..];
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Whether a file ends with a line's end, or is empty. One that cannot be read is taken for whole.
fn whole(path: &Path, appended: &mut File) -> io::Result<bool> {
    let length = appended.seek(SeekFrom::End(0))?;
    let Ok(mut file) = File::open(path) else { return Ok(true) };
    let mut last = [b'\n'];
    if length > 0 {
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut last)?;
    }
    Ok(last == [b'\n'])
}

/// For the queue, for which all is well: what is lost is said here, once until it is written again.
impl Write for Appended {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if let Err(e) = self.append(lines) {
            if self.lost == 0 {
                tracing::warn!(
                    "cannot write to the event file `{}`: {e}; the job goes on, and events are left out until it can be written",
                    self.path.display()
                );
            }
            self.lost += lines.iter().filter(|b| **b == b'\n').count() as u64;
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn head() -> Head {
        Head::new("j", 1, 1)
    }

    fn resized(workers: u32) -> Happening {
        Happening::Resized { workers }
    }

    fn told(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(String::from).collect()
    }

    #[test]
    fn a_coordinator_that_is_started_anew_goes_on_in_the_file_and_closes_a_line_that_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        for n in 1..=2 {
            let mut teller = Teller::open(Some(&path), head(), None).unwrap();
            teller.tell_of(Now::ZERO, 1, resized(n));
            assert!(teller.outlet().unwrap().drain(Some(Duration::from_secs(20))));
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(b"{\"time\":").unwrap();
        }
        let lines = told(&path);
        assert_eq!(lines.len(), 4, "{lines:?}");
        let read = |line: &str| serde_json::from_str::<Value>(line).ok().map(|v| v["workers"].clone());
        assert_eq!([0, 2].map(|i| read(&lines[i])), [Some(1.into()), Some(2.into())]);
        assert_eq!([1, 3].map(|i| lines[i].as_str()), ["{\"time\":"; 2]);
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named_and_a_full_disk_costs_the_lines_alone() {
        for path in ["/nowhere/events.jsonl", "/"] {
            let e = Teller::open(Some(Path::new(path)), head(), None).err().unwrap().to_string();
            assert!(e.contains(&format!("--event-file `{path}`")), "{e}");
        }
        let mut full = Appended::open(Path::new("/dev/full"), head()).unwrap();
        for _ in 0..3 {
            assert_eq!(full.write(b"1\n").unwrap(), 2, "nobody hears of it but the log");
        }
        assert_eq!(full.lost, 3);
        // It has room again.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        full.file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        full.write_all(b"4\n").unwrap();
        let lines = told(&path);
        assert!(lines[0].contains("\"event\":\"left_out\",\"lines\":3") && lines[1] == "4", "{lines:?}");
        assert_eq!(full.lost, 0);
    }
}
