//! What workers print, line by line, each line whole and named.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Lines kept for the report.
const KEEP: usize = 12;
/// Longest piece relayed at once; a longer line is broken.
const MAX_LINE: u64 = 64 << 10;

/// The last lines of a worker's standard error.
pub(super) type Tail = Arc<Mutex<VecDeque<String>>>;

/// The lines kept, oldest first.
pub(super) fn lines(tail: &Tail) -> Vec<String> {
    tail.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// Copies `from` to `to()` line by line with a prefix until it ends, on a thread of its own. When the output
/// goes away or does not take what comes (`to` must not wait for its reader), reading goes on, so that the worker does
/// not stall.
pub(super) fn relay<W: Write>(
    from: impl Read + Send + 'static,
    prefix: String,
    tail: Option<Tail>,
    to: impl Fn() -> W + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || copy(from, &prefix, tail.as_ref(), to))
}

fn copy<W: Write>(from: impl Read, prefix: &str, tail: Option<&Tail>, to: impl Fn() -> W) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        // Of a line that redraws itself, the last state counts.
        let text = text.trim_end_matches(['\n', '\r']);
        let text = text.rsplit('\r').next().unwrap_or(text);
        if let Some(tail) = tail {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            if tail.len() == KEEP {
                tail.pop_front();
            }
            tail.push_back(text.to_string());
        }
        // One write per line: lines of several workers never mix.
        let _ = to().write_all(format!("{prefix}{text}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sink(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_one_write_with_its_prefix() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let tail = Tail::default();
        let sink = written.clone();
        let text = b"one\r\n10%\r20%\nno newline".to_vec();
        copy(&text[..], "[rank 1] ", Some(&tail), move || Sink(sink.clone()));
        let got: Vec<String> =
            written.lock().unwrap().iter().map(|w| String::from_utf8(w.clone()).unwrap()).collect();
        assert_eq!(got, ["[rank 1] one\n", "[rank 1] 20%\n", "[rank 1] no newline\n"]);
        assert_eq!(lines(&tail), ["one", "20%", "no newline"]);
    }

    #[test]
    fn only_the_last_lines_are_kept_and_endless_ones_are_broken() {
        let tail = Tail::default();
        let many: String = (0..100).map(|i| format!("{i}\n")).collect();
        copy(many.as_bytes(), "", Some(&tail), std::io::sink);
        assert_eq!(lines(&tail).first().unwrap(), "88");
        let tail = Tail::default();
        copy(&vec![b'x'; 3 * MAX_LINE as usize][..], "", Some(&tail), std::io::sink);
        assert_eq!(lines(&tail).len(), 3);
    }
}
