//! Other workers in the place of those that the job goes on without.

use super::super::EXIT_ABORTED;
use super::super::child::ask;
use super::super::exit::End;
use super::super::restarts::{Decision, Vacancy};
use super::{Ended, Group, PREEMPTED, Replace, Worker, start};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

/// Between questions whether another one is wanted in the place of one that has left.
const AGAIN: Duration = Duration::from_secs(2);
/// Time without an answer after which nobody is there to ask.
const SILENT: Duration = Duration::from_secs(30);

impl Group {
    /// Takes note of answers whether the job goes on, and, with `restarts`, starts others for those that it goes on without.
    pub(super) fn hear(&mut self, restarts: bool) {
        for (index, w) in self.workers.iter_mut().enumerate() {
            let Some(asked) = &w.asked else { continue };
            let answer = match asked.try_recv() {
                Ok(answer) => answer,
                Err(TryRecvError::Empty) => continue,
                Err(TryRecvError::Disconnected) => None,
            };
            w.asked = None;
            w.unanswered = answer.is_none();
            let waited = w.vacant.take().is_some();
            let now = Instant::now();
            w.silent = answer.is_none().then(|| w.silent.unwrap_or(now));
            if waited && w.silent.is_some_and(|since| now < since + SILENT) {
                w.vacant = Some(Instant::now() + AGAIN);
                continue;
            }
            let Some(answer) = answer.filter(|answer| answer.goes_on) else { continue };
            self.survives.store(true, Ordering::SeqCst);
            let Some(exit) = w.exit.as_mut() else { continue };
            exit.outlived = true;
            let said = format!("{} (pid {}) {}; the job goes on without it", exit.label, exit.pid, exit.end);
            let replace = self.replace.as_ref().filter(|_| restarts);
            let place = match waited {
                true => answer.vacancy,
                false => after(answer.vacancy, w.recalled, exit.end),
            };
            let decision = match (place, replace) {
                (Vacancy::Waits, Some(_)) => {
                    w.vacant = Some(Instant::now() + AGAIN);
                    if !waited {
                        tracing::warn!("{said}, as fewer are wanted; another one is started once more are");
                    }
                    continue;
                }
                (Vacancy::Recalled, Some(_)) => {
                    tracing::info!("more workers are wanted: another {} is started", exit.label);
                    None
                }
                // The job is about to end.
                _ if waited => {
                    tracing::info!("no other {} is wanted any more", exit.label);
                    continue;
                }
                (_, None) => {
                    tracing::warn!("{said}");
                    continue;
                }
                (Vacancy::None, Some(_)) => {
                    let decision = self.restarts.decide(exit.end, answer.step);
                    tracing::warn!("{said}; {decision}");
                    Some(decision)
                }
            };
            let Some(replace) = replace else { continue };
            if decision.is_some_and(|decision| !matches!(decision, Decision::Replace { .. })) {
                continue;
            }
            match another(&self.program, replace, index) {
                Ok(other) => {
                    self.past.extend(w.exit.take());
                    *w = Worker {
                        replaces: true,
                        recalled: w.recalled || place == Vacancy::Recalled,
                        ..other
                    };
                }
                Err(e) => tracing::error!("{} is not replaced: {e}", exit.label),
            }
        }
    }

    /// Asks whether others are wanted by now in the places of those that have left as fewer were wanted; unless none is to be
    /// started any more.
    pub(super) fn ask_again(&mut self, restarts: bool) {
        let now = Instant::now();
        for (index, w) in self.workers.iter_mut().enumerate() {
            w.vacant = w.vacant.filter(|_| restarts);
            let (Some(told), Some(exit)) = (&self.ended, &w.exit) else { continue };
            if w.asked.is_none() && w.vacant.is_some_and(|at| now >= at) {
                w.asked = ask(told, Ended { index, pid: exit.pid, end: exit.end });
                // No thread for it now: there may be one later.
                w.vacant = Some(now + AGAIN);
            }
        }
    }
}

/// What becomes of a place whose worker has just ended so. Of one that was `recalled` the coordinator may know no more than that another
/// had left there before: it found no room any more, which is no restart, or died before it had come, which is one.
fn after(vacancy: Vacancy, recalled: bool, end: End) -> Vacancy {
    let no_room = end == PREEMPTED || end == End::Code(i32::from(EXIT_ABORTED));
    match vacancy {
        Vacancy::Waits | Vacancy::Recalled if recalled && !no_room => Vacancy::None,
        Vacancy::Recalled if recalled => Vacancy::Waits,
        vacancy => vacancy,
    }
}

fn another(program: &Path, replace: &Replace, index: usize) -> Result<Worker, String> {
    let command = replace(index).map_err(|e| e.to_string())?;
    start(program, command).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_recalled_and_found_no_room_waits_on_and_one_that_died_is_a_restart() {
        use Vacancy::{None, Recalled, Waits};
        let (no_room, killed) = (End::Code(i32::from(EXIT_ABORTED)), End::Signal(9));
        let cases = [
            // Whoever has left is known as one that has, however it ended.
            ((Waits, false, killed), Waits),
            ((Recalled, false, PREEMPTED), Recalled),
            ((None, false, killed), None),
            // It is not started again at once, as that had just been in vain.
            ((Recalled, true, no_room), Waits),
            ((Waits, true, no_room), Waits),
            ((Waits, true, PREEMPTED), Waits),
            ((Recalled, true, killed), None),
            ((Waits, true, End::Code(1)), None),
            ((None, true, no_room), None),
        ];
        for ((vacancy, recalled, end), want) in cases {
            assert_eq!(after(vacancy, recalled, end), want, "{vacancy:?} {recalled} {end}");
        }
    }
}
