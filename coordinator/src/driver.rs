//! The one task that owns the job. It feeds events to [`job::step`], answers callers, keeps those who wait, and
//! looks at the clock; it decides nothing and waits for nobody.

use crate::chronicle::{Happening, Teller};
use crate::clock::{Clock, TICK};
use crate::config::CoordinatorConfig;
use crate::job::{self, Answer, Event, Job, Outcome, Reply, Retirement, Wait};
use crate::journal::{Journal, JournalError, Record};
use crate::limits;
use crate::log::{self, Refusals};
use crate::parked::{Answering, Parked, Room};
use crate::refusal::Refusal;
use crate::text;
use octrain_proto::v1::Regroup;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

/// Calls that have arrived and were not taken in yet.
const INBOX: usize = 1024;
/// How long a call waits for room in the inbox.
const ROOM: Duration = Duration::from_secs(1);

/// An event and who wants to know.
pub(crate) struct Call {
    event: Event,
    /// How long the caller waits for what is not there yet.
    wait: Duration,
    reply: Option<Answering>,
}

/// What handlers hold: a way to the driver.
#[derive(Clone)]
pub(crate) struct Mailbox {
    calls: mpsc::Sender<Call>,
    /// Beside the inbox, which may be full.
    stop: Arc<watch::Sender<Option<String>>>,
    retire: Arc<watch::Sender<Option<Retirement>>>,
    ended: watch::Receiver<Option<Outcome>>,
    regroup: watch::Receiver<Regroup>,
}

impl Mailbox {
    /// Asks and waits for the answer; `wait` bounds how long the driver may keep the call.
    pub(crate) async fn ask(&self, event: Event, wait: Duration) -> Result<Reply, Refusal> {
        let (reply, answer) = oneshot::channel();
        let call = Call { event, wait, reply: Some(reply) };
        match tokio::time::timeout(ROOM, self.calls.send(call)).await {
            Ok(sent) => sent.map_err(|_| self.over())?,
            Err(_) => return Err(Refusal::Busy),
        }
        answer.await.unwrap_or_else(|_| Err(self.over()))
    }

    /// What a driver that is gone would have said: several calls of one worker may be under way when the first of
    /// them has told it of the end.
    fn over(&self) -> Refusal {
        match &*self.ended.borrow() {
            Some(Outcome::Failed { abort }) => Refusal::Ended(abort.clone()),
            Some(Outcome::Finished { .. }) => Refusal::Finished,
            Some(Outcome::Retired { why }) => Refusal::Retired(why.to_string()),
            None => Refusal::Gone,
        }
    }

    /// Tells, and waits only for room in the inbox.
    pub(crate) async fn tell(&self, event: Event) {
        // A driver that is gone needs no telling.
        let _ = self.calls.send(Call { event, wait: Duration::ZERO, reply: None }).await;
    }

    /// Ends the job, without waiting.
    pub(crate) fn stop(&self, why: &str) {
        self.stop.send_replace(Some(why.into()));
    }

    /// Ends this coordinator and not the job, without waiting: another one has taken over.
    pub(crate) fn superseded(&self, why: String) {
        self.retire.send_replace(Some(Retirement::Superseded(why)));
    }

    /// Which generations are over; before any is, of generation 0.
    pub(crate) fn regroup(&self) -> watch::Receiver<Regroup> {
        self.regroup.clone()
    }

    /// Becomes the outcome once the job has ended.
    pub(crate) fn ended(&self) -> watch::Receiver<Option<Outcome>> {
        self.ended.clone()
    }
}

struct Driver {
    config: Arc<CoordinatorConfig>,
    start: Instant,
    clock: Clock,
    /// Taken out while a transition runs.
    job: Option<Job>,
    parked: Room,
    refusals: Refusals,
    ended: watch::Sender<Option<Outcome>>,
    regroup: watch::Sender<Regroup>,
    journal: Option<Journal>,
    teller: Teller,
    /// This coordinator is at its end, and not the job.
    retired: Option<Retirement>,
}

/// Starts the driver; the handle ends when the job has ended and everyone knows.
pub(crate) fn start(
    config: Arc<CoordinatorConfig>,
    job: Job,
    journal: Option<Journal>,
    teller: Teller,
) -> (Mailbox, tokio::task::JoinHandle<Outcome>) {
    let (calls, inbox) = mpsc::channel(INBOX);
    let (stop, stopped) = watch::channel(None);
    let (retire, retiring) = watch::channel(None);
    let (ended, watching) = watch::channel(job.outcome());
    let (regroup, regrouping) = watch::channel(Regroup::default());
    let driver = Driver {
        job: Some(job),
        start: Instant::now(),
        clock: Clock::new(Duration::ZERO),
        parked: Room::default(),
        refusals: Refusals::default(),
        config,
        ended,
        regroup,
        journal,
        teller,
        retired: None,
    };
    let (stop, retire) = (Arc::new(stop), Arc::new(retire));
    let mailbox = Mailbox { calls, stop, retire, ended: watching, regroup: regrouping };
    (mailbox, tokio::spawn(driver.run(inbox, stopped, retiring)))
}

impl Driver {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Call>,
        mut stopped: watch::Receiver<Option<String>>,
        mut retiring: watch::Receiver<Option<Retirement>>,
    ) -> Outcome {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(why) = self.retired.take() {
                let (generation, step) =
                    self.job.as_ref().map_or((0, 0), |job| (job.generation, job.steps()));
                let retired = Happening::CoordinatorRetired { why: why.to_string(), step };
                self.teller.tell_of(self.now(), generation, retired);
                let outcome = Outcome::Retired { why };
                self.ended.send_replace(Some(outcome.clone()));
                return outcome;
            }
            let job = self.job.as_ref().expect("put back after every transition");
            if let Some(outcome) = job.outcome()
                && job.drained(self.now(), &self.config)
            {
                // If that cannot be kept, another one stays once more as long as this one has.
                self.keep(&[Record::Closed(true)]);
                return outcome;
            }
            tokio::select! {
                biased;
                _ = ticks.tick() => self.tick(&mut inbox),
                why = told(&mut retiring) => self.retired = Some(why),
                why = told(&mut stopped) => self.event(Event::Shutdown { why }),
                // Once nobody can call any more, ticks go on until everyone has had time to hear of the end.
                call = inbox.recv(), if !inbox.is_closed() || !inbox.is_empty() => match call {
                    Some(call) => self.call(call),
                    None => self.event(Event::Shutdown { why: "nobody holds the coordinator any more".into() }),
                },
            }
        }
    }

    fn now(&self) -> Duration {
        self.clock.now(self.start.elapsed())
    }

    /// Takes in what has arrived, which counts even when its time was nearly up, and then looks at the clock. What
    /// arrives meanwhile has the next tick: a flood does not stop the time.
    fn tick(&mut self, inbox: &mut mpsc::Receiver<Call>) {
        for _ in 0..inbox.len() {
            let Ok(call) = inbox.try_recv() else { break };
            self.call(call);
        }
        let late = self.clock.look(self.start.elapsed());
        if late > self.config.heartbeat_interval {
            let text = format!(
                "the coordinator was held up for {:.1} s; the workers' silence in that time does not count",
                late.as_secs_f64()
            );
            log::warn(self.config.generation, &text);
            self.event(Event::HeldUp { by: late });
        }
        self.event(Event::Tick);
        for parked in self.parked.expired(Instant::now()) {
            self.ask_again(parked, Wait::Expired);
        }
    }

    fn call(&mut self, call: Call) {
        let Call { event, wait, reply } = call;
        let event = match limits::admit(event) {
            Ok(event) => event,
            Err(refusal) => {
                self.refused(&refusal);
                // A caller that hung up does not care.
                drop(reply.map(|r| r.send(Err(refusal))));
                return;
            }
        };
        let again = match &event {
            Event::GetPlan { .. } | Event::StoreGet { .. } | Event::Attach { .. } => Some(event.clone()),
            _ => None,
        };
        match (settle(self.step(event)), reply, again) {
            // A caller that hung up does not care.
            (Some(answer), Some(reply), _) => drop(reply.send(answer)),
            (None, Some(reply), Some(_)) if self.parked.count() >= self.config.max_waiting() => {
                drop(reply.send(Err(Refusal::Busy)));
            }
            (None, Some(reply), Some(event)) => {
                self.parked.put(Parked { event, until: Instant::now() + wait, reply });
            }
            _ => {}
        }
    }

    fn event(&mut self, event: Event) {
        self.step(event);
    }

    /// Asks again for one who waits.
    fn ask_again(&mut self, parked: Parked, wait: Wait) {
        if parked.reply.is_closed() {
            return;
        }
        match settle(self.step(parked.again(wait))) {
            Some(answer) => drop(parked.reply.send(answer)),
            None => self.parked.put(parked),
        }
    }

    fn refused(&mut self, refusal: &Refusal) {
        let text = text::line(&refusal.to_string(), text::MAX_STATUS);
        self.refusals.refused(self.start.elapsed(), self.config.generation, refusal.kind(), &text);
    }

    /// Keeps what is to be told, where this coordinator keeps anything; false: nobody is to be told, and this one ends.
    fn keep(&mut self, records: &[Record]) -> bool {
        let kept = match (&self.retired, &mut self.journal) {
            (Some(_), _) => return false,
            (None, None) => return true,
            (None, Some(journal)) => journal.append(records),
        };
        self.retired = kept.err().map(|e| match e {
            JournalError::TakenOver { .. } => Retirement::Superseded(e.to_string()),
            e => Retirement::Journal(e.to_string()),
        });
        self.retired.is_none()
    }

    fn step(&mut self, event: Event) -> Answer {
        let job = self.job.take().expect("put back after every transition");
        let step = job::step(self.now(), job, &self.config, event);
        let generation = step.job.generation;
        if !self.keep(&step.records) {
            self.job = Some(step.job);
            let why = self.retired.as_ref().map(Retirement::to_string).unwrap_or_default();
            return Answer::Refuse(Refusal::Retired(why));
        }
        if let Some(reason) = step.reason {
            log::info(generation, &reason);
        }
        self.teller.tell(step.told);
        if let Answer::Refuse(refusal) = &step.answer {
            self.refused(refusal);
        }
        if let Some(regroup) = step.regroup {
            self.regroup.send_replace(regroup);
        }
        if let Some(outcome) = step.ended {
            self.ended.send_replace(Some(outcome));
        }
        self.job = Some(step.job);
        for parked in self.parked.woken(step.wakes) {
            self.ask_again(parked, Wait::Again);
        }
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

/// Waits until the coordinator is told to stop.
async fn told<T: Clone>(stopped: &mut watch::Receiver<Option<T>>) -> T {
    loop {
        if stopped.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if let Some(why) = stopped.borrow_and_update().clone() {
            return why;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chronicle::line::Head;
    use crate::job::Beat;
    use crate::job::Outcome;
    use crate::spec::spec;
    use crate::strategy::testing::{config as settings, model, worker};
    use octrain_core::strategy::Purpose;
    use octrain_proto::PROTOCOL_VERSION;
    use octrain_proto::v1::{Header, RegisterRequest};
    use serde_json::json;

    fn begin(config: Arc<CoordinatorConfig>) -> (Mailbox, tokio::task::JoinHandle<Outcome>) {
        let job = Job::new(&config, 1);
        let teller = Teller::open(None, Head::new(&config.job_id, 1, 1), None).unwrap();
        start(config, job, None, teller)
    }

    async fn join(mailbox: &Mailbox, local_index: u32) -> Header {
        let request = RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            job_id: "octrain".into(),
            generation: 0,
            nonce: local_index.to_string(),
            token: String::new(),
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
        let (mailbox, driver) = begin(config);
        let (begin, h0, _h1) = (Instant::now(), join(&mailbox, 0).await, join(&mailbox, 1).await);
        let mut ended = mailbox.ended();
        let beating = mailbox.clone();
        tokio::spawn(async move {
            loop {
                let beat = Event::Heartbeat(
                    h0.clone(),
                    Beat { step: 3, collectives: 0, connected: true, leaving: false, ..Beat::default() },
                );
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
    async fn a_stall_of_the_coordinator_itself_costs_nobodys_life() {
        let config = Arc::new(CoordinatorConfig::new("x", 2));
        let (mailbox, _driver) = begin(config);
        let headers = [join(&mailbox, 0).await, join(&mailbox, 1).await];
        for (i, header) in headers.into_iter().enumerate() {
            let beating = mailbox.clone();
            tokio::spawn(async move {
                // Out of step with each other, and with the ticks.
                tokio::time::sleep(Duration::from_millis(37 + 330 * i as u64)).await;
                let beat = Event::Heartbeat(
                    header,
                    Beat { step: 3, collectives: 0, connected: true, leaving: false, ..Beat::default() },
                );
                while beating.ask(beat.clone(), Duration::ZERO).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
        // `advance` lets time jump without anybody having run: what SIGSTOP does.
        for stall in (0..30).map(|i| 300 * i + 7).chain([60_000, 86_400_000]) {
            tokio::time::advance(Duration::from_millis(stall)).await;
            tokio::time::sleep(Duration::from_millis(1300 + stall % 700)).await;
            assert_eq!(*mailbox.ended().borrow(), None, "after a stall of {stall} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_is_dead_is_found_whatever_the_stalls() {
        let config = Arc::new(CoordinatorConfig::new("x", 1));
        let (mailbox, _driver) = begin(config);
        join(&mailbox, 0).await;
        let listened = Instant::now();
        let mut ended = mailbox.ended();
        // 3 s of listening and a stall of 20 s, then the rest of the 5 s.
        tokio::time::sleep(Duration::from_secs(3)).await;
        tokio::time::advance(Duration::from_secs(20)).await;
        ended.wait_for(Option::is_some).await.unwrap();
        let heard = listened.elapsed() - Duration::from_secs(20);
        assert!(heard.abs_diff(Duration::from_secs(5)) <= TICK * 2, "{heard:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_beyond_those_that_can_be_kept_are_refused() {
        let (mailbox, _driver) = begin(Arc::new(CoordinatorConfig::new("x", 2)));
        let h0 = join(&mailbox, 0).await;
        let wait = Duration::from_secs(3);
        let asking: Vec<_> = (0..200)
            .map(|_| {
                let (mailbox, event) =
                    (mailbox.clone(), Event::GetPlan { header: h0.clone(), wait: Wait::First });
                tokio::spawn(async move { mailbox.ask(event, wait).await })
            })
            .collect();
        let mut busy = 0;
        for one in asking {
            busy += usize::from(one.await.unwrap() == Err(Refusal::Busy));
        }
        assert_eq!(busy, 200 - (64 + 4 * 2));
        // The places are free again.
        let event = Event::GetPlan { header: h0.clone(), wait: Wait::First };
        assert!(mailbox.ask(event, Duration::ZERO).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_as_long_as_it_asked_to() {
        let (mailbox, _driver) = begin(Arc::new(CoordinatorConfig::new("x", 2)));
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
        let (mailbox, driver) = begin(Arc::new(CoordinatorConfig::new("x", 2)));
        let begin = Instant::now();
        let Outcome::Failed { abort } = driver.await.unwrap() else { panic!() };
        assert_eq!(begin.elapsed().as_secs(), 300);
        assert!(abort.message.contains("2 of 2 workers missing"), "{}", abort.message);
        // Who asks after the end hears how it came, not that nobody is there.
        assert_eq!(
            mailbox.ask(Event::Status { watching: false }, Duration::ZERO).await,
            Err(Refusal::Ended(abort))
        );
    }
}
