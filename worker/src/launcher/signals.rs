//! Ctrl-C once: save and leave. Twice: at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Whether this process was asked to stop. Cheap to ask and to clone.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Whether a SIGINT or SIGTERM has come (or [`Interrupt::raise`] was called).
    pub fn requested(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Asks this process to stop as a signal would.
    pub fn raise(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }
}

/// For a process that trains: the first SIGINT or SIGTERM sets the flag, which the loop asks between steps to
/// save and leave; the second ends the process at once with exit code 130. To be called once.
pub fn graceful() -> io::Result<Interrupt> {
    let interrupt = Interrupt::default();
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset and sets it, the second finds it set.
        signal_hook::flag::register_conditional_shutdown(signal, 130, interrupt.asked.clone())?;
        signal_hook::flag::register(signal, interrupt.asked.clone())?;
    }
    Ok(interrupt)
}

static INSTALLED: OnceLock<Interrupt> = OnceLock::new();

/// [`graceful`] for the whole process: afterwards [`requested`] tells. Doing it again changes nothing.
pub fn install() -> io::Result<()> {
    if INSTALLED.get().is_none() {
        let interrupt = graceful()?;
        let _ = INSTALLED.set(interrupt);
    }
    Ok(())
}

/// Whether this process was asked to stop; false where [`install`] was not called.
pub fn requested() -> bool {
    INSTALLED.get().is_some_and(Interrupt::requested)
}

/// Signals a launcher has got: how many, and which one came last.
#[derive(Debug, Clone, Default)]
pub struct Received {
    count: Arc<AtomicUsize>,
    last: Arc<AtomicUsize>,
}

impl Received {
    /// How many SIGINT and SIGTERM have come.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// The last one's number; 0: none yet.
    pub fn last(&self) -> i32 {
        self.last.load(Ordering::SeqCst) as i32
    }

    /// Counts a signal as if it had come.
    pub fn raise(&self, signal: i32) {
        self.last.store(signal as usize, Ordering::SeqCst);
        self.count.fetch_add(1, Ordering::SeqCst);
    }
}

/// For a launcher: counts SIGINT and SIGTERM from now on; [`super::Group::wait`] acts on them.
pub fn counted() -> io::Result<Received> {
    let received = Received::default();
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let counter = received.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            counter.raise(signal);
        }
    })?;
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_counted_and_requests_seen_by_all_clones() {
        let received = Received::default();
        received.clone().raise(SIGTERM);
        assert_eq!((received.count(), received.last()), (1, SIGTERM));
        let interrupt = Interrupt::default();
        assert!(!interrupt.requested());
        interrupt.clone().raise();
        assert!(interrupt.requested());
    }
}
