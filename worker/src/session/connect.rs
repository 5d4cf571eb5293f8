//! Finding the coordinator, registering, getting the plan.

use super::background::{self, Rhythm, Shared};
use super::connection::{ANSWER, Connection, RETRY};
use super::departure::Departing;
use super::error::{is_occupied_for_now, is_transient, words};
use super::generation::{self, Generation};
use super::transport::{Client, Way};
use super::{Session, SessionError, SessionOptions};
use octrain_coordinator::plan;
use octrain_proto::PROTOCOL_VERSION;
use octrain_proto::v1::{
    self, BuildPlan, FailureKind, GetPlanRequest, Header, RegisterReply, RegisterRequest, WorkerFacts,
};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tonic::Status;

/// Between messages on what is being waited for.
const SAY: Duration = Duration::from_secs(5);
/// Between attempts to take a place that another worker has.
const OCCUPIED: Duration = Duration::from_secs(1);
/// Longest time between heartbeats, and until silence is death, that a coordinator is believed to want.
const SLOWEST: Duration = Duration::from_secs(24 * 3600);
/// Longest wait for the reason of an end, when a coordinator has gone.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a worker that was asked to stop waits to hear whether it has registered.
const PARTING: Duration = Duration::from_secs(2);
/// Between looks for a signal.
const LISTEN: Duration = Duration::from_millis(50);
/// How long one call for the plan waits.
const PLAN_SLICE: Duration = Duration::from_secs(2);

pub(super) fn connect(options: SessionOptions) -> Result<Session, SessionError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("session")
        .enable_all()
        .build()
        .map_err(SessionError::Runtime)?;
    let way = Way::to(&options.coordinator, &options.credentials)?;
    let (client, registered) = runtime.block_on(register(&way, &options))?;
    let header = Header {
        job_id: registered.job_id.clone(),
        generation: registered.generation,
        member: registered.member.clone(),
    };
    let connection = Arc::new(Connection { client, header, way, runtime: Some(runtime) });
    let departing = Departing::new(Arc::clone(&options.leaving), options.drain_timeout);
    let shared = Shared::new(registered.generation, departing);
    let rhythm = Rhythm {
        interval: Duration::from_millis(registered.heartbeat_interval_ms.max(10)).min(SLOWEST),
        timeout: Duration::from_millis(registered.heartbeat_timeout_ms.max(20)).min(SLOWEST),
        absence: match registered.coordinator_timeout_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms).min(SLOWEST)),
        },
    };
    let tasks = background::start(&connection, &shared, rhythm);
    // From here on, dropping the session ends its tasks.
    let (plan, reported, unheard) = (BuildPlan::default(), AtomicBool::new(false), AtomicBool::new(false));
    let interrupted = Arc::clone(&options.interrupted);
    let own = generation::Own::of(&options);
    let mut session =
        Session { connection, shared, plan, rhythm, tasks, own, reported, unheard, interrupted };
    let (plan, formed, joins) = match wait_for_plan(&session, &options) {
        Ok(done) => done,
        Err(e) => {
            // Another worker may take this place; or the job, if it has just begun, ends.
            if !e.is_ended() {
                session.goodbye(matches!(e, SessionError::Interrupted(_)), true);
            }
            return Err(e);
        }
    };
    let trusted =
        trust(&plan, &registered, &options).and_then(|()| generation::trust(&formed, &plan, &session.own));
    if let Err(why) = trusted {
        let said = format!("refuses its plan: {why}");
        session.connection.report_failure(formed.number, &said, FailureKind::Configuration, ANSWER, || false);
        return Err(SessionError::Plan(why));
    }
    // In a job that outlives its workers, one may be lost while others still wait for their plan.
    let only_one = plan.min_world >= plan.world_size;
    if formed.number != registered.generation && only_one {
        let why = format!("it is of generation {}, not {}", formed.number, registered.generation);
        return Err(SessionError::Plan(why));
    }
    let generation = match joins {
        true => {
            tracing::info!(generation = formed.number, "comes to a running job: {}", plan::summary(&plan));
            Generation::joining(formed)
        }
        false => {
            tracing::info!(rank = formed.rank, generation = formed.number, "{}", plan::summary(&plan));
            Generation::new(formed)
        }
    };
    session.plan = plan;
    session.shared.begin(generation);
    Ok(session)
}

/// Whether a plan is whole and meant for this worker's job.
pub(super) fn trust(
    plan: &BuildPlan,
    registered: &RegisterReply,
    options: &SessionOptions,
) -> Result<(), String> {
    if plan.protocol_version != PROTOCOL_VERSION {
        return Err(format!("it is of protocol version {}, not {PROTOCOL_VERSION}", plan.protocol_version));
    }
    if plan::digest(plan).as_slice() != plan.sha256 {
        return Err("its content does not have the hash it claims".into());
    }
    if plan.config_sha256 != options.job.config_sha256 {
        return Err("it was made for another configuration".into());
    }
    if plan.purpose != options.job.purpose || plan.job_id != registered.job_id {
        return Err("it was made for another job, or for another purpose".into());
    }
    Ok(())
}

fn wait_for_plan(
    session: &Session,
    options: &SessionOptions,
) -> Result<(BuildPlan, v1::Generation, bool), SessionError> {
    let start = Instant::now();
    let mut said = start;
    let c = &session.connection;
    loop {
        let request =
            GetPlanRequest { header: Some(c.header.clone()), wait_ms: PLAN_SLICE.as_millis() as u64 };
        let away = session.rhythm.absence.unwrap_or(Duration::from_secs(10));
        let deadline = Instant::now() + PLAN_SLICE + away;
        let asked = async {
            tokio::select! {
                reply = c.calling("get_plan", deadline, async |mut client| client.get_plan(request.clone()).await) => reply,
                () = interruption(options) => Err(SessionError::Interrupted("the other workers")),
            }
        };
        let reply = match c.runtime().block_on(asked) {
            Err(e @ SessionError::Interrupted(_)) => return Err(e),
            // Asked to stop like the one whose leaving ended the job.
            Err(SessionError::Ended { configuration: false, .. }) if (options.interrupted)() => {
                return Err(SessionError::Interrupted("the other workers"));
            }
            reply => reply,
        };
        let reply = reply.map_err(|e| match session.shared.wait_abort(FAREWELL) {
            // A coordinator whose job has ended leaves once all watches have told so; this call may come too late.
            Some(reason) if !e.is_ended() => reason.into(),
            _ => e,
        })?;
        if let (Some(plan), Some(formed)) = (reply.plan, reply.generation) {
            return Ok((plan, formed, reply.joins));
        }
        if start.elapsed() >= options.plan_timeout {
            return Err(SessionError::NoPlan { waited: start.elapsed(), waiting_for: reply.waiting_for });
        }
        if said.elapsed() >= SAY {
            said = Instant::now();
            tracing::info!("waiting for the plan: {}", reply.waiting_for);
        }
    }
}

/// Comes once this process is asked to stop.
async fn interruption(options: &SessionOptions) {
    while !(options.interrupted)() {
        tokio::time::sleep(LISTEN).await;
    }
}

/// Resolves, connects and registers, again and again until the deadline; a refusal ends it at once.
async fn register(way: &Way, options: &SessionOptions) -> Result<(Client, RegisterReply), SessionError> {
    let request = RegisterRequest {
        protocol_version: PROTOCOL_VERSION,
        job_id: options.job_id.clone(),
        generation: options.generation,
        nonce: nonce(),
        worker: Some(WorkerFacts {
            host: options.host.clone(),
            local_index: options.local_index,
            local_world: options.local_world,
            pid: std::process::id(),
            capabilities: Some(options.capabilities.clone()),
        }),
        job: Some(options.job.clone()),
        token: options.token.clone(),
    };
    let start = Instant::now();
    let mut said: Option<Instant> = None;
    // The last answer, where it was that the place is taken.
    let mut occupied: Option<SessionError> = None;
    loop {
        let left = options.connect_timeout.saturating_sub(start.elapsed());
        let attempt = async {
            let mut registering = pin!(attempt(way, &request));
            tokio::select! {
                done = &mut registering => Some(done),
                // Whose registration is on its way is a worker that the others count on: it has to leave again.
                () = interruption(options) => match tokio::time::timeout(PARTING, registering).await {
                    Ok(done @ Ok(Ok(_))) => Some(done),
                    _ => None,
                },
            }
        };
        let last = match tokio::time::timeout(left, attempt).await {
            Ok(None) => return Err(SessionError::Interrupted("the coordinator")),
            Ok(Some(Ok(Ok(done)))) => return Ok(done),
            Ok(Some(Ok(Err(status)))) if is_transient(&status) => words(&status),
            Ok(Some(Ok(Err(status)))) => {
                let refused = way.failed("register", &status);
                if !is_occupied_for_now(&status) {
                    return Err(refused);
                }
                let last = status.message().to_string();
                occupied = Some(refused);
                last
            }
            Ok(Some(Err(why))) => {
                occupied = None;
                why
            }
            Err(_) => "no answer".to_string(),
        };
        way.check()?;
        if start.elapsed() + RETRY >= options.connect_timeout {
            if let Some(refused) = occupied {
                return Err(refused);
            }
            return Err(way.unreachable(options.connect_timeout, last));
        }
        if said.is_none_or(|s| s.elapsed() >= SAY) {
            said = Some(Instant::now());
            let left = options.connect_timeout.saturating_sub(start.elapsed()).as_secs();
            tracing::info!("waiting for the coordinator at {}, {left} s more: {last}", way.address());
        }
        let rest = tokio::time::sleep(if occupied.is_some() { OCCUPIED } else { RETRY });
        tokio::select! {
            () = rest => {}
            () = interruption(options) => return Err(SessionError::Interrupted("the coordinator")),
        }
    }
}

/// One attempt; the outer error is of the network, the inner one the coordinator's.
async fn attempt(
    way: &Way,
    request: &RegisterRequest,
) -> Result<Result<(Client, RegisterReply), Status>, String> {
    let mut client = way.client().await?;
    match client.register(request.clone()).await {
        Ok(reply) => Ok(Ok((client, reply.into_inner()))),
        Err(status) => Ok(Err(status)),
    }
}

/// Tells this process and this session from all others, so that a repeated registration is recognised.
fn nonce() -> String {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(std::process::id());
    format!("{}-{random:016x}", std::process::id())
}
