//! The channel to the coordinator: calls with a deadline.

use super::SessionError;
use super::error::is_transient;
use super::transport::{Client, Way};
use octrain_coordinator::limits::MAX_MESSAGE;
use octrain_coordinator::text::line;
use octrain_proto::v1::{FailureKind, Header, ReportFailureRequest};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};
use tonic::{Response, Status};

/// Longest wait for an answer to a report or a farewell.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// Between attempts.
pub(super) const RETRY: Duration = Duration::from_millis(300);

/// The channel to the coordinator, this worker's identity, and the runtime both live on.
pub(super) struct Connection {
    pub client: Client,
    /// This worker's membership, with the generation it registered in.
    pub header: Header,
    /// Where the coordinator is.
    pub way: Way,
    pub runtime: Option<Runtime>,
}

impl Connection {
    /// This worker in a generation.
    pub(super) fn header_of(&self, generation: u64) -> Header {
        Header { generation, ..self.header.clone() }
    }

    pub(super) fn runtime(&self) -> &Handle {
        self.runtime.as_ref().expect("only taken in drop").handle()
    }

    /// One call, with a deadline; tried again while the coordinator is not reached.
    pub(super) fn call<T>(
        &self,
        name: &'static str,
        deadline: Instant,
        f: impl AsyncFn(Client) -> Result<Response<T>, Status>,
    ) -> Result<T, SessionError> {
        self.runtime().block_on(self.calling(name, deadline, f))
    }

    /// [`Connection::call`], for whoever has more to wait for.
    pub(super) async fn calling<T>(
        &self,
        name: &'static str,
        deadline: Instant,
        f: impl AsyncFn(Client) -> Result<Response<T>, Status>,
    ) -> Result<T, SessionError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let failed = match tokio::time::timeout(left, f(self.client.clone())).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            let hopeless = !is_transient(&failed) || self.way.check().is_err();
            if hopeless || Instant::now() + RETRY >= deadline {
                return Err(self.way.failed(name, &failed));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Tells the coordinator why this worker ends, within a time, unless the job is `over` before; whether it has heard that, or needs to no more.
    pub(super) fn report_failure(
        &self,
        generation: u64,
        message: &str,
        kind: FailureKind,
        patience: Duration,
        over: impl Fn() -> bool,
    ) -> bool {
        let request = ReportFailureRequest {
            header: Some(self.header_of(generation)),
            message: line(message, MAX_MESSAGE),
            kind: kind.into(),
        };
        let telling = self.calling("report_failure", Instant::now() + patience, async |mut client| {
            client.report_failure(request.clone()).await
        });
        // A coordinator that has ended the job may be gone.
        let over = async {
            while !over() {
                tokio::time::sleep(RETRY).await;
            }
        };
        let told = self.runtime().block_on(async {
            tokio::select! {
                told = telling => told.map(|_| ()),
                () = over => Ok(()),
            }
        });
        if let Err(e) = &told {
            tracing::warn!("the coordinator could not be told of the failure: {e}");
        }
        told.is_ok()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
