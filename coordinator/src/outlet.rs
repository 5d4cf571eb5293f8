//! Output that nobody has to wait for. What is written goes through a bounded queue to a thread of its own, which
//! alone waits for whoever reads: a full pipe, or a terminal that was told to hold still (Ctrl-S), stops neither a
//! training step nor a signal. What does not fit is counted, and the count is said in its place.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that wait to be written, at most.
const CAPACITY: usize = 1 << 20;
/// Bytes that wait where it is too late for what is soon replaced.
const BEHIND: usize = 16 << 10;
/// Between attempts where the system itself does not wait.
const RETRY: Duration = Duration::from_millis(10);

/// One end of a queue; clones are the same end.
#[derive(Clone)]
pub struct Outlet {
    queue: Arc<Queue>,
    target: usize,
}

/// Where a queue leads, and who is told when that cannot be written.
pub struct Target {
    /// Written to by the queue's thread alone; a write may take for ever.
    pub file: Box<dyn Write + Send>,
    /// Called on that thread; must not wait for the queue.
    pub failed: Box<dyn Fn(&io::Error) + Send>,
    /// What stands in the place of so many lines that were left out, as whole lines; must not wait either.
    pub missing: Missing,
}

/// Says how many lines are missing.
pub type Missing = Box<dyn Fn(u64) -> Vec<u8> + Send>;

/// The same for people.
pub fn in_words() -> Missing {
    Box::new(|lines| {
        let (lines, verb) = match lines {
            1 => ("1 line".to_string(), "is"),
            n => (format!("{n} lines"), "are"),
        };
        format!("{lines} {verb} missing here: they came faster than they were read\n").into_bytes()
    })
}

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<(usize, Vec<u8>)>,
    bytes: usize,
    /// Lines left out and not yet told, by target.
    missing: Vec<u64>,
    /// How that is told.
    notices: Vec<Missing>,
    writing: bool,
}

impl State {
    fn push(&mut self, target: usize, bytes: Vec<u8>) {
        if let Some(notice) = self.notice(target) {
            self.bytes += notice.len();
            self.chunks.push_back((target, notice));
        }
        self.bytes += bytes.len();
        self.chunks.push_back((target, bytes));
    }

    /// What stands in the place of lines that were left out, if some were.
    fn notice(&mut self, target: usize) -> Option<Vec<u8>> {
        match std::mem::take(&mut self.missing[target]) {
            0 => None,
            lines => Some(self.notices[target](lines)),
        }
    }

    /// The next to be written.
    fn next(&mut self) -> Option<(usize, Vec<u8>)> {
        let next = self.chunks.pop_front();
        self.bytes -= next.as_ref().map_or(0, |(_, bytes)| bytes.len());
        next.or_else(|| (0..self.missing.len()).find_map(|target| Some((target, self.notice(target)?))))
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of it is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, targets: &mut [Target]) {
        loop {
            let mut state = self.state();
            let (target, bytes) = loop {
                match state.next() {
                    Some(next) => break next,
                    None => {
                        state.writing = false;
                        self.changed.notify_all();
                        state = self.wait(state);
                    }
                }
            };
            state.writing = true;
            self.changed.notify_all();
            drop(state);
            let Target { file, failed, .. } = &mut targets[target];
            match write_all(file, &bytes) {
                // A reader that has gone does not want it.
                Err(e) if e.kind() != ErrorKind::BrokenPipe => failed(&e),
                _ => {}
            }
        }
    }
}

/// As `write_all`, also where another process has set the file not to wait.
fn write_all(file: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(e) => return Err(e),
        }
    }
    file.flush()
}

/// Starts a queue that keeps the order among its targets; one outlet for each. Its thread lives as long as the process.
pub fn start(mut targets: Vec<Target>) -> io::Result<Vec<Outlet>> {
    let notices = targets.iter_mut().map(|t| std::mem::replace(&mut t.missing, in_words())).collect();
    let state = State { missing: vec![0; targets.len()], notices, ..State::default() };
    let queue = Arc::new(Queue { state: Mutex::new(state), changed: Condvar::new() });
    let outlets = (0..targets.len()).map(|target| Outlet { queue: Arc::clone(&queue), target }).collect();
    std::thread::Builder::new().name("output".into()).spawn(move || queue.write(&mut targets))?;
    Ok(outlets)
}

impl Outlet {
    /// Puts whole lines without ever waiting; where too much is waiting to be read they are left out, and counted.
    pub fn put(&self, text: &[u8]) {
        let mut state = self.queue.state();
        if state.bytes + text.len() > CAPACITY {
            let lines = text.iter().filter(|b| **b == b'\n').count().max(1);
            state.missing[self.target] += lines as u64;
            return;
        }
        state.push(self.target, text.into());
        self.queue.changed.notify_all();
    }

    /// Puts whole lines, and waits for room as long as it takes: for what is a result and no report of progress.
    pub fn put_patiently(&self, text: &[u8]) {
        let mut state = self.queue.state();
        while state.bytes > 0 && state.bytes + text.len() > CAPACITY {
            state = self.queue.wait(state);
        }
        state.push(self.target, text.into());
        self.queue.changed.notify_all();
    }

    /// Puts what must not be missing, such as a last word; without waiting, beyond the bounds of the queue.
    pub fn insist(&self, text: &[u8]) {
        self.queue.state().push(self.target, text.into());
        self.queue.changed.notify_all();
    }

    /// Puts what will soon be replaced (the picture of a progress bar); left out without a word where the reader is
    /// behind.
    pub fn sketch(&self, text: &[u8]) {
        let mut state = self.queue.state();
        if state.bytes < BEHIND {
            state.push(self.target, text.into());
            self.queue.changed.notify_all();
        }
    }

    /// Waits until all is written, at most `patience` (none: as long as it takes); whether it is.
    pub fn drain(&self, patience: Option<Duration>) -> bool {
        let until = patience.map(|p| Instant::now() + p);
        let mut state = self.queue.state();
        while state.writing || !state.chunks.is_empty() || state.missing.iter().any(|n| *n > 0) {
            let Some(until) = until else {
                state = self.queue.wait(state);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.queue.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// For writers of the log, which give a whole line at a time.
impl Write for Outlet {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.put(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output and standard error of a process.
#[derive(Clone)]
pub struct Standard {
    /// Standard output.
    pub out: Outlet,
    /// Standard error.
    pub err: Outlet,
}

impl Standard {
    /// Starts both, as one queue where they lead to one place, so that their lines stay in order there. `failed` hears
    /// of standard output that cannot be written; it must not wait.
    pub fn start(failed: impl Fn(&io::Error) + Send + 'static) -> io::Result<Self> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let err = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let place = |file: &File| rustix::fs::fstat(file).map(|s| (s.st_dev, s.st_ino)).ok();
        let together = place(&out).is_some() && place(&out) == place(&err);
        let out = Target { file: Box::new(out), failed: Box::new(failed), missing: in_words() };
        // There is nowhere left to say so.
        let err = Target { file: Box::new(err), failed: Box::new(|_| {}), missing: in_words() };
        let mut outlets = match together {
            true => start(vec![out, err])?,
            false => [start(vec![out])?, start(vec![err])?].concat(),
        };
        let (Some(err), Some(out)) = (outlets.pop(), outlets.pop()) else {
            return Err(io::Error::other("an outlet is missing"));
        };
        Ok(Self { out, err })
    }

    /// Waits until all is written, at most `patience` (none: as long as it takes); whether it is.
    pub fn drain(&self, patience: Option<Duration>) -> bool {
        let until = patience.map(|p| Instant::now() + p);
        let left = || until.map(|at| at.saturating_duration_since(Instant::now()));
        let first = self.out.drain(left());
        self.err.drain(left()) && first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// A file whose every write waits until a test takes it.
    struct Taken(SyncSender<Vec<u8>>);

    impl Write for Taken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.into()).map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Outlet, Receiver<Vec<u8>>) {
        let (give, take) = sync_channel(0);
        let target = Target { file: Box::new(Taken(give)), failed: Box::new(|_| {}), missing: in_words() };
        (start(vec![target]).unwrap().remove(0), take)
    }

    /// Reads until the queue is empty.
    fn all(outlet: &Outlet, take: &Receiver<Vec<u8>>) -> String {
        let mut text = Vec::new();
        loop {
            match take.recv_timeout(Duration::from_millis(20)) {
                Ok(more) => text.extend(more),
                Err(_) if outlet.drain(Some(Duration::ZERO)) => return String::from_utf8(text).unwrap(),
                Err(_) => {}
            }
        }
    }

    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed() {
        let (outlet, take) = slow();
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..3 * 1024 {
            outlet.put(line.as_bytes());
        }
        outlet.insist(b"the last word\n");
        assert!(!outlet.drain(Some(Duration::from_millis(50))), "nobody reads");
        let text = all(&outlet, &take);
        let whole = text.lines().filter(|l| l.len() == 1023).count();
        // The one that is being written is no longer in the queue.
        assert!(whole == 1024 || whole == 1025, "{whole}");
        // Where the thread comes late to the first line, that one's place takes one more, and what was missing before is
        // told there.
        let told =
            text.lines().filter_map(|l| l.split_once(" lines are missing here")?.0.parse::<usize>().ok());
        assert_eq!(told.sum::<usize>(), 3 * 1024 - whole);
        let end = " lines are missing here: they came faster than they were read\nthe last word\n";
        assert!(text.ends_with(end), "{}", &text[text.len() - 200..]);
        assert!(outlet.drain(Some(Duration::from_secs(20))));
    }

    #[test]
    fn what_is_missing_at_the_end_is_told_without_another_line() {
        let (outlet, take) = slow();
        outlet.put(&vec![b'a'; CAPACITY]);
        // Being written, or waiting for that; either way this one is too much.
        outlet.put(&vec![b'\n'; CAPACITY + 1]);
        assert!(all(&outlet, &take).ends_with(&format!(
            "{} lines are missing here: they came faster than they were read\n",
            CAPACITY + 1
        )));
    }

    #[test]
    fn a_picture_is_left_out_without_a_word_where_the_reader_is_behind() {
        let (outlet, take) = slow();
        outlet.put(&vec![b'a'; BEHIND]);
        outlet.put(&vec![b'a'; BEHIND]);
        outlet.sketch(b"50%");
        assert_eq!(all(&outlet, &take).len(), 2 * BEHIND);
        outlet.sketch(b"60%");
        assert_eq!(all(&outlet, &take), "60%");
    }

    #[test]
    fn a_result_waits_for_its_reader_and_nothing_of_it_is_lost() {
        let (outlet, take) = slow();
        let writer = std::thread::spawn(move || {
            (0..300).for_each(|_| outlet.put_patiently(&vec![b'a'; 10_000]));
            outlet.drain(None)
        });
        let read = (0..300).map(|_| take.recv_timeout(Duration::from_secs(20)).unwrap().len());
        assert_eq!(read.sum::<usize>(), 3_000_000);
        assert!(writer.join().unwrap());
    }

    #[test]
    fn targets_of_one_queue_keep_their_order_and_failures_are_told() {
        struct Full(u8);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1 => Err(ErrorKind::WouldBlock.into()),
                    2 => Ok(bytes.len()),
                    _ => Err(ErrorKind::StorageFull.into()),
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (give, take) = sync_channel(16);
        let (told, failures) = sync_channel(16);
        let failed = Box::new(move |e: &io::Error| told.send(e.kind()).unwrap());
        let full = Target { file: Box::new(Full(0)), failed, missing: in_words() };
        let other = Target { file: Box::new(Taken(give)), failed: Box::new(|_| {}), missing: in_words() };
        let outlets = start(vec![full, other]).unwrap();
        for text in ["waits a moment\n", "full\n"] {
            outlets[0].put(text.as_bytes());
            outlets[1].put(text.as_bytes());
        }
        assert!(outlets[0].drain(Some(Duration::from_secs(20))));
        assert_eq!(failures.try_iter().collect::<Vec<_>>(), [ErrorKind::StorageFull]);
        assert_eq!(take.try_iter().map(|b| b.len()).collect::<Vec<_>>(), [15, 5]);
    }
}
