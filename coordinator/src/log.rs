//! The driver's log: lines for `tracing`, of which refusals are counted once they are many. A process that serves has
//! its log written by an [`Outlet`](crate::outlet::Outlet), so that the driver waits for nobody: a full pipe on standard
//! error must not stop heartbeats from being heard.

use std::collections::BTreeMap;
use std::time::Duration;

/// Lines of one kind of refusal written in one [`WINDOW`].
const PER_WINDOW: u64 = 16;
/// Time over which refusals are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// The same for workers whose place is taken, which ask again every second until it is free, and for strangers, who are any.
const OCCUPIED: (u64, Duration) = (1, Duration::from_secs(60));

/// Lines of a kind of refusal, and the time in which no more are written.
fn limit(kind: &str) -> (u64, Duration) {
    match kind {
        "duplicate" | "full" | "tls" | "token" => OCCUPIED,
        _ => (PER_WINDOW, WINDOW),
    }
}

/// Something happened.
pub(crate) fn info(generation: u64, text: &str) {
    tracing::info!(generation, "{text}");
}

/// Something is wrong.
pub(crate) fn warn(generation: u64, text: &str) {
    tracing::warn!(generation, "{text}");
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
pub(crate) struct Refusals(BTreeMap<&'static str, (Duration, u64)>);

impl Refusals {
    /// A call was refused, for a reason of this kind; a stranger that asks again and again does not fill the disk.
    pub(crate) fn refused(&mut self, now: Duration, generation: u64, kind: &'static str, text: &str) {
        match self.count(now, kind) {
            Said::Whole | Said::After(0) => warn(generation, &format!("refused: {text}")),
            Said::After(n) => {
                warn(generation, &format!("refused: {text} ({n} more refusals of kind `{kind}` before it)"))
            }
            Said::Not => {}
        }
    }

    fn count(&mut self, now: Duration, kind: &'static str) -> Said {
        let (lines, window) = limit(kind);
        let (begun, count) = self.0.entry(kind).or_insert((now, 0));
        *count += 1;
        match *count {
            _ if now.saturating_sub(*begun) >= window => {
                let unsaid = (*count - 1).saturating_sub(lines);
                (*begun, *count) = (now, 1);
                Said::After(unsaid)
            }
            n if n <= lines => Said::Whole,
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
            assert_eq!(refusals.count(second(1), "invalid"), Said::Whole);
        }
        for _ in 0..1000 {
            assert_eq!(refusals.count(second(2), "invalid"), Said::Not);
        }
        assert_eq!(refusals.count(second(2), "job"), Said::Whole);
        assert_eq!(refusals.count(second(11), "invalid"), Said::After(1000));
        assert_eq!(refusals.count(second(30), "invalid"), Said::After(0));
    }

    #[test]
    fn one_that_waits_for_its_place_is_told_of_once_a_minute() {
        let mut refusals = Refusals::default();
        let said: Vec<Said> = (0..=60).map(|s| refusals.count(Duration::from_secs(s), "duplicate")).collect();
        assert_eq!(said[0], Said::Whole);
        assert!(said[1..60].iter().all(|s| *s == Said::Not), "{said:?}");
        assert_eq!(said[60], Said::After(59));
    }
}
