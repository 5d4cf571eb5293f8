//! From one generation to the next.

use super::connection::RETRY;
use super::error::AbortReason;
use super::generation::{self, Generation};
use super::{Session, SessionError};
use octrain_coordinator::limits::MAX_MESSAGE;
use octrain_coordinator::text::line;
use octrain_proto::v1::{AttachRequest, Standing};
use std::sync::Arc;
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

    /// Comes to the next generation, since this one is over (`why`), and waits until it is formed of all who are left, or
    /// until the job ends. `standing` says how far this worker is; none where it has not begun.
    ///
    /// # Errors
    /// When the job has ended, when it goes on without this worker, or when the coordinator is lost.
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
            let deadline = Instant::now() + SLICE + self.rhythm.timeout * 2;
            let call = self
                .connection
                .calling("attach", deadline, async |mut client| client.attach(request.clone()).await);
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
