//! Other workers in the place of those that the job goes on without.

use super::super::child::ask;
use super::super::restarts::{Decision, Vacancy};
use super::{Ended, Group, Replace, Worker, start};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

/// Between questions whether another one is wanted in the place of one that has left.
const AGAIN: Duration = Duration::from_secs(2);

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
            let Some(answer) = answer.filter(|answer| answer.goes_on) else { continue };
            self.survives.store(true, Ordering::SeqCst);
            let Some(exit) = w.exit.as_mut() else { continue };
            exit.outlived = true;
            let said = format!("{} (pid {}) {}; the job goes on without it", exit.label, exit.pid, exit.end);
            let replace = self.replace.as_ref().filter(|_| restarts);
            let decision = match (answer.vacancy, replace) {
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
                _ if waited => continue,
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
                    *w = Worker { replaces: true, ..other };
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

fn another(program: &Path, replace: &Replace, index: usize) -> Result<Worker, String> {
    let command = replace(index).map_err(|e| e.to_string())?;
    start(program, command).map_err(|e| e.to_string())
}
