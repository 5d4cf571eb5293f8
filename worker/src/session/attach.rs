//! From one generation to the next.

use super::background::refused;
use super::connection::{ANSWER, RETRY};
use super::error::{AbortReason, is_finished, is_transient};
use super::generation::{self, Generation};
use super::{Session, SessionError};
use octrain_coordinator::limits::MAX_MESSAGE;
use octrain_coordinator::text::line;
use octrain_proto::v1::{AttachRequest, HeartbeatReply, Standing};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long one call waits for the others.
const SLICE: Duration = Duration::from_secs(2);
/// Between messages on who is waited for.
const SAY: Duration = Duration::from_secs(5);

impl Session {
    /// Whether the job goes on when it loses some of its workers.
    pub fn survives(&self) -> bool {
        self.plan.min_world < self.plan.world_size
    }

    /// Why the current generation is over, where it is and the job is not.
    pub fn regrouping(&self) -> Option<String> {
        self.shared.over(self.generation().number())
    }

    /// Why a generation is over, where it is.
    pub fn why_over(&self, generation: u64) -> Option<String> {
        self.shared.over(generation)
    }

    /// Whether the ranks of the current generation are to leave it at a boundary between two steps, on which they agree: a worker
    /// waits to be let in.
    pub fn boundary_wanted(&self) -> bool {
        self.shared.boundary_wanted()
    }

    /// Whether the coordinator counts this worker in the current generation right now: asked before anything is done that
    /// others, who may have given this worker up, are not to be met with. A process that stood still learns of that no
    /// sooner than it asks. A coordinator that may come back is waited for; where nobody answers in the time for that, nobody says
    /// so. A job that ends with any of its workers has nobody to ask.
    pub fn is_current(&self) -> bool {
        if !self.survives() {
            return true;
        }
        let current = self.generation();
        let request = self.shared.beat(self.connection.header_of(current.number()), &current);
        let asked = || {
            self.connection
                .call("heartbeat", Instant::now() + ANSWER, async |mut c| c.heartbeat(request.clone()).await)
        };
        let begun = Instant::now();
        let waits = |e: &SessionError| {
            let away = self.rhythm.absence.filter(|_| matches!(e, SessionError::Lost { .. }));
            away.filter(|away| begun.elapsed() < *away && !current.abort().is_tripped())
        };
        if current.abort().is_tripped() {
            return false;
        }
        let mut answer = asked();
        while let Some(away) = answer.as_ref().err().and_then(waits) {
            tracing::warn!(
                "what is saved here has to wait for the coordinator's word that this worker is still one of the job's: {:.0} s of at most {:.0} s",
                begun.elapsed().as_secs_f32(),
                away.as_secs_f32()
            );
            answer = asked();
        }
        match answer {
            Ok(HeartbeatReply { abort, regroup, .. }) => {
                let is = abort.is_none() && regroup.is_none();
                abort.into_iter().for_each(|abort| self.shared.aborted(abort));
                regroup.into_iter().for_each(|told| self.shared.regroup(told));
                is
            }
            Err(e) => {
                tracing::warn!("whether this worker is still one of the job's is not known: {e}");
                false
            }
        }
    }

    /// Who saves when the job has ended, by host and local index; none where the coordinator has named nobody.
    pub fn saver(&self) -> Option<(String, u32)> {
        self.shared.abort().and_then(|a| a.saver)
    }

    /// Comes to the next generation, since this one is over (`why`), and waits until it is formed of all who are left, or
    /// until the job ends. `standing` says how far this worker is; none where it has not begun. One that
    /// [joins](Generation::joins) a running job does so as well, once it is ready, and without a standing.
    ///
    /// # Errors
    /// When the job has ended, when it goes on without this worker ([`SessionError::Drained`]: as that was to leave), or when the
    /// coordinator is lost.
    pub fn attach(&self, why: &str, standing: Option<Standing>) -> Result<Arc<Generation>, SessionError> {
        let before = self.generation();
        // What is still under way in it is of no use.
        before.abort().trip();
        let request = AttachRequest {
            header: Some(self.connection.header_of(before.number())),
            standing,
            message: line(why, MAX_MESSAGE),
            wait_ms: SLICE.as_millis() as u64,
        };
        let over = Arc::new(Notify::new());
        let tell = Arc::clone(&over);
        let _attached = self.shared.token.attach(move || tell.notify_one());
        let ended = || {
            self.shared.abort().map(|AbortReason { kind, message, .. }| SessionError::Ended {
                configuration: kind == super::AbortKind::Configuration,
                message,
            })
        };
        let mut said = Instant::now();
        loop {
            if let Some(end) = ended() {
                return Err(end);
            }
            // Nobody else would notice: those who run have no part in it.
            if before.joins() && (self.interrupted)() {
                return Err(SessionError::Interrupted("the others to let it in"));
            }
            let deadline = Instant::now() + SLICE + self.rhythm.patience();
            let call = self.connection.calling("attach", deadline, async |mut client| {
                let answer = client.attach(request.clone()).await;
                // Who is refused is out of it, whoever asks next: nothing it says later is to end what others go on with.
                answer
                    .as_ref()
                    .err()
                    // One that nobody waits for is not needed any more, which is no end of anything.
                    .filter(|s| !(is_transient(s) || before.joins() && is_finished(s)))
                    .into_iter()
                    .for_each(|s| refused(&self.shared, s));
                answer
            });
            let answer = self.connection.runtime().block_on(async {
                tokio::select! {
                    biased;
                    () = over.notified() => None,
                    answer = call => Some(answer),
                }
            });
            let Some(answer) = answer else {
                std::thread::sleep(RETRY.min(Duration::from_millis(10)));
                continue;
            };
            let reply = answer.map_err(|e| ended().unwrap_or(e))?;
            if reply.drained {
                // What is said of the job from here on is not about this worker.
                self.shared.leaving.store(true, Ordering::SeqCst);
                return Err(SessionError::Drained);
            }
            if let Some(formed) = reply.generation {
                let trusted = generation::trust(&formed, &self.plan, &self.own);
                trusted.map_err(SessionError::Plan)?;
                return Ok(self.shared.begin(Generation::new(formed)));
            }
            if said.elapsed() >= SAY {
                said = Instant::now();
                tracing::info!("waiting for the next generation: {}", reply.waiting_for);
            }
        }
    }
}
