//! The driver's log. Lines go through a bounded queue to a thread of their own, which alone may wait for whoever reads
//! them: a full pipe on standard error must not stop heartbeats from being heard. What does not fit is counted, and
//! the count is said.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// Lines that wait to be written.
const QUEUE: usize = 1024;
/// Lines of one kind of refusal written in one [`WINDOW`].
const PER_WINDOW: u64 = 16;
/// Time over which refusals are counted.
const WINDOW: Duration = Duration::from_secs(10);

enum Line {
    Info(u64, String),
    Warn(u64, String),
    /// Nothing comes any more.
    End,
}

/// What puts lines, without ever waiting.
#[derive(Clone)]
pub(crate) struct Pen {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl Pen {
    /// Something is wrong.
    pub(crate) fn warn(&self, generation: u64, text: String) {
        self.put(Line::Warn(generation, text));
    }

    fn put(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The driver's end of the queue.
pub(crate) struct Log {
    pen: Pen,
    written: oneshot::Receiver<()>,
    refusals: Refusals,
}

impl Log {
    /// Starts the thread that writes.
    pub(crate) fn start() -> io::Result<Self> {
        let (lines, queue) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let (done, written) = oneshot::channel();
        let count = Arc::clone(&dropped);
        std::thread::Builder::new().name("coordinator-log".into()).spawn(move || {
            write(queue, &count);
            // Nobody waits for it any more when this fails.
            let _ = done.send(());
        })?;
        Ok(Self { pen: Pen { lines, dropped }, written, refusals: Refusals::default() })
    }

    /// Something happened.
    pub(crate) fn info(&self, generation: u64, text: String) {
        self.pen.put(Line::Info(generation, text));
    }

    /// Something is wrong.
    pub(crate) fn warn(&self, generation: u64, text: String) {
        self.pen.warn(generation, text);
    }

    /// For others than the driver.
    pub(crate) fn pen(&self) -> Pen {
        self.pen.clone()
    }

    /// A call was refused, for a reason of this kind; a stranger that asks again and again does not fill the disk.
    pub(crate) fn refused(&mut self, now: Duration, generation: u64, kind: &'static str, text: &str) {
        match self.refusals.count(now, kind) {
            Said::Whole | Said::After(0) => self.warn(generation, format!("refused: {text}")),
            Said::After(n) => {
                self.warn(
                    generation,
                    format!("refused: {text} ({n} more refusals of kind `{kind}` before it)"),
                );
            }
            Said::Not => {}
        }
    }

    /// Waits until everything is written, at most `patience`.
    pub(crate) async fn close(self, patience: Duration) {
        // A reader that does not read is not waited for.
        if self.pen.lines.try_send(Line::End).is_ok() {
            let _ = tokio::time::timeout(patience, self.written).await;
        }
    }
}

fn write(queue: Receiver<Line>, dropped: &AtomicU64) {
    for line in queue {
        match line {
            Line::Info(generation, text) => tracing::info!(generation, "{text}"),
            Line::Warn(generation, text) => tracing::warn!(generation, "{text}"),
            Line::End => return,
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!("{lost} lines are missing here: they came faster than the log was read");
        }
    }
}

/// Whether a refusal is written.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Whole,
    /// The first of a new window; so many of the last one were not written.
    After(u64),
    Not,
}

/// Refusals by kind: when the window began, and how many came in it.
#[derive(Default)]
struct Refusals(BTreeMap<&'static str, (Duration, u64)>);

impl Refusals {
    fn count(&mut self, now: Duration, kind: &'static str) -> Said {
        let (begun, count) = self.0.entry(kind).or_insert((now, 0));
        *count += 1;
        match *count {
            _ if now.saturating_sub(*begun) >= WINDOW => {
                let unsaid = (*count - 1).saturating_sub(PER_WINDOW);
                (*begun, *count) = (now, 1);
                Said::After(unsaid)
            }
            n if n <= PER_WINDOW => Said::Whole,
            _ => Said::Not,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_one_kind_are_counted_once_they_are_many() {
        let mut refusals = Refusals::default();
        let second = Duration::from_secs;
        for _ in 0..PER_WINDOW {
            assert_eq!(refusals.count(second(1), "full"), Said::Whole);
        }
        for _ in 0..1000 {
            assert_eq!(refusals.count(second(2), "full"), Said::Not);
        }
        assert_eq!(refusals.count(second(2), "duplicate"), Said::Whole);
        assert_eq!(refusals.count(second(11), "full"), Said::After(1000));
        assert_eq!(refusals.count(second(30), "full"), Said::After(0));
    }

    #[test]
    fn a_line_that_does_not_fit_is_counted_and_nobody_waits() {
        // Nobody reads this queue.
        let (lines, queue) = sync_channel(2);
        let (_done, written) = oneshot::channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let log = Log { pen: Pen { lines, dropped }, written, refusals: Refusals::default() };
        for i in 0..5 {
            log.info(1, i.to_string());
        }
        assert_eq!((log.pen.dropped.load(Ordering::Relaxed), queue.try_iter().count()), (3, 2));
    }
}
