//! The one task that owns the job. It feeds events to [`job::step`], answers callers, keeps those who wait, and
//! looks at the clock; it decides nothing.

use crate::config::CoordinatorConfig;
use crate::job::{self, Answer, Event, Job, Outcome, Reply, Wait};
use crate::refusal::Refusal;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// An event and who wants to know.
pub(crate) struct Call {
    event: Event,
    /// How long the caller waits for what is not there yet.
    wait: Duration,
    reply: Option<oneshot::Sender<Result<Reply, Refusal>>>,
}

/// What handlers hold: a way to the driver.
#[derive(Clone)]
pub(crate) struct Mailbox {
    calls: mpsc::UnboundedSender<Call>,
    ended: watch::Receiver<Option<Outcome>>,
}

impl Mailbox {
    /// Asks and waits for the answer; `wait` bounds how long the driver may keep the call.
    pub(crate) async fn ask(&self, event: Event, wait: Duration) -> Result<Reply, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call { event, wait, reply: Some(reply) }).map_err(|_| self.over())?;
        answer.await.unwrap_or_else(|_| Err(self.over()))
    }

    /// What a driver that is gone would have said: several calls of one worker may be under way when the first of
    /// them has told it of the end.
    fn over(&self) -> Refusal {
        match &*self.ended.borrow() {
            Some(Outcome::Failed { abort }) => Refusal::Ended(abort.clone()),
            Some(Outcome::Finished { .. }) => Refusal::Finished,
            None => Refusal::Gone,
        }
    }

    /// Tells, without waiting.
    pub(crate) fn tell(&self, event: Event) {
        // A driver that is gone needs no telling.
        let _ = self.calls.send(Call { event, wait: Duration::ZERO, reply: None });
    }

    /// Becomes the outcome once the job has ended.
    pub(crate) fn ended(&self) -> watch::Receiver<Option<Outcome>> {
        self.ended.clone()
    }
}

struct Parked {
    event: Event,
    until: Instant,
    reply: oneshot::Sender<Result<Reply, Refusal>>,
}

struct Driver {
    config: Arc<CoordinatorConfig>,
    start: Instant,
    /// Taken out while a transition runs.
    job: Option<Job>,
    parked: Vec<Parked>,
    ended: watch::Sender<Option<Outcome>>,
}

/// Starts the driver; the handle ends when the job has ended and everyone knows.
pub(crate) fn start(
    config: Arc<CoordinatorConfig>,
    incarnation: u64,
) -> (Mailbox, tokio::task::JoinHandle<Outcome>) {
    let (calls, inbox) = mpsc::unbounded_channel();
    let (ended, watching) = watch::channel(None);
    let driver = Driver {
        job: Some(Job::new(&config, incarnation)),
        config,
        start: Instant::now(),
        parked: Vec::new(),
        ended,
    };
    (Mailbox { calls, ended: watching }, tokio::spawn(driver.run(inbox)))
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Call>) -> Outcome {
        loop {
            let job = self.job.as_ref().expect("put back after every transition");
            if let Some(outcome) = job.outcome()
                && job.drained(self.start.elapsed(), &self.config)
            {
                return outcome;
            }
            let tick = job.next_tick(&self.config).map(|at| self.start + at);
            let waiting = self.parked.iter().map(|p| p.until).min();
            let due = [tick, waiting].into_iter().flatten().min();
            // Events first: a heartbeat that has arrived counts, even when its time was nearly up.
            tokio::select! {
                biased;
                call = inbox.recv() => match call {
                    Some(call) => self.call(call),
                    None => self.event(Event::Shutdown { why: "nobody holds the coordinator any more".into() }),
                },
                () = sleep_until(due) => {
                    let now = Instant::now();
                    if tick.is_some_and(|t| t <= now) {
                        let late = tick.map_or(Duration::ZERO, |t| now - t);
                        self.event(Event::Tick { late });
                    }
                    self.retry(now);
                }
            }
        }
    }

    fn call(&mut self, call: Call) {
        let Call { event, wait, reply } = call;
        let again = match &event {
            Event::GetPlan { .. } | Event::StoreGet { .. } => Some(event.clone()),
            _ => None,
        };
        match (settle(self.step(event)), reply, again) {
            // A caller that hung up does not care.
            (Some(answer), Some(reply), _) => drop(reply.send(answer)),
            (None, Some(reply), Some(event)) => {
                self.parked.push(Parked { event, until: Instant::now() + wait, reply });
            }
            _ => {}
        }
        self.retry(Instant::now());
    }

    fn event(&mut self, event: Event) {
        self.step(event);
        self.retry(Instant::now());
    }

    /// Asks again for those who wait.
    fn retry(&mut self, now: Instant) {
        for parked in std::mem::take(&mut self.parked) {
            if parked.reply.is_closed() {
                continue;
            }
            let asked = if parked.until <= now { Wait::Expired } else { Wait::Again };
            let event = match parked.event.clone() {
                Event::GetPlan { header, .. } => Event::GetPlan { header, wait: asked },
                Event::StoreGet { header, key, .. } => Event::StoreGet { header, key, wait: asked },
                other => other,
            };
            match settle(self.step(event)) {
                Some(answer) => {
                    let _ = parked.reply.send(answer);
                }
                None => self.parked.push(parked),
            }
        }
    }

    fn step(&mut self, event: Event) -> Answer {
        let job = self.job.take().expect("put back after every transition");
        let step = job::step(self.start.elapsed(), job, &self.config, event);
        if let Some(reason) = step.reason {
            tracing::info!(generation = step.job.generation, "{reason}");
        }
        if let Answer::Refuse(refusal) = &step.answer {
            tracing::warn!(generation = step.job.generation, "refused: {refusal}");
        }
        if let Some(outcome) = step.ended {
            self.ended.send_replace(Some(outcome));
        }
        self.job = Some(step.job);
        step.answer
    }
}

fn settle(answer: Answer) -> Option<Result<Reply, Refusal>> {
    match answer {
        Answer::Reply(reply) => Some(Ok(reply)),
        Answer::Refuse(refusal) => Some(Err(refusal)),
        Answer::Park => None,
        Answer::None => Some(Ok(Reply::Done)),
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Outcome;
    use crate::spec::spec;
    use crate::strategy::testing::{config as settings, model, worker};
    use octrain_proto::PROTOCOL_VERSION;
    use octrain_proto::v1::{Header, Purpose, RegisterRequest};
    use serde_json::json;

    async fn join(mailbox: &Mailbox, local_index: u32) -> Header {
        let request = RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            job_id: "octrain".into(),
            generation: 0,
            nonce: local_index.to_string(),
            worker: Some(worker("a", local_index, 0)),
            job: Some(spec(&settings(json!({})), Purpose::Train, model(), 50_000)),
        };
        match mailbox.ask(Event::Register(Box::new(request)), Duration::ZERO).await.unwrap() {
            Reply::Registered(r) => Header { job_id: r.job_id, generation: r.generation, member: r.member },
            other => panic!("{other:?}"),
        }
    }

    // The clock of these tests stands still but for the waits: they take no time and see exact moments.

    #[tokio::test(start_paused = true)]
    async fn silence_ends_the_job_when_the_timeout_is_over_and_not_before() {
        let config = Arc::new(CoordinatorConfig::new("x", 2));
        let (mailbox, driver) = start(config, 1);
        let (begin, h0, _h1) = (Instant::now(), join(&mailbox, 0).await, join(&mailbox, 1).await);
        let mut ended = mailbox.ended();
        let beating = mailbox.clone();
        tokio::spawn(async move {
            loop {
                let beat = Event::Heartbeat { header: h0.clone(), step: 3 };
                if beating.ask(beat, Duration::ZERO).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let outcome = ended.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert_eq!(begin.elapsed().as_secs(), 5);
        let Outcome::Failed { abort } = &outcome else { panic!("{outcome:?}") };
        assert!(abort.message.contains("rank 1"), "{}", abort.message);
        // The survivor hears of it with its next heartbeat, and then the coordinator may go.
        assert_eq!(driver.await.unwrap(), outcome);
        assert!(begin.elapsed() <= Duration::from_secs(7), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_as_long_as_it_asked_to() {
        let (mailbox, _driver) = start(Arc::new(CoordinatorConfig::new("x", 2)), 1);
        let h0 = join(&mailbox, 0).await;
        let begin = Instant::now();
        let event = Event::GetPlan { header: h0.clone(), wait: Wait::First };
        let reply = mailbox.ask(event.clone(), Duration::from_secs(3)).await.unwrap();
        assert!(matches!(reply, Reply::Plan(p) if p.plan.is_none()));
        assert_eq!(begin.elapsed().as_secs(), 3);
        // And no longer than it has to.
        let asking = mailbox.clone();
        let asked = tokio::spawn(async move { asking.ask(event, Duration::from_secs(3)).await.unwrap() });
        tokio::time::sleep(Duration::from_secs(1)).await;
        join(&mailbox, 1).await;
        assert!(matches!(asked.await.unwrap(), Reply::Plan(p) if p.plan.is_some()));
        assert_eq!(begin.elapsed().as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_comes() {
        let (mailbox, driver) = start(Arc::new(CoordinatorConfig::new("x", 2)), 1);
        let begin = Instant::now();
        let Outcome::Failed { abort } = driver.await.unwrap() else { panic!() };
        assert_eq!(begin.elapsed().as_secs(), 300);
        assert!(abort.message.contains("2 of 2 workers missing"), "{}", abort.message);
        // Who asks after the end hears how it came, not that nobody is there.
        assert_eq!(mailbox.ask(Event::Status, Duration::ZERO).await, Err(Refusal::Ended(abort)));
    }
}
