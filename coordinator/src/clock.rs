//! Time as this process observed it: while it does not run (stopped, starved, its machine suspended), its clock
//! stands still. Silence is counted on it, so nobody is taken for dead for what was never listened to.
//!
//! Whoever owns the clock looks at it every [`TICK`], after everything that has arrived was taken in; a look adds at
//! most one tick, however long ago the last one was.

use std::time::Duration;

/// Time between two looks.
pub const TICK: Duration = Duration::from_millis(50);

/// The clock. It is given moments of a steady clock, as times since any fixed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    observed: Duration,
    looked: Duration,
}

impl Clock {
    /// A clock that shows zero at this moment.
    pub fn new(at: Duration) -> Self {
        Self { observed: Duration::ZERO, looked: at }
    }

    /// What it shows at this moment: at most a tick more than at the last look.
    pub fn now(&self, at: Duration) -> Duration {
        self.observed + at.saturating_sub(self.looked).min(TICK)
    }

    /// Looks at it. Returns by how much the look came too late, which is time that does not count.
    pub fn look(&mut self, at: Duration) -> Duration {
        let late = at.saturating_sub(self.looked).saturating_sub(TICK);
        self.observed = self.now(at);
        self.looked = self.looked.max(at);
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn it_runs_while_it_is_looked_at_and_stands_still_otherwise() {
        let mut clock = Clock::new(ms(1000));
        assert_eq!((clock.now(ms(1000)), clock.now(ms(1030)), clock.now(ms(9000))), (ms(0), ms(30), TICK));
        assert_eq!(clock.look(ms(1050)), ms(0));
        assert_eq!(clock.look(ms(1090)), ms(0));
        assert_eq!(clock.now(ms(1090)), ms(90));
        // Stopped for a minute: one tick more, whatever is asked before the next look.
        assert_eq!(clock.now(ms(61_090)), ms(140));
        assert_eq!(clock.look(ms(61_090)), ms(59_950));
        assert_eq!((clock.now(ms(61_090)), clock.now(ms(61_100))), (ms(140), ms(150)));
    }

    #[test]
    fn it_never_goes_back() {
        let mut clock = Clock::new(ms(100));
        clock.look(ms(130));
        assert_eq!((clock.look(ms(90)), clock.now(ms(90)), clock.now(ms(140))), (ms(0), ms(30), ms(40)));
    }
}
