//! The processes: started together, ended together.

mod replacing;

use super::EXIT_ABORTED;
use super::child::{ask, end, stopped};
use super::exit::{End, Report, WorkerExit, verdict};
use super::follow::LAUNCHER_PID;
use super::relay::{self, Tail};
use super::restarts::{Restarts, Vacancy};
use super::signals::Interrupt;
use super::watchdog::Limits;
use crate::metrics;
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between looks at the processes.
const LOOK: Duration = Duration::from_millis(50);
/// What a stopped process (SIGSTOP) gets after a failure: it hears nothing, not even that its job is over.
const STOPPED: Duration = Duration::from_secs(2);
/// Once the job is done, its coordinator, which may never come back, has so long to answer.
const LAST_ANSWER: Duration = Duration::from_secs(6);
/// From SIGTERM to SIGKILL.
const TERM_TO_KILL: Duration = Duration::from_secs(3);

/// How one ends that was asked to stop.
const PREEMPTED: End = End::Code(super::EXIT_PREEMPTED as i32);

/// One worker to start. It is not shown: its environment has secrets.
#[derive(Clone, Default)]
pub struct WorkerCommand {
    /// Its name in messages and prefixes, e.g. `rank 1`.
    pub label: String,
    /// Arguments, beginning with the subcommand.
    pub args: Vec<OsString>,
    /// Environment variables besides those of this process.
    pub env: Vec<(OsString, OsString)>,
    /// Its output goes to the terminal as it is (progress bars); else line by line with the label in front.
    pub passthrough: bool,
}

/// What to start, and how patient to be.
#[derive(Clone)]
pub struct LaunchOptions {
    /// The binary; mostly this one.
    pub program: PathBuf,
    /// The workers.
    pub workers: Vec<WorkerCommand>,
    /// From the first worker's failure until the others, who learn of it from the coordinator, are ended.
    pub failure_grace: Duration,
    /// From the user's signal until workers that are still saving are killed.
    pub stop_grace: Duration,
    /// Told at once of each worker that ends otherwise than well and was not killed by the launcher, on a thread of its own;
    /// answers whether the job goes on without it. None: the end of one is the end of all.
    pub ended: Option<Told>,
    /// Gives the command of another worker for the place of one that the job goes on without, by its index. None: none is
    /// replaced.
    pub replace: Option<Replace>,
    /// How often that is done.
    pub restarts: Restarts,
    /// Whether the job goes on without some of its workers; may become known later. As long as it is not, ends count, when they
    /// are seen, as those of a job that does not.
    pub survives: Arc<AtomicBool>,
    /// A signal to this launcher is one to the whole job: it is passed on as one that stops all, and never as SIGTERM, which may
    /// stop its workers alone.
    pub whole: bool,
}

/// See [`LaunchOptions::ended`]; none where there was no answer.
pub type Told = Arc<dyn Fn(&Ended) -> Option<Answer> + Send + Sync>;

/// See [`LaunchOptions::replace`].
pub type Replace = Arc<dyn Fn(usize) -> io::Result<WorkerCommand> + Send + Sync>;

/// What a coordinator says of a job of which a worker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// It goes on without that worker.
    pub goes_on: bool,
    /// Steps done, where that is known.
    pub step: u64,
    /// What becomes of the worker's place.
    pub vacancy: Vacancy,
}

/// A worker that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its place in the launcher's list.
    pub index: usize,
    /// Process id.
    pub pid: u32,
    /// How it ended.
    pub end: End,
}

impl std::fmt::Debug for LaunchOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { program, failure_grace, stop_grace, .. } = self;
        let workers: Vec<&String> = self.workers.iter().map(|w| &w.label).collect();
        write!(f, "LaunchOptions({program:?}, {workers:?}, {failure_grace:?}, {stop_grace:?})")
    }
}

impl LaunchOptions {
    /// Workers of this very binary, 67 s to end after a failure (each has a watchdog that ends it within 60 s), 60 s to save
    /// after a signal.
    pub fn new(workers: Vec<WorkerCommand>) -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            workers,
            failure_grace: Limits::WORKER.total() + Duration::from_secs(7),
            stop_grace: Duration::from_secs(60),
            ended: None,
            replace: None,
            restarts: Restarts::new(0),
            survives: Arc::default(),
            whole: false,
        })
    }
}

/// Why workers cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// One did not start; those before it were killed.
    #[error("cannot start {label} ({}): {source}", program.display())]
    Spawn {
        /// The worker.
        label: String,
        /// The binary.
        program: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

struct Worker {
    label: String,
    child: Child,
    tail: Tail,
    relays: Vec<JoinHandle<()>>,
    exit: Option<WorkerExit>,
    killed: Option<End>,
    /// Where the answer comes whether the job goes on without it, once it has ended.
    asked: Option<Receiver<Option<Answer>>>,
    /// There was no answer.
    unanswered: bool,
    /// It has left as fewer workers are wanted: when it is asked again whether another one is.
    vacant: Option<Instant>,
    /// Since when questions about it have not been answered.
    silent: Option<Instant>,
    /// It was started for one that had died.
    replaces: bool,
    /// One of its place had left as fewer were wanted, and another one was wanted again.
    recalled: bool,
    /// When it was asked to end, as the job is done.
    dismissed: Option<Instant>,
}

/// Running workers. Dropping the group kills them.
pub struct Group {
    workers: Vec<Worker>,
    failure_grace: Duration,
    stop_grace: Duration,
    ended: Option<Told>,
    survives: Arc<AtomicBool>,
    whole: bool,
    round: u64,
    program: PathBuf,
    replace: Option<Replace>,
    restarts: Restarts,
    /// Ends of those that others have taken the place of.
    past: Vec<WorkerExit>,
}

/// Starts all workers. Must be called on a thread that lives as long as they do (best the main thread): the
/// kernel kills them when it ends.
pub fn spawn(options: LaunchOptions) -> Result<Group, LaunchError> {
    let LaunchOptions {
        program,
        workers,
        failure_grace,
        stop_grace,
        ended,
        replace,
        restarts,
        survives,
        whole,
    } = options;
    let (past, round) = (Vec::new(), 0);
    let mut group = Group {
        workers: Vec::new(),
        failure_grace,
        stop_grace,
        ended,
        survives,
        whole,
        round,
        program,
        replace,
        restarts,
        past,
    };
    for w in workers {
        group.workers.push(start(&group.program, w)?);
    }
    Ok(group)
}

/// Starts one.
fn start(program: &Path, w: WorkerCommand) -> Result<Worker, LaunchError> {
    let output = || if w.passthrough { Stdio::inherit() } else { Stdio::piped() };
    let mut child = Command::new(program)
        .args(&w.args)
        .envs(w.env.iter().map(|(k, v)| (k, v)))
        .env(LAUNCHER_PID, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(output())
        .stderr(output())
        // A group of its own: the terminal's Ctrl-C reaches the launcher only, which passes it on.
        .process_group(0)
        .spawn()
        .map_err(|source| LaunchError::Spawn { label: w.label.clone(), program: program.into(), source })?;
    let tail = Tail::default();
    let prefix = format!("[{}] ", w.label);
    let mut relays = Vec::new();
    if let Some(out) = child.stdout.take() {
        relays.push(relay::relay(out, prefix.clone(), None, metrics::out));
    }
    if let Some(err) = child.stderr.take() {
        relays.push(relay::relay(err, prefix, Some(tail.clone()), metrics::err));
    }
    Ok(Worker {
        label: w.label,
        child,
        tail,
        relays,
        exit: None,
        killed: None,
        asked: None,
        unanswered: false,
        vacant: None,
        silent: None,
        replaces: false,
        recalled: false,
        dismissed: None,
    })
}

impl Group {
    /// Process ids, in the order of the workers.
    #[cfg(test)]
    pub(super) fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(|w| w.child.id()).collect()
    }

    /// Waits until all have ended. The first signal is passed on to all, the second kills all; after a failure
    /// the others get `failure_grace` to end by themselves, and after a signal `stop_grace`.
    pub fn wait(mut self, interrupt: &Interrupt) -> Report {
        let mut passed = false;
        let mut deadline: Option<Instant> = None;
        let mut terminated: Option<Instant> = None;
        let mut failed: Option<Instant> = None;
        let mut standing: Option<Instant> = None;
        let mut done: Option<Instant> = None;
        let mut over: Option<Instant> = None;
        loop {
            self.look(!passed && terminated.is_none());
            let restarts = !passed && terminated.is_none() && !self.is_done();
            self.hear(restarts);
            self.ask_again(restarts);
            // An answer is waited for where it can change something.
            let now = Instant::now();
            let gone = self.workers.iter().all(|w| w.exit.is_some());
            let waits = self.workers.iter().any(|w| w.vacant.is_some());
            let last = gone && !waits && (self.is_done() || self.is_left() || self.is_told());
            over = last.then(|| over.unwrap_or(now));
            if over.is_some_and(|at| now >= at + LAST_ANSWER) {
                self.workers.iter_mut().for_each(|w| w.unanswered |= w.asked.take().is_some());
            }
            if gone && !waits && self.workers.iter().all(|w| w.asked.is_none() || !self.survives()) {
                break;
            }
            if let Some(signal) = interrupt.signal().filter(|_| !passed) {
                let signal = Signal::from_named_raw(signal).filter(|_| !self.whole);
                self.signal(signal.unwrap_or(if self.whole { Signal::INT } else { Signal::TERM }));
                deadline = Some(now + self.stop_grace);
                passed = true;
            }
            // Whoever has to be killed without the user's wish is a cause of the end, not one of its victims.
            let end = if passed { End::Killed } else { End::Silent };
            if interrupt.at_once() {
                self.kill(end);
            }
            // The job goes on without those that had ended.
            if failed.is_some() && !passed && terminated.is_none() && !self.failed() {
                (failed, deadline) = (None, None);
            }
            if failed.is_none() && self.failed() {
                failed = Some(now);
            }
            if !passed && failed.is_some_and(|at| now >= at + STOPPED) {
                self.kill_stopped();
            }
            if self.survives() && self.is_done() {
                let since = *done.get_or_insert(now);
                if !passed && now >= since + STOPPED {
                    self.dismiss(now);
                }
            }
            if self.is_done_without_those_that_stand() {
                let since = *standing.get_or_insert(now);
                if !passed && now >= since + STOPPED {
                    self.kill_stopped();
                }
            }
            if deadline.is_none() && self.failed() {
                deadline = Some(now + self.failure_grace);
            }
            match terminated {
                None if deadline.is_some_and(|d| now >= d) => {
                    self.signal(Signal::TERM);
                    terminated = Some(now);
                }
                Some(at) if now >= at + TERM_TO_KILL => self.kill(end),
                _ => {}
            }
            std::thread::sleep(LOOK);
        }
        // Whoever asked nobody any more: one that has ended well did so when the job was done.
        let done = self.survives() && self.is_done();
        // And one that came to it too late.
        for w in self.workers.iter_mut().filter(|w| done && (w.unanswered || w.replaces)) {
            w.exit.iter_mut().for_each(|exit| exit.outlived = exit.end != End::Code(0));
        }
        // That all were asked to stop may be what one was that had come in time.
        for exit in
            self.workers.iter_mut().filter_map(|w| w.exit.as_mut()).filter(|e| !done && e.end == PREEMPTED)
        {
            exit.outlived = false;
        }
        let mut exits: Vec<WorkerExit> = self.workers.iter_mut().filter_map(|w| w.exit.take()).collect();
        exits.append(&mut self.past);
        exits.sort_by_key(|e| (e.round, e.index));
        verdict(exits)
    }

    fn failed(&self) -> bool {
        let survives = self.survives();
        let answered = self.workers.iter().filter(|w| w.asked.is_none() || !survives);
        answered.filter_map(|w| w.exit.as_ref()).any(|e| e.end != End::Code(0) && !e.outlived)
    }

    /// Whether the job goes on without some of its workers, as far as is known.
    fn survives(&self) -> bool {
        self.ended.is_some() && self.survives.load(Ordering::SeqCst)
    }

    /// Whether the job is done, and all that are left are stopped: it went on without them.
    fn is_done_without_those_that_stand(&self) -> bool {
        let left = || self.workers.iter().filter(|w| w.exit.is_none());
        self.survives() && left().count() > 0 && self.is_done() && left().all(|w| stopped(w.child.id()))
    }

    /// Asks those to end that were started for others and have not come to the job in time: it is done. One that has is about
    /// to end itself. Whoever has not ended after the time to save never will, and is killed.
    fn dismiss(&mut self, now: Instant) {
        for w in self.workers.iter_mut().filter(|w| w.replaces && w.exit.is_none()) {
            let signal = match w.dismissed {
                None => Signal::TERM,
                Some(at) if now >= at + self.stop_grace => Signal::KILL,
                Some(_) => continue,
            };
            w.dismissed.get_or_insert(now);
            if signal == Signal::KILL {
                w.killed = Some(End::Silent);
            }
            if let Some(pid) = i32::try_from(w.child.id()).ok().and_then(Pid::from_raw) {
                // It may have ended in between, which is what the signal wants.
                let _ = kill_process_group(pid, signal);
            }
        }
    }

    /// Takes note of those that have ended; `alone`: one that was asked to stop was so by somebody else than this launcher.
    fn look(&mut self, alone: bool) {
        self.round += 1;
        // Who is killed then was stopped, and the job is done without it.
        let survives = self.survives();
        let done = self.is_done() && survives;
        for (index, w) in self.workers.iter_mut().enumerate().filter(|(_, w)| w.exit.is_none()) {
            let end = match w.child.try_wait() {
                Ok(None) => continue,
                Ok(Some(status)) => end(status, w.killed),
                // Not our child any more: nothing more will be known about it.
                Err(_) => End::Code(i32::from(super::EXIT_ERROR)),
            };
            // Whoever was asked to stop has left as the others do; but one may have been asked alone, or not have come to them yet.
            let as_all = !alone || w.dismissed.is_some() || !(survives || w.replaces);
            let asked_to = end == End::Code(0) || (end == PREEMPTED && as_all);
            let told = self.ended.as_ref().filter(|_| !asked_to && w.killed.is_none());
            w.asked = told.and_then(|told| ask(told, Ended { index, pid: w.child.id(), end }));
            // Its last words; a grandchild that holds the pipe open must not hold up the launcher.
            let patience = Instant::now() + Duration::from_millis(500);
            while w.relays.iter().any(|r| !r.is_finished()) && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(5));
            }
            w.exit = Some(WorkerExit {
                index,
                label: w.label.clone(),
                pid: w.child.id(),
                end,
                outlived: w.killed == Some(End::Silent) && end == End::Silent && done,
                round: self.round,
                last_lines: relay::lines(&w.tail),
            });
        }
    }

    /// Whether a worker has ended well: the job is done, whoever it went on without.
    fn is_done(&self) -> bool {
        self.workers.iter().filter_map(|w| w.exit.as_ref()).any(|e| e.end == End::Code(0))
    }

    /// Whether all have left as they were asked to, and some of them perhaps with all others of the job.
    fn is_left(&self) -> bool {
        self.workers.iter().filter_map(|w| w.exit.as_ref()).all(|e| e.end == PREEMPTED || e.outlived)
    }

    /// Whether all have heard that the job is over, or that nobody is there any more, and the coordinator knows as much of them.
    fn is_told(&self) -> bool {
        let told = End::Code(EXIT_ABORTED.into());
        self.workers.iter().filter_map(|w| w.exit.as_ref()).all(|e| e.end == told)
    }

    fn signal(&self, signal: Signal) {
        for w in self.workers.iter().filter(|w| w.exit.is_none()) {
            if let Some(pid) = i32::try_from(w.child.id()).ok().and_then(Pid::from_raw) {
                // It may have ended in between, which is what the signal wants.
                let _ = kill_process_group(pid, signal);
            }
        }
    }

    /// Kills those that are stopped.
    fn kill_stopped(&mut self) {
        for w in self.workers.iter_mut().filter(|w| w.exit.is_none() && stopped(w.child.id())) {
            w.killed = Some(End::Silent);
            // It may have ended in between, which is what is wanted.
            let _ = w.child.kill();
        }
    }

    fn kill(&mut self, end: End) {
        self.workers.iter_mut().filter(|w| w.exit.is_none()).for_each(|w| w.killed = Some(end));
        self.signal(Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill(End::Killed);
        for w in self.workers.iter_mut().filter(|w| w.exit.is_none()) {
            let _ = w.child.wait();
        }
    }
}
