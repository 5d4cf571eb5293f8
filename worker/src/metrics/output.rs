//! Standard output and standard error of this process. A command that trains does not wait for whoever reads them: a
//! full pipe or a terminal that holds still leaves lines out and says how many. A command whose result is what it
//! prints waits. A reader that has gone (`octrain train | head`) is no error: what would have been printed is left out,
//! and the work goes on or ends as it would have. `println!` panics there.

use octrain_coordinator::outlet::{Outlet, Standard};
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the end of a command that trains waits for its reader.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Whoever reads what this process says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Gets everything, however long it takes: what is printed is the result.
    Awaited,
    /// Gets what it reads in time: the work goes on without it.
    NotAwaited,
}

static STARTED: OnceLock<(Standard, Reader)> = OnceLock::new();

/// From now on, what this process says is written by a thread of its own. The first call counts.
pub fn start(reader: Reader) -> io::Result<()> {
    if STARTED.get().is_none() {
        let _ = STARTED.set((Standard::start(unwritable)?, reader));
    }
    Ok(())
}

/// Waits until what was said is written: a few seconds at most where the reader is not awaited.
pub fn finish() {
    finish_within(LAST_WORDS);
}

/// As [`finish`], with another patience.
pub fn finish_within(patience: Duration) {
    if let Some((standard, reader)) = STARTED.get() {
        standard.drain((*reader == Reader::NotAwaited).then_some(patience));
    }
}

/// Standard output that cannot be written (a full disk) is logged once.
fn unwritable(e: &io::Error) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::SeqCst) {
        tracing::error!("standard output cannot be written ({e}); what follows goes on without it");
    }
}

/// Writes a result to standard output. Where the reader is awaited, any error but a reader that has gone is returned:
/// for commands that only print.
pub fn print(text: impl fmt::Display) -> io::Result<()> {
    print_while_read(text).map(drop)
}

/// [`print()`]; false where a reader that is awaited has gone, so that no more need be said.
pub fn print_while_read(text: impl fmt::Display) -> io::Result<bool> {
    match STARTED.get() {
        Some((standard, Reader::NotAwaited)) => {
            standard.out.insist(text.to_string().as_bytes());
            return Ok(true);
        }
        // What was said before comes before.
        Some((standard, Reader::Awaited)) => drop(standard.drain(None)),
        None => {}
    }
    to(&mut io::stdout().lock(), format_args!("{text}"))
}

/// Whether the reader is still there.
fn to(out: &mut impl Write, text: fmt::Arguments) -> io::Result<bool> {
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true),
    }
}

/// Writes a line to standard output, for commands whose result is more than what they print. `say!` calls it.
pub fn line(text: fmt::Arguments) {
    match STARTED.get() {
        Some((standard, Reader::NotAwaited)) => standard.out.put(format!("{text}\n").as_bytes()),
        Some((standard, Reader::Awaited)) => standard.out.put_patiently(format!("{text}\n").as_bytes()),
        None => {
            if let Err(e) = to(&mut io::stdout().lock(), format_args!("{text}\n")) {
                unwritable(&e);
            }
        }
    }
}

/// Writes a last word to standard error; where that is gone, the exit code has to do.
pub fn last_word(text: impl fmt::Display) {
    match STARTED.get() {
        Some((standard, _)) => standard.err.insist(format!("{text}\n").as_bytes()),
        None => drop(writeln!(io::stderr().lock(), "{text}")),
    }
}

/// A stream of this process that takes whole lines, and waits for nobody once [`start`] was called.
pub enum Lines {
    /// By the thread that writes.
    Queued(Outlet),
    /// Before there is one.
    Direct(Box<dyn Write>),
}

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self {
            Lines::Queued(outlet) => outlet.write(text),
            Lines::Direct(file) => file.write(text),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Lines::Queued(_) => Ok(()),
            Lines::Direct(file) => file.flush(),
        }
    }
}

/// Standard output, for whole lines.
pub fn out() -> Lines {
    STARTED.get().map_or_else(|| Lines::Direct(Box::new(io::stdout())), |(s, _)| Lines::Queued(s.out.clone()))
}

/// Standard error, for whole lines.
pub fn err() -> Lines {
    STARTED.get().map_or_else(|| Lines::Direct(Box::new(io::stderr())), |(s, _)| Lines::Queued(s.err.clone()))
}

/// Puts a picture on standard error that is soon replaced by the next one.
pub(super) fn sketch(picture: &str) -> io::Result<()> {
    match STARTED.get() {
        Some((standard, _)) => standard.err.sketch(picture.as_bytes()),
        None => io::stderr().write_all(picture.as_bytes())?,
    }
    Ok(())
}

/// As `println!`, but it never panics.
macro_rules! say {
    ($($text:tt)*) => { $crate::metrics::line(format_args!($($text)*)) };
}
pub(crate) use say;

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error_and_a_full_disk_is() {
        assert!(to(&mut Broken(ErrorKind::BrokenPipe), format_args!("x")).is_ok());
        let full = to(&mut Broken(ErrorKind::StorageFull), format_args!("x"));
        assert_eq!(full.unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
