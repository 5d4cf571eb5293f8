//! Standard output. A reader that has gone (`octrain train | head`) is no error: what would have been printed is left
//! out, and the work goes on or ends as it would have. `println!` panics there.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Writes to standard output. Any error but a reader that has gone is returned: for commands that only print.
pub fn print(text: impl fmt::Display) -> io::Result<()> {
    to(&mut io::stdout().lock(), format_args!("{text}"))
}

fn to(out: &mut impl Write, text: fmt::Arguments) -> io::Result<()> {
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Writes a line to standard output, for commands whose result is more than what they print: that it cannot be written
/// (a full disk) is logged once. [`say!`] calls it.
pub fn line(text: fmt::Arguments) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if let Err(e) = print(format_args!("{text}\n"))
        && !SAID.swap(true, Ordering::SeqCst)
    {
        tracing::error!("standard output cannot be written ({e}); what follows goes on without it");
    }
}

/// Writes a last word to standard error; where that is gone, the exit code has to do.
pub fn last_word(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
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
