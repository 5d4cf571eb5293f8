//! What goes on while the worker trains: heartbeats, step reports, and listening for the end of the job.

use super::connection::{ANSWER, Connection};
use super::departure::Departing;
use super::error::{AbortReason, is_transient, words};
use super::generation::Generation;
use super::transport::Client;
use super::whereabouts::Work;
use crate::collective::Abort;
use octrain_coordinator::liveness::UNHEARD;
use octrain_proto::v1::{
    self, AbortKind, FailureKind, HeartbeatReply, Regroup, ReportFailureRequest, ReportStepRequest,
    StepReport, WatchRequest,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tonic::Status;

/// Longest wait of a worker that ends for a coordinator that may come back.
const FAREWELL: Duration = Duration::from_secs(60);
/// Between looks whether this process was asked to stop.
const LOOK: Duration = Duration::from_millis(200);
/// Longest time between heartbeats of one that leaves.
const WHILE_LEAVING: Duration = Duration::from_secs(1);
/// Between words on a coordinator that is away.
const SAY: Duration = Duration::from_secs(30);

/// What the background tasks and the session share.
pub(super) struct Shared {
    /// Optimizer steps finished.
    pub step: AtomicU64,
    /// What the training says of itself.
    pub work: Work,
    /// The newest step report.
    pub report: watch::Sender<Option<StepReport>>,
    /// A wish of this process to leave.
    pub departing: Departing,
    /// The session is on its way out; the end of the connection is no surprise.
    pub leaving: AtomicBool,
    /// Trips with the reason, once that is known.
    pub token: Abort,
    /// The generation this worker is in.
    current: Mutex<Arc<Generation>>,
    /// All generations before this one are over, and why the last of them is.
    over: Mutex<Regroup>,
    /// The generation that is to be left at a boundary between two steps; 0: none.
    boundary: AtomicU64,
    /// The watch is open (again): a coordinator is there, and is to hear of this worker at once.
    opened: Notify,
    end: Mutex<Option<AbortReason>>,
    ended: Condvar,
}

impl Shared {
    /// Before there is a plan; `generation` is that of the registration.
    pub(super) fn new(generation: u64, departing: Departing) -> Arc<Self> {
        Arc::new(Self {
            step: AtomicU64::new(0),
            work: Work::default(),
            report: watch::Sender::new(None),
            departing,
            leaving: AtomicBool::new(false),
            token: Abort::new(),
            current: Mutex::new(Arc::new(Generation::none(generation))),
            over: Mutex::default(),
            boundary: AtomicU64::new(0),
            opened: Notify::new(),
            end: Mutex::new(None),
            ended: Condvar::new(),
        })
    }

    fn end(&self) -> MutexGuard<'_, Option<AbortReason>> {
        // A thread that panicked does not make the reason untrue.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generation this worker is in.
    pub(super) fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A generation begins for this worker; it may be over already.
    pub(super) fn begin(&self, generation: Generation) -> Arc<Generation> {
        let generation = Arc::new(generation);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&generation);
        // After it is there to be seen by whoever says that it is over.
        if self.token.is_tripped() || self.over(generation.number()).is_some() {
            generation.abort().trip();
        }
        generation
    }

    /// Why a generation is over, where it is.
    pub(super) fn over(&self, generation: u64) -> Option<String> {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        (over.generation > generation).then(|| over.why.clone())
    }

    /// All generations before one are over.
    pub(super) fn regroup(&self, told: Regroup) {
        {
            let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
            if self.leaving.load(Ordering::SeqCst) || over.generation >= told.generation {
                return;
            }
            *over = told.clone();
        }
        let current = self.current();
        // Who is alone waits for the next one, whichever that is.
        if current.number() < told.generation && !current.joins() {
            tracing::warn!("generation {} is over: {}", current.number(), told.why);
            current.abort().trip();
        }
    }

    /// Whether the ranks of the current generation are to leave it at a boundary between two steps.
    pub(super) fn boundary_wanted(&self) -> bool {
        self.boundary.load(Ordering::SeqCst) == self.current().number()
    }

    pub(super) fn abort(&self) -> Option<AbortReason> {
        self.end().clone()
    }

    pub(super) fn wait_abort(&self, timeout: Duration) -> Option<AbortReason> {
        let waited = self.ended.wait_timeout_while(self.end(), timeout, |end| end.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The first reason counts.
    pub(super) fn set_abort(&self, reason: AbortReason) {
        if self.leaving.load(Ordering::SeqCst) {
            return;
        }
        let mut end = self.end();
        if end.is_some() {
            return;
        }
        tracing::error!("the job was ended: {}", reason.message);
        *end = Some(reason);
        self.ended.notify_all();
        drop(end);
        self.token.trip();
        self.current().abort().trip();
    }

    pub(super) fn aborted(&self, abort: v1::Abort) {
        self.set_abort(abort.into());
    }
}

/// Intervals the coordinator asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rhythm {
    /// Between heartbeats.
    pub interval: Duration,
    /// Silence after which the coordinator gives a worker up; after twice that, the worker gives up as well.
    pub timeout: Duration,
    /// Time that the worker goes on instead, where the coordinator keeps a journal and may be started anew.
    pub absence: Option<Duration>,
}

impl Rhythm {
    /// Silence after which the worker gives the coordinator up.
    pub(super) fn patience(&self) -> Duration {
        self.absence.unwrap_or_default().max(self.timeout * 2)
    }

    /// Longest wait until the coordinator has heard the last word of a worker: one that stands still, or may be started anew, is
    /// waited for as in the job, up to a minute.
    pub(super) fn hearing(&self) -> Duration {
        self.patience().clamp(ANSWER, FAREWELL)
    }

    /// Longest wait for the coordinator's verdict, once it has heard what happened. One that was started anew first waits for those
    /// that it has not heard, one of which may be the root cause.
    pub(super) fn verdict(&self) -> Duration {
        self.timeout * if self.absence.is_some() { UNHEARD + 2 } else { 3 }
    }
}

/// Starts all of it.
pub(super) fn start(
    c: &Connection,
    shared: &Arc<Shared>,
    rhythm: Rhythm,
) -> Vec<tokio::task::JoinHandle<()>> {
    let runtime = c.runtime();
    let parts = || (c.client.clone(), Arc::clone(shared));
    let ((a, b), (d, e), (f, g)) = (parts(), parts(), parts());
    let header = &c.header;
    vec![
        runtime.spawn(heartbeats(a, b, header.clone(), rhythm, c.way.address().to_string())),
        runtime.spawn(listen(d, e, header.clone(), rhythm)),
        runtime.spawn(reports(f, g, header.clone(), rhythm)),
    ]
}

type Header = octrain_proto::v1::Header;

/// A refusal ends this worker's membership, whatever else goes on.
pub(super) fn refused(shared: &Shared, status: &Status) {
    shared.set_abort(AbortReason::told_by(status).unwrap_or_else(|| {
        let message = format!("the coordinator refuses this worker: {}", words(status));
        AbortReason { kind: AbortKind::WorkerFailed, message, culprit: None, saver: None }
    }));
}

async fn heartbeats(
    mut client: Client,
    shared: Arc<Shared>,
    header: Header,
    rhythm: Rhythm,
    address: String,
) {
    let mut clock = tokio::time::interval(rhythm.interval);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut answered = Instant::now();
    let mut looked = answered;
    // When it was last said that nobody answers.
    let mut said: Option<Instant> = None;
    let mut leaving = false;
    // The hang that the coordinator told of last.
    let mut hung = String::new();
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            () = shared.opened.notified() => {}
            // Who leaves says so at once, and hears soon what becomes of it, however far heartbeats are apart.
            () = wishes_to_leave(&shared), if !leaving => {}
            () = tokio::time::sleep(WHILE_LEAVING), if leaving => {}
        }
        let current = shared.current();
        let number = current.number();
        let request = shared.beat(header.clone(), &current);
        leaving = request.leaving;
        if let Some(waited) = shared.departing.overdue(Instant::now()) {
            return goes(&mut client, &shared, request.header, rhythm, waited).await;
        }
        // Time in which this process did not run at all (stopped, swapped out) is not the coordinator's silence.
        let held_up = looked.elapsed().saturating_sub(rhythm.timeout + rhythm.interval);
        answered += held_up;
        looked = Instant::now();
        let why = match tokio::time::timeout(rhythm.timeout, client.heartbeat(request)).await {
            Ok(Ok(reply)) => {
                if said.take().is_some() && rhythm.absence.is_some() {
                    tracing::info!(
                        "the coordinator answers again after {:.1} s",
                        answered.elapsed().as_secs_f32()
                    );
                }
                answered = Instant::now();
                let reply = reply.into_inner();
                shared.departing.told(reply.departure());
                let HeartbeatReply { abort, regroup, boundary_wanted, hang, .. } = reply;
                if let Some(abort) = abort {
                    return shared.aborted(abort);
                }
                regroup.into_iter().for_each(|told| shared.regroup(told));
                if boundary_wanted {
                    shared.boundary.store(number, Ordering::SeqCst);
                }
                // One worker of each host says it, once.
                if !hang.is_empty() && hang != hung && current.mine().is_some_and(|p| p.local_rank == 0) {
                    tracing::warn!("{hang}");
                }
                hung = hang;
                continue;
            }
            Ok(Err(status)) if is_transient(&status) => words(&status),
            Ok(Err(status)) => return refused(&shared, &status),
            Err(_) => "no answer".to_string(),
        };
        if answered.elapsed() > rhythm.patience() {
            let message = format!(
                "the coordinator at {address} has not answered for {:.0} s ({why}): stopped, crashed or cut off; start the job anew from the last checkpoint",
                answered.elapsed().as_secs_f32()
            );
            let kind = AbortKind::Shutdown;
            return shared.set_abort(AbortReason { kind, message, culprit: None, saver: None });
        }
        match rhythm.absence {
            None => tracing::warn!("heartbeat not answered: {why}"),
            Some(_) if said.is_some_and(|at| at.elapsed() < SAY) => {}
            Some(absence) => {
                said = Some(Instant::now());
                let (gone, most) = (answered.elapsed().as_secs_f32(), absence.as_secs_f32());
                tracing::warn!(
                    "the coordinator does not answer ({why}): the job goes on without it, {gone:.0} s of at most {most:.0} s so far"
                );
            }
        }
    }
}

/// Comes once this process was asked to stop, alone.
async fn wishes_to_leave(shared: &Shared) {
    while !shared.departing.asked() {
        tokio::time::sleep(LOOK).await;
    }
}

/// No boundary has come for one that leaves: it goes as if it had died, which the others are told of at once.
async fn goes(
    client: &mut Client,
    shared: &Shared,
    header: Option<Header>,
    rhythm: Rhythm,
    waited: Duration,
) {
    let message = format!(
        "asked to stop, it has waited {:.0} s for a boundary between two steps to leave at",
        waited.as_secs_f32()
    );
    let kind = FailureKind::Leaving.into();
    let request = ReportFailureRequest { header, message: message.clone(), kind };
    // Who does not hear it finds that this worker is gone.
    let _ = tokio::time::timeout(rhythm.timeout, client.report_failure(request)).await;
    let message = format!("the job goes on without this worker: {message}");
    shared.set_abort(AbortReason { kind: AbortKind::Dropped, message, culprit: None, saver: None });
}

/// Holds the watch open; reopens it when it breaks.
async fn listen(mut client: Client, shared: Arc<Shared>, header: Header, rhythm: Rhythm) {
    loop {
        let header = Header { generation: shared.current().number(), ..header.clone() };
        let request = WatchRequest { header: Some(header) };
        match client.watch(request).await {
            Ok(stream) => {
                shared.opened.notify_one();
                let mut stream = stream.into_inner();
                // Ends without an event when the connection breaks, and when the job finishes well.
                while let Ok(Some(event)) = stream.message().await {
                    if let Some(abort) = event.abort {
                        return shared.aborted(abort);
                    }
                    event.regroup.into_iter().for_each(|told| shared.regroup(told));
                }
            }
            Err(status) if is_transient(&status) => {}
            Err(status) => return refused(&shared, &status),
        }
        tokio::time::sleep(rhythm.interval / 5).await;
    }
}

async fn reports(mut client: Client, shared: Arc<Shared>, header: Header, rhythm: Rhythm) {
    let mut newest = shared.report.subscribe();
    while newest.changed().await.is_ok() {
        let report = *newest.borrow_and_update();
        let header = Header { generation: shared.current().number(), ..header.clone() };
        let request = ReportStepRequest { header: Some(header), report };
        // A report lost does no harm: the next one says more, and heartbeats carry the step as well.
        let _ = tokio::time::timeout(rhythm.timeout, client.report_step(request)).await;
    }
}
