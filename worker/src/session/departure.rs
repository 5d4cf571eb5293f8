//! Leaving a job that goes on: whether this worker was asked to, and what the coordinator makes of it.

use super::Session;
use super::connection::ANSWER;
use octrain_proto::v1::Departure;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A wish to leave, as far as it has come.
pub(super) struct Departing {
    /// Whether this process was asked to stop, alone.
    asked: Arc<dyn Fn() -> bool + Send + Sync>,
    /// How long a boundary is waited for.
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    since: Option<Instant>,
    /// What the coordinator has said last.
    told: Departure,
}

impl Departing {
    pub(super) fn new(asked: Arc<dyn Fn() -> bool + Send + Sync>, timeout: Duration) -> Self {
        Self { asked, timeout, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain values: a thread that panicked left them whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process was asked to stop, alone.
    pub(super) fn asked(&self) -> bool {
        let asked = (self.asked)();
        if asked {
            self.state().since.get_or_insert_with(Instant::now);
        }
        asked
    }

    /// What a heartbeat was answered with.
    pub(super) fn told(&self, departure: Departure) {
        if departure != Departure::None {
            self.state().told = departure;
        }
    }

    /// What becomes of it, `now`: nothing said so far is no consent after the time that an answer takes.
    fn verdict(&self, now: Instant) -> Departure {
        let State { since, told } = *self.state();
        match (since, told) {
            (None, _) => Departure::None,
            (Some(since), Departure::None) if now >= since + ANSWER => Departure::All,
            (_, told) => told,
        }
    }

    /// The time for which a boundary was waited in vain, where it is over: this worker goes without one.
    pub(super) fn overdue(&self, now: Instant) -> Option<Duration> {
        let State { since, told } = *self.state();
        let waited = now.saturating_duration_since(since?);
        (told == Departure::Boundary && waited >= self.timeout).then_some(waited)
    }
}

impl Session {
    /// Whether a stop that this process was asked for is this worker's alone: it leaves at the next boundary between two steps, and
    /// the job goes on without it; or that is not known yet, for a few seconds at most. False: all are to stop.
    pub fn leaves_alone(&self) -> bool {
        self.survives()
            && self.shared.departing.asked()
            && self.shared.departing.verdict(Instant::now()) != Departure::All
    }

    /// Whether this worker waits for a boundary between two steps, to leave there.
    pub fn awaits_boundary(&self) -> bool {
        self.leaves_alone() && self.shared.departing.verdict(Instant::now()) == Departure::Boundary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_answer_all_stop_and_without_a_boundary_it_goes_alone() {
        let of = |asked: bool| Departing::new(Arc::new(move || asked), Duration::from_secs(20));
        let not = of(false);
        assert!(!not.asked() && not.verdict(Instant::now() + ANSWER) == Departure::None);
        let now = Instant::now();
        let later = |s: u64| now + Duration::from_secs(s);
        let one = of(true);
        assert!(one.asked() && one.verdict(now) == Departure::None);
        assert_eq!(one.verdict(later(6)), Departure::All);
        assert_eq!(one.overdue(later(60)), None, "nobody has let it go");
        one.told(Departure::Boundary);
        one.told(Departure::None);
        assert_eq!((one.verdict(later(6)), one.overdue(later(19))), (Departure::Boundary, None));
        assert!(one.overdue(later(21)).is_some());
        let patient = Departing::new(Arc::new(|| true), Duration::from_secs(u64::MAX));
        patient.told(Departure::Boundary);
        assert!(patient.asked() && patient.overdue(later(1_000_000)).is_none());
        // Others were lost: it is needed.
        one.told(Departure::All);
        assert_eq!((one.verdict(now), one.overdue(later(21))), (Departure::All, None));
    }
}
