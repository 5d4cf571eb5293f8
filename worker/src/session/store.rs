//! The coordinator's key-value store, as the collectives see it.

use super::SessionError;
use super::background::Shared;
use super::connection::{ANSWER, Connection};
use super::generation::Generation;
use crate::collective::{Abort, RendezvousStore, StoreError};
use octrain_proto::v1::{
    StoreAddRequest, StoreCheckRequest, StoreDeleteRequest, StoreGetRequest, StoreSetRequest,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long one call for a key waits.
const SLICE: Duration = Duration::from_millis(1000);

/// Client of the store. Keys belong to one generation of the job. All calls block, with a deadline, and end with it.
pub struct CoordinatorStore {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    generation: Arc<Generation>,
}

impl CoordinatorStore {
    pub(super) fn new(connection: Arc<Connection>, shared: Arc<Shared>, generation: Arc<Generation>) -> Self {
        Self { connection, shared, generation }
    }

    fn header(&self) -> Option<octrain_proto::v1::Header> {
        Some(self.connection.header_of(self.generation.number()))
    }

    /// A key as the coordinator has it: no generation reads what another one wrote.
    fn key(&self, key: &str) -> String {
        format!("{}/{key}", self.generation.number())
    }

    /// An ended job is answered with its reason, not with the store's refusal.
    fn alive(&self) -> Result<(), SessionError> {
        let over = || self.shared.over(self.generation.number());
        match self.shared.abort() {
            None => over().map_or(Ok(()), |why| {
                let message = format!("generation {} is over: {why}", self.generation.number());
                Err(SessionError::Ended { configuration: false, message })
            }),
            Some(end) => Err(SessionError::Ended {
                configuration: end.kind == super::AbortKind::Configuration,
                message: end.message,
            }),
        }
    }

    /// The answer to a call, unless the job ends meanwhile or `abort` trips: an answer that comes in the same moment
    /// is of no use any more.
    fn unless_over<T>(
        &self,
        abort: &Abort,
        call: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let over = Arc::new(Notify::new());
        let notify = |token: &Abort| {
            let over = Arc::clone(&over);
            token.attach(move || over.notify_one())
        };
        let _attached = (notify(abort), notify(self.generation.abort()));
        let answer = self.connection.runtime().block_on(async {
            tokio::select! {
                biased;
                () = over.notified() => None,
                answer = call => Some(answer),
            }
        });
        answer.unwrap_or_else(|| {
            self.alive()?;
            let message = "a call to the rendezvous store was aborted".into();
            Err(SessionError::Ended { configuration: false, message })
        })
    }

    /// The answer to a call that does not wait for anything, unless the job ends meanwhile.
    fn answer<T>(&self, call: impl Future<Output = Result<T, SessionError>>) -> Result<T, SessionError> {
        self.unless_over(self.generation.abort(), call)
    }

    /// Sets a key, replacing what it held.
    fn set_key(&self, key: &str, value: &[u8]) -> Result<(), SessionError> {
        let r = StoreSetRequest { header: self.header(), key: self.key(key), value: value.into() };
        let deadline = Instant::now() + ANSWER;
        let call = self.connection.calling("store_set", deadline, async |mut c| c.store_set(r.clone()).await);
        self.answer(call).map(drop)
    }

    /// Waits until the key exists, at most `timeout` or until the job ends or `abort` trips, and returns its value.
    fn get_key(&self, key: &str, timeout: Duration, abort: &Abort) -> Result<Vec<u8>, SessionError> {
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed()).min(SLICE);
            let wait_ms = left.as_millis() as u64;
            let r = StoreGetRequest { header: self.header(), key: self.key(key), wait_ms };
            let deadline = Instant::now() + left + ANSWER;
            let call =
                self.connection.calling("store_get", deadline, async |mut c| c.store_get(r.clone()).await);
            let reply = self.unless_over(abort, call)?;
            if reply.found {
                return Ok(reply.value);
            }
            if start.elapsed() >= timeout {
                return Err(SessionError::StoreTimeout { key: key.into(), waited: timeout });
            }
        }
    }

    /// Adds to a decimal counter (absent: 0) and returns the sum. Not tried twice: an addition whose answer was
    /// lost may have happened.
    fn add_key(&self, key: &str, amount: i64) -> Result<i64, SessionError> {
        let r = StoreAddRequest { header: self.header(), key: self.key(key), amount };
        let c = &self.connection;
        let call = async {
            let mut client = c.client.clone();
            let answer = tokio::time::timeout(ANSWER, client.store_add(r)).await;
            let answer =
                answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time")));
            answer.map(|r| r.into_inner().value).map_err(|s| c.way.failed("store_add", &s))
        };
        self.answer(call)
    }

    /// Whether all keys exist.
    fn check_keys(&self, keys: &[String]) -> Result<bool, SessionError> {
        let r = StoreCheckRequest { header: self.header(), keys: keys.iter().map(|k| self.key(k)).collect() };
        let deadline = Instant::now() + ANSWER;
        let call =
            self.connection.calling("store_check", deadline, async |mut c| c.store_check(r.clone()).await);
        self.answer(call).map(|r| r.all)
    }

    /// Removes a key; whether it was there.
    fn delete_key(&self, key: &str) -> Result<bool, SessionError> {
        let r = StoreDeleteRequest { header: self.header(), key: self.key(key) };
        let deadline = Instant::now() + ANSWER;
        let call =
            self.connection.calling("store_delete", deadline, async |mut c| c.store_delete(r.clone()).await);
        self.answer(call).map(|r| r.existed)
    }
}

impl From<SessionError> for StoreError {
    fn from(e: SessionError) -> Self {
        match e {
            SessionError::StoreTimeout { key, waited } => StoreError::Timeout { key, waited },
            SessionError::Ended { message, .. } => StoreError::Ended(message),
            other => StoreError::Failed(other.to_string()),
        }
    }
}

impl RendezvousStore for CoordinatorStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        Ok(self.set_key(key, value)?)
    }

    fn get(&self, key: &str, timeout: Duration, abort: &Abort) -> Result<Vec<u8>, StoreError> {
        Ok(self.get_key(key, timeout, abort)?)
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        Ok(self.add_key(key, amount)?)
    }

    fn check(&self, keys: &[String]) -> Result<bool, StoreError> {
        Ok(self.check_keys(keys)?)
    }

    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.delete_key(key)?)
    }
}
