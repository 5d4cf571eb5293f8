//! What became of a job, in all: the happenings of one coordinator, added up.

use super::happening::{Found, Happening, Recovery, Told, Who, seconds};
use crate::membership::Now;
use serde::Serialize;
use std::collections::VecDeque;

/// Of each list, so many of the last ones are told.
const KEPT: usize = 64;

/// A generation that has run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ran {
    /// Its number.
    pub generation: u64,
    /// Its workers.
    pub workers: u32,
    /// Seconds from when it was formed to its end.
    pub ran_s: f64,
    /// Steps that were finished in it; none where it began under an earlier coordinator.
    pub steps: Option<u64>,
    /// What its first step took, if it has done one.
    #[serde(flatten)]
    pub recovery: Option<Recovery>,
}

/// A worker that was lost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LostWorker {
    /// In which generation.
    pub generation: u64,
    /// Who.
    pub worker: Who,
    /// How that was known.
    pub found: Found,
    /// Why.
    pub why: String,
    /// From its last sign of life until then.
    pub detect_s: f64,
}

/// The report at the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `finished`, `interrupted`, `failed`, or `retired`, where only this coordinator is at its end.
    pub outcome: &'static str,
    /// Seconds that this coordinator was there.
    pub run_s: f64,
    /// The furthest step that was finished.
    pub step: u64,
    /// Generations that ran under this coordinator.
    pub generation_count: u64,
    /// The last of them.
    pub generations: VecDeque<Ran>,
    /// Workers that were lost.
    pub lost_count: u64,
    /// The last of them.
    pub lost: VecDeque<LostWorker>,
    /// Workers that left while the job went on.
    pub drained_count: u64,
    /// Workers that came to the running job and were let in.
    pub joined_count: u64,
    /// Seconds in which no step was finished as workers were lost, left or came; each time up to the first step after it, with it.
    pub still_s: f64,
}

/// A generation that runs.
#[derive(Debug)]
struct Runs {
    generation: u64,
    workers: u32,
    formed: Now,
    from: Option<u64>,
    recovery: Option<Recovery>,
}

/// What has happened so far.
#[derive(Debug)]
pub struct Summary {
    report: Report,
    runs: Option<Runs>,
}

impl Summary {
    /// Of a coordinator that begins now, with a generation (its number and workers) that runs already, if one does.
    pub fn new(running: Option<(u64, u32)>) -> Self {
        let runs = running.map(|(generation, workers)| Runs {
            generation,
            workers,
            formed: Now::ZERO,
            from: None,
            recovery: None,
        });
        let report = Report {
            outcome: "failed",
            run_s: 0.0,
            step: 0,
            generation_count: 0,
            generations: VecDeque::new(),
            lost_count: 0,
            lost: VecDeque::new(),
            drained_count: 0,
            joined_count: 0,
            still_s: 0.0,
        };
        Self { report, runs }
    }

    /// Takes in what has happened; the report, once that is the end.
    pub fn take(&mut self, told: &Told) -> Option<Report> {
        let Told { at, generation, what } = told;
        let report = &mut self.report;
        match what {
            Happening::GenerationFormed { world_size, step, .. } => {
                report.step = report.step.max(*step);
                let (from, recovery) = (Some(*step), None);
                self.runs =
                    Some(Runs { generation: *generation, workers: *world_size, formed: *at, from, recovery });
            }
            Happening::FirstStep(recovery) => {
                report.step = report.step.max(recovery.step);
                report.still_s += recovery.still_s.unwrap_or_default();
                if let Some(runs) = self.runs.as_mut().filter(|runs| runs.generation == *generation) {
                    runs.recovery = Some(recovery.clone());
                }
            }
            Happening::GenerationOver { steps, .. } => self.over(*at, *steps),
            Happening::WorkerJoined { .. } => report.joined_count += 1,
            Happening::WorkerDrained { .. } => report.drained_count += 1,
            Happening::WorkerLost { worker, found, why, detect_s, .. } => {
                report.lost_count += 1;
                let (worker, why) = (worker.clone(), why.clone());
                let lost =
                    LostWorker { generation: *generation, worker, found: *found, why, detect_s: *detect_s };
                keep(&mut report.lost, lost);
            }
            Happening::JobFinished { interrupted: false, step } => {
                return Some(self.end(*at, "finished", *step));
            }
            Happening::JobFinished { interrupted: true, step } => {
                return Some(self.end(*at, "interrupted", *step));
            }
            Happening::JobFailed { step, .. } => return Some(self.end(*at, "failed", *step)),
            Happening::CoordinatorRetired { step, .. } => return Some(self.end(*at, "retired", *step)),
            _ => {}
        }
        None
    }

    fn end(&mut self, at: Now, outcome: &'static str, step: u64) -> Report {
        let step = step.max(self.report.step);
        let from = self.runs.as_ref().and_then(|runs| runs.from);
        self.over(at, from.map(|from| step.saturating_sub(from)));
        (self.report.outcome, self.report.run_s, self.report.step) = (outcome, seconds(at), step);
        self.report.clone()
    }

    /// The generation that runs is over, after so many steps.
    fn over(&mut self, at: Now, steps: Option<u64>) {
        let Some(Runs { generation, workers, formed, recovery, .. }) = self.runs.take() else { return };
        self.report.generation_count += 1;
        let ran_s = seconds(at.saturating_sub(formed));
        keep(&mut self.report.generations, Ran { generation, workers, ran_s, steps, recovery });
    }
}

fn keep<T>(all: &mut VecDeque<T>, one: T) {
    all.push_back(one);
    all.drain(..all.len().saturating_sub(KEPT));
}

impl Report {
    /// The report for people, a line each; none where no generation has run, or no step was to be done.
    pub fn lines(&self) -> Vec<String> {
        let untouched = self.generation_count == 1 && self.lost_count + self.drained_count == 0;
        if self.generation_count == 0 || (untouched && self.step == 0) {
            return Vec::new();
        }
        if untouched {
            let text = "1 generation, in which nobody was lost, left or came";
            return vec![format!(
                "the job, {} after {:.1} s: step {}, {text}",
                self.outcome, self.run_s, self.step
            )];
        }
        let share = match self.run_s > 0.0 {
            true => format!(" ({:.0} %)", 100.0 * self.still_s / self.run_s),
            false => String::new(),
        };
        let mut lines = vec![format!(
            "the job, {} after {:.1} s: step {}, {}; {} lost, {} left it, {} joined it; no step for {:.1} s{share} as they were or did",
            self.outcome,
            self.run_s,
            self.step,
            counted(self.generation_count, "generation"),
            counted(self.lost_count, "worker"),
            self.drained_count,
            self.joined_count,
            self.still_s
        )];
        lines.extend(self.generations.iter().map(Ran::line));
        for LostWorker { generation, why, detect_s, .. } in &self.lost {
            lines.push(format!("lost in generation {generation}, known after {detect_s:.2} s: {why}"));
        }
        lines
    }
}

fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

impl Ran {
    fn line(&self) -> String {
        let Self { generation, workers, ran_s, steps, recovery } = self;
        let steps = steps.map_or_else(String::new, |steps| format!(", {}", counted(steps, "step")));
        let workers = counted(u64::from(*workers), "worker");
        let mut line = format!("generation {generation}: {workers}, {ran_s:.2} s{steps}");
        let Some(r) = recovery else { return line };
        let parts = [
            ("detect", r.detect_s),
            ("abort", r.abort_s),
            ("re-form", r.reform_s),
            ("transfer", r.transfer_s),
            ("first step", r.step_s),
        ];
        let parts = parts.iter().filter_map(|(name, s)| s.map(|s| format!("{name} {s:.2} s")));
        let parts = parts.collect::<Vec<_>>().join(", ");
        if !parts.is_empty() {
            line.push_str(&format!("; {parts}"));
        }
        if let Some(still) = r.still_s {
            line.push_str(&format!("; no step for {still:.2} s"));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ms: u64, generation: u64, what: Happening) -> Told {
        Told { at: Now::from_millis(ms), generation, what }
    }

    fn formed(workers: u32, step: u64) -> Happening {
        let (roster, joined) = (Vec::new(), Vec::new());
        Happening::GenerationFormed {
            world_size: workers,
            roster,
            roster_left_out: 0,
            joined,
            source: None,
            step,
        }
    }

    fn who() -> Who {
        Who { host: "b".into(), local_index: 0, pid: 7, rank: Some(2) }
    }

    /// A job of three that loses one.
    fn course() -> Vec<Told> {
        let lost = Happening::WorkerLost {
            worker: who(),
            found: Found::Exited,
            why: "rank 2 is lost".into(),
            detect_s: 0.05,
            step: 10,
        };
        let over = Happening::GenerationOver {
            why: "rank 2".into(),
            planned: false,
            ran_s: Some(9.0),
            steps: Some(10),
        };
        let recovery = Recovery {
            step: 11,
            detect_s: Some(0.05),
            abort_s: Some(0.3),
            transfer_s: Some(0.25),
            still_s: Some(1.5),
            total_s: 1.0,
            ..Recovery::default()
        };
        let first = Recovery { step: 1, total_s: 0.5, ..Recovery::default() };
        vec![
            told(1000, 1, formed(3, 0)),
            told(1500, 1, Happening::FirstStep(first)),
            told(10_000, 1, lost),
            told(10_000, 1, over),
            told(10_300, 2, formed(2, 10)),
            told(11_000, 2, Happening::FirstStep(recovery)),
        ]
    }

    #[test]
    fn a_job_that_has_lost_a_worker_says_what_that_took() {
        let mut summary = Summary::new(None);
        assert!(course().iter().all(|told| summary.take(told).is_none()));
        let end = Happening::JobFinished { interrupted: false, step: 30 };
        let report = summary.take(&told(20_000, 2, end)).unwrap();
        assert_eq!((report.outcome, report.run_s, report.step, report.still_s), ("finished", 20.0, 30, 1.5));
        assert_eq!((report.generation_count, report.lost_count), (2, 1));
        let ran: Vec<_> = report.generations.iter().map(|r| (r.workers, r.ran_s, r.steps)).collect();
        assert_eq!(ran, [(3, 9.0, Some(10)), (2, 9.7, Some(20))]);
        assert_eq!(report.lost[0].found, Found::Exited);
        let lines = report.lines();
        assert_eq!(lines.len(), 4, "{lines:?}");
        for (line, part) in [
            (0, "step 30, 2 generations; 1 worker lost, 0 left it, 0 joined it; no step for 1.5 s (8 %)"),
            (1, "generation 1: 3 workers, 9.00 s, 10 steps"),
            (
                2,
                "generation 2: 2 workers, 9.70 s, 20 steps; detect 0.05 s, abort 0.30 s, transfer 0.25 s; no step for 1.50 s",
            ),
            (3, "lost in generation 1, known after 0.05 s: rank 2 is lost"),
        ] {
            assert!(lines[line].contains(part), "{part} is not in {}", lines[line]);
        }
    }

    #[test]
    fn a_coordinator_that_goes_on_with_a_job_counts_what_it_has_seen() {
        let mut summary = Summary::new(Some((3, 2)));
        let report = summary
            .take(&told(4000, 3, Happening::CoordinatorRetired { why: "another".into(), step: 0 }))
            .unwrap();
        assert_eq!((report.outcome, report.generation_count), ("retired", 1));
        assert_eq!((report.generations[0].generation, report.generations[0].steps), (3, None));
        // A job that never began has nothing to say.
        let failed = |step| Happening::JobFailed {
            kind: "configuration",
            why: "x".into(),
            culprit: None,
            saver: None,
            step,
        };
        let report = Summary::new(None).take(&told(1, 1, failed(0))).unwrap();
        assert_eq!((report.outcome, report.lines()), ("failed", Vec::new()));
        let mut summary = Summary::new(None);
        summary.take(&told(1, 1, formed(2, 0)));
        let report =
            summary.take(&told(9000, 1, Happening::JobFinished { interrupted: false, step: 7 })).unwrap();
        let line =
            "the job, finished after 9.0 s: step 7, 1 generation, in which nobody was lost, left or came";
        assert_eq!(report.lines(), [line]);
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_counted_is_not() {
        let mut summary = Summary::new(None);
        for generation in 1..=1000 {
            summary.take(&told(generation, generation, formed(2, generation)));
            let why = String::new();
            summary.take(&told(
                generation,
                generation,
                Happening::GenerationOver { why, planned: true, ran_s: None, steps: Some(1) },
            ));
        }
        let report = summary
            .take(&told(2000, 1000, Happening::JobFinished { interrupted: true, step: 1000 }))
            .unwrap();
        assert_eq!((report.generation_count, report.generations.len()), (1000, KEPT));
        assert_eq!(report.generations.back().map(|r| r.generation), Some(1000));
    }
}
