//! A first SIGINT, SIGTERM or SIGHUP: save and leave. A second one: at once, without saving.
//!
//! Schedulers signal every process of a job at once (SLURM, systemd), and launchers pass on what they get, so one
//! request may arrive several times. Therefore a worker under a launcher never ends at once: that is the launcher's to
//! do, with SIGKILL. Where a second signal counts, it counts only some time after the first.

use super::follow::LAUNCHER_PID;
use crate::{metrics, native};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use octrain_coordinator::exit_code::ECHO;

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
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
    /// A signal has come that is meant for the whole job.
    whole: AtomicBool,
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

    /// Whether a signal to stop has come, and none but SIGTERM: whoever sends that (a scheduler) may mean this process alone, and
    /// SIGINT and SIGHUP come from a person at a terminal, who means the job.
    pub fn alone(&self) -> bool {
        self.requested() && !self.inner.whole.load(Ordering::SeqCst)
    }

    /// The first signal's number; none before it.
    pub fn signal(&self) -> Option<i32> {
        self.requested().then(|| self.inner.signal.load(Ordering::SeqCst))
    }

    /// Takes note of a signal that came at `now`, and says what it means.
    pub fn raise(&self, signal: i32, now: Instant) -> Meaning {
        let mut first = self.inner.first.lock().unwrap_or_else(PoisonError::into_inner);
        if signal != SIGTERM {
            self.inner.whole.store(true, Ordering::SeqCst);
        }
        let meaning = meaning(first.map(|at| now.saturating_duration_since(at)));
        match meaning {
            Meaning::Stop => {
                *first = Some(now);
                self.inner.signal.store(signal, Ordering::SeqCst);
                self.inner.asked.store(true, Ordering::SeqCst);
            }
            Meaning::Echo => {}
            Meaning::AtOnce => self.inner.at_once.store(true, Ordering::SeqCst),
        }
        meaning
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

/// What a process is doing when a signal comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading settings, looking for data: there is nothing to save yet, and a file system may hang, so the first
    /// signal ends the process.
    Preparing,
    /// Training or the like: whoever works asks [`requested`].
    Working,
    /// Having other processes work: [`super::Group::wait`] passes signals on.
    Supervising,
}

/// What is to be done about a signal, besides taking note of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Nothing,
    /// Say that the first signal was heard.
    Say,
    /// End with this code.
    End(u8),
}

/// What a signal of this meaning calls for; a worker that was `launched` is ended by its launcher only.
fn deed(stage: Stage, meaning: Meaning, launched: bool) -> Deed {
    match (stage, meaning) {
        (Stage::Preparing, _) => Deed::End(super::EXIT_PREEMPTED),
        (_, Meaning::Stop) => Deed::Say,
        (Stage::Working, Meaning::AtOnce) if !launched => Deed::End(super::EXIT_INTERRUPTED),
        _ => Deed::Nothing,
    }
}

/// This process's, once it listens.
struct Installed {
    interrupt: Interrupt,
    stage: Arc<Mutex<Stage>>,
}

static INSTALLED: OnceLock<Installed> = OnceLock::new();

/// Listens from now on, on a thread of its own; to be called first of all, since the first process of a container does
/// not even die of a signal that it does not listen for. Doing it again changes nothing.
pub fn install() -> io::Result<()> {
    if INSTALLED.get().is_some() {
        return Ok(());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    // `nohup` means that the end of the terminal is no reason to stop.
    let signals = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&s| s != SIGHUP || !ignored(&status, s));
    let mut signals = signal_hook::iterator::Signals::new(signals)?;
    let launched = std::env::var_os(LAUNCHER_PID).is_some();
    let (interrupt, stage) = (Interrupt::default(), Arc::new(Mutex::new(Stage::Preparing)));
    let installed = Installed { interrupt: interrupt.clone(), stage: Arc::clone(&stage) };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            // Held until it is noted, so that no signal falls between two stages.
            let stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
            let meaning = interrupt.raise(signal, Instant::now());
            match deed(*stage, meaning, launched) {
                Deed::Nothing => {}
                Deed::Say => tracing::warn!("{}: saves and leaves", name(signal)),
                Deed::End(code) => {
                    if *stage == Stage::Preparing {
                        metrics::last_word(format_args!(
                            "octrain: {}: ended before the work began; there was nothing to save",
                            name(signal)
                        ));
                    }
                    metrics::finish_within(Duration::from_millis(500));
                    native::leave(code);
                }
            }
        }
    })?;
    let _ = INSTALLED.set(installed);
    Ok(())
}

/// Says what this process does from now on; listens if it does not yet. Returns what signals become.
pub fn enter(stage: Stage) -> io::Result<Interrupt> {
    install()?;
    let Some(installed) = INSTALLED.get() else {
        return Err(io::Error::other("nothing listens for signals"));
    };
    *installed.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    Ok(installed.interrupt.clone())
}

/// Whether this process was asked to stop; false where [`install`] was not called.
pub fn requested() -> bool {
    INSTALLED.get().is_some_and(|i| i.interrupt.requested())
}

/// Whether this process was asked to stop by SIGTERM alone; false where [`install`] was not called.
pub fn requested_alone() -> bool {
    INSTALLED.get().is_some_and(|i| i.interrupt.alone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigterm_may_mean_one_process_and_what_a_terminal_sends_means_the_job() {
        let interrupt = Interrupt::default();
        let now = Instant::now();
        assert!(!interrupt.alone());
        interrupt.raise(SIGTERM, now);
        assert!(interrupt.alone());
        // Passed on by a launcher that holds the job, or by hand, at whatever time.
        interrupt.raise(SIGINT, now + Duration::from_millis(1));
        assert!(interrupt.requested() && !interrupt.alone());
        let hung_up = Interrupt::default();
        hung_up.raise(SIGHUP, now);
        assert!(!hung_up.alone());
    }

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
    fn a_signal_ends_what_has_not_begun_and_is_heeded_by_what_has() {
        use Deed::{End, Nothing, Say};
        for (stage, launched, want) in [
            (Stage::Preparing, false, [End(4), End(4), End(4)]),
            (Stage::Preparing, true, [End(4), End(4), End(4)]),
            (Stage::Working, false, [Say, Nothing, End(130)]),
            (Stage::Working, true, [Say, Nothing, Nothing]),
            (Stage::Supervising, false, [Say, Nothing, Nothing]),
        ] {
            let got = [Meaning::Stop, Meaning::Echo, Meaning::AtOnce].map(|m| deed(stage, m, launched));
            assert_eq!(got, want, "{stage:?}, launched: {launched}");
        }
    }

    #[test]
    fn what_nohup_ignores_is_read_from_the_mask() {
        let status = "Name:\tx\nSigIgn:\t0000000000000001\nSigCgt:\t0000000000004002\n";
        assert!(ignored(status, SIGHUP) && !ignored(status, SIGINT) && !ignored(status, SIGTERM));
        assert!(!ignored("", SIGHUP));
    }
}
