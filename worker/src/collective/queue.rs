//! The thread of a group. It does what the group is asked for, one call after another in the order in which they were started,
//! so that whoever asks can go on meanwhile.

use super::error::{Trouble, Which};
use super::{Cause, CollectiveError, OnTheWire, Pending};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce() + Send>;

/// What a call gave, and when it was on the wire.
type Over<T> = (Result<T, CollectiveError>, OnTheWire);

/// What the queue and its calls know of each other.
#[derive(Default)]
struct Shared {
    /// A call was dropped before it was waited for, or its thread does not come back.
    left: AtomicBool,
    /// Calls that are not over.
    open: AtomicUsize,
    /// The thread has not come back in time.
    stuck: AtomicBool,
}

/// One call that is not over: until it is done, or dropped, as with a thread that has panicked.
struct Open {
    shared: Arc<Shared>,
    /// How many were open before it.
    ahead: usize,
}

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        Self { ahead: shared.open.fetch_add(1, Ordering::SeqCst), shared: Arc::clone(shared) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The thread, and its calls.
pub(super) struct Queue {
    backend: &'static str,
    rank: usize,
    /// Longest that a call takes once it has its turn, if nothing hangs that cannot be interrupted.
    longest: Duration,
    /// None once it ends, and the number of calls so far.
    jobs: Mutex<(Option<mpsc::Sender<Job>>, u32)>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Queue {
    /// Starts the thread of a group of `backend`.
    pub fn new(backend: &'static str, rank: usize, longest: Duration) -> Result<Self, Trouble> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let work = move || {
            crate::native::alone();
            jobs.into_iter().for_each(|job| job());
        };
        let thread = std::thread::Builder::new()
            .name(format!("{backend}-calls"))
            .spawn(work)
            .map_err(|e| Trouble::own(format!("no thread for its calls: {e}")))?;
        let jobs = Mutex::new((Some(sender), 0));
        Ok(Self { backend, rank, longest, jobs, thread: Some(thread), shared: Arc::default() })
    }

    /// Whether a call is not over yet.
    pub fn busy(&self) -> bool {
        self.shared.open.load(Ordering::SeqCst) > 0
    }

    /// Waits until no call is under way, as after an abort; no longer than a call takes.
    pub fn settle(&self) {
        let until = Instant::now() + self.longest;
        while self.busy() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A call that is not counted, and comes after those that were started.
    pub fn uncounted(&self, call: &'static str) -> Which {
        Which { call, number: 0, bytes: 0 }
    }

    /// Refuses calls of a group in which one was left: nobody knows what the other ranks have made of it.
    pub fn usable(&self, call: &'static str) -> Result<(), CollectiveError> {
        match self.shared.left.load(Ordering::SeqCst) {
            false => Ok(()),
            true => {
                let why = "an earlier call of this group was left before it was done";
                Err(self.failed(self.uncounted(call), Trouble::new(Cause::Peers, why)))
            }
        }
    }

    fn failed(&self, which: Which, trouble: Trouble) -> CollectiveError {
        which.failed(self.backend, self.rank, trouble)
    }

    /// Has the thread run a collective of so many bytes, when it has its turn. `run` is given what it calls when the others are
    /// all that it still waits for.
    pub fn start<T: Send + 'static>(
        &self,
        call: &'static str,
        bytes: usize,
        run: impl FnOnce(Which, &mut dyn FnMut()) -> Result<T, CollectiveError> + Send + 'static,
    ) -> Result<Started<T>, CollectiveError> {
        self.usable(call)?;
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.1 = jobs.1.wrapping_add(1);
        let which = Which { call, number: jobs.1, bytes };
        self.put(&jobs.0, which, run)
    }

    /// The same of what is no collective and is not counted; it comes to its turn whatever was left.
    pub fn start_uncounted<T: Send + 'static>(
        &self,
        call: &'static str,
        run: impl FnOnce(Which) -> Result<T, CollectiveError> + Send + 'static,
    ) -> Result<Started<T>, CollectiveError> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(&jobs.0, self.uncounted(call), |which, _: &mut dyn FnMut()| run(which))
    }

    fn put<T: Send + 'static>(
        &self,
        jobs: &Option<mpsc::Sender<Job>>,
        which: Which,
        run: impl FnOnce(Which, &mut dyn FnMut()) -> Result<T, CollectiveError> + Send + 'static,
    ) -> Result<Started<T>, CollectiveError> {
        let (tell, told) = mpsc::channel();
        let open = Open::new(&self.shared);
        let ahead = open.ahead;
        let job = move || {
            let mut begun = Instant::now();
            let done = run(which, &mut || begun = Instant::now());
            let wire = OnTheWire { begun, ended: Instant::now() };
            drop(open);
            // Whoever has left it does not listen.
            drop(tell.send((done, wire)));
        };
        let sent = jobs.as_ref().is_some_and(|jobs| jobs.send(Box::new(job)).is_ok());
        // Those that are not over yet have their turns before it.
        let longest = self.longest * (ahead as u32 + 1);
        let (backend, rank) = (self.backend, self.rank);
        let shared = Arc::clone(&self.shared);
        match sent {
            true => Ok(Started { backend, rank, which, longest, told, waited: false, shared }),
            false => {
                self.shared.left.store(true, Ordering::SeqCst);
                Err(self.failed(which, Trouble::new(Cause::Own, GONE)))
            }
        }
    }
}

/// How long a thread is waited for in the end that has not come back in time before.
const A_MOMENT: Duration = Duration::from_secs(1);

/// What is said where the thread has ended before its time.
const GONE: &str = "the thread that makes the calls of this group is gone";

impl Drop for Queue {
    /// Whoever drops it while it is busy has cut off what it waits for. A thread that does not come back is left behind.
    fn drop(&mut self) {
        self.jobs.get_mut().unwrap_or_else(PoisonError::into_inner).0 = None;
        let Some(thread) = self.thread.take() else { return };
        let stuck = self.shared.stuck.load(Ordering::SeqCst);
        let until = Instant::now() + if stuck { self.longest.min(A_MOMENT) } else { self.longest };
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        match thread.is_finished() {
            true => drop(thread.join()),
            false => {
                tracing::warn!("rank {}: {}'s thread does not come back and is left", self.rank, self.backend)
            }
        }
    }
}

/// A call that was started.
pub(super) struct Started<T> {
    backend: &'static str,
    rank: usize,
    which: Which,
    longest: Duration,
    told: mpsc::Receiver<Over<T>>,
    waited: bool,
    shared: Arc<Shared>,
}

impl<T> Started<T> {
    /// The same, which is not waited for any longer than this.
    pub fn within(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    /// Nobody waits for it, which leaves nothing open: it is not the group's work but its end.
    pub fn unattended(mut self) {
        self.waited = true;
    }

    /// What the call gave, and when it was on the wire.
    pub fn result(mut self) -> Result<(T, OnTheWire), CollectiveError> {
        self.waited = true;
        let (done, wire) = self.told.recv_timeout(self.longest).map_err(|e| {
            self.shared.left.store(true, Ordering::SeqCst);
            let why = match e {
                mpsc::RecvTimeoutError::Disconnected => GONE.to_string(),
                mpsc::RecvTimeoutError::Timeout => {
                    self.shared.stuck.store(true, Ordering::SeqCst);
                    format!("its library does not come back within {:.0} s", self.longest.as_secs_f64())
                }
            };
            self.which.failed(self.backend, self.rank, Trouble::new(Cause::Own, why))
        })?;
        Ok((done?, wire))
    }
}

impl Pending for Started<()> {
    fn wait(self: Box<Self>) -> Result<OnTheWire, CollectiveError> {
        self.result().map(|((), wire)| wire)
    }
}

impl<T> Drop for Started<T> {
    fn drop(&mut self) {
        if !self.waited {
            self.shared.left.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn calls_have_their_turn_in_the_order_in_which_they_were_started() {
        let queue = Queue::new("gloo", 1, LONG).unwrap();
        let (tell, told) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let first = queue.start("all_reduce", 8, move |_, ready| {
            ready();
            gone.recv_timeout(LONG).unwrap();
            Ok(1)
        });
        let second = queue.start("all_reduce", 16, move |which, _| {
            tell.send(which).unwrap();
            Ok(2)
        });
        assert!(queue.busy() && told.try_recv().is_err(), "the first still has its turn");
        go.send(()).unwrap();
        let (first, second) = (first.unwrap().result().unwrap(), second.unwrap().result().unwrap());
        assert_eq!((first.0, second.0), (1, 2));
        assert!(first.1.begun <= first.1.ended && first.1.ended <= second.1.begun, "one wire");
        assert_eq!(told.recv().unwrap(), Which { call: "all_reduce", number: 2, bytes: 16 });
        assert!(!queue.busy());
    }

    #[test]
    fn after_a_call_that_was_left_none_is_taken() {
        let queue = Queue::new("gloo", 1, LONG).unwrap();
        drop(queue.start("all_reduce", 8, |_, _| Ok(())).unwrap());
        let e = queue.start("broadcast", 8, |_, _| Ok(())).err().unwrap();
        assert!(e.to_string().contains("broadcast on rank 1") && e.to_string().contains("was left"), "{e}");
        assert!(queue.start_uncounted("abandon", |_| Ok(())).unwrap().result().is_ok());
    }

    #[test]
    fn a_thread_that_hangs_or_is_gone_is_an_error_of_this_rank_that_names_the_call() {
        let queue = Queue::new("nccl", 3, LONG).unwrap();
        let (_hold, held) = mpsc::channel::<()>();
        let hangs = queue.start("all_reduce", 4096, move |_, _| {
            let _ = held.recv_timeout(LONG);
            Ok(())
        });
        let e = hangs.unwrap().within(Duration::from_millis(50)).result().unwrap_err();
        let begun = Instant::now();
        drop(queue);
        assert!(begun.elapsed() < LONG / 2, "nobody waits again for a thread that does not come back");
        assert_eq!(e.cause(), Cause::Own);
        for words in ["nccl all_reduce on rank 3", "collective 1", "4096 bytes", "does not come back"] {
            assert!(e.to_string().contains(words), "{e}");
        }
        let queue = Queue::new("nccl", 3, LONG).unwrap();
        let panics = queue.start("barrier", 4, |_, _| -> Result<(), _> { panic!("as meant by the test") });
        let e = panics.unwrap().result().unwrap_err();
        assert!(e.cause() == Cause::Own && e.to_string().contains("is gone"), "{e}");
        assert!(!queue.busy(), "what a thread was at that is gone is over");
    }
}
