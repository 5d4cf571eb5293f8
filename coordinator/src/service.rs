//! The tonic handlers: convert, send an event to the driver, reply.

use crate::driver::Mailbox;
use crate::job::{Beat, Event, Heard, Outcome, Reply, Wait};
use crate::refusal::Refusal;
use octrain_proto::v1::coordinator_server::Coordinator;
use octrain_proto::v1::*;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Longest a call is kept waiting; clients ask again.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The service.
pub(crate) struct Service {
    pub(crate) mailbox: Mailbox,
}

/// A driver's answer to the wrong question: a defect of this program.
fn unexpected(reply: Reply) -> Status {
    Status::internal(format!("the coordinator answered another question: {reply:?}"))
}

fn header(header: Option<Header>) -> Result<Header, Status> {
    header.ok_or_else(|| Refusal::Invalid("the request lacks its header".into()).into())
}

fn wait(ms: u64) -> Duration {
    Duration::from_millis(ms).min(MAX_WAIT)
}

impl Service {
    async fn ask(&self, event: Event) -> Result<Reply, Status> {
        Ok(self.mailbox.ask(event, Duration::ZERO).await?)
    }

    async fn done(&self, event: Event) -> Result<(), Status> {
        match self.ask(event).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}

#[tonic::async_trait]
impl Coordinator for Service {
    async fn register(&self, r: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        match self.ask(Event::Register(Box::new(r.into_inner()))).await? {
            Reply::Registered(reply) => Ok(Response::new(reply)),
            other => Err(unexpected(other)),
        }
    }

    async fn give_up(&self, r: Request<GiveUpRequest>) -> Result<Response<GiveUpReply>, Status> {
        self.done(Event::GiveUp(Box::new(r.into_inner()))).await?;
        Ok(Response::new(GiveUpReply {}))
    }

    async fn get_plan(&self, r: Request<GetPlanRequest>) -> Result<Response<GetPlanReply>, Status> {
        let r = r.into_inner();
        let event = Event::GetPlan { header: header(r.header)?, wait: Wait::First };
        match self.mailbox.ask(event, wait(r.wait_ms)).await? {
            Reply::Plan(reply) => Ok(Response::new(*reply)),
            other => Err(unexpected(other)),
        }
    }

    async fn attach(&self, r: Request<AttachRequest>) -> Result<Response<AttachReply>, Status> {
        let AttachRequest { header: h, standing, message, wait_ms } = r.into_inner();
        let event = Event::Attach { header: header(h)?, standing, message, wait: Wait::First };
        match self.mailbox.ask(event, wait(wait_ms)).await? {
            Reply::Attached(generation, waiting_for) => {
                Ok(Response::new(AttachReply { generation, waiting_for, drained: false }))
            }
            Reply::Drained => Ok(Response::new(AttachReply { drained: true, ..AttachReply::default() })),
            other => Err(unexpected(other)),
        }
    }

    async fn exited(&self, r: Request<ExitedRequest>) -> Result<Response<ExitedReply>, Status> {
        match self.ask(Event::Exited(Box::new(r.into_inner()))).await? {
            Reply::GoesOn(goes_on) => Ok(Response::new(ExitedReply { goes_on, ..ExitedReply::default() })),
            Reply::Vacant { recalled } => {
                let vacancy = if recalled { Vacancy::Recalled } else { Vacancy::Waits };
                Ok(Response::new(ExitedReply { goes_on: true, vacancy: vacancy.into() }))
            }
            other => Err(unexpected(other)),
        }
    }

    async fn heartbeat(&self, r: Request<HeartbeatRequest>) -> Result<Response<HeartbeatReply>, Status> {
        let HeartbeatRequest { header: h, step, collectives, connected, leaving, at } = r.into_inner();
        let beat = Beat { step, collectives, connected, leaving, at: at.unwrap_or_default() };
        match self.ask(Event::Heartbeat(header(h)?, beat)).await? {
            Reply::Heartbeat(heard) => {
                let Heard { abort, regroup, boundary_wanted, departure, hang } = *heard;
                let departure = departure.into();
                let hang = hang.map_or_else(String::new, |text| text.to_string());
                Ok(Response::new(HeartbeatReply { abort, regroup, boundary_wanted, departure, hang }))
            }
            other => Err(unexpected(other)),
        }
    }

    type WatchStream = ReceiverStream<Result<WatchEvent, Status>>;

    async fn watch(&self, r: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let header = header(r.into_inner().header)?;
        let mut told = header.generation;
        let event = Event::Watch { header };
        let (member, watch) = match self.ask(event).await? {
            Reply::Watching { member, watch } => (member, watch),
            other => return Err(unexpected(other)),
        };
        let (events, stream) = mpsc::channel(1);
        let (mailbox, mut ended) = (self.mailbox.clone(), self.mailbox.ended());
        let mut regroup = self.mailbox.regroup();
        tokio::spawn(async move {
            let outcome = loop {
                let over = tokio::select! {
                    // The stream is dropped when the connection breaks or the worker lets go of it.
                    () = events.closed() => break None,
                    outcome = ended.wait_for(Option::is_some) => break outcome.ok().map(|o| o.clone()),
                    over = regroup.wait_for(|r| r.generation > told) => over.ok().map(|r| r.clone()),
                };
                let Some(over) = over else { break None };
                told = over.generation;
                // One that does not read is told by the next of them, or by its heartbeats.
                let _ = events.try_send(Ok(WatchEvent { abort: None, regroup: Some(over) }));
            };
            match outcome {
                None => mailbox.tell(Event::Disconnected { member, watch }).await,
                // The worker may be gone already. One that has read the event lets go of the stream, and needs no linger.
                Some(Some(Outcome::Failed { abort })) => {
                    let _ = events.send(Ok(WatchEvent { abort: Some(abort), regroup: None })).await;
                    events.closed().await;
                    mailbox.tell(Event::Disconnected { member, watch }).await;
                }
                Some(_) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn report_step(&self, r: Request<ReportStepRequest>) -> Result<Response<ReportStepReply>, Status> {
        let r = r.into_inner();
        let report = r.report.ok_or_else(|| Refusal::Invalid("the step report lacks its content".into()))?;
        self.done(Event::ReportStep { header: header(r.header)?, report }).await?;
        Ok(Response::new(ReportStepReply {}))
    }

    async fn report_failure(
        &self,
        r: Request<ReportFailureRequest>,
    ) -> Result<Response<ReportFailureReply>, Status> {
        let r = r.into_inner();
        let kind = r.kind();
        self.done(Event::ReportFailure { header: header(r.header)?, message: r.message, kind }).await?;
        Ok(Response::new(ReportFailureReply {}))
    }

    async fn leave(&self, r: Request<LeaveRequest>) -> Result<Response<LeaveReply>, Status> {
        let r = r.into_inner();
        self.done(Event::Leave {
            header: header(r.header)?,
            interrupted: r.interrupted,
            before_plan: r.before_plan,
        })
        .await?;
        Ok(Response::new(LeaveReply {}))
    }

    async fn store_set(&self, r: Request<StoreSetRequest>) -> Result<Response<StoreSetReply>, Status> {
        let r = r.into_inner();
        self.done(Event::StoreSet { header: header(r.header)?, key: r.key, value: r.value }).await?;
        Ok(Response::new(StoreSetReply {}))
    }

    async fn store_get(&self, r: Request<StoreGetRequest>) -> Result<Response<StoreGetReply>, Status> {
        let r = r.into_inner();
        let event = Event::StoreGet { header: header(r.header)?, key: r.key, wait: Wait::First };
        match self.mailbox.ask(event, wait(r.wait_ms)).await? {
            Reply::Found(value) => {
                Ok(Response::new(StoreGetReply { found: value.is_some(), value: value.unwrap_or_default() }))
            }
            other => Err(unexpected(other)),
        }
    }

    async fn store_add(&self, r: Request<StoreAddRequest>) -> Result<Response<StoreAddReply>, Status> {
        let r = r.into_inner();
        let event = Event::StoreAdd { header: header(r.header)?, key: r.key, amount: r.amount };
        match self.ask(event).await? {
            Reply::Sum(value) => Ok(Response::new(StoreAddReply { value })),
            other => Err(unexpected(other)),
        }
    }

    async fn store_check(&self, r: Request<StoreCheckRequest>) -> Result<Response<StoreCheckReply>, Status> {
        let r = r.into_inner();
        match self.ask(Event::StoreCheck { header: header(r.header)?, keys: r.keys }).await? {
            Reply::Yes(all) => Ok(Response::new(StoreCheckReply { all })),
            other => Err(unexpected(other)),
        }
    }

    async fn store_delete(
        &self,
        r: Request<StoreDeleteRequest>,
    ) -> Result<Response<StoreDeleteReply>, Status> {
        let r = r.into_inner();
        match self.ask(Event::StoreDelete { header: header(r.header)?, key: r.key }).await? {
            Reply::Yes(existed) => Ok(Response::new(StoreDeleteReply { existed })),
            other => Err(unexpected(other)),
        }
    }

    async fn resize(&self, r: Request<ResizeRequest>) -> Result<Response<ResizeReply>, Status> {
        let ResizeRequest { workers } = r.into_inner();
        match self.ask(Event::Resize { workers }).await? {
            Reply::Resized(message) => Ok(Response::new(ResizeReply { message })),
            other => Err(unexpected(other)),
        }
    }

    async fn status(&self, r: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let StatusRequest { watching } = r.into_inner();
        match self.ask(Event::Status { watching }).await? {
            Reply::Status(reply) => Ok(Response::new(*reply)),
            other => Err(unexpected(other)),
        }
    }
}
