//! The door that every call passes before it is read: whoever has not the job's token is sent away.

use crate::log::Refusals;
use crate::token::{JobToken, admit};
use octrain_proto::{BEARER, TOKEN_KEY};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// The door of one coordinator.
#[derive(Clone)]
pub(crate) struct Guard {
    token: Option<JobToken>,
    generation: u64,
    since: Instant,
    refusals: Arc<Mutex<Refusals>>,
}

impl Guard {
    /// Lets in who has this token; without one, who has none either.
    pub(crate) fn new(token: Option<JobToken>, generation: u64) -> Self {
        Self { token, generation, since: Instant::now(), refusals: Arc::default() }
    }

    /// Somebody was sent away; said now and then.
    pub(crate) fn refused(&self, kind: &'static str, text: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.refused(self.since.elapsed(), self.generation, kind, text);
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let given = request.metadata().get(TOKEN_KEY).map(|v| v.as_encoded_bytes());
        let token = given.map(|g| g.strip_prefix(BEARER.as_bytes()).unwrap_or_default());
        let Err(refusal) = admit(self.token.as_ref(), token) else { return Ok(request) };
        let from = request.remote_addr().map_or_else(|| "somewhere".into(), |a| a.ip().to_string());
        self.refused(refusal.kind(), &format!("a call from {from}: {refusal}"));
        Err(refusal.into())
    }
}
