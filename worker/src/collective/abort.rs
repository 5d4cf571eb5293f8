//! The end of a job, as whatever waits hears of it.
//!
//! The token is there before any rank connects: a connect polls it ([`Abort::is_tripped`], [`Abort::wait`]), and
//! what cannot poll, because it is blocked in a library, has an action attached that unblocks it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

type Action = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, Action>,
    /// The action that runs now, and where.
    running: Option<(u64, ThreadId)>,
}

#[derive(Default)]
struct Inner {
    tripped: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // An action runs outside the lock; one that panics leaves the state as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what is attached, one after the other.
    fn run(&self) {
        let here = std::thread::current().id();
        let mut state = self.lock();
        while let Some((id, action)) = state.waiting.pop_first() {
            state.running = Some((id, here));
            drop(state);
            if catch_unwind(AssertUnwindSafe(action)).is_err() {
                tracing::error!("an action that ends a wait panicked; the others still run");
            }
            state = self.lock();
            state.running = None;
            self.changed.notify_all();
        }
    }
}

/// Says that the job is over. Clones are one token; it trips once and stays so.
#[derive(Clone, Default)]
pub struct Abort {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Abort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Abort(tripped: {})", self.is_tripped())
    }
}

impl Abort {
    /// A token that has not tripped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that the job is over. Returns at once: what is attached runs on a thread of its own.
    pub fn trip(&self) {
        let state = self.inner.lock();
        if self.inner.tripped.swap(true, Ordering::SeqCst) {
            return;
        }
        self.inner.changed.notify_all();
        let nothing = state.waiting.is_empty();
        drop(state);
        if nothing {
            return;
        }
        let inner = Arc::clone(&self.inner);
        let started = std::thread::Builder::new().name("abort".into()).spawn(move || inner.run());
        if let Err(e) = started {
            tracing::warn!("no thread for the end of the job ({e}): done on this one");
            self.inner.run();
        }
    }

    /// Whether the job is over. Cheap.
    pub fn is_tripped(&self) -> bool {
        self.inner.tripped.load(Ordering::SeqCst)
    }

    /// Waits for the end of the job, at most `timeout`; whether it has come.
    pub fn wait(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut state = self.inner.lock();
        while !self.is_tripped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.inner.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Has `action` run once the job is over: on the token's thread, or at once on this one if it is over already.
    /// It must not wait for the thread that drops the [`Attached`].
    pub fn attach(&self, action: impl FnOnce() + Send + 'static) -> Attached {
        let mut state = self.inner.lock();
        let id = state.next;
        state.next += 1;
        if self.is_tripped() {
            drop(state);
            action();
        } else {
            state.waiting.insert(id, Box::new(action));
        }
        Attached { inner: Arc::clone(&self.inner), id }
    }
}

/// An attached action. Once this is dropped the action neither runs nor will run, so that what it refers to may be
/// freed; a drop while it runs waits for it.
#[must_use = "dropping it detaches the action"]
pub struct Attached {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        let forgotten = state.waiting.remove(&self.id);
        let here = std::thread::current().id();
        // No deadline of its own: the job is over, and the worker's watchdog ends a process that hangs from then on.
        while state.running.is_some_and(|(id, thread)| id == self.id && thread != here) {
            state = self.inner.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        drop(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_attached_runs_once_and_what_is_detached_never() {
        let abort = Abort::new();
        let (tell, told) = mpsc::channel();
        let say = |word: &'static str| {
            let tell = tell.clone();
            move || tell.send(word).unwrap()
        };
        let _first = abort.attach(say("first"));
        drop(abort.attach(say("detached")));
        let _bad = abort.attach(|| panic!("as meant by the test"));
        let _last = abort.attach(say("last"));
        assert!(!abort.is_tripped() && !abort.wait(Duration::from_millis(5)));
        abort.trip();
        abort.clone().trip();
        assert_eq!((told.recv_timeout(LONG), told.recv_timeout(LONG)), (Ok("first"), Ok("last")));
        assert!(abort.is_tripped() && abort.wait(Duration::ZERO));
        let _late = abort.attach(say("late"));
        assert_eq!(told.try_recv(), Ok("late"), "the job is over already: at once, on this thread");
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_wait_ends_with_the_job() {
        let abort = Abort::new();
        let waiting = std::thread::spawn({
            let abort = abort.clone();
            move || abort.wait(LONG)
        });
        abort.trip();
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn detaching_waits_for_an_action_that_runs() {
        let abort = Abort::new();
        let (begin, begun) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let done = Arc::new(AtomicBool::new(false));
        let attached = abort.attach({
            let done = done.clone();
            move || {
                begin.send(()).unwrap();
                gone.recv_timeout(LONG).unwrap();
                done.store(true, Ordering::SeqCst);
            }
        });
        abort.trip();
        begun.recv_timeout(LONG).unwrap();
        let releasing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            go.send(()).unwrap();
        });
        drop(attached);
        assert!(done.load(Ordering::SeqCst));
        releasing.join().unwrap();
    }
}
