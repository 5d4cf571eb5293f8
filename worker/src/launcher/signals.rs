//! A first SIGINT, SIGTERM or SIGHUP: save and leave. A second one: at once, without saving.
//!
//! Schedulers signal every process of a job at once (SLURM, systemd), and launchers pass on what they get, so one
//! request may arrive several times. Therefore a worker under a launcher never ends at once: that is the launcher's to
//! do, with SIGKILL. Where a second signal counts, it counts only some time after the first.

use super::follow::LAUNCHER_PID;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use octrain_coordinator::exit_code::ECHO;

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The first: stop, with everything saved.
    Stop,
    /// The first one once more.
    Echo,
    /// A second request: end at once.
    AtOnce,
}

/// The meaning of a signal that comes this long after the first one.
fn meaning(since_first: Option<Duration>) -> Meaning {
    match since_first {
        None => Meaning::Stop,
        Some(since) if since < ECHO => Meaning::Echo,
        Some(_) => Meaning::AtOnce,
    }
}

/// Whether this process was asked to stop, and how urgently. Cheap to ask; clones are the same request.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    first: Mutex<Option<Instant>>,
    asked: AtomicBool,
    at_once: AtomicBool,
    signal: AtomicI32,
}

impl Interrupt {
    /// Whether a signal to stop has come.
    pub fn requested(&self) -> bool {
        self.inner.asked.load(Ordering::SeqCst)
    }

    /// Whether a second one has come that is no echo of the first.
    pub fn at_once(&self) -> bool {
        self.inner.at_once.load(Ordering::SeqCst)
    }

    /// The first signal's number; none before it.
    pub fn signal(&self) -> Option<i32> {
        self.requested().then(|| self.inner.signal.load(Ordering::SeqCst))
    }

    /// Takes note of a signal that came at `now`.
    pub fn raise(&self, signal: i32, now: Instant) {
        let mut first = self.inner.first.lock().unwrap_or_else(PoisonError::into_inner);
        match meaning(first.map(|at| now.saturating_duration_since(at))) {
            Meaning::Stop => {
                *first = Some(now);
                self.inner.signal.store(signal, Ordering::SeqCst);
                self.inner.asked.store(true, Ordering::SeqCst);
            }
            Meaning::Echo => {}
            Meaning::AtOnce => self.inner.at_once.store(true, Ordering::SeqCst),
        }
    }
}

/// Name of a signal to stop.
fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        SIGHUP => "SIGHUP",
        _ => "SIGTERM",
    }
}

/// Whether whoever started this process has it ignore a signal, from the text of `/proc/self/status`.
fn ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).is_some_and(|m| m >> (signal - 1) & 1 == 1)
}

/// Listens on a thread of its own; `at_once` is called for a second request.
fn listen(at_once: impl Fn() + Send + 'static) -> io::Result<Interrupt> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    // `nohup` means that the end of the terminal is no reason to stop.
    let signals = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&s| s != SIGHUP || !ignored(&status, s));
    let mut signals = signal_hook::iterator::Signals::new(signals)?;
    let interrupt = Interrupt::default();
    let noted = interrupt.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let first = !noted.requested();
            noted.raise(signal, Instant::now());
            if first {
                tracing::warn!("{}: saves and leaves", name(signal));
            }
            if noted.at_once() {
                at_once();
            }
        }
    })?;
    Ok(interrupt)
}

/// For a process that trains: the first signal sets the flag, which the loop asks to save and leave. Without a
/// launcher, a second one ends the process at once with exit code 130.
fn graceful() -> io::Result<Interrupt> {
    let launched = std::env::var_os(LAUNCHER_PID).is_some();
    listen(move || {
        if !launched {
            signal_hook::low_level::exit(i32::from(super::EXIT_INTERRUPTED));
        }
    })
}

static INSTALLED: OnceLock<Interrupt> = OnceLock::new();

/// Listens for the whole process: afterwards [`requested`] tells. Doing it again changes nothing.
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

/// For a launcher: notes signals from now on; [`super::Group::wait`] acts on them.
pub fn noted() -> io::Result<Interrupt> {
    listen(|| {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_comes_by_two_ways_is_one_and_a_later_one_is_the_second() {
        let interrupt = Interrupt::default();
        assert_eq!((interrupt.requested(), interrupt.signal()), (false, None));
        let now = Instant::now();
        interrupt.clone().raise(SIGTERM, now);
        interrupt.raise(SIGTERM, now + Duration::from_millis(1));
        interrupt.raise(SIGINT, now + ECHO - Duration::from_millis(1));
        assert_eq!((interrupt.signal(), interrupt.at_once()), (Some(SIGTERM), false));
        interrupt.raise(SIGTERM, now + ECHO);
        assert!(interrupt.at_once());
    }

    #[test]
    fn what_nohup_ignores_is_read_from_the_mask() {
        let status = "Name:\tx\nSigIgn:\t0000000000000001\nSigCgt:\t0000000000004002\n";
        assert!(ignored(status, SIGHUP) && !ignored(status, SIGINT) && !ignored(status, SIGTERM));
        assert!(!ignored("", SIGHUP));
    }
}
